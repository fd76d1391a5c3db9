"""Surfaces of masks, and the exact distance from each of their voxels to the nearest of another.

Most voxels of two surfaces that are compared lie a few voxels apart. How far the nearest voxel of
its row is, is worked out for every voxel at once; then the rows about a voxel are looked up, the
nearest first, until none can hold a nearer one. What is left, because nothing is near, a tree
answers.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.spatial import KDTree

# Voxels of a row that hold nothing within reach; what is added to it still fits into 8 bits.
_FAR = 127
_MOST_REACH = 63
# Rows about a voxel that are looked up: of a volume all of a disk, of a picture both sides.
_ROWS_OF_A_DISK = 64
_ROWS_ON_A_SIDE = 31
_MOST_AT_ONCE = 16
# Bytes that are worked on together, so that they stay near the processor.
_BYTES_AT_ONCE = 2**17
# With more of the box than this for each voxel of a surface, the tree alone is sooner.
_MOST_BYTES_A_VOXEL = 512
# Pairs of voxels that are compared one by one sooner than a tree is built.
_MOST_PAIRS = 2 * 10**5


def surfaces_of(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the voxels of two masks that have a neighbour outside their mask.

    Args:
        first: bool, of 2 or 3 dimensions. The neighbours are 4 or 6, and what lies beyond the edge
            is outside.
        second: bool, of the same shape.

    Returns:
        Places of both surfaces, int (N, axes) each, in the order of the voxels.
    """
    shape = np.array(first.shape) + 2
    inner = (slice(1, -1),) * first.ndim
    padded = np.zeros((2, *shape), dtype=bool)
    padded[0][inner], padded[1][inner] = first, second
    flat = padded.reshape(-1)
    surrounded = flat.copy()
    step = 1
    for size in shape[::-1]:
        # The rim that was added parts the rows, so that these are the neighbours.
        surrounded[step:] &= flat[:-step]
        surrounded[:-step] &= flat[step:]
        step *= int(size)
    places = np.flatnonzero(flat & ~surrounded)
    count = int(np.searchsorted(places, step))
    found = [
        np.stack(np.unravel_index(part, tuple(shape)), axis=1) - 1
        for part in (places[:count], places[count:] - step)
    ]
    return found[0], found[1]


