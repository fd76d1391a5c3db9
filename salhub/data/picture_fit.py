"""How a picture is brought to a network: whole, or cut as its image processor cuts it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image
from torch import Tensor

from salhub.data.picture_geometry import Box, viewed_box

FITS = ("whole", "crop")
# The most pixels of a picture seen whole, as a multiple of those of a crop: this bounds memory.
MOST_PIXELS = 4
# Sides of pictures seen whole are multiples of at most this, so that strides leave no pixel out.
_LARGEST_STRIDE = 32
# Pixels of the picture, and share of its side, that a processor may lose at an edge by rounding.
_ROUNDING, _ROUNDING_SHARE = 0.5, 0.02
# A picture is shrunk to this many times the network's side before bars are put beside it.
_CANVAS = 4
_GREY = 127
_ATTEMPTS = 16

Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class FittedPicture:
    """A picture as a network sees it.

    Args:
        pixel_values: float32 (1, C, h, w).
        box: left, top, right, bottom of what is seen, in pixels of the picture; larger than the
            picture where it has bars beside it.
        fit: "whole" in its own proportions, "squeeze" whole in others, "letterbox" whole with bars
            beside it, "crop" cut at its edges.
    """

    pixel_values: Tensor
    box: Box
    fit: Literal["whole", "squeeze", "letterbox", "crop"]

    @property
    def size(self) -> Size:
        """Height and width of what the network is given."""
        height, width = self.pixel_values.shape[-2:]
        return height, width

    @property
    def enlargement(self) -> tuple[float, float]:
        """Pixels of the network for one of the picture, down and across."""
        left, top, right, bottom = self.box
        return self.size[0] / (bottom - top), self.size[1] / (right - left)


class PictureFitter:
    """Prepares pictures with an image processor, cut as it cuts them, or whole.

    The shorter side of a picture that is seen whole becomes that of the network's usual input, as
    long as that makes no more than `MOST_PIXELS` times as many pixels; sides are rounded to what
    strides divide. At the scale of the crop, the shipped network is no more often right on whole
    pictures, and its probabilities fall by a third: its last layer averages over more places.

    Args:
        image_processor: Of the network.
        num_channels: Channels that the network takes; of 1, pictures are made grey.
        patch_size: Side of the patches that the network cuts pictures into, where it says.

    Example:
        >>> from salhub.backbones.efficientnet_lite.image_processing_efficientnet_lite import (
        ...     EfficientNetLiteImageProcessor,
        ... )
        >>> fitter = PictureFitter(EfficientNetLiteImageProcessor())
        >>> photo = Image.new("RGB", (451, 300))
        >>> fitter.crop(photo).size, fitter.whole(photo, lambda crop: True).size
        ((224, 224), (224, 352))
    """

    def __init__(
        self, image_processor: Any, num_channels: int = 3, patch_size: int | None = None
    ) -> None:
        self.image_processor = image_processor
        self.num_channels = num_channels
        self.patch_size = patch_size

    def crop(self, picture: Image.Image) -> FittedPicture:
        """Prepare a picture as the image processor does.

        Args:
            picture: RGB, upright.

        Raises:
            ValueError: What the processor makes is not for this network, or its geometry unknown.
        """
        pixels = self.pixel_values(picture)
        box = viewed_box(self.image_processor, (picture.height, picture.width))
        return FittedPicture(pixels, box, _kind_of(box, picture, pixels))

    def whole(
        self, picture: Image.Image, takes_any_size: Callable[[FittedPicture], bool]
    ) -> FittedPicture:
        """Prepare a picture so that the network sees all of it.

        Args:
            picture: RGB, upright.
            takes_any_size: Says of a picture as the processor cuts it whether the network takes
                others of its kind in other sizes and proportions; asked only where that counts.

        Raises:
            ValueError: As of `crop`.
        """
        crop = self.crop(picture)
        if crop.fit != "crop":
            return crop
        if takes_any_size(crop):
            whole = self._in_own_proportions(picture, crop)
            if whole is not None:
                return whole
        return self._with_bars(picture, crop)

    def stride(self, size: Size) -> int:
        """Return what the sides of a picture seen whole are multiples of.

        Args:
            size: Height and width that the processor makes.
        """
        unit = math.gcd(*size, _LARGEST_STRIDE)
        patch = self.patch_size
        return patch if patch and unit % patch else unit

    def pixel_values(self, picture: Image.Image, **settings: Any) -> Tensor:
        """Prepare a picture with the image processor, (1, C, h, w).

        Args:
            picture: RGB, upright.
            **settings: Of the processor, for this picture.

        Raises:
            ValueError: The network is grey, and the processor treats colours differently.
        """
        if self.num_channels != 1:
            return self._processed(picture, **settings)
        picture = picture.convert("L")
        if _number_of_means(self.image_processor) == 1:
            return self._processed(picture, **{"do_convert_rgb": False, **settings})
        pixels = self._processed(picture.convert("RGB"), **settings)
        if pixels.shape[1] == 3 and pixels.isclose(pixels[:, :1]).all():
            return pixels[:, :1]
        if pixels.shape[1] == 1:
            return pixels
        raise ValueError(
            "The network needs grey pictures of 1 channel, but its image processor "
            f"normalizes {pixels.shape[1]} colours differently; set image_mean and image_std "
            "to one number each."
        )

    def _processed(self, picture: Image.Image, **settings: Any) -> Tensor:
        made = self.image_processor(images=picture, return_tensors="pt", **settings)
        return made["pixel_values"]

    def _in_own_proportions(
        self, picture: Image.Image, crop: FittedPicture
    ) -> FittedPicture | None:
        """The picture resized here, and only normalised by the processor, or None if it cannot."""
        size = self._whole_size(picture, crop)
        resample = getattr(self.image_processor, "resample", None)
        resample = Image.Resampling.BICUBIC if resample is None else Image.Resampling(int(resample))
        resized = picture.resize((size[1], size[0]), resample)
        try:
            pixels = self.pixel_values(resized, do_resize=False, do_center_crop=False)
        except (TypeError, ValueError):  # a processor without these settings
            return None
        if tuple(pixels.shape) != (1, crop.pixel_values.shape[1], *size):
            return None
        box = (0.0, 0.0, float(picture.width), float(picture.height))
        return FittedPicture(pixels, box, "whole")

    def _whole_size(self, picture: Image.Image, crop: FittedPicture) -> Size:
        scale = min(crop.size) / min(picture.size)
        most = MOST_PIXELS * crop.size[0] * crop.size[1]
        scale = min(scale, math.sqrt(most / (picture.width * picture.height)))
        unit = self.stride(crop.size)
        height, width = (
            max(unit, round(side * scale / unit) * unit) for side in (picture.height, picture.width)
        )
        # A side that was rounded up to one unit leaves less for the other.
        longest = most // min(height, width) // unit * unit
        return min(height, longest), min(width, longest)

    def _with_bars(self, picture: Image.Image, crop: FittedPicture) -> FittedPicture:
        """The picture on a canvas of which the processor cuts off only what is added."""
        largest = _CANVAS * max(crop.size)
        shrink = min(1.0, largest / max(picture.size))
        width, height = (max(1, round(side * shrink)) for side in picture.size)
        side, box = max(width, height), (0.0, 0.0, 0.0, 0.0)
        for _ in range(_ATTEMPTS):
            box = viewed_box(self.image_processor, (side, side))
            missing = max(width / (box[2] - box[0]), height / (box[3] - box[1]))
            if missing <= 1:
                break
            side = max(side + 1, math.floor(side * missing))
        left = round((box[0] + box[2] - width) / 2)
        top = round((box[1] + box[3] - height) / 2)
        canvas = Image.new("RGB", (side, side), _mean_color(self.image_processor))
        shrunk = picture if shrink == 1 else picture.resize((width, height), Image.Resampling.BOX)
        canvas.paste(shrunk, (left, top))
        across, down = picture.width / width, picture.height / height
        seen = (
            (box[0] - left) * across,
            (box[1] - top) * down,
            (box[2] - left) * across,
            (box[3] - top) * down,
        )
        return FittedPicture(self.pixel_values(canvas), seen, "letterbox")


def clipped(box: Box, size: Size) -> Box:
    """Return the part of a box that lies in a picture of (height, width).

    Example:
        >>> clipped((-10.0, 0.0, 30.0, 20.0), (20, 20))
        (0.0, 0.0, 20.0, 20.0)
    """
    left, top, right, bottom = box
    return max(0.0, left), max(0.0, top), min(float(size[1]), right), min(float(size[0]), bottom)


def _kind_of(
    box: Box, picture: Image.Image, pixels: Tensor
) -> Literal["whole", "squeeze", "letterbox", "crop"]:
    left, top, right, bottom = box
    over = (left, top, picture.width - right, picture.height - bottom)
    rounding = min(_ROUNDING, _ROUNDING_SHARE * min(picture.size))
    if max(over) > rounding:
        return "crop"
    if min(over) < -rounding:
        return "letterbox"
    height, width = pixels.shape[-2:]
    expected = picture.width / picture.height * height
    return "whole" if abs(expected - width) <= max(1.0, 0.02 * width) else "squeeze"


def _number_of_means(image_processor: Any) -> int:
    mean = getattr(image_processor, "image_mean", None)
    return len(mean) if isinstance(mean, list | tuple) else 1 if mean is not None else 0


def _mean_color(image_processor: Any) -> tuple[int, int, int]:
    """The colour that normalisation makes 0, as bytes; grey where that is not known."""
    mean = getattr(image_processor, "image_mean", None)
    means = [mean] if isinstance(mean, int | float) else list(mean or ())
    if len(means) not in (1, 3) or not all(0 <= one <= 1 for one in means):
        return (_GREY, _GREY, _GREY)
    red, green, blue = (round(255 * one) for one in (means * 3)[:3])
    return red, green, blue
