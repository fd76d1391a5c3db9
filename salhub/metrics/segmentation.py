"""How well two masks agree: overlap, and distances between their surfaces in millimetres.

A surface is a mask minus its erosion with the 4-neighbourhood in a picture and the 6-neighbourhood
in a volume; the border of the image counts as background. Distances lead from each voxel of one
surface to the nearest voxel of the other, centre to centre: those of a full Euclidean
distance transform, sooner.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from salhub.metrics.bootstrap import Estimate, bootstrap_mean
from salhub.metrics.surfaces import distances_between, surfaces_of

_MISSED = "missed"


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """Distances between the surfaces of two masks, in the unit of the spacing.

    Of two empty masks every distance is 0 and the surface Dice 1; where only one is empty they are
    infinite and 0: a structure that was missed never improves a score.

    Args:
        from_first: (A,) from each voxel of the first surface to the second surface.
        from_second: (B,) the reverse.
    """

    from_first: np.ndarray
    from_second: np.ndarray

    @property
    def hausdorff(self) -> float:
        """The largest distance."""
        return self._over_both(np.max, max)

    @property
    def hd95(self) -> float:
        """The larger of the 95th percentiles of both directions."""
        return self._over_both(_percentile_95, max)

    @property
    def hd95_pooled(self) -> float:
        """The 95th percentile of the distances of both directions taken together."""
        return self._of_pooled(_percentile_95)

    @property
    def assd(self) -> float:
        """Average symmetric surface distance: the mean of both directions taken together."""
        return self._of_pooled(np.mean)

    @property
    def mean_of_means(self) -> float:
        """The mean of the two directions' means, in which both surfaces weigh the same."""
        return self._over_both(np.mean, lambda *two: sum(two) / 2)

    def surface_dice(self, tolerance: float) -> float:
        """Share of both surfaces, in [0, 1], that lies within `tolerance` of the other one."""
        near = [(one <= tolerance).sum() for one in (self.from_first, self.from_second)]
        total = len(self.from_first) + len(self.from_second)
        return float(sum(near) / total) if total else 1.0

    def boundary_f(self, tolerance: float) -> float:
        """Harmonic mean of the shares of each surface within `tolerance` of the other one."""
        if not len(self.from_first) or not len(self.from_second):
            return 1.0 if len(self.from_first) == len(self.from_second) else 0.0
        precision, recall = (
            float((one <= tolerance).mean()) for one in (self.from_first, self.from_second)
        )
        return 2 * precision * recall / (precision + recall) if precision + recall else 0.0

    def _over_both(self, of_one, combine) -> float:
        if not len(self.from_first) and not len(self.from_second):
            return 0.0
        if not len(self.from_first) or not len(self.from_second):
            return math.inf
        return float(combine(of_one(self.from_first), of_one(self.from_second)))

    def _of_pooled(self, of_all) -> float:
        pooled = np.concatenate([self.from_first, self.from_second])
        return float(of_all(pooled)) if len(pooled) else 0.0


def dice(first: ArrayLike, second: ArrayLike) -> float:
    """Twice the common voxels over the voxels of both masks, in [0, 1]; 1 for two empty masks.

    Args:
        first: Mask of 2 or 3 dimensions: booleans, or 0 and 1.
        second: Mask of the same shape.

    Raises:
        ValueError: Other shapes or values.

    Example:
        >>> dice([[1, 1, 0]], [[0, 1, 1]])
        0.5
    """
    first, second = _checked_masks(first, second)
    total = _count(first) + _count(second)
    return 2 * _count(first & second) / total if total else 1.0


def jaccard(first: ArrayLike, second: ArrayLike) -> float:
    """Common voxels over the voxels of either mask, in [0, 1]; 1 for two empty masks; see `dice`.

    Example:
        >>> jaccard([[1, 1, 0]], [[0, 1, 1]])
        0.3333333333333333
    """
    overlap = dice(first, second)
    return overlap / (2 - overlap)


def volume_ratio(first: ArrayLike, second: ArrayLike) -> float:
    """Voxels of the first mask over those of the second; infinite where only the second is empty.

    Example:
        >>> volume_ratio([[1, 1, 0]], [[0, 1, 0]])
        2.0
    """
    ours, theirs = map(_count, _checked_masks(first, second))
    if not theirs:
        return math.inf if ours else 1.0
    return ours / theirs


