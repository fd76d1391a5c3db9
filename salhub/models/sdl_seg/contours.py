"""The outlines of a mask, slice by slice, as polygons."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

# The mask lies to the right of each edge. Steps are (y, x), y growing downwards.
_TURN_RIGHT = {(0, 1): (1, 0), (1, 0): (0, -1), (0, -1): (-1, 0), (-1, 0): (0, 1)}


def outlines(mask: ArrayLike) -> list[np.ndarray]:
    """Return the polygons around the pixels of a mask.

    They run along the edges of pixels, so that they hold exactly the area of the mask. Pixels that
    touch at a corner alone get polygons of their own. Outer polygons have a positive area by the
    shoelace formula over (x, y), holes a negative one.

    Args:
        mask: bool (H, W).

    Returns:
        A list of (N, 2) corners (y, x) in pixels, the first not repeated; the centre of the first
        pixel is (0, 0).

    Example:
        >>> outlines([[1]])[0].tolist()
        [[-0.5, -0.5], [-0.5, 0.5], [0.5, 0.5], [0.5, -0.5]]
    """
    edges = _edges(np.pad(np.asarray(mask, dtype=bool), 1))
    found = []
    while edges:
        found.append(_without_straight_corners(np.array(list(_walk(edges)), dtype=np.float64)))
    return [one - 1.5 for one in found]  # the padding, and half a pixel


def area(outline: np.ndarray) -> float:
    """Return the area of a polygon (N, 2) of (y, x) corners; negative for a hole."""
    y, x = outline.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def _edges(mask: np.ndarray) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Start (y, x) of each edge between mask and background -> directions that leave it."""
    edges: dict[tuple[int, int], list[tuple[int, int]]] = {}
    # The edge above a pixel runs to the right, that to its right down, and so on.
    sides = (
        ((-1, 0), (0, 0), (0, 1)),
        ((0, 1), (0, 1), (1, 0)),
        ((1, 0), (1, 1), (0, -1)),
        ((0, -1), (1, 0), (-1, 0)),
    )
    for (down, right), (y, x), direction in sides:
        outside = mask & ~np.roll(mask, (-down, -right), (0, 1))
        for row, column in np.argwhere(outside).tolist():
            edges.setdefault((row + y, column + x), []).append(direction)
    return edges


def _walk(edges: dict[tuple[int, int], list[tuple[int, int]]]) -> Iterator[tuple[int, int]]:
    """Follow edges from one of them until it is reached again, and take them away."""
    start = place = min(edges)
    direction = edges[place][0]
    while True:
        yield place
        edges[place].remove(direction)
        if not edges[place]:
            del edges[place]
        place = (place[0] + direction[0], place[1] + direction[1])
        choices = edges.get(place, [])
        # Where two pixels touch at a corner, turning towards the own pixel keeps them apart.
        turn = _TURN_RIGHT[direction]
        if place == start and turn not in choices:
            return
        direction = turn if turn in choices else choices[0]


def _without_straight_corners(corners: np.ndarray) -> np.ndarray:
    before = corners - np.roll(corners, 1, axis=0)
    after = np.roll(corners, -1, axis=0) - corners
    return corners[(before != after).any(axis=1)]
