"""How well a classifier has forgotten: accuracies, membership attacks, gaps, and the best run."""

import dataclasses
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from scipy.stats import ks_2samp
from torch import Tensor

from salhub.errors import check_choice, require_extra
from salhub.models.salun.membership_inference import (
    ATTACKS,
    membership_inference_report,
    probabilities_from_logits,
)
from salhub.results import Results

logger = logging.getLogger(__name__)

Attack = Literal["threshold", "svc", "none"]
# Of the five features that an attack can look at, the one of the published tables.
HEADLINE_FEATURE = "confidence"
# Points of retained accuracy that a setting may cost.
MOST_LOST = 2.0
RULE = (
    f"the smallest confidence distance among the settings that lose at most {MOST_LOST:g} "
    "points of retained accuracy"
)

Outputs = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class UnlearningReport:
    """What was measured of one model, in percent.

    Args:
        unlearning_accuracy: 100 less the accuracy on what was to be forgotten (UA).
        retain_accuracy: Accuracy on what was retained (RA).
        test_accuracy: Accuracy on the test pictures, without those of forgotten classes (TA).
        forgotten_test_accuracy: Accuracy on the test pictures of forgotten classes; None where no
            whole class was forgotten.
        membership: Feature -> share of what was to be forgotten that the attack takes for pictures
            never seen (MIA efficacy); empty without an attack.
        confidence_distance: Kolmogorov-Smirnov distance, 0 to 1, of the probabilities of the true
            class between what was to be forgotten and the test pictures; None where a whole class
            was forgotten. Small means that forgotten pictures look like those never seen, which
            needs no retrained model to know.
        earlier_unlearning_accuracy: 100 less the accuracy on what was forgotten before this
            request; None where nothing was. Less than before means that it comes back.
    """

    unlearning_accuracy: float
    retain_accuracy: float
    test_accuracy: float
    forgotten_test_accuracy: float | None = None
    membership: dict[str, float] = field(default_factory=dict)
    confidence_distance: float | None = None
    earlier_unlearning_accuracy: float | None = None

    @property
    def headline(self) -> dict[str, float]:
        """UA, RA, TA and, with an attack, MIA."""
        found = {
            "UA": self.unlearning_accuracy,
            "RA": self.retain_accuracy,
            "TA": self.test_accuracy,
        }
        if HEADLINE_FEATURE in self.membership:
            found["MIA"] = self.membership[HEADLINE_FEATURE]
        return found

    def average_gap(self, reference: "UnlearningReport") -> float:
        """Mean distance from a retrained model over UA, RA, TA and MIA, in points.

        What was not measured of both, such as TA where there are no test pictures, is left out.
        """
        own, other = self.headline, reference.headline
        gaps = [abs(own[name] - other[name]) for name in own if name in other]
        known = [gap for gap in gaps if not math.isnan(gap)]
        return sum(known) / len(known)

    def add_to(self, results: Results, prefix: str = "") -> None:
        """Write the numbers into a results file."""
        for name, value in self.headline.items():
            results.add_metric(prefix + name, value, unit="percent")
        for feature, value in self.membership.items():
            results.add_metric(f"{prefix}MIA/{feature}", value, unit="percent")
        if self.confidence_distance is not None:
            results.add_metric(f"{prefix}confidence_distance", self.confidence_distance)
        if self.earlier_unlearning_accuracy is not None:
            value = self.earlier_unlearning_accuracy
            results.add_metric(f"{prefix}UA/forgotten earlier", value, unit="percent")
        if self.forgotten_test_accuracy is not None:
            results.add_metric(
                f"{prefix}TA/forgotten classes", self.forgotten_test_accuracy, unit="percent"
            )

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return dataclasses.asdict(self)


def check_attack(attack: str) -> None:
    """Refuse an attack that is unknown or whose packages are missing, before any work is done.

    Raises:
        ValueError: It is unknown.
        MissingExtraError: scikit-learn is not installed.
    """
    check_choice("attack", attack, (*ATTACKS, "none"))
    if attack != "none":
        require_extra("sklearn", "unlearning")


