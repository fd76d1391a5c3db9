"""How well scores rank what removing a group of units really does to the loss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from salhub.metrics.correlation import rank_correlation
from salhub.models.nvit.importance import Batches, NViTScores, SampleLoss, cross_entropy
from salhub.models.nvit.modeling_nvit import NViTForImageClassification
from salhub.models.nvit.ranking import GROUP_SIZES
from salhub.models.nvit.shapes import STRUCTURES


@dataclass(frozen=True)
class ScoreAudit:
    """What removing each group alone did, and how scores rank it.

    Args:
        structures: Structure of each group.
        blocks: Block of each group, None for residual channels.
        changes: |change of the mean loss| by each group, float64 (groups,).
        group_scores: Name of a score -> sum over each group, float64 (groups,).
    """

    structures: list[str]
    blocks: list[int | None]
    changes: Tensor
    group_scores: dict[str, Tensor]

    def correlation(self, score: str, structure: str | None = None) -> float:
        """Spearman's correlation of a score with the changes, in [-1, 1].

        Args:
            score: Its name.
            structure: Among the groups of one structure; None for all of them.
        """
        chosen = torch.tensor([structure in (None, own) for own in self.structures])
        pair = (self.group_scores[score], self.changes)
        return float(rank_correlation(*(one[chosen][None] for one in pair)))


@torch.no_grad()
def audit_scores(
    model: NViTForImageClassification,
    batches: Batches,
    scores: Mapping[str, NViTScores],
    *,
    group_sizes: Mapping[str, int] | None = None,
    loss: SampleLoss = cross_entropy,
) -> ScoreAudit:
    """Remove every group alone, and compare what the loss does with some scores.

    Groups are made as the pruner makes them, of neighbours in the order of the first score, so that
    all scores judge the same groups. It takes one forward pass a group and batch.

    Args:
        model: The network.
        batches: What the loss is measured on; all are held in memory.
        scores: Name -> scores of its units.
        group_sizes: Units of a group, by structure; the pruner's where one is missing.
        loss: Loss of every picture.

    Raises:
        ValueError: No scores or no batches.
    """
    held: Sequence = list(batches)
    if not scores or not held:
        raise ValueError("An audit needs at least one score and one batch.")
    sizes = {**GROUP_SIZES, **(group_sizes or {})}
    layout, order = model.layout, next(iter(scores.values())).values.cpu()
    groups: list[tuple[str, int | None, Tensor]] = []
    for name, block, place in layout:
        units = order[place].argsort(stable=True) + place.start
        groups += [(name, block, chunk) for chunk in units.split(sizes[name])]
    was_training = model.training
    model.eval()
    try:
        everything = torch.ones(layout.size)
        before = _mean_loss(model, held, everything, loss)
        changes = []
        for _, _, units in groups:
            mask = everything.clone()
            mask[units] = 0
            changes.append(abs(_mean_loss(model, held, mask, loss) - before))
    finally:
        model.train(was_training)
    sums = {
        name: torch.stack([one.values.cpu().double()[units].sum() for _, _, units in groups])
        for name, one in scores.items()
    }
    return ScoreAudit(
        [name for name, _, _ in groups],
        [block for _, block, _ in groups],
        torch.tensor(changes, dtype=torch.float64),
        sums,
    )


def audit_table(audit: ScoreAudit) -> list[list[str | float]]:
    """Correlations of every score: pooled, then by structure, as rows of a table."""
    return [
        [name, audit.correlation(name), *(audit.correlation(name, one) for one in STRUCTURES)]
        for name in audit.group_scores
    ]


def _mean_loss(
    model: NViTForImageClassification, batches: Sequence, mask: Tensor, loss: SampleLoss
) -> float:
    total, count = 0.0, 0
    for batch in batches:
        named = batch if isinstance(batch, Mapping) else dict(
            zip(("pixel_values", "labels"), batch, strict=False)
        )  # fmt: skip
        named = {name: one.to(model.device) for name, one in named.items()}
        outputs = model(named["pixel_values"], mask=mask.to(model.device))
        losses = loss(outputs, named)
        total, count = total + float(losses.double().sum()), count + len(losses)
    return total / count
