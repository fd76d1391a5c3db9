"""The terms that DiSa and its relatives descend, each a number a picture."""

import torch
import torch.nn.functional as F
from torch import Tensor


def cosine_logits(image_embeds: Tensor, text_embeds: Tensor, scale: Tensor | float) -> Tensor:
    """Scores of pictures for classes, scale * cosine, in float32 whatever the autocast.

    Args:
        image_embeds: (B, D) of length 1.
        text_embeds: (K, D) of length 1.
        scale: 1 / temperature.
    """
    with torch.autocast(image_embeds.device.type, enabled=False):
        return scale * (image_embeds.float() @ text_embeds.float().T)


def divergence(target: Tensor, found: Tensor, reduction: str = "batchmean") -> Tensor:
    """KL(P || Q) of two rows of scores, (B,).

    Args:
        target: Scores of P, (B, K).
        found: Scores of Q, (B, K).
        reduction: "batchmean": the sum over classes; "numel": their mean, K times less.

    Example:
        >>> divergence(torch.zeros(1, 2), torch.zeros(1, 2)).item()
        0.0
    """
    one, two = target.log_softmax(-1), found.log_softmax(-1)
    summed = (one.exp() * (one - two)).sum(-1)
    return summed / target.shape[-1] if reduction == "numel" else summed


def score_regularisation(frozen: Tensor, prompted: Tensor, reduction: str) -> Tensor:
    """Prompted scores stay near those of the frozen CLIP, which is held still, (B,).

    Args:
        frozen: Scores of frozen pictures for frozen texts, (B, K).
        prompted: Scores of prompted pictures for prompted texts, (B, K).
        reduction: As of `divergence`.

    Source: [P] the term; [R] its form, Khattak et al. 2023 (arXiv 2307.06948).
    """
    return divergence(frozen.detach(), prompted, reduction)


def cross_interactive(left: Tensor, right: Tensor, stop: str, reduction: str) -> Tensor:
    """The scores of both crossed pairs agree, (B,).

    Args:
        left: Scores of prompted, masked pictures for frozen texts, (B, K).
        right: Scores of frozen pictures for prompted texts, (B, K).
        stop: The side that is held still, see `DiSaConfig.cir_stop_grad`.
        reduction: As of `divergence`.

    Source: [P] the term; [D] which sides have gradients.
    """
    if stop == "symmetric":
        one = divergence(left.detach(), right, reduction)
        return (one + divergence(left, right.detach(), reduction)) / 2
    if stop == "left":
        left = left.detach()
    elif stop == "right":
        right = right.detach()
    return divergence(left, right, reduction)


def directional(image_embeds: Tensor, own: Tensor, center: Tensor, kind: str) -> Tensor:
    """Features point to the prototype of their class, (B,).

    Args:
        image_embeds: Prompted features of length 1, (B, D).
        own: Prototype of the class of each, (B, D).
        center: Mean of all prototypes, (D,).
        kind: "origin", "centered" or "l1", see `DiSaConfig.direction`.

    Source: [P] direction and not distance; [D] the closed form.
    """
    found, own = image_embeds.float(), own.float()
    if kind == "l1":
        return (found - own).abs().mean(-1)
    if kind == "centered":
        found, own = found - center.float(), own - center.float()
    return 1 - F.cosine_similarity(found, own, dim=-1)


def class_prototypes(features: Tensor, labels: Tensor, count: int) -> Tensor:
    """Mean features of each class.

    Args:
        features: Frozen features of length 1, (N, D).
        labels: int64 (N,).
        count: Classes.

    Returns:
        float32 (count, D).

    Raises:
        ValueError: A class has no picture.
    """
    sizes = torch.bincount(labels, minlength=count)
    if not bool((sizes > 0).all()):
        missing = (sizes == 0).nonzero()[:, 0].tolist()
        raise ValueError(
            f"{len(missing)} of {count} classes have no picture for a prototype, the first "
            f"being class {missing[0]}; give at least one picture of each class."
        )
    sums = torch.zeros(count, features.shape[1], dtype=torch.float64, device=features.device)
    sums.index_add_(0, labels.to(features.device), features.double())
    return (sums / sizes.to(features.device)[:, None]).float()