def centroid_shift(first: ArrayLike, second: ArrayLike, spacing: Sequence[float]) -> float:
    """Distance between the centres of mass, in the unit of `spacing`.

    Two empty masks are 0 apart; where only one is empty it is infinite.

    Args:
        first: Mask of 2 or 3 dimensions.
        second: Mask of the same shape.
        spacing: Step along each axis, such as millimetres.

    Example:
        >>> centroid_shift([[1, 0, 0]], [[0, 0, 1]], (1.0, 1.5))
        3.0
    """
    first, second = _checked_masks(first, second)
    steps = _checked_spacing(spacing, first.ndim)
    if not first.any() or not second.any():
        return 0.0 if not first.size else math.inf
    return float(np.linalg.norm((_centre(first) - _centre(second)) * steps))


def surface_distances(
    first: ArrayLike, second: ArrayLike, spacing: Sequence[float]
) -> SurfaceDistances:
    """Measure how far the surfaces of two masks are from each other.

    Args:
        first: Mask of 2 or 3 dimensions: booleans, or 0 and 1.
        second: Mask of the same shape.
        spacing: Step along each axis, such as millimetres; of a picture in pixels (1, 1).

    Returns:
        `SurfaceDistances`; float64.

    Raises:
        ValueError: Other shapes or values, or a spacing that does not fit.

    Example:
        >>> surface_distances([[1, 0, 0]], [[0, 0, 1]], (1.0, 1.5)).hd95
        3.0
    """
    first, second = _checked_masks(first, second)
    steps = _checked_spacing(spacing, first.ndim)
    surfaces = surfaces_of(first, second)
    return SurfaceDistances(*distances_between(*surfaces, first.shape, steps))


def segmentation_scores(
    predicted: ArrayLike,
    truth: ArrayLike,
    spacing: Sequence[float],
    *,
    tolerance: float = 2.0,
) -> dict[str, float]:
    """Every score of one predicted mask.

    Args:
        predicted: Mask of 2 or 3 dimensions: booleans, or 0 and 1.
        truth: Mask of the same shape.
        spacing: Step along each axis, such as millimetres.
        tolerance: Distance that the surface Dice forgives.

    Returns:
        `dice`, `jaccard`, `hd95`, `hd95_pooled`, `assd`, `mean_of_means`, `surface_dice`,
        `volume_ratio` and `centroid_shift`. Distances are infinite where one mask is empty.

    Example:
        >>> found = segmentation_scores([[0, 0]], [[1, 0]], (1.0, 1.0))
        >>> found["dice"], found["hd95"]
        (0.0, inf)
    """
    predicted, truth = _checked_masks(predicted, truth)  # cropped once, for all that follow
    distances = surface_distances(predicted, truth, spacing)
    return {
        "dice": dice(predicted, truth),
        "jaccard": jaccard(predicted, truth),
        "hd95": distances.hd95,
        "hd95_pooled": distances.hd95_pooled,
        "assd": distances.assd,
        "mean_of_means": distances.mean_of_means,
        "surface_dice": distances.surface_dice(tolerance),
        "volume_ratio": volume_ratio(predicted, truth),
        "centroid_shift": centroid_shift(predicted, truth, spacing),
    }


@dataclass(frozen=True)
class ScoreSummary:
    """One score over many masks, with the failures in sight.

    Attributes:
        estimate: Mean and standard deviation over the finite values, the mean with an interval
            that is drawn by patient; `estimate.num_not_finite` is the number of failures.
        median: Over all values, a failure being infinitely bad.
        patients: The same over the means of the patients; None where nobody said whose masks they
            are. A patient with a failure is a failure.

    Example:
        >>> f"{summarize([{'hd95': 2.0}, {'hd95': 4.0}, {'hd95': np.inf}])['hd95']:.1f}"
        '3.0 (1.4), median 4.0, 1 of 3 missed'
    """

    estimate: Estimate
    median: float
    patients: Estimate | None = None

    @property
    def failures(self) -> int:
        """Masks whose score is infinite, because one of the two was empty.

        A mask that lies elsewhere has finite distances, and counts with them.
        """
        return self.estimate.num_not_finite

    def __format__(self, number_format: str) -> str:
        """Mean (standard deviation), median, and how many failed."""
        one = self.estimate
        count = one.n + self.failures
        missed = f"{self.failures} of {count} {_MISSED}"
        if not one.n:
            return missed
        mean, spread, median = (
            format(value, number_format)
            for value in (one.mean, one.standard_deviation, self.median)
        )
        deviation = f" ({spread})" if one.n > 1 else ""  # one value has none
        return f"{mean}{deviation}, median {median}" + (f", {missed}" if self.failures else "")


