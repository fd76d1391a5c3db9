"""From measured values to the metrics and tables of a results file."""

from collections.abc import Sequence

from salhub.evaluation.image_saliency import Scores, ScoreTable
from salhub.metrics.bootstrap import Estimate, bootstrap_mean
from salhub.results import Results


def record(
    results: Results, name: str, scores: Scores, *, unit: str = "", seed: int | None = None
) -> Estimate:
    """Add the mean of some scores to the results, with its 95 % bootstrap interval by group.

    Args:
        results: Where the metric goes.
        name: Name of the metric.
        scores: Measured values; those that are not finite are left out of the mean and counted in
            a second metric, `name/not_finite`.
        unit: Unit of the metric.
        seed: Seed of the bootstrap; the results' own by default.

    Returns:
        The estimate.
    """
    seed = results.seed if seed is None else seed
    estimate = bootstrap_mean(scores.values, scores.groups, seed=seed)
    interval = (estimate.low, estimate.high)
    results.add_metric(name, estimate.mean, interval=interval, n=estimate.n, unit=unit)
    if estimate.num_not_finite:
        total = estimate.n + estimate.num_not_finite
        results.add_metric(f"{name}/not_finite", estimate.num_not_finite, n=total, unit="count")
    return estimate


def record_table(
    results: Results, prefix: str, table: ScoreTable, metrics: Sequence[str], *, unit: str = ""
) -> dict[str, dict[str, Estimate]]:
    """Record the named metrics of every map as `prefix/metric/map`.

    Returns:
        map name -> metric name -> estimate.
    """
    return {
        name: {
            metric: record(results, f"{prefix}/{metric}/{name}", scores[metric], unit=unit)
            for metric in metrics
        }
        for name, scores in table.items()
    }


def total(scores: Scores) -> int:
    """Sum of counted events, such as empty maps."""
    return round(sum(scores.values))


def with_interval(estimate: Estimate, digits: int = 3) -> str:
    """Text of an estimate: mean, interval and, where some exist, the values that do not.

    Example:
        >>> with_interval(Estimate(0.5, 0.4, 0.6, 0.1, 9, 1), digits=2)
        '0.50 [0.40, 0.60], 1 of 10 undefined'
    """
    count = estimate.n + estimate.num_not_finite
    missing = f"{estimate.num_not_finite} of {count} undefined" if estimate.num_not_finite else ""
    if not estimate.n:
        return missing
    mean, low, high = (f"{x:.{digits}f}" for x in (estimate.mean, estimate.low, estimate.high))
    return f"{mean} [{low}, {high}]" + (f", {missing}" if missing else "")
