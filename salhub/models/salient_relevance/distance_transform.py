"""Exact Euclidean distance to the nearest marked pixel, on any device."""

import torch
from torch import Tensor


def distance_to_mask(mask: Tensor) -> Tensor:
    """Distance in pixels from every pixel to the nearest True pixel of its own map.

    Args:
        mask: (..., H, W) bool.

    Returns:
        (..., H, W) float32, 0 on the mask, infinite where a map marks no pixel at all.

    Raises:
        TypeError: when `mask` is not a bool tensor.

    Example:
        >>> distance_to_mask(torch.tensor([[True, False, False]]))
        tensor([[0., 1., 2.]])

    Source: Felzenszwalb and Huttenlocher, Distance Transforms of Sampled Functions (two passes).
    """
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise TypeError(
            f"distance_to_mask needs a bool tensor, got {getattr(mask, 'dtype', type(mask))}."
        )
    along_columns = _distance_along_columns(mask).square()
    columns = torch.arange(mask.shape[-1], device=mask.device, dtype=torch.float32)
    nearest = [(along_columns + (columns - x).square()).amin(dim=-1) for x in range(mask.shape[-1])]
    return torch.stack(nearest, dim=-1).sqrt()


def _distance_along_columns(mask: Tensor) -> Tensor:
    """Distance to the nearest True pixel of the same column, infinite in a column without one."""
    rows = torch.arange(mask.shape[-2], device=mask.device, dtype=torch.float32)[:, None]
    unmarked = torch.full((), torch.inf, device=mask.device)
    last_above = torch.where(mask, rows, -unmarked).cummax(dim=-2).values
    first_below = torch.where(mask, rows, unmarked).flip(-2).cummin(dim=-2).values.flip(-2)
    return torch.minimum(rows - last_above, first_below - rows)
