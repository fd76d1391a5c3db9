"""Arrays and tensors as pictures: which axis is colour, and what the numbers mean."""

import logging
from typing import Any

import numpy as np
from PIL import Image

logger = logging.getLogger(__name__)

# Resizing and colour conversion overshoot by rounding; more than this is another range.
_TOLERANCE = 1e-3
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def array_to_image(
    array: np.ndarray, *, channels_first: bool, is_16_bit: bool = False
) -> Image.Image:
    """Turn one array into a PIL picture of mode L, LA, RGB or RGBA.

    Args:
        array: (H, W), (H, W, C) or (C, H, W) with 1 to 4 channels: grey, grey and alpha, RGB,
            RGBA. The numbers are read as `to_8_bit` says.
        channels_first: The layout to believe where both would do.
        is_16_bit: The integers are of 65535, however small the largest is.

    Raises:
        TypeError: The array does not hold numbers.
        ValueError: Another shape, a batch, or values of no known range.
    """
    if array.ndim == 4:
        raise ValueError(
            f"The array has shape {array.shape}, which is a batch of pictures; "
            "pass one of them, or list(array) to a pipeline."
        )
    if array.ndim not in (2, 3) or array.size == 0:
        raise ValueError(
            f"The array has shape {array.shape}; a picture must be (height, width), (height, "
            "width, channels) or (channels, height, width), with no axis of 0."
        )
    values = to_8_bit(_channels_last(array, channels_first), is_16_bit=is_16_bit)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    mode = _MODES[1 if values.ndim == 2 else values.shape[2]]
    height, width = values.shape[:2]
    return Image.frombytes(mode, (width, height), np.ascontiguousarray(values).tobytes())


def tensor_to_array(tensor: Any) -> np.ndarray:
    """Return a torch tensor as a numpy array, from any device and with or without gradient.

    Raises:
        ValueError: The tensor has no data (meta device).
    """
    if tensor.is_meta:
        raise ValueError("The tensor is on the meta device and has no values; pass a real one.")
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        # numpy has no bfloat16.
        tensor = tensor.float()
    return tensor.numpy()


def to_8_bit(values: np.ndarray, *, is_16_bit: bool = False) -> np.ndarray:
    """Return pixel values as uint8, reading their range off the type and the largest value.

    Booleans are black and white. Integers up to 255 are 8-bit, up to 65535 16-bit. Floats up to
    1 are in [0, 1], up to 255 in [0, 255]. `is_16_bit` says that integers are 16-bit, as the mode
    of a PIL picture does ("I;16").

    Raises:
        TypeError: The array does not hold real numbers.
        ValueError: NaN, infinite or negative values, or values above those ranges.
    """
    if values.dtype == bool:
        return values.astype(np.uint8) * np.uint8(255)
    if not (np.issubdtype(values.dtype, np.integer) or np.issubdtype(values.dtype, np.floating)):
        raise TypeError(
            f"The array has {values.dtype} values; a picture needs integers, floats or booleans."
        )
    if np.issubdtype(values.dtype, np.floating):
        return _floats_to_8_bit(values)
    return _integers_to_8_bit(values, is_16_bit)


def _channels_last(array: np.ndarray, channels_first: bool) -> np.ndarray:
    if array.ndim == 2:
        return array
    fits_first, fits_last = array.shape[0] in _MODES, array.shape[2] in _MODES
    if not (fits_first or fits_last):
        raise ValueError(
            f"The array has shape {array.shape}; neither its first nor its last axis "
            "is 1, 2, 3 or 4 colour channels long."
        )
    if fits_first and (channels_first or not fits_last):
        return np.moveaxis(array, 0, -1)
    return array


def _floats_to_8_bit(values: np.ndarray) -> np.ndarray:
    bad = values.size - int(np.isfinite(values).sum())
    if bad:
        raise ValueError(
            f"The picture holds {bad} NaN or infinite values; replace them first, "
            "for example with numpy.nan_to_num."
        )
    low, high = float(values.min()), float(values.max())
    if low < -_TOLERANCE or high > 255 + _TOLERANCE:
        advice = (
            "it looks normalized for a network: pass the original picture"
            if low < -_TOLERANCE
            else "scale it to one of these ranges"
        )
        raise ValueError(
            f"The picture's values range from {low:.4g} to {high:.4g}; a float picture must "
            f"be in [0, 1] or [0, 255]; {advice}."
        )
    scale = 255.0 if high <= 1 + _TOLERANCE else 1.0
    return np.rint(np.clip(values * scale, 0, 255)).astype(np.uint8)


def _integers_to_8_bit(values: np.ndarray, is_16_bit: bool) -> np.ndarray:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ValueError(
            f"The picture's values range from {low} to {high}; an integer picture must be in "
            "[0, 255] or, with 16 bits, in [0, 65535]; scale it to one of these ranges."
        )
    if high <= 255 and not is_16_bit:
        if high == 1:
            logger.warning("The picture only has the values 0 and 1 of 255, so it is nearly black.")
        return values.astype(np.uint8)
    if 0 < high < 8192:
        logger.warning(
            "The 16-bit picture uses values up to %d of 65535, so it is dark; if it comes from a "
            "10- or 12-bit camera, multiply it by %d first.",
            high,
            65536 // (1 << high.bit_length()),
        )
    return np.rint(values.astype(np.float64) / 257).astype(np.uint8)
