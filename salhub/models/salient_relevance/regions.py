"""How a map looks as regions: connected components, area, and total variation."""

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from salhub.metrics.checks import check_maps, is_constant


def top_area_mask(saliency: Tensor, fraction: float) -> Tensor:
    """Mark the highest pixels of each map, the same number in every map.

    Args:
        saliency: (N, H, W).
        fraction: Share of the pixels to mark, in (0, 1]; at least one pixel is.

    Returns:
        (N, H, W) bool; none in a constant map, where no pixel is higher than another.

    Raises:
        ValueError: If the fraction is out of range.

    Example:
        >>> top_area_mask(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), 0.5)
        tensor([[[False, False],
                 [ True,  True]]])
    """
    saliency = check_maps(saliency)
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1], got {fraction}.")
    flat = saliency.flatten(1)
    count = max(1, round(fraction * flat.shape[1]))
    mask = torch.zeros_like(flat, dtype=torch.bool)
    mask.scatter_(1, flat.topk(count, dim=1).indices, True)
    return (mask & ~is_constant(saliency)[:, None]).view_as(saliency)


def connected_components(mask: Tensor, connectivity: int = 4) -> Tensor:
    """Count the regions of each mask.

    Args:
        mask: (N, H, W) bool.
        connectivity: 4 joins pixels that share a side, 8 also those that share a corner.

    Returns:
        (N,) int64.

    Raises:
        TypeError: If the mask is not bool.
        ValueError: If it is not (N, H, W), or the connectivity is neither 4 nor 8.

    Example:
        >>> connected_components(torch.tensor([[[True, False, True]]]))
        tensor([2])
    """
    _check_mask(mask)
    if connectivity not in (4, 8):
        raise ValueError(f"connectivity must be 4 or 8, got {connectivity}.")
    joined = ndimage.generate_binary_structure(2, 1 if connectivity == 4 else 2)
    counts = [ndimage.label(one, structure=joined)[1] for one in np.asarray(mask.cpu())]
    return torch.tensor(counts, dtype=torch.int64, device=mask.device)


def area_fraction(mask: Tensor) -> Tensor:
    """Share of the pixels that each mask marks.

    Args:
        mask: (N, H, W) bool.

    Returns:
        (N,) float32 in [0, 1].

    Example:
        >>> area_fraction(torch.tensor([[[True, False, False, False]]]))
        tensor([0.2500])
    """
    _check_mask(mask)
    return mask.float().mean(dim=(1, 2))


def total_variation(saliency: Tensor) -> Tensor:
    """How speckled a map is: sum of absolute differences of neighbours, by pixel.

    Each map is first stretched to [0, 1], so that its unit does not matter.

    Args:
        saliency: (N, H, W).

    Returns:
        (N,) in [0, 2]: 0 for a constant map, nearly 2 for a checkerboard.

    Example:
        >>> total_variation(torch.tensor([[[0.0, 0.0], [0.0, 5.0]]]))
        tensor([0.5000])
    """
    saliency = check_maps(saliency)
    low, high = saliency.flatten(1).aminmax(dim=1)
    span = torch.where(is_constant(saliency), torch.inf, high - low)
    stretched = (saliency - low[:, None, None]) / span[:, None, None]
    across = stretched.diff(dim=2).abs().sum(dim=(1, 2))
    down = stretched.diff(dim=1).abs().sum(dim=(1, 2))
    return (across + down) / (saliency.shape[1] * saliency.shape[2])


def _check_mask(mask: Tensor) -> None:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        kind = getattr(mask, "dtype", type(mask).__name__)
        raise TypeError(f"mask must be a bool tensor, got {kind}; compare a map with a threshold.")
    if mask.ndim != 3 or mask.numel() == 0:
        raise ValueError(
            f"mask must hold one mask an example, shape (N, H, W), got {tuple(mask.shape)}."
        )