def summarize(
    rows: Sequence[Mapping[str, float]], patients: ArrayLike | None = None, *, seed: int = 0
) -> dict[str, ScoreSummary]:
    """Bring the scores of many masks together, by patient.

    Scans of one patient are not independent, so intervals draw whole patients.

    Args:
        rows: Of each mask, the scores of `segmentation_scores`.
        patients: (N,) whose mask each is; None where every mask is of another patient.
        seed: Of the bootstrap.

    Returns:
        Name of each score -> `ScoreSummary`.

    Raises:
        ValueError: No mask, another number of patients, or rows with other scores.
    """
    names = list(rows[0]) if rows else []
    if not rows or any(set(row) != set(names) for row in rows):
        raise ValueError(
            f"summarize needs the same scores of at least one mask, got {len(rows)} rows."
        )
    found = {}
    for name in names:
        values = np.array([row[name] for row in rows], dtype=np.float64)
        estimate = bootstrap_mean(values, patients, seed=seed)
        by_patient = None
        if patients is not None:
            whose = np.asarray(patients)
            means = [values[whose == one].mean() for one in np.unique(whose)]
            by_patient = bootstrap_mean(means, seed=seed)
        found[name] = ScoreSummary(estimate, float(np.median(values)), by_patient)
    return found


def _checked_masks(first: ArrayLike, second: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return two masks as booleans, cropped to what either of them takes."""
    masks = [_as_mask(one) for one in (first, second)]
    if masks[0].shape != masks[1].shape or masks[0].ndim not in (2, 3):
        raise ValueError(
            f"Two masks need the same shape of 2 or 3 dimensions, got {masks[0].shape} and "
            f"{masks[1].shape}; resample them to the same grid first."
        )
    either = masks[0] | masks[1]
    box: tuple[slice, ...] = ()
    for axis in range(either.ndim):
        others = tuple(other for other in range(either.ndim) if other != axis)
        taken = np.flatnonzero(either[box].any(axis=others))
        box += (slice(taken[0], taken[-1] + 1) if len(taken) else slice(0, 0),)
    return masks[0][box], masks[1][box]


def _as_mask(mask: ArrayLike) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.dtype == bool:
        return mask
    found = mask != 0
    if (mask[found] != 1).any():
        raise ValueError(
            "A mask must contain booleans, or 0 and 1, but this one has other values; "
            "choose one label or apply a threshold first."
        )
    return found


def _checked_spacing(spacing: Sequence[float], num_axes: int) -> np.ndarray:
    steps = np.asarray(spacing, dtype=np.float64)
    if steps.shape != (num_axes,) or not (np.isfinite(steps) & (steps > 0)).all():
        raise ValueError(
            f"spacing must be {num_axes} numbers above 0, one per axis of the masks, got {spacing}."
        )
    return steps


def _count(mask: np.ndarray) -> int:
    return int(np.count_nonzero(mask))


def _centre(mask: np.ndarray) -> np.ndarray:
    """Return the mean place (axes,) of the voxels of a mask."""
    axes = range(mask.ndim)
    counts = [mask.sum(axis=tuple(other for other in axes if other != axis)) for axis in axes]
    return np.array([one @ np.arange(len(one)) / one.sum() for one in counts])


def _percentile_95(distances: np.ndarray) -> float:
    """What `np.percentile` gives, several times sooner for the few values of a surface."""
    place = 0.95 * (len(distances) - 1)
    low = int(place)
    high = min(low + 1, len(distances) - 1)
    near = np.partition(distances, (low, high))
    # Two neighbours that are infinite have no value between them.
    if math.isinf(near[high]):
        return math.inf
    return float(near[low] + (near[high] - near[low]) * (place - low))
