"""Pruning a vision transformer to a latency: scores, plans, steps, and the smaller network."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from salhub.models.nvit.configuration_nvit import NViTConfig
from salhub.models.nvit.gates import GateSites
from salhub.models.nvit.importance import (
    Batches,
    NViTScores,
    SampleLoss,
    Score,
    cross_entropy,
    score_units,
)
from salhub.models.nvit.latency_table import LatencyTable
from salhub.models.nvit.modeling_nvit import NViTForImageClassification
from salhub.models.nvit.ranking import PlannedStep, Ranking, RankingSettings
from salhub.models.nvit.shapes import NViTShape
from salhub.models.nvit.unit_weights import without_units

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NViTPlan:
    """The network that a target leads to.

    Args:
        target: Latency asked for, by that of the original.
        ratio: Latency of this shape by the table, likewise.
        seconds: The same in seconds a batch.
        shape: Its widths.
        mask: bool (units,), True for what lives.
        num_steps: Steps that lead there.
        eta: Score that a second was worth.
        num_parameters: Weights.
        macs: Multiplications and additions of a picture, in pairs.
    """

    target: float
    ratio: float
    seconds: float
    shape: NViTShape
    mask: Tensor
    num_steps: int
    eta: float
    num_parameters: int
    macs: int


class NViTPruner:
    """Removes units of a network until its latency is what was asked for.

    Args:
        model: Stays as it is; what is removed is in `mask`.
        latency_table: Of the machine that it is to be fast on.
        score: See `score_units`.
        gate_sites: See `score_units`.
        score_constants: See `score_units`.
        group_sizes: Units that go together, by structure: 16 residual channels, 2 heads, 8 QK and 8
            V channels and 16 neurons unless given [P].
        eta: Score that a second is worth, or "auto".
        kappa: Of eta="auto".
        groups_per_step: Groups that a step removes [R].
        allow_empty: Let all heads or all neurons of a block go [C].
        loss: Loss of every picture.
        strict: Refuse a table of another machine instead of warning.
        seed: Of scores that are drawn.

    Raises:
        ValueError: A number out of range.

    Example:
        >>> table = LatencyTable.measure(model.config)  # doctest: +SKIP
        >>> pruner = NViTPruner(model, table)  # doctest: +SKIP
        >>> pruner.score(batches)  # doctest: +SKIP
        >>> pruner.plan([0.75, 0.5])[1].shape  # doctest: +SKIP
        >>> small = pruner.prune([0.75, 0.5])[0.5]  # doctest: +SKIP

    Source: Yang et al. 2023 (arXiv 2110.04869), sections 3.2 to 3.4.
    """

    def __init__(
        self,
        model: NViTForImageClassification,
        latency_table: LatencyTable,
        *,
        score: Score = "batch",
        gate_sites: GateSites = "weights",
        score_constants: Mapping[str, float] | None = None,
        group_sizes: Mapping[str, int] | None = None,
        eta: float | str = "auto",
        kappa: float = 0.1,
        groups_per_step: int = 2,
        allow_empty: bool = False,
        loss: SampleLoss = cross_entropy,
        strict: bool = False,
        seed: int = 0,
    ) -> None:
        if groups_per_step < 1:
            raise ValueError(f"groups_per_step must be 1 or more, got {groups_per_step}.")
        self.model, self.table = model, latency_table
        latency_table.check(model.config, device=model.device, dtype=model.dtype, strict=strict)
        self.settings = RankingSettings(group_sizes or {}, eta, kappa, allow_empty)
        self.score_name, self.gate_sites, self.seed = score, gate_sites, seed
        self.score_constants, self.loss = score_constants, loss
        self.groups_per_step = groups_per_step
        self.layout = model.layout
        self.mask = torch.ones(self.layout.size, dtype=torch.bool)
        self.original_seconds = latency_table.predict(model.config)
        self.scores: NViTScores | None = None
        self.steps: list[PlannedStep] = []

    @property
    def shape(self) -> NViTShape:
        """What is left so far."""
        return self.layout.shape_of(self.mask)

    @property
    def ratio(self) -> float:
        """Its latency by that of the original, by the table."""
        return self.table.predict(self.shape) / self.original_seconds

    def score(self, batches: Batches) -> NViTScores:
        """Score the units that are left, in place of earlier scores.

        Args:
            batches: Mappings with "pixel_values" and "labels", or pairs of them.
        """
        self.scores = score_units(
            self.model,
            batches,
            score=self.score_name,
            gate_sites=self.gate_sites,
            score_constants=self.score_constants,
            mask=self.mask,
            loss=self.loss,
            seed=self.seed,
        )
        return self.scores

    def plan(self, targets: Sequence[float] | float) -> list[NViTPlan]:
        """The networks at some targets by the present scores; nothing is removed.

        Args:
            targets: Latencies by that of the original, above 0 and below 1.

        Returns:
            One plan a target, in the order given.

        Raises:
            ValueError: Nothing was scored, a target out of range, or one that cannot be reached.
        """
        wanted = checked_targets(targets)
        ranking = self._ranking()
        mask, steps = self.mask.clone(), 0
        plans: dict[float, NViTPlan] = {}
        ratio, shape = ranking.ratio, ranking.shape
        for target in sorted(wanted, reverse=True):
            while ratio > target:
                step = ranking.remove(self.groups_per_step)
                if step is None:
                    raise _unreachable(target, ratio)
                mask[step.units] = False
                ratio, shape, steps = step.ratio, step.shape, steps + 1
            plans[target] = self._plan(target, ratio, shape, mask, steps, ranking.eta)
        return [plans[target] for target in wanted]

    def check_reachable(self, target: float) -> None:
        """Refuse a target that no choice of units leads to.

        Raises:
            ValueError: The latency with one group of everything left is above it.
        """
        [target] = checked_targets(target)
        ranking = Ranking(
            self.layout, self.mask.double().numpy(), self.mask.numpy(), self.table, self.settings,
            self.original_seconds,
        )  # fmt: skip
        least = ranking.smallest_ratio()
        if least > target:
            raise _unreachable(target, least)

    def prune(self, targets: Sequence[float] | float) -> dict[float, NViTForImageClassification]:
        """Smaller networks at some targets, all by the present scores; for no training in between.

        Args:
            targets: As of `plan`.

        Returns:
            Target -> network.
        """
        return {plan.target: self.compact(plan) for plan in self.plan(targets)}

    def step(self) -> PlannedStep | None:
        """Remove the lowest groups, after which the units have to be scored anew.

        Returns:
            What went; None where no group may go any more.
        """
        step = self._ranking().remove(self.groups_per_step)
        if step is not None:
            self.mask[step.units] = False
            self.steps.append(step)
        self.scores = None
        return step

    def compact(self, plan: NViTPlan | None = None) -> NViTForImageClassification:
        """The network without what is removed, which answers as the masked one does.

        Args:
            plan: Of `plan`; None for what `step` has removed.
        """
        mask = self.mask if plan is None else plan.mask
        return without_units(
            self.model, mask, allow_empty=self.settings.allow_empty, record=self.record(plan)
        )

    def record(self, plan: NViTPlan | None = None) -> dict[str, Any]:
        """How the network was pruned, for its configuration."""
        constants = self.score_constants
        found: dict[str, Any] = {
            "source": source_name(self.model.config),
            "score": self.score_name,
            "gate_sites": self.gate_sites,
            "score_constants": None if constants is None else dict(constants),
            "eta": self.settings.eta if plan is None else plan.eta,
            "latency_table": self.table.digest,
            "latency_device": self.table.device,
            "latency_batch_size": self.table.batch_size,
            "predicted_ratio": round(self.ratio if plan is None else plan.ratio, 6),
            "num_steps": len(self.steps) if plan is None else plan.num_steps,
        }
        if plan is not None:
            found["target"] = plan.target
        return found

    def certificate(
        self, small: NViTForImageClassification, pixel_values: Tensor, mask: Tensor | None = None
    ) -> float:
        """Largest difference between the logits of a smaller network and of the masked one.

        Args:
            small: As `compact` gave it.
            pixel_values: Pictures to compare on.
            mask: Of the plan; None for what `step` has removed.
        """
        mask = self.mask if mask is None else mask
        with torch.no_grad():
            expected = self.model(pixel_values, mask=mask.to(self.model.device)).logits
            return float((small(pixel_values).logits - expected).abs().max())

    def _ranking(self) -> Ranking:
        if self.scores is None:
            raise ValueError("The units have no scores; call score(batches) first.")
        return Ranking(
            self.layout, self.scores.values.cpu().double().numpy(), self.mask.numpy(), self.table,
            self.settings, self.original_seconds,
        )  # fmt: skip

    def _plan(
        self, target: float, ratio: float, shape: NViTShape, mask: Tensor, steps: int, eta: float
    ) -> NViTPlan:
        config: NViTConfig = self.model.config
        return NViTPlan(
            target, ratio, ratio * self.original_seconds, shape, mask.clone(), steps, eta,
            shape.num_parameters(config), shape.macs(config),
        )  # fmt: skip


def checked_targets(targets: Sequence[float] | float) -> list[float]:
    """Targets as a list.

    Raises:
        ValueError: None, or one that is not above 0 and below 1.
    """
    found = [targets] if isinstance(targets, int | float) else list(targets)
    if not found:
        raise ValueError("targets is empty; give one or more, such as 0.5.")
    for target in found:
        if not 0 < target < 1:
            raise ValueError(
                "targets must be fractions of the original's latency, above 0 and below 1, such "
                f"as 0.5, got {target}."
            )
    return [float(target) for target in found]


def _unreachable(target: float, ratio: float) -> ValueError:
    return ValueError(
        f"The target {target:g} cannot be reached: with only one group left of everything, "
        f"the latency is {ratio:.3f} of the original; use a larger target, smaller "
        "group_sizes, or allow_empty=True."
    )


def source_name(config: NViTConfig) -> str:
    """What a network was loaded from; of a folder of this machine only its name."""
    name = str(getattr(config, "name_or_path", "") or "")
    if name.startswith(("/", ".")) or "\\" in name:
        return name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    return name
