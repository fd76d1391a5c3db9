"""How sure a network may be: one temperature that makes its probabilities frequencies."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from scipy.optimize import minimize_scalar

_REACH_MM = 15.0
_TEMPERATURES = (0.2, 20.0)
_BINS = 10


def near_target(mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Voxels within 15 mm of a target, bool: elsewhere all are background, and easy."""
    if not mask.any():
        return np.ones_like(mask, dtype=bool)
    return ndimage.distance_transform_edt(~mask, sampling=spacing) <= _REACH_MM


def fitted_temperature(scores: np.ndarray, truth: np.ndarray) -> float:
    """The temperature T under which sigmoid(score / T) makes the truth likeliest.

    Args:
        scores: Logits of some voxels, (N,).
        truth: Whether each is foreground, bool (N,).

    Returns:
        T in [0.2, 20]; above 1 for a network that is too sure.

    Example:
        >>> scores = np.array([4.0, 4.0, 4.0, -4.0])
        >>> round(fitted_temperature(scores, np.array([True, True, False, False])), 1)
        3.6

    Source:
        Guo et al. 2017 (arXiv 1706.04599), temperature scaling.
    """
    scores, signs = scores.astype(np.float64), np.where(truth, -1.0, 1.0)

    def loss(logarithm: float) -> float:
        return float(np.logaddexp(0, signs * scores / np.exp(logarithm)).mean())

    found = minimize_scalar(loss, bounds=np.log(_TEMPERATURES), method="bounded")
    return float(np.exp(found.x))


def calibration_error(chances: np.ndarray, truth: np.ndarray) -> float:
    """Mean distance of the probabilities from the frequencies, in ten bins; 0 at best.

    Args:
        chances: Probabilities of some voxels, (N,).
        truth: Whether each is foreground, bool (N,).
    """
    bins = np.minimum((chances * _BINS).astype(int), _BINS - 1)
    sums = [np.bincount(bins, weights=values, minlength=_BINS) for values in (chances, truth)]
    return float(np.abs(sums[0] - sums[1]).sum() / len(chances))
