"""Lines of equal height through a grid, by marching squares, to parts of a pixel."""

from typing import Any

import numpy as np

# Edges of a cell: 0 top, 1 right, 2 bottom, 3 left. Corners that are low are bits 1 (top left),
# 2 (top right), 4 (bottom right), 8 (bottom left). A segment runs with the low side on its left.
_SEGMENTS = {
    1: ((0, 3),),
    2: ((1, 0),),
    3: ((1, 3),),
    4: ((2, 1),),
    5: ((0, 1), (2, 3)),
    6: ((2, 0),),
    7: ((2, 3),),
    8: ((3, 2),),
    9: ((0, 2),),
    10: ((3, 0), (1, 2)),
    11: ((1, 2),),
    12: ((3, 1),),
    13: ((0, 1),),
    14: ((3, 0),),
}


def contour_lines(level_set: Any, level: float = 0.0) -> list[np.ndarray]:
    """Trace where a grid crosses a level.

    Args:
        level_set: (H, W) array or tensor, finite; what is below the level is inside.
        level: The level.

    Returns:
        Polylines, float32 (N, 2) of (row, column), pixel centres at whole numbers, the longest
        first. Closed ones repeat their first point; those that end do so at the border. Inside
        pixels that touch by a corner are joined, as in `skimage.measure.find_contours`.

    Raises:
        ValueError: Another shape, or numbers that are not finite.

    Example:
        >>> grid = np.ones((3, 3))
        >>> grid[1, 1] = -1
        >>> contour_lines(grid)[0].shape
        (5, 2)
    """
    if hasattr(level_set, "detach"):
        level_set = level_set.detach().cpu().numpy()
    grid = np.asarray(level_set, dtype=np.float64) - level
    if grid.ndim != 2 or not np.isfinite(grid).all():
        raise ValueError(
            f"contour_lines takes finite numbers of shape (H, W), got shape {grid.shape}."
        )
    height, width = grid.shape
    if height < 2 or width < 2:
        return []
    low = grid < 0
    code = low[:-1, :-1] + 2 * low[:-1, 1:] + 4 * low[1:, 1:] + 8 * low[1:, :-1]
    starts, ends = [], []
    for value, segments in _SEGMENTS.items():
        rows, columns = np.nonzero(code == value)
        for start, end in segments:
            starts.append(_edge_number(start, rows, columns, width, height))
            ends.append(_edge_number(end, rows, columns, width, height))
    start, end = np.concatenate(starts), np.concatenate(ends)
    if not len(start):
        return []
    lines = [_points(line, grid) for line in _chains(start, end)]
    return sorted(lines, key=len, reverse=True)


def _edge_number(
    edge: int, rows: np.ndarray, columns: np.ndarray, width: int, height: int
) -> np.ndarray:
    """One number an edge of the grid: horizontal ones first, then vertical ones."""
    if edge in (0, 2):
        return (rows + (edge == 2)) * width + columns
    return height * width + rows * width + columns + (edge == 1)


def _chains(start: np.ndarray, end: np.ndarray) -> list[np.ndarray]:
    """Join segments end to start; every edge starts at most one and ends at most one."""
    following = dict(zip(start.tolist(), end.tolist(), strict=True))
    # Lines that begin at the border begin where no segment ends; what is left is closed.
    begins = np.setdiff1d(start, end).tolist()
    chains = []
    for first in begins:
        chain = [first]
        while (after := following.pop(chain[-1], None)) is not None:
            chain.append(after)
        chains.append(np.array(chain))
    while following:
        first, after = following.popitem()
        chain = [first, after]
        while after != first:
            after = following.pop(after)
            chain.append(after)
        chains.append(np.array(chain))
    return chains


def _points(edges: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Where the level is crossed on each edge, by linear interpolation."""
    height, width = grid.shape
    vertical = edges >= height * width
    rows, columns = np.divmod(edges - vertical * height * width, width)
    one = grid[rows, columns]
    two = grid[rows + vertical, columns + ~vertical]
    share = one / (one - two)
    return np.stack([rows + share * vertical, columns + share * ~vertical], axis=1).astype("f4")
