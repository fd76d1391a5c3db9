"""Which patches of a picture matter for a class, and which of them the masked pass sees."""

import torch
import torch.nn.functional as F
from torch import Tensor

from salhub.models.disa.prompted_clip import ImageFeatures


def patch_scores(
    kind: str,
    features: ImageFeatures,
    text_embeds: Tensor | None,
    temperature: float,
    noise: Tensor | None = None,
) -> Tensor:
    """How much each patch matters; larger is more.

    Args:
        kind: "text": softmax over the patches of the cosine of each with the text; "inverse": less
            that; "cls": attention of the class token; "text*cls": both multiplied; "random": noise.
        features: Of the frozen CLIP, with patches or attention as the kind needs.
        text_embeds: Frozen text features of the class of each picture, (B, D); None for kinds
            without text.
        temperature: Of that softmax.
        noise: For "random", (B, N); drawn where it is None.

    Returns:
        float32 (B, N).

    Source: Alipour Talemi et al. 2025 (arXiv 2505.19373): a frozen text guides the map; its form is
    our decision, by dense features of Zhou et al. 2022 (arXiv 2112.01071).
    """
    if kind == "random":
        size = (len(features.image_embeds), features.grid[0] * features.grid[1])
        drawn = torch.rand(size) if noise is None else noise
        return drawn.to(features.image_embeds.device, torch.float32)
    if kind == "cls":
        assert features.cls_attention is not None
        return features.cls_attention.float()
    assert features.patch_embeds is not None and text_embeds is not None
    patches = F.normalize(features.patch_embeds.float(), dim=-1)
    texts = F.normalize(text_embeds.float(), dim=-1)
    scores = ((patches * texts[:, None]).sum(-1) / temperature).softmax(-1)
    if kind == "inverse":
        return -scores
    if kind == "text*cls":
        assert features.cls_attention is not None
        return scores * features.cls_attention.float()
    return scores


def needs_of(kind: str) -> dict[str, bool]:
    """Keywords of `encode_image` by which it gives what a kind of map needs."""
    return {
        "with_patches": kind in ("text", "inverse", "text*cls"),
        "with_attention": kind in ("cls", "text*cls"),
    }


def kept_count(count: int, ratio: float) -> int:
    """Patches that are seen of so many, one at least.

    Example:
        >>> kept_count(196, 0.3), kept_count(4, 0.99)
        (137, 1)
    """
    return max(1, round((1 - ratio) * count))


def kept_patches(scores: Tensor, ratio: float) -> Tensor:
    """The patches with the highest scores; of equal ones the first.

    Args:
        scores: (B, N).
        ratio: Share of the patches that is hidden, in [0, 1).

    Returns:
        Places in ascending order, int64 (B, k).

    Example:
        >>> kept_patches(torch.tensor([[0.1, 0.3, 0.3, 0.2]]), 0.5).tolist()
        [[1, 2]]
    """
    order = scores.argsort(dim=-1, descending=True, stable=True)
    return order[:, : kept_count(scores.shape[-1], ratio)].sort(-1).values


def scheduled_ratio(schedule: str, ratio: float, progress: float) -> float:
    """The share of hidden patches at a point of training.

    Args:
        schedule: "constant", "linear" or "none".
        ratio: The share in the end.
        progress: Share of the training that is done, in [0, 1].

    Example:
        >>> [scheduled_ratio("linear", 0.4, done) for done in (0, 0.25, 0.5, 1)]
        [0.0, 0.2, 0.4, 0.4]
    """
    if schedule == "none":
        return 0.0
    return ratio * min(1.0, 2 * progress) if schedule == "linear" else ratio


def shown_map(scores: Tensor, grid: tuple[int, int]) -> Tensor:
    """Scores as maps in [0, 1], float32 (B, h, w); of equal scores all 0."""
    low, high = scores.amin(-1, keepdim=True), scores.amax(-1, keepdim=True)
    scaled = (scores - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)
    return scaled.unflatten(-1, grid)