def measure_unlearning(
    forget: Outputs,
    retain: Outputs,
    test: Outputs,
    earlier: Outputs | None = None,
    *,
    forgotten_classes: Sequence[int] = (),
    attack: str = "threshold",
    warns: bool = True,
) -> UnlearningReport:
    """Measure a model by its outputs.

    Args:
        forget: Logits (n, K) and labels (n,) of what was to be forgotten.
        retain: The same of what was retained, in an order drawn by a seed: the attack takes the
            first ones.
        test: The same of pictures that were never learned.
        earlier: The same of what was forgotten before; None for nothing.
        forgotten_classes: Classes that were forgotten as a whole, before or now; their test
            pictures are measured by themselves.
        attack: "threshold", "svc" or "none".
        warns: Whether sets of few pictures are worth a warning; once is enough for several models.

    Source: Fan et al. 2024 (arXiv 2310.12508), section 5.1; the attacks are those of Song and
    Mittal 2021 (arXiv 2003.10595).
    """
    logits, labels = test
    is_forgotten = torch.isin(labels, torch.tensor(list(forgotten_classes), dtype=torch.long))
    kept = logits[~is_forgotten], labels[~is_forgotten]
    gone = logits[is_forgotten], labels[is_forgotten]
    membership: dict[str, float] = {}
    if attack != "none" and len(retain[1]) and len(kept[1]):
        found = membership_inference_report(
            *((probabilities_from_logits(part[0]), part[1]) for part in (retain, kept, forget)),
            attack=attack,
            warns=warns,
        )
        membership = {name: 100 * float(value) for name, value in found.items()}
    return UnlearningReport(
        unlearning_accuracy=100 - _accuracy(forget),
        retain_accuracy=_accuracy(retain),
        test_accuracy=_accuracy(kept),
        forgotten_test_accuracy=_accuracy(gone) if len(gone[1]) else None,
        membership=membership,
        confidence_distance=None if forgotten_classes else _confidence_distance(forget, kept),
        earlier_unlearning_accuracy=None if earlier is None else 100 - _accuracy(earlier),
    )


def _confidence_distance(forget: Outputs, test: Outputs) -> float | None:
    if not len(test[1]):
        return None
    first, second = (
        probabilities_from_logits(logits).gather(1, labels[:, None])[:, 0].numpy()
        for logits, labels in (forget, test)
    )
    return float(ks_2samp(first, second).statistic)


def _accuracy(outputs: Outputs) -> float:
    logits, labels = outputs
    if not len(labels):
        return float("nan")
    return 100 * float((logits.argmax(-1) == labels).double().mean())


def choose_setting(runs: Sequence[Results], most_lost: float = MOST_LOST) -> int:
    """The run that has forgotten best, judged without a retrained model.

    Among the runs that still recognize what is retained, it is the one whose confidence on the
    forgotten pictures is nearest to that on pictures never seen. Where a whole class was forgotten,
    of which a retrained model would know nothing, it is the one that recognizes fewest of its
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
        raise ValueError("There is no run to choose from; give at least one.")
    values = [{metric.name: metric.value for metric in run.metrics} for run in runs]
    for run, found in zip(runs, values, strict=True):
        if "RA" not in found or "before/RA" not in found:
            raise ValueError(
                f"A run of '{run.model}' does not measure retained accuracy, so the best "
                "setting cannot be chosen automatically; compare the results yourself."
            )
        if math.isnan(found["RA"]):
            raise ValueError(
                f"A run of '{run.model}' had no retained pictures, so the best setting "
                "cannot be chosen automatically; retain some pictures, or compare the "
                "results yourself."
            )
    if len(runs) == 1:
        return 0
    lost = [found["before/RA"] - found["RA"] for found in values]
    if min(lost) > most_lost:
        logger.warning(
            "Every setting loses more than %g points of retained accuracy (at least %.1f); "
            "try smaller values.",
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
