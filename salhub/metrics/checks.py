"""Input checks and the one definition of a constant map, shared by every metric."""

import torch
from torch import Tensor

# A constant map differs by a few units in the last place once it has been resized bilinearly.
CONSTANT_TOLERANCE = 1e-6


def check_maps(maps: Tensor, what: str = "saliency") -> Tensor:
    """Return the maps as floating point, or raise one sentence saying what is wrong with them.

    Args:
        maps: Candidate saliency maps; (N, H, W) is accepted.
        what: Name of the argument, for the message.

    Returns:
        The maps, (N, H, W), at least float32.

    Raises:
        TypeError: If `maps` is not a tensor.
        ValueError: If it is not (N, H, W) with at least one pixel, or holds NaN or infinity.
    """
    if not isinstance(maps, Tensor):
        raise TypeError(f"{what} must be a torch tensor of shape (N, H, W), got {type(maps)}.")
    if maps.ndim != 3 or maps.numel() == 0:
        raise ValueError(
            f"{what} must contain one map per example, shape (N, H, W), got "
            f"{tuple(maps.shape)}; use unsqueeze(0) for a single map."
        )
    if maps.dtype not in (torch.float32, torch.float64):
        maps = maps.float()
    if not torch.isfinite(maps).all():
        raise ValueError(f"{what} contains NaN or infinity, so a metric would be meaningless.")
    return maps


def check_same_shape(first: Tensor, second: Tensor, names: tuple[str, str]) -> None:
    """Refuse two sets of maps whose shapes differ."""
    if first.shape != second.shape:
        raise ValueError(
            f"{names[0]} and {names[1]} must have the same shape, got {tuple(first.shape)} and "
            f"{tuple(second.shape)}; resize one of them first."
        )


def check_indices(values: Tensor, count: int, what: str, each: str) -> None:
    """Refuse what is not one whole number, 0 or more, an example.

    Args:
        values: Candidate indices; (N,) integers are accepted.
        count: N.
        what: Name of the argument, for the message.
        each: What there must be one for, for the message.

    Raises:
        TypeError: If `values` is not a tensor.
        ValueError: If it is not (N,) integers, or holds a negative number.
    """
    if not isinstance(values, Tensor):
        raise TypeError(
            f"{what} must be a torch tensor of {count} integers, one per {each}, got "
            f"{type(values).__name__}; use torch.tensor(...)."
        )
    is_integer = not (values.is_floating_point() or values.is_complex())
    if values.shape != (count,) or not is_integer or values.dtype == torch.bool:
        raise ValueError(
            f"{what} must be {count} integers, one per {each}, got {values.dtype} "
            f"{tuple(values.shape)}."
        )
    if (values < 0).any():
        raise ValueError(f"{what} must be 0 or more, got {int(values.min())}.")


def is_constant(maps: Tensor) -> Tensor:
    """Tell which maps say nothing because all their pixels are equal.

    Args:
        maps: (N, H, W).

    Returns:
        (N,) bool: the range is at most 1e-6 of the largest magnitude.
    """
    flat = maps.flatten(1)
    low, high = flat.aminmax(dim=1)
    return (high - low) <= CONSTANT_TOLERANCE * torch.maximum(low.abs(), high.abs())
