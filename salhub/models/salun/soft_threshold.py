"""Pulling weights back towards where they began: the proximal step of an l1 penalty."""

import torch
from torch import Tensor, nn

SOFT_SCHEDULES = ("quantile", "beta")


class SoftThreshold:
    """Takes back the smallest changes of a model after every step, and fewer as it goes on.

    Args:
        model: The original; its weights are copied.
        schedule: "quantile" or "beta", what falls linearly from `start` to 0.
        start: Share of the weights that are put back, or the threshold itself.
        steps: Steps of the whole run.

    Source: Fan et al. 2024 (arXiv 2310.12508), appendix A.
    """

    def __init__(self, model: nn.Module, schedule: str, start: float, steps: int) -> None:
        self._anchors = {
            name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad
        }
        self._schedule, self._start, self._steps = schedule, start, steps

    @torch.no_grad()
    def apply(self, model: nn.Module, step: int) -> None:
        """Put the changes of a model back by the threshold of a step.

        Args:
            model: The same model, changed.
            step: From 0.
        """
        parameters = dict(model.named_parameters())
        moved = [name for name in self._anchors if parameters[name].requires_grad]
        tensors, anchors = (
            [parameters[name] for name in moved],
            [self._anchors[name] for name in moved],
        )
        changes = [tensor - anchor for tensor, anchor in zip(tensors, anchors, strict=True)]
        threshold = self._threshold(changes, step)
        for tensor, anchor, change in zip(tensors, anchors, changes, strict=True):
            moved = anchor + soft_thresholded(change, threshold)
            # The bits of the anchor itself: the sum of -0 and 0 is 0.
            tensor.copy_(torch.where(change.abs() <= threshold, anchor, moved))

    def _threshold(self, changes: list[Tensor], step: int) -> Tensor | float:
        left = self._start * (1 - step / self._steps)
        if self._schedule == "beta":
            return left
        sizes = torch.cat([change.abs().flatten() for change in changes])
        count = int(left * len(sizes))
        return sizes.kthvalue(count).values if count else 0.0


def soft_thresholded(values: Tensor, threshold: Tensor | float) -> Tensor:
    """sign(v) max(|v| - threshold, 0).

    Example:
        >>> soft_thresholded(torch.tensor([3.0, -1.0]), 2.0).tolist()
        [1.0, -0.0]
    """
    return values.sign() * (values.abs() - threshold).clamp_min(0)
