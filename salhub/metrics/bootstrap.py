"""Seeded bootstrap confidence intervals, by group where examples are not independent."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Estimate:
    """A mean with its confidence interval.

    Attributes:
        mean: Mean over finite values; NaN if there is none.
        low: Lower end of the interval.
        high: Upper end of the interval.
        standard_deviation: Sample standard deviation over finite values.
        n: Number of finite values.
        num_not_finite: Number of values that were NaN or infinite.

    Example:
        >>> f"{Estimate(0.5, 0.4, 0.6, 0.1, 9, 1):.2f}"
        '0.50 [0.40, 0.60], 1 of 10 undefined'
    """

    mean: float
    low: float
    high: float
    standard_deviation: float
    n: int
    num_not_finite: int

    def __format__(self, number_format: str) -> str:
        """Mean, interval and, where some exist, how many values are undefined."""
        count = self.n + self.num_not_finite
        missing = f"{self.num_not_finite} of {count} undefined" if self.num_not_finite else ""
        if not self.n:
            return missing
        mean, low, high = (format(x, number_format) for x in (self.mean, self.low, self.high))
        return f"{mean} [{low}, {high}]" + (f", {missing}" if missing else "")


def bootstrap_mean(
    values: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Mean with a percentile bootstrap interval that resamples whole groups.

    The cells of one mosaic compete for the same network output and are not independent; giving
    the mosaic's number as group keeps the interval honest.

    Args:
        values: (N,) numbers; those that are not finite are counted and left out of the mean.
        groups: (N,) group of each value; None makes every value its own group.
        confidence: Coverage of the interval, in (0, 1).
        num_resamples: Number of bootstrap samples.
        seed: Seed of the resampling.

    Returns:
        `Estimate`.

    Raises:
        ValueError: If there is no value, lengths differ, or `confidence` is not in (0, 1).

    Example:
        >>> bootstrap_mean([1.0, 1.0, 1.0]).low
        1.0

    Source:
        Efron 1979, percentile interval; groups are drawn whole, as in the cluster bootstrap.
    """
    values = np.asarray(values, dtype=np.float64).ravel()
    labels = np.arange(len(values)) if groups is None else np.asarray(groups).ravel()
    if len(values) == 0 or len(labels) != len(values):
        raise ValueError(
            "bootstrap_mean needs at least one value and one group per value, got "
            f"{len(values)} values and {len(labels)} groups."
        )
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}.")
    finite = np.isfinite(values)
    known = values[finite]
    missing = int((~finite).sum())
    if not len(known):
        return Estimate(np.nan, np.nan, np.nan, np.nan, 0, missing)
    _, members = np.unique(labels[finite], return_inverse=True)
    low, high = _percentile_interval(known, members, confidence, num_resamples, seed)
    spread = float(known.std(ddof=1)) if len(known) > 1 else float("nan")
    return Estimate(float(known.mean()), low, high, spread, len(known), missing)


def _percentile_interval(
    values: np.ndarray, members: np.ndarray, confidence: float, num_resamples: int, seed: int
) -> tuple[float, float]:
    sums = np.bincount(members, weights=values)
    sizes = np.bincount(members)
    drawn = np.random.default_rng(seed).integers(len(sums), size=(num_resamples, len(sums)))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
