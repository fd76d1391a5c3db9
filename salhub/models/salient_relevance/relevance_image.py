"""From signed relevance to a picture that context-aware saliency can look at."""

import torch
from torch import Tensor

from salhub.ops.maps import min_max


def relevance_image(relevance: Tensor, kind: str, levels: int = 0) -> Tensor:
    """Draw relevance as a picture in [0, 1].

    Args:
        relevance: (N, C, H, W), signed.
        kind: "pos_sum" (sum over channels, negative parts cut), "abs_sum" (sum of magnitudes), both
            grey; or "abs_rgb" (magnitudes as colours, scaled by the largest of all channels).
        levels: Round down to so many levels (256 is an 8-bit picture); 0 does not round.

    Returns:
        (N, 1 or C, H, W); all zero where there is no structure.

    Raises:
        ValueError: "abs_rgb" of relevance with neither 1 nor 3 channels.

    Example:
        >>> relevance_image(torch.tensor([[[[-1.0, 0.0, 2.0]]]]), "pos_sum")
        tensor([[[[0., 0., 1.]]]])

    Source: "abs_rgb" with 256 levels is what the code published with Li et al. 2019 writes.
    """
    if kind == "abs_rgb":
        if relevance.shape[1] not in (1, 3):
            raise ValueError(
                f"relevance_image='abs_rgb' needs 1 or 3 channels, got {relevance.shape[1]}; use "
                "'abs_sum' or 'pos_sum'."
            )
        # one scale for all channels: stacked below each other they are one map
        stacked = relevance.abs().flatten(1, 2)
    elif kind == "abs_sum":
        stacked = relevance.abs().sum(dim=1)
    else:
        stacked = relevance.sum(dim=1).clamp(min=0)
    picture = min_max(stacked).unflatten(1, (-1, relevance.shape[2]))
    if levels:
        picture = torch.floor(picture * (levels - 1)) / (levels - 1)
    return picture


def against_others(relevance: Tensor, others: Tensor) -> Tensor:
    """Subtract the map of the other classes, each scaled to sum 1 in magnitude.

    Args:
        relevance: (B, T, C, H, W) of the explained classes.
        others: The same of the mean of all other classes.

    Returns:
        (B, T, C, H, W), positive where the class gets a larger share than the others.
    """
    return _unit_mass(relevance) - _unit_mass(others)


def _unit_mass(relevance: Tensor) -> Tensor:
    mass = relevance.abs().sum(dim=(2, 3, 4), keepdim=True)
    return relevance / torch.where(mass > 0, mass, 1)
