"""Losses of a binary segmentation, one number a sample."""

import torch
import torch.nn.functional as F
from torch import Tensor

_ALPHA, _BETA, _GAMMA = 0.3, 0.7, 4 / 3


def segmentation_loss(logits: Tensor, labels: Tensor, kind: str = "dice_ce") -> Tensor:
    """Loss of each sample of a batch, in float32 whatever the precision of the logits.

    Dice is 1 - (2 sum p g + 1) / (sum p + sum g + 1) over the voxels of a sample; the focal Tversky
    loss is (1 - (TP + 1) / (TP + .3 FP + .7 FN + 1)) ^ (4/3).

    Args:
        logits: (B, 1, ...).
        labels: 0 and 1, of the same shape.
        kind: "dice", "dice_ce" (with binary cross-entropy, its mean over voxels), "focal_tversky".

    Returns:
        float32 (B,).

    Example:
        >>> segmentation_loss(torch.full((2, 1, 4), 20.0), torch.ones(2, 1, 4)).shape
        torch.Size([2])

    Source:
        Abraham and Khan 2019 (arXiv 1810.07842) for the focal Tversky loss; their exponent 1/gamma
        is written as gamma here.
    """
    with torch.autocast(logits.device.type, enabled=False):
        scores, truth = logits.float().flatten(1), labels.float().flatten(1)
        chances = scores.sigmoid()
        both = (chances * truth).sum(1)
        if kind == "focal_tversky":
            false_positive, false_negative = chances.sum(1) - both, truth.sum(1) - both
            weighted = both + _ALPHA * false_positive + _BETA * false_negative
            return (1 - (both + 1) / (weighted + 1)).clamp(min=0) ** _GAMMA
        dice = 1 - (2 * both + 1) / (chances.sum(1) + truth.sum(1) + 1)
        if kind == "dice":
            return dice
        entropy = F.binary_cross_entropy_with_logits(scores, truth, reduction="none")
        return dice + entropy.mean(1)
