"""Polygons as pixels, slowly and obviously, for comparison."""

from itertools import pairwise

import numpy as np


def pixels_inside(rings, size) -> np.ndarray:
    """Pixels whose centre is inside an odd number of rings, (H, W); rings have x and y."""
    inside = np.zeros(size, dtype=bool)
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    for ring in rings:
        for (x1, y1), (x2, y2) in pairwise(ring):
            if y1 == y2:
                continue
            crosses = (y1 > rows) != (y2 > rows)
            inside ^= crosses & (x1 + (rows - y1) / (y2 - y1) * (x2 - x1) > columns)
    return inside


def signed_area(ring) -> float:
    """Positive where a ring runs counterclockwise in the plane of its numbers."""
    return sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in pairwise(ring)) / 2


def from_run_lengths(segmentation) -> np.ndarray:
    """The mask of COCO's uncompressed run lengths."""
    height, width = segmentation["size"]
    values = [place % 2 for place, n in enumerate(segmentation["counts"]) for _ in range(n)]
    return np.array(values, dtype=bool).reshape(width, height).T


def crosses_itself(ring) -> bool:
    """Whether two sides of a ring that are no neighbours meet."""
    sides = list(pairwise(ring))

    def turn(a, b, c) -> float:
        return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])

    for one, (a, b) in enumerate(sides):
        for other in range(one + 2, len(sides) - (one == 0)):
            c, d = sides[other]
            apart = turn(a, b, c) * turn(a, b, d) > 0 or turn(c, d, a) * turn(c, d, b) > 0
            if not apart and not (turn(a, b, c) == turn(a, b, d) == 0):
                return True
    return False
