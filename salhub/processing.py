"""From any picture a person has to what a network sees, and from the network's map back to it."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from salhub.data.picture_arrays import array_to_image, tensor_to_array
from salhub.data.picture_decoding import MAX_PIXELS, decode_picture, to_upright_rgb
from salhub.data.picture_geometry import Box, check_picture_size, viewed_box
from salhub.data.picture_sources import read_source

__all__ = ["MAX_PIXELS", "Box", "load_image", "map_to_picture", "place_map", "viewed_box"]


def load_image(source: Any) -> Image.Image:
    """Read any picture as upright 8-bit RGB.

    Paths, `pathlib` paths, http and https addresses, data URIs, bytes and open binary files are
    decoded (the first frame of an animation); "sample:cat" is a photo that comes with salhub. PIL
    pictures of any mode, numpy arrays and torch tensors are converted: (H, W), (H, W, C) or
    (C, H, W) with 1 to 4 channels, booleans, 8- or 16-bit integers, floats in [0, 1] or
    [0, 255]. Where both layouts would do, tensors are taken as (C, H, W) and arrays as (H, W, C).
    EXIF orientation is applied, transparency composited on white, colour profiles ignored.

    Args:
        source: The picture.

    Returns:
        A new PIL picture of mode RGB; `source` is never changed.

    Raises:
        FileNotFoundError: There is no such file.
        ConnectionError: The address did not answer with a picture.
        ValueError: Not a picture, damaged, empty, too large, a batch, or numbers of no known range.
        TypeError: An object that cannot be a picture.

    Example:
        >>> load_image("sample:cat").size
        (451, 300)
    """
    if isinstance(source, Image.Image):
        return to_upright_rgb(source)
    if isinstance(source, torch.Tensor):
        return to_upright_rgb(array_to_image(tensor_to_array(source), channels_first=True))
    if isinstance(source, list | tuple):
        raise TypeError(
            f"Expected one picture, got a {type(source).__name__} of {len(source)}; pass one "
            "of its items, or numpy.asarray(...) for nested numbers."
        )
    if isinstance(source, np.ndarray) or hasattr(source, "__array__"):
        return to_upright_rgb(array_to_image(np.asarray(source), channels_first=False))
    data, name = read_source(source)
    return to_upright_rgb(decode_picture(data, name), name)


def map_to_picture(
    saliency: torch.Tensor | np.ndarray,
    image_processor: Any,
    picture_sizes: Sequence[Sequence[int]],
) -> list[np.ndarray]:
    """Bring maps from the network's view back to the pictures they explain.

    Bilinear inside the box the network saw (averaging where the picture is smaller than the map),
    0 outside of it.

    Args:
        saliency: Maps, shape (B, h, w), or (B, T, h, w) for several classes.
        image_processor: The processor that made the network's input, or None.
        picture_sizes: (height, width) of each of the B pictures.

    Returns:
        B float32 arrays of shape (H, W), or (T, H, W).

    Raises:
        ValueError: Other shapes, NaN or infinite values, or a wrong number of sizes.

    Example:
        >>> map_to_picture(torch.ones(1, 7, 7), None, [(300, 451)])[0].shape
        (300, 451)
    """
    maps = _checked_maps(saliency)
    if maps.ndim not in (3, 4) or maps.size == 0:
        raise ValueError(f"Maps must have shape (B, h, w) or (B, T, h, w), got {maps.shape}.")
    if len(maps) != len(picture_sizes):
        raise ValueError(f"There are {len(maps)} maps but {len(picture_sizes)} picture sizes.")
    results = []
    for one, size in zip(maps, picture_sizes, strict=True):
        results.append(place_map(one, viewed_box(image_processor, size), size))
    return results


def place_map(
    saliency: torch.Tensor | np.ndarray, box: Box, picture_size: Sequence[int]
) -> np.ndarray:
    """Bring a map to the part of a picture that the network saw, as `map_to_picture` does.

    Args:
        saliency: Shape (h, w), or (T, h, w) for several classes.
        box: left, top, right, bottom of that part, in pixels of the picture; it may be larger.
        picture_size: Height and width of the picture.

    Returns:
        float32 of shape (H, W), or (T, H, W).

    Raises:
        ValueError: NaN or infinite values, or no size.

    Example:
        >>> place_map(np.ones((2, 2)), (1, 0, 3, 2), (2, 4)).tolist()
        [[0.0, 1.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0]]
    """
    maps = _checked_maps(saliency)
    height, width = check_picture_size(picture_size)
    layers = [_place(layer, box, height, width) for layer in maps.reshape(-1, *maps.shape[-2:])]
    return np.stack(layers).reshape(*maps.shape[:-2], height, width)


def _checked_maps(saliency: torch.Tensor | np.ndarray) -> np.ndarray:
    if isinstance(saliency, torch.Tensor):
        saliency = saliency.detach().cpu().float().numpy()
    maps = np.asarray(saliency, dtype=np.float32)
    if not np.isfinite(maps).all():
        raise ValueError("The maps contain NaN or infinite values and cannot be resized.")
    return maps


def _place(layer: np.ndarray, box: Box, height: int, width: int) -> np.ndarray:
    """Resample one map into the pixels of the picture whose centres lie in the box."""
    left, top, right, bottom = box
    columns, horizontal = _covered(left, right, width, layer.shape[1])
    rows, vertical = _covered(top, bottom, height, layer.shape[0])
    placed = np.zeros((height, width), dtype=np.float32)
    if columns.stop <= columns.start or rows.stop <= rows.start:
        return placed
    # The outermost pixels may stick out of the box by up to half of themselves: repeat the border.
    margin = math.ceil(max(1.0, layer.shape[1] / (right - left), layer.shape[0] / (bottom - top)))
    padded = Image.fromarray(np.pad(layer, margin, mode="edge"))
    placed[rows, columns] = padded.resize(
        (columns.stop - columns.start, rows.stop - rows.start),
        Image.Resampling.BILINEAR,
        box=(
            horizontal[0] + margin,
            vertical[0] + margin,
            horizontal[1] + margin,
            vertical[1] + margin,
        ),
    )
    return placed


def _covered(low: float, high: float, pixels: int, cells: int) -> tuple[slice, tuple[float, float]]:
    """Return the picture's pixels inside [low, high), and where in the map they start and end."""
    first = max(0, math.ceil(low - 0.5))
    last = min(pixels, math.ceil(high - 0.5))
    scale = cells / (high - low)
    return slice(first, last), ((first - low) * scale, (last - low) * scale)
