"""Masks and maps that come as arrays, pictures or files: which pixels they mean."""

import os
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from salhub.data.picture_decoding import decode_picture
from salhub.data.picture_sources import read_source

_WIDE_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")
# Integers up to about the last tone are tones, also where a JPEG has changed them a little.
_LAST_TONES = range(240, 256)
_LAST_WIDE = 2**16 - 1


def read_map(source: Any, name: str) -> Tensor:
    """Read a map of one number a pixel; pictures become [0, 1].

    Args:
        source: An array, tensor or picture, or a file of one.
        name: What it is called in messages.

    Returns:
        float32, of any shape.

    Raises:
        ValueError: It cannot be read, is partly transparent, or leaves [0, 1].
    """
    values = _values(source, name)
    if isinstance(values, Image.Image):
        most = _LAST_WIDE if values.mode in _WIDE_MODES else 255
        if values.mode == "F":
            most = 1
        elif values.mode not in _WIDE_MODES:
            values = values.convert("L")
        values = np.asarray(values, dtype=np.float32) / most
    values = torch.as_tensor(values).float()
    low, high = (float(values.min()), float(values.max())) if values.numel() else (0.0, 0.0)
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"{name} must be in [0, 1], got {low:.3g} to {high:.3g}; scale it to that first."
        )
    return values


def read_mask(source: Any, name: str) -> tuple[np.ndarray, list[str]]:
    """Read which pixels are inside.

    Of two numbers the larger is inside. Of several, labels are inside but for 0, and of tones those
    above half of the largest.

    Args:
        source: As of `read_map`.
        name: What it is called in messages.

    Returns:
        Bool, of the source's shape, and what was guessed.

    Raises:
        ValueError: It cannot be read, is partly transparent, or holds NaN.
    """
    values = _values(source, name)
    if isinstance(values, Image.Image):
        is_colored = values.mode not in ("1", "L", "F", *_WIDE_MODES)
        if values.mode == "P" and not _is_grey(values):
            is_colored = False  # its numbers are labels, and colours only show them
        if is_colored:
            # The brightest channel, as blue is as much inside as white.
            values = np.asarray(values.convert("RGB")).max(-1)
    values = np.asarray(values)
    if values.dtype.kind == "b":
        return values, []
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds NaN or infinite values; give True inside, False outside.")
    if not values.size:
        return values > 0, []
    tones, top = np.unique(values), float(values.max())
    is_whole = bool((tones == np.round(tones)).all())
    is_tones = int(top) in _LAST_TONES or top in (1.0, _LAST_WIDE) or not is_whole
    if len(tones) <= 2 or is_tones:
        notes = [] if len(tones) <= 2 else [
            f"The {name} has {len(tones)} tones; tones above half of the largest are inside."
        ]  # fmt: skip
        return values > top / 2, notes
    return values > 0, [f"The {name} has labels up to {top:g}; all above 0 are inside."]


def _values(source: Any, name: str) -> Any:
    """An upright picture, or an array."""
    if isinstance(source, Tensor):
        return source.detach().cpu().numpy()
    if isinstance(source, str | os.PathLike) and str(source).lower().endswith(".npy"):
        try:
            return np.load(source, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ValueError(f"{name} cannot be read from '{source}': {error}.") from None
    if isinstance(source, str | os.PathLike | bytes):
        source = decode_picture(*read_source(source))
    if not isinstance(source, Image.Image):
        return np.asarray(source)
    picture = ImageOps.exif_transpose(source)
    if picture.has_transparency_data:
        opacity = picture.convert("RGBA").getchannel("A")
        if opacity.getextrema()[0] < 255:
            raise ValueError(
                f"{name} is partly transparent, so it is not clear what is inside; save it "
                "in black and white."
            )
        return picture.convert("RGB")
    return picture


def _is_grey(picture: Image.Image) -> bool:
    colors = np.asarray(picture.convert("RGB"))
    return bool((colors == colors[..., :1]).all())
