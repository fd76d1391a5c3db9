"""Which part of a picture an image processor lets the network see."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_backends import PilBackend, TorchvisionBackend
from transformers.image_transforms import get_resize_output_image_size, get_size_with_aspect_ratio
from transformers.image_utils import ChannelDimension, get_image_size_for_max_height_width

# left, top, right, bottom in pixels of the picture; the first pixel covers 0 to 1.
Box = tuple[float, float, float, float]

# They override `_preprocess` for labels or numbers, not for where the picture is cut.
_STANDARD_GEOMETRY = (
    "BeitImageProcessor",
    "EfficientNetImageProcessor",
    "MobileNetV2ImageProcessor",
    "MobileViTImageProcessor",
)
# From this size on ConvNeXT's processor squashes the whole picture instead of cropping.
_CONVNEXT_WHOLE_PICTURE_SIZE = 384
# Largest deviation, as a share of the picture, at which a measured gradient counts as straight.
_STRAIGHT = 0.01
# Bicubic and Lanczos filters see the border within two pixels of it.
_BORDER = 2
_GOLDEN_RATIO = 0.6180339887498949


def viewed_box(image_processor: Any, picture_size: Sequence[int]) -> Box:
    """Return the part of a picture that the network sees.

    Resizing, shortest edge with centre crop, and ConvNeXT's crop percentage are computed. A
    processor with a method `viewed_box((height, width))` of its own is asked; any other one is
    measured, by sending pictures with known gradients through it.

    Args:
        image_processor: Ours, any image processor of transformers, or None for "all of it".
        picture_size: Height and width of the picture.

    Returns:
        left, top, right, bottom in pixels of the picture. Where a processor pads, the box is
        larger than the picture.

    Raises:
        ValueError: Not a size, or a processor that does more than resize, crop and pad.

    Example:
        >>> viewed_box(None, (300, 451))
        (0.0, 0.0, 451.0, 300.0)
    """
    height, width = check_picture_size(picture_size)
    if image_processor is None:
        return (0.0, 0.0, float(width), float(height))
    # A multimodal processor (CLIP's, say) carries the image processor inside.
    image_processor = getattr(image_processor, "image_processor", image_processor)
    own_method = getattr(image_processor, "viewed_box", None)
    if callable(own_method):
        left, top, right, bottom = own_method((height, width))
        return (float(left), float(top), float(right), float(bottom))
    if _kind(image_processor) == "ConvNextImageProcessor" and not image_processor.do_center_crop:
        return _convnext_box(image_processor, height, width)
    if _has_standard_geometry(image_processor):
        return _standard_box(image_processor, height, width)
    return _measured_box(image_processor, height, width)


def check_picture_size(size: Sequence[int]) -> tuple[int, int]:
    """Return (height, width) as plain integers.

    Raises:
        ValueError: Not two positive whole numbers.
    """
    numbers = size.tolist() if isinstance(size, torch.Tensor | np.ndarray) else list(size)
    if len(numbers) != 2 or any(number != int(number) or number < 1 for number in numbers):
        raise ValueError(f"A picture size must be (height, width) in pixels, got {size!r}.")
    return int(numbers[0]), int(numbers[1])


def _kind(image_processor: Any) -> str:
    return type(image_processor).__name__.removesuffix("Pil").removesuffix("Fast")


def _has_standard_geometry(image_processor: Any) -> bool:
    if getattr(image_processor, "do_pad", None):
        return False
    kind = type(image_processor)
    backend = next((one for one in (PilBackend, TorchvisionBackend) if issubclass(kind, one)), None)
    if backend is None:
        return False
    same = all(getattr(kind, step) is getattr(backend, step) for step in ("resize", "center_crop"))
    return same and (
        kind._preprocess is backend._preprocess or _kind(image_processor) in _STANDARD_GEOMETRY
    )


def _standard_box(image_processor: Any, height: int, width: int) -> Box:
    """The backends' own order: resize, then centre crop."""
    resized = (height, width)
    if image_processor.do_resize:
        resized = _resized_size(image_processor.size, height, width)
    crop = resized
    if image_processor.do_center_crop:
        crop = (image_processor.crop_size.height, image_processor.crop_size.width)
    return _centre_box(resized, crop, height, width)


def _resized_size(size: Any, height: int, width: int) -> tuple[int, int]:
    if size.shortest_edge and size.longest_edge:
        return get_size_with_aspect_ratio((height, width), size.shortest_edge, size.longest_edge)
    if size.shortest_edge:
        return _shortest_edge_size(size.shortest_edge, height, width)
    if size.max_height and size.max_width:
        limits = (size.max_height, size.max_width)
        return get_image_size_for_max_height_width((height, width), *limits)
    return size.height, size.width


