"""Connected parts of a mask: the largest one, and holes."""

import numpy as np
from scipy import ndimage


def largest_part(mask: np.ndarray) -> np.ndarray:
    """The largest 6-connected part of a mask, bool; nothing of nothing."""
    parts, count = ndimage.label(mask)
    if count <= 1:
        return mask.astype(bool)
    return parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])


def without_holes(mask: np.ndarray) -> np.ndarray:
    """The mask with all that it encloses; faster than `binary_fill_holes`, and the same."""
    parts, count = ndimage.label(~mask)
    is_inside = np.ones(count + 1, dtype=bool)
    for axis in range(mask.ndim):
        for border in (0, -1):
            is_inside[np.unique(np.take(parts, border, axis=axis))] = False
    is_inside[0] = True  # the mask itself
    return is_inside[parts]
