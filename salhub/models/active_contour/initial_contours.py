"""Level sets to start from, negative inside."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from salhub.errors import check_choice

INITIAL_KINDS = ("box", "disk", "full", "checkerboard", "corner_box", "points", "mask")
_SQUARES = 8


def initial_level_set(
    kind: str,
    size: tuple[int, int],
    *,
    box: Sequence[float] | None = None,
    points: Sequence[Sequence[float]] | None = None,
    radius: float | None = None,
    mask: Any = None,
) -> Tensor:
    """A level set that is -1 inside a first contour and 1 outside.

    Args:
        kind: "box", the middle 60 % or `box`; "disk" about the middle or the first of `points`;
            "full", all but a frame of 2 pixels; "checkerboard", 8 squares a side; "corner_box", the
            first 30 %; "points", a disk about each of `points`; "mask".
        size: Height and width.
        box: top, left, bottom, right in pixels.
        points: Pairs of row and column in pixels.
        radius: Of disks, in pixels; a tenth of the shorter side by default.
        mask: (H, W), True inside.

    Returns:
        float32 (H, W).

    Raises:
        ValueError: An unknown kind, nothing given that it needs, or no pixel inside or outside.

    Example:
        >>> initial_level_set("box", (10, 10))[5].tolist()
        [1.0, 1.0, -1.0, -1.0, -1.0, -1.0, -1.0, -1.0, 1.0, 1.0]
    """
    check_choice("kind", kind, INITIAL_KINDS)
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    if kind == "mask":
        if mask is None:
            raise ValueError("kind='mask' needs the mask: give mask=... of shape (H, W).")
        inside = np.asarray(mask.cpu() if isinstance(mask, Tensor) else mask) > 0
        if inside.shape != (height, width):
            raise ValueError(f"The mask has shape {inside.shape}, but the picture {size}.")
    elif kind == "checkerboard":
        inside = (rows * _SQUARES // height + columns * _SQUARES // width) % 2 == 0
    elif kind in ("disk", "points"):
        if kind == "points" and not points:
            raise ValueError("kind='points' needs points=[(row, column), ...].")
        radius = 0.1 * min(height, width) if radius is None else radius
        centres = points or [((height - 1) / 2, (width - 1) / 2)]
        centres = centres[:1] if kind == "disk" else centres
        inside = np.zeros((height, width), dtype=bool)
        for row, column in centres:
            inside |= np.hypot(rows - row, columns - column) <= radius
    else:
        boxes = {
            "box": (0.2 * height, 0.2 * width, 0.8 * height, 0.8 * width),
            "full": (2, 2, height - 2, width - 2),
            "corner_box": (0, 0, 0.3 * height, 0.3 * width),
        }
        top, left, bottom, right = box if box is not None and kind == "box" else boxes[kind]
        inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    return level_set_of(torch.from_numpy(inside))


def level_set_of(inside: Tensor) -> Tensor:
    """-1 where `inside`, bool (..., H, W), is True and 1 elsewhere.

    Raises:
        ValueError: All of a picture is inside, or nothing.
    """
    count = inside.flatten(-2).sum(-1)
    if bool((count == 0).any()) or bool((count == inside.shape[-2] * inside.shape[-1]).any()):
        raise ValueError("The initial contour has no pixels inside or none outside; it needs both.")
    return 1 - 2 * inside.float()