def _shortest_edge_size(edge: int, height: int, width: int) -> tuple[int, int]:
    # transformers asks for an array; this one takes no memory.
    picture = np.broadcast_to(np.uint8(0), (3, height, width))
    return get_resize_output_image_size(
        picture, edge, default_to_square=False, input_data_format=ChannelDimension.FIRST
    )


def _convnext_box(image_processor: Any, height: int, width: int) -> Box:
    edge = image_processor.size.shortest_edge
    if not image_processor.do_resize or edge >= _CONVNEXT_WHOLE_PICTURE_SIZE:
        return (0.0, 0.0, float(width), float(height))
    resized = _shortest_edge_size(int(edge / image_processor.crop_pct), height, width)
    return _centre_box(resized, (edge, edge), height, width)


def _centre_box(resized: tuple[int, int], crop: tuple[int, int], height: int, width: int) -> Box:
    """Undo the resize for a crop whose first pixel is at (size - crop) // 2."""
    top, left = ((size - side) // 2 for size, side in zip(resized, crop, strict=True))
    vertical, horizontal = height / resized[0], width / resized[1]
    return (
        left * horizontal,
        top * vertical,
        (left + crop[1]) * horizontal,
        (top + crop[0]) * vertical,
    )


def _measured_box(image_processor: Any, height: int, width: int) -> Box:
    """Send black, white and two gradients through the processor and fit where they come from.

    Right to half a pixel of the network, as pictures have 256 levels.
    """
    across = np.broadcast_to((np.arange(width) + 0.5) / width, (height, width))
    down = np.broadcast_to(((np.arange(height) + 0.5) / height)[:, None], (height, width))
    black, white = (_seen(image_processor, np.full((height, width), v)) for v in (0.0, 1.0))
    # Padding is the same in both pictures.
    contrast = white - black
    shown = np.abs(contrast).min(axis=0) > 0.5 * np.abs(contrast).max()
    contrast[:, ~shown] = 1.0
    edges = []
    for picture, axis in ((across, 0), (down, 1)):
        places = ((_seen(image_processor, picture) - black) / contrast).mean(axis=0)
        edges.append(_fit(places, shown, axis, image_processor))
    (left, right), (top, bottom) = edges
    return (left * width, top * height, right * width, bottom * height)


def _seen(image_processor: Any, picture: np.ndarray) -> np.ndarray:
    # A gradient over 2,000 pixels has 256 steps; dithered, its averages have none.
    dither = np.add.outer(*map(np.arange, picture.shape)) * _GOLDEN_RATIO % 1
    grey = np.floor(picture * 255 + dither).astype(np.uint8)
    pixel_values = image_processor(
        images=Image.fromarray(grey).convert("RGB"), return_tensors="np"
    )["pixel_values"]
    pixel_values = np.asarray(pixel_values, dtype=np.float64)
    if pixel_values.ndim != 4 or len(pixel_values) != 1:
        raise ValueError(_not_a_box(image_processor))
    return pixel_values[0]


def _fit(
    places: np.ndarray, shown: np.ndarray, axis: int, image_processor: Any
) -> tuple[float, float]:
    """Fit place = slope * (pixel + 1/2) + start along one axis; return its two ends."""
    counts = shown.sum(axis=axis)
    inside = np.flatnonzero(counts)
    if len(inside) > 4 * _BORDER:
        inside = inside[_BORDER:-_BORDER]
    if len(inside) < 2:
        raise ValueError(_not_a_box(image_processor))
    totals = np.where(shown, places, 0).sum(axis=axis)
    profile = totals[inside] / counts[inside]
    slope, start = np.polyfit(inside + 0.5, profile, 1)
    line = slope * (np.arange(len(counts)) + 0.5) + start
    deviation = np.where(shown, places - (line if axis == 0 else line[:, None]), 0)
    if slope <= 0 or np.sqrt((deviation**2).mean()) > _STRAIGHT:
        raise ValueError(_not_a_box(image_processor))
    return start, start + slope * len(counts)


def _not_a_box(image_processor: Any) -> str:
    return (
        f"{type(image_processor).__name__} does more than resize, crop and pad, so a map "
        "cannot be mapped back to the picture; give the processor a method "
        "viewed_box((height, width)) that returns (left, top, right, bottom)."
    )
