"""Choosing among settings of a method where there is no retrained model to compare with."""

import logging
import math
from collections.abc import Sequence

from salhub.results import Results

logger = logging.getLogger(__name__)

# Points of retained accuracy that a setting may cost.
MOST_LOST = 2.0
RULE = (
    f"the least confidence distance among the settings that cost at most {MOST_LOST:g} points of "
    "retained accuracy"
)


def choose_setting(runs: Sequence[Results], most_lost: float = MOST_LOST) -> int:
    """The run that has forgotten best, judged without a retrained model.

    Among the runs that still recognise what is retained, it is the one whose confidence on the
    forgotten pictures is nearest to that on pictures never seen. Where a whole class was forgotten,
    of which a retrained model would know nothing, it is the one that recognises fewest of its
    pictures. Where every run has lost too much, it is the one that has lost least.

    Args:
        runs: Results of `salhub unlearn` on one forget set.
        most_lost: Points of retained accuracy (RA) that a run may have lost, 0 to 100.

    Returns:
        Its place in `runs`; of equals the first.

    Raises:
        ValueError: No run, or runs that do not say what was retained, or retained nothing.

    Example:
        >>> runs = [Results(model="salun", command="", seed=0) for _ in range(2)]
        >>> for run, (retained, distance) in zip(runs, [(99.0, 0.3), (60.0, 0.1)]):
        ...     run.add_metric("before/RA", 100.0)
        ...     run.add_metric("RA", retained)
        ...     run.add_metric("confidence_distance", distance)
        >>> choose_setting(runs)
        0
    """
    if not runs:
        raise ValueError("There is no run to choose; give at least one.")
    values = [{metric.name: metric.value for metric in run.metrics} for run in runs]
    for run, found in zip(runs, values, strict=True):
        if "RA" not in found or "before/RA" not in found:
            raise ValueError(
                f"A run of '{run.model}' measures no retained accuracy, so settings cannot be "
                "chosen by it; choose by its results yourself."
            )
        if math.isnan(found["RA"]):
            raise ValueError(
                f"A run of '{run.model}' had nothing to retain, so settings cannot be chosen by "
                "how much they retain; retain something, or choose by its results yourself."
            )
    if len(runs) == 1:
        return 0
    lost = [found["before/RA"] - found["RA"] for found in values]
    if min(lost) > most_lost:
        logger.warning(
            "Every setting costs more than %g points of retained accuracy, %.1f at least; try "
            "smaller ones.",
            most_lost,
            min(lost),
        )
        return min(range(len(runs)), key=lost.__getitem__)
    allowed = [place for place, points in enumerate(lost) if points <= most_lost]
    return min(allowed, key=lambda place: _remembered(values[place]))


def _remembered(found: dict[str, float]) -> float:
    """Less is better: how much the forgotten pictures still differ from those never seen."""
    distance = found.get("confidence_distance")
    return 100 - found["UA"] if distance is None else distance
