"""Pictures in 0..255 for the contour, and its masks back on the pictures."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from scipy import ndimage
from torch import Tensor
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature

from salhub.config_fields import LARGEST_SIDE
from salhub.data.picture_arrays import tensor_to_array
from salhub.data.picture_decoding import decode_picture, to_upright_rgb
from salhub.data.picture_sources import read_source
from salhub.errors import check_choice
from salhub.hub import LoadedByName
from salhub.models.active_contour.contour_lines import contour_lines

_COLORS = ("auto", "gray", "rgb")
_WIDE_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
# Of 255: pictures that span less are stretched, as what drives the contour takes a level for noise.
_LEAST_RANGE = 16
# Steps of the largest number: floats that span less are flat, and their differences are rounding.
_ROUNDING = 8
# All neighbours of a pixel but itself.
_AROUND = np.array([[[1, 1, 1], [1, 0, 1], [1, 1, 1]]], dtype=bool)
_LUMA = (0.299, 0.587, 0.114)


class ReadPicture(NamedTuple):
    """A picture as it was read.

    Args:
        pixels: float32 (C, H, W) in 0..255, C 1 or 3.
        notes: What was dropped or guessed.
    """

    pixels: Tensor
    notes: tuple[str, ...]


class SaliencyActiveContourImageProcessor(LoadedByName, BaseImageProcessor):
    """Bring pictures to 0..255 and a working size, and level sets back to the pictures.

    Reads paths, addresses, bytes, PIL pictures, arrays and tensors; (H, W), (H, W, C) or (C, H, W)
    with 1, 3 or 4 channels. Numbers of 8 bits and floats in [0, 1] or [0, 255] keep their range;
    others, such as 16 bits, Hounsfield units, or what spans less than 16 of 255 levels, are
    stretched from their least to their largest value, single pixels aside, which is said. The
    aspect is kept, and nothing is enlarged.

    Args:
        longest_edge: Longer side that larger pictures are shrunk to; None for their own size.
        color: "gray", "rgb", or "auto": grey where all channels are equal.

    Raises:
        ValueError: A setting out of range, or a picture that cannot be read.

    Example:
        >>> processor = SaliencyActiveContourImageProcessor()
        >>> processor("sample:cat")["pixel_values"].shape
        torch.Size([1, 3, 170, 256])
    """

    model_input_names = ["pixel_values"]

    def __init__(
        self,
        longest_edge: int | None = 256,
        color: Literal["auto", "gray", "rgb"] = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        _check_settings(longest_edge, color)
        self.longest_edge, self.color = longest_edge, color

    def read(self, image: Any) -> ReadPicture:
        """Read one picture in its own size.

        Args:
            image: A path, an address, bytes, a PIL picture, an array or a tensor.

        Raises:
            TypeError: Numbers that are no picture, such as complex or bool.
            ValueError: Not a picture, NaN, or another shape.
        """
        notes: list[str] = []
        if isinstance(image, Tensor):
            image = tensor_to_array(image)
        if not (isinstance(image, Image.Image) or hasattr(image, "__array__")):
            image = decode_picture(*read_source(image))
        if isinstance(image, Image.Image):
            pixels = _of_image(image, notes)
        else:
            pixels = _of_array(np.asarray(image), notes)
        return ReadPicture(_in_color(torch.from_numpy(pixels), self.color), tuple(notes))

    def preprocess(
        self,
        images: Any,
        *,
        longest_edge: int | str | None = "",
        color: str | None = None,
        return_tensors: str | None = "pt",
    ) -> BatchFeature:
        """Turn pictures into `pixel_values`, (B, C, H, W) in 0..255.

        Args:
            images: One picture or a list of those that `read` takes; they must come to one size.
            longest_edge, color: For this call only.
            return_tensors: "pt" alone.

        Raises:
            ValueError: No picture, pictures of several sizes, or other tensors than torch's.
        """
        edge = self.longest_edge if longest_edge == "" else longest_edge
        color = self.color if color is None else color
        _check_settings(edge, color)
        check_choice("return_tensors", return_tensors, ("pt", None))
        several = _several(images)
        if not several:
            raise ValueError("There is no picture in the list; give at least one.")
        pixels = [self.resized(_in_color(self.read(one).pixels, color), edge) for one in several]
        if len({one.shape[0] for one in pixels}) > 1:
            pixels = [one.expand(3, -1, -1) for one in pixels]
        sizes = {tuple(one.shape[1:]) for one in pixels}
        if len(sizes) > 1:
            raise ValueError(
                f"After resizing, the pictures have {len(sizes)} sizes, such as "
                f"{sorted(sizes)[:2]}; call the processor for each one, or give pictures of "
                "the same shape."
            )
        return BatchFeature({"pixel_values": torch.stack(pixels)})

    def resized(self, pixels: Tensor, edge: int | None) -> Tensor:
        """Shrink pixels (C, H, W) so that their longer side is at most `edge`; None leaves them."""
        size = self.working_size(tuple(pixels.shape[1:]), edge)
        if size == tuple(pixels.shape[1:]):
            return pixels
        return F.interpolate(pixels[None], size, mode="bilinear", antialias=True)[0].clamp(0, 255)

    def working_size(self, size: tuple[int, int], longest_edge: int | None) -> tuple[int, int]:
        """Height and width that a picture of this size is shrunk to."""
        height, width = size
        if longest_edge is None or max(size) <= longest_edge:
            return height, width
        scale = longest_edge / max(size)
        return max(1, round(height * scale)), max(1, round(width * scale))

    def post_process(
        self,
        outputs: Any,
        target_sizes: Sequence[Sequence[int]] | None = None,
        *,
        min_area: int = 0,
        fill_holes: bool = False,
        keep: Literal["all", "largest"] = "all",
    ) -> list[dict[str, Any]]:
        """Bring what the model found to the pictures' own sizes.

        The level set is resized and the mask taken of it, so that its edge stays smooth.

        Args:
            outputs: `ActiveContourOutput`.
            target_sizes: (height, width) of each picture; None for the working size.
            min_area: Pieces with fewer pixels are left out.
            fill_holes: Whether holes become foreground.
            keep: "largest" for the largest piece alone.

        Returns:
            A dictionary a picture: "mask" bool (H, W), "labels" int32 (H, W) with the pieces
            numbered from 1, "level_set" and "saliency" float32 (H, W), and "contours", the lines of
            the mask as (N, 2) of row and column.

        Raises:
            ValueError: A wrong number of sizes, or an unknown choice.
        """
        check_choice("keep", keep, ("all", "largest"))
        if min_area < 0:
            raise ValueError(f"min_area must be 0 or more pixels, got {min_area}.")
        batch = len(outputs.level_set)
        if target_sizes is None:
            target_sizes = [tuple(outputs.level_set.shape[1:])] * batch
        if len(target_sizes) != batch:
            raise ValueError(f"There are {batch} pictures but {len(target_sizes)} target sizes.")
        found = []
        for phi, saliency, size in zip(
            outputs.level_set, outputs.saliency, target_sizes, strict=True
        ):
            phi, saliency = (_enlarged(one, size) for one in (phi, saliency))
            phi = _cleaned(phi, min_area, fill_holes, keep)
            mask = phi < 0
            labels = ndimage.label(mask, np.ones((3, 3)))[0].astype(np.int32)
            found.append(
                {
                    "mask": mask,
                    "labels": labels,
                    "level_set": phi,
                    "saliency": saliency,
                    "contours": contour_lines(phi),
                }
            )
        return found


def _enlarged(field: Tensor, size: Sequence[int]) -> np.ndarray:
    field = field.detach().float().cpu()
    if tuple(field.shape) != tuple(size):
        field = F.interpolate(field[None, None], tuple(size), mode="bilinear")[0, 0]
    return field.numpy()


def _cleaned(phi: np.ndarray, min_area: int, fill_holes: bool, keep: str) -> np.ndarray:
    """Lift what is left out above 0 and press holes below it; the rest stays as it is."""
    mask = phi < 0
    wanted = ndimage.binary_fill_holes(mask) if fill_holes else mask
    if min_area > 1 or keep == "largest":
        pieces, count = ndimage.label(wanted, np.ones((3, 3)))
        areas = np.bincount(pieces.ravel(), minlength=count + 1)
        areas[0] = 0
        is_kept = areas >= max(1, min_area)
        if keep == "largest" and count:
            is_kept &= np.arange(count + 1) == areas.argmax()
        wanted = is_kept[pieces]
    lifted = np.where(~wanted & mask, np.abs(phi), phi)
    return np.where(wanted & ~mask, -np.abs(lifted) - 1e-6, lifted).astype(np.float32)


def _several(images: Any) -> list[Any]:
    if isinstance(images, list | tuple):
        return list(images)
    if isinstance(images, Tensor | np.ndarray) and images.ndim == 4:
        return list(images)
    return [images]


def _of_image(image: Image.Image, notes: list[str]) -> np.ndarray:
    if getattr(image, "is_animated", False):
        notes.append("The picture has several frames; only the first is used.")
    if image.mode in _WIDE_MODES:
        upright = ImageOps.exif_transpose(image)
        return _to_range(np.asarray(upright)[None], notes, is_wide=image.mode != "F")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] < 255:
            notes.append("The alpha channel was ignored.")
        image = image.convert("RGB")
    values = np.moveaxis(np.asarray(to_upright_rgb(image)), -1, 0)
    return _to_range(values, notes, is_wide=False)


def _of_array(values: np.ndarray, notes: list[str]) -> np.ndarray:
    if values.dtype.kind not in "uif":
        raise TypeError(
            f"The picture has {values.dtype} values; give integers or floats, such as "
            "mask.astype('uint8') * 255."
        )
    if values.ndim == 2:
        values = values[None]
    elif values.ndim == 3 and values.shape[0] > 4:
        values = np.moveaxis(values, -1, 0)
    if values.ndim != 3 or values.shape[0] not in (1, 2, 3, 4) or values.size == 0:
        raise ValueError(
            "A picture must be (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 channels, got "
            f"{values.shape}."
        )
    if values.shape[0] in (2, 4):
        notes.append("The alpha channel was ignored.")
        values = values[:-1]
    is_wide = values.dtype.kind in "ui" and values.dtype.itemsize > 1 and values.max() > 255
    return _to_range(values, notes, is_wide=is_wide)


def _to_range(values: np.ndarray, notes: list[str], *, is_wide: bool) -> np.ndarray:
    """Bring numbers to 0..255."""
    if not np.isfinite(values).all():
        raise ValueError(
            "The picture holds NaN or infinite values; replace them first, for example with "
            "numpy.nan_to_num."
        )
    low, high = float(values.min()), float(values.max())
    step = float(np.finfo(values.dtype).eps) if values.dtype.kind == "f" else 0.0
    rounding = _ROUNDING * step * max(abs(low), abs(high))
    is_flat = high - low <= rounding
    if low >= 0 and not is_wide and high <= 255:
        scale = 255.0 if values.dtype.kind == "f" and high <= 1 else 1.0
        if is_flat or scale * (high - low) >= _LEAST_RANGE:
            return values.astype(np.float32) * np.float32(scale)
    if is_flat:
        return np.zeros(values.shape, dtype=np.float32)
    around = ndimage.minimum_filter(values, footprint=_AROUND)
    shared_low = float(np.maximum(values, around).min())
    around = ndimage.maximum_filter(values, footprint=_AROUND)
    shared_high = float(np.minimum(values, around).max())
    # A hot pixel must not squeeze all others together.
    if shared_high - shared_low > rounding:
        low, high = shared_low, shared_high
    notes.append(f"Values from {low:.4g} to {high:.4g} were scaled to 0 to 255.")
    # Double, as differences of large numbers would be lost.
    stretched = (values.astype(np.float64) - low) * (255 / (high - low))
    return np.clip(stretched, 0, 255).astype(np.float32)


def _in_color(pixels: Tensor, color: str) -> Tensor:
    if color == "rgb":
        return pixels.expand(3, -1, -1)
    if len(pixels) == 1:
        return pixels
    if color == "auto" and not bool((pixels == pixels[:1]).all()):
        return pixels
    if color == "auto":
        return pixels[:1]
    return (pixels * pixels.new_tensor(_LUMA)[:, None, None]).sum(0, keepdim=True)


def _check_settings(longest_edge: Any, color: str) -> None:
    check_choice("color", color, _COLORS)
    if longest_edge is not None and not (
        isinstance(longest_edge, int) and 8 <= longest_edge <= LARGEST_SIDE
    ):
        raise ValueError(
            f"longest_edge must be None or a whole number from 8 to {LARGEST_SIDE}, got "
            f"{longest_edge!r}."
        )
