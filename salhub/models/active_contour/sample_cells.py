"""The sample picture "cells": drawn by rule, so that anybody may use it for anything."""

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

_SIZE = (320, 420)
_FINER = 2
# Centre and radius in shares of the height and of the width, and how many lobes the outline has.
_CELLS = (
    (0.33, 0.24, 0.165, 3),
    (0.66, 0.42, 0.190, 5),
    (0.30, 0.63, 0.150, 4),
    (0.68, 0.80, 0.140, 3),
)
_GROUND = np.array([236.0, 224.0, 230.0])
_BODY = np.array([206.0, 138.0, 178.0])
_NUCLEUS = np.array([104.0, 66.0, 138.0])


def draw_cells(seed: int = 3) -> tuple[Image.Image, np.ndarray]:
    """Draw stained cells under uneven light, with grain.

    Args:
        seed: Of outlines, texture and grain.

    Returns:
        RGB picture of 420 x 320 pixels, and its mask: bool (320, 420), True in the cells.

    Example:
        >>> picture, mask = draw_cells()
        >>> picture.size, mask.shape
        ((420, 320), (320, 420))
    """
    random = np.random.default_rng(seed)
    height, width = (_FINER * side for side in _SIZE)
    rows, columns = np.mgrid[:height, :width] + 0.5
    cells, nuclei = np.zeros((2, height, width))
    for row, column, radius, lobes in _CELLS:
        y, x = rows - row * height, columns - column * width
        turn = np.arctan2(y, x)
        waves = (
            1
            + 0.10 * np.sin(lobes * turn + random.uniform(0, 6))
            + 0.05 * np.sin((lobes + 2) * turn + random.uniform(0, 6))
        )
        cells = np.maximum(cells, np.hypot(x, y) < radius * height * waves)
        shift = random.uniform(-0.2, 0.2, 2) * radius * height
        inner = np.hypot((x - shift[1]) * 0.9, (y - shift[0]) * 1.1)
        nuclei = np.maximum(nuclei, inner < 0.42 * radius * height)
    mask = cells.reshape(_SIZE[0], _FINER, _SIZE[1], _FINER).mean((1, 3)) >= 0.5
    grains = gaussian_filter(random.standard_normal((height, width)), 5)
    grains /= grains.std()
    soft, dark = gaussian_filter(cells, 2.0), gaussian_filter(nuclei, 4.0)
    stain = (soft * (0.85 + 0.10 * grains)).clip(0, 1.1)[..., None]
    colors = _GROUND + stain * (_BODY - _GROUND)
    colors = colors + dark[..., None] * (1 + 0.06 * grains[..., None]) * (_NUCLEUS - colors)
    # A lamp that stands to the left.
    light = 1.06 - 0.30 * (columns / width) - 0.06 * (rows / height)
    colors = (colors * light[..., None]).reshape(_SIZE[0], _FINER, _SIZE[1], _FINER, 3)
    noisy = colors.mean((1, 3)) + 4.0 * random.standard_normal((*_SIZE, 3))
    return Image.fromarray(noisy.clip(0, 255).round().astype(np.uint8)), mask
