"""Explainers that know neither network nor class: what a real one must beat."""

import torch
from torch import Tensor
from torch.nn import functional

from salhub.evaluation.image_saliency.scores import Explainer

RANDOM_MAP = "random map (control)"
RANDOM_DISC = "random disc (control)"


def random_maps(seed: int) -> Explainer:
    """Smooth random maps.

    Args:
        seed: Of the maps; they follow each other in the order of the calls.
    """
    generator = torch.Generator().manual_seed(seed)

    def explain(pixel_values: Tensor, class_labels: Tensor) -> Tensor:
        coarse = torch.rand(*class_labels.shape, 7, 7, generator=generator)
        size = pixel_values.shape[-2:]
        return functional.interpolate(coarse, size=size, mode="bilinear", align_corners=False)

    return explain


def random_discs(seed: int) -> Explainer:
    """Maps that fall off with the distance from a random point.

    Taken in their order, pixels form one compact area about that point, as large at every step as
    that of the map it is compared with.

    Args:
        seed: Of the points; they follow each other in the order of the calls.
    """
    generator = torch.Generator().manual_seed(seed)

    def explain(pixel_values: Tensor, class_labels: Tensor) -> Tensor:
        height, width = pixel_values.shape[-2:]
        centers = torch.rand(*class_labels.shape, 2, generator=generator)
        down = torch.arange(height)[:, None] - centers[..., :1, None] * height
        right = torch.arange(width) - centers[..., 1:, None] * width
        return 1 - torch.sqrt(down**2 + right**2) / max(height, width)

    return explain