def distances_between(
    first: np.ndarray, second: np.ndarray, shape: tuple[int, ...], steps: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return how far each place of two sets is from the nearest of the other set.

    Args:
        first: Places on a grid, int (A, axes).
        second: Places on the same grid, (B, axes).
        shape: Of the grid, 2 or 3 numbers.
        steps: Distance from one place to the next along each axis.

    Returns:
        (A,) and (B,) float64, exact; infinite where the other set is empty.
    """
    if not len(first) or not len(second):
        return np.full(len(first), math.inf), np.full(len(second), math.inf)
    search = _Search.of(tuple(steps.tolist()))
    squares, is_open = search(first, second, shape)
    for part, places, others in ((0, first, second), (1, second, first)):
        chosen = np.flatnonzero(is_open[part])
        if len(chosen):
            squares[part][chosen] = _to_nearest(places[chosen] * steps, others * steps)
    return np.sqrt(squares[0]), np.sqrt(squares[1])


@dataclass(frozen=True)
class _Search:
    """What does not depend on the places: the rows to look up, the nearest first.

    Args:
        rows: Slices and lines by which each row is off, int (R, 2).
        squares: Squared distance of each row, (R,).
        margin: By how many slices and lines they are off at most.
        rounds: Doublings of how far is seen within a row.
        along: Squared distance by the number of voxels within a row, (256,).
        limit: Squared distance up to which an answer is sure.
    """

    rows: np.ndarray
    squares: np.ndarray
    margin: tuple[int, int]
    rounds: int
    along: np.ndarray
    limit: float

    @staticmethod
    @lru_cache(maxsize=64)
    def of(steps: tuple[float, ...]) -> "_Search":
        """The search on a grid of these steps."""
        *above, line, along_row = steps
        radius = min(_ROWS_ON_A_SIDE * line, _MOST_REACH * along_row)
        if above:
            disk = math.sqrt(_ROWS_OF_A_DISK / math.pi * above[0] * line)
            radius = min(radius, disk, _ROWS_ON_A_SIDE * above[0])
        margin = (int(radius / above[0]) if above else 0, int(radius / line))
        sides = [np.arange(-size, size + 1) for size in margin]
        rows = np.stack([one.ravel() for one in np.meshgrid(*sides, indexing="ij")], axis=1)
        lengths = np.array([above[0] if above else 0.0, line])
        squares = ((rows * lengths) ** 2).sum(axis=1)
        order = np.argsort(squares, kind="stable")
        order = order[squares[order] <= radius**2]
        rounds = max(1, math.ceil(math.log2(radius / along_row + 1)))
        along = np.full(256, math.inf)
        reach = 2**rounds
        along[:reach] = (np.arange(reach) * along_row) ** 2
        return _Search(rows[order], squares[order], margin, rounds, along, radius**2)

    def __call__(
        self, first: np.ndarray, second: np.ndarray, shape: tuple[int, ...]
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Squared distances of both sets, and where they are not known."""
        depth, height, width = (1, *shape)[-3:]
        # Rows are parted by as many columns as are seen across, so that none sees into the next.
        row = width + 2**self.rounds - 1
        lines = height + 2 * self.margin[1]
        size = (depth + 2 * self.margin[0]) * lines * row
        count = len(first) + len(second)
        if 2 * size > _MOST_BYTES_A_VOXEL * count:
            unknown = [np.full(len(one), math.inf) for one in (first, second)]
            return unknown, [np.isinf(one) for one in unknown]
        ours, theirs = (self._flat(places, lines, row) for places in (first, second))
        within = np.full(2 * size, _FAR, dtype=np.uint8)
        taken = np.concatenate([theirs, ours + size])
        within[taken] = 0
        self._spread(within, taken, row)
        squares = self._look_up(within, np.concatenate([ours, theirs + size]), lines, row)
        is_open = squares > self.limit
        parted = [np.split(one, [len(first)]) for one in (squares, is_open)]
        return parted[0], parted[1]

    def _flat(self, places: np.ndarray, lines: int, row: int) -> np.ndarray:
        """Places within the grid and its margin, as one number each."""
        line = places[:, -2] + self.margin[1]
        if places.shape[1] == 3:
            line = line + (places[:, 0] + self.margin[0]) * lines
        return line * row + places[:, -1]

    def _spread(self, within: np.ndarray, taken: np.ndarray, row: int) -> None:
        """Put into each voxel how many voxels away the nearest of its row is, in place."""
        at_once = max(1, _BYTES_AT_ONCE // row) * row
        for place in np.unique(taken // at_once).tolist():
            part, step = within[place * at_once : (place + 1) * at_once], 1
            for _ in range(self.rounds):
                beside = part + np.uint8(step)
                np.minimum(part[step:], beside[:-step], out=part[step:])
                np.minimum(part[:-step], beside[step:], out=part[:-step])
                step *= 2

    def _look_up(self, within: np.ndarray, where: np.ndarray, lines: int, row: int) -> np.ndarray:
        """Squared distances (N,) of places; right where they are at most `limit`."""
        off = (self.rows[:, 0] * lines + self.rows[:, 1]) * row
        found = best = self.along.take(within.take(where))
        moving = np.arange(len(where))
        start, size = 1, 4
        while start < len(off):
            # No row that follows is as near as what was found.
            kept = np.flatnonzero(best > self.squares[start])
            if not len(kept):
                break
            moving, where, best = moving[kept], where[kept], best[kept]
            stop = min(start + size, len(off))
            seen = self.along.take(within.take(off[start:stop, None] + where))
            seen += self.squares[start:stop, None]
            np.minimum(best, seen.min(axis=0), out=best)
            found[moving] = best
            start, size = stop, min(2 * size, _MOST_AT_ONCE)
        return found


def _to_nearest(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Squared distances from points (N, axes) to the nearest of others (M, axes)."""
    if len(points) * len(others) <= _MOST_PAIRS:
        squares = sum(
            np.subtract.outer(points[:, axis], others[:, axis]) ** 2
            for axis in range(points.shape[1])
        )
        return squares.min(axis=1)
    # A shallow tree without medians: surfaces are spread evenly, and it is asked only once.
    tree = KDTree(others, leafsize=24, balanced_tree=False, compact_nodes=False)
    return tree.query(points)[0] ** 2
