"""From one regular grid to another about the same middle, so that parts of a voxel count."""

from collections.abc import Sequence

import numpy as np


def resampled(
    values: np.ndarray, counts: Sequence[int], scales: Sequence[float], *, averages: bool = True
) -> np.ndarray:
    """Bring values to a grid with other steps: linear, and means where the new grid is coarser.

    Along an axis whose steps grow, a new voxel is the mean of what it covers, as a scanner's thick
    slice is; a value from its middle alone would lose where between two voxels something ends.
    Beyond the ends the last value goes on.

    Args:
        values: Numbers, of any number of axes.
        counts: Voxels of the new grid along each axis.
        scales: New steps divided by old ones.
        averages: Whether to take means; else it is linear everywhere.

    Returns:
        float32, or float64 for float64.

    Example:
        >>> resampled(np.array([0.0, 0.0, 1.0, 1.0, 1.0, 1.0]), [2], [3.0]).round(2)
        array([0.33, 1.  ])
    """
    kind = np.float64 if values.dtype == np.float64 else np.float32
    values = values.astype(kind, copy=False)
    # The axis that shrinks most comes first, so that the others have less to do.
    for axis in np.argsort([new / old for new, old in zip(counts, values.shape, strict=True)]):
        old, new, scale = values.shape[axis], counts[axis], scales[axis]
        if new == old and abs(scale - 1) < 1e-9:
            continue
        first, weights = _taps(old, new, scale, averages)
        shape = [1] * values.ndim
        shape[axis] = new
        found = np.zeros((*values.shape[:axis], new, *values.shape[axis + 1 :]), dtype=kind)
        for place, weight in enumerate(weights.T):
            part = np.take(values, (first + place).clip(0, old - 1), axis=axis)
            part *= weight.reshape(shape).astype(kind)
            found += part
        values = found
    return values


def _taps(old: int, new: int, scale: float, averages: bool) -> tuple[np.ndarray, np.ndarray]:
    """Where the voxels begin that a new voxel is made of, (new,), and their weights (new, K)."""
    middles = (np.arange(new) - (new - 1) / 2) * scale + (old - 1) / 2
    if scale <= 1 or not averages:
        middles = middles.clip(0, old - 1)
        first = np.minimum(np.floor(middles).astype(int), max(old - 2, 0))
        share = middles - first
        return first, np.stack([1 - share, share], axis=1)
    low, high = middles - scale / 2, middles + scale / 2
    first = np.floor(low + 0.5).astype(int)
    places = first[:, None] + np.arange(int(np.ceil(scale)) + 1)
    covered = np.minimum(high[:, None], places + 0.5) - np.maximum(low[:, None], places - 0.5)
    return first, covered.clip(min=0) / scale
