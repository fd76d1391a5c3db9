"""Large volumes in overlapping windows, whose scores are averaged."""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# Widths of the Gaussian weights as a share of the window, and the least weight.
_WIDTH, _LEAST_WEIGHT = 0.125, 1e-3
# Score of what no window looked at.
_NOTHING = -30.0
# Of the saliency map: where it is below everywhere in a window, markers are far. What is kept of an
# answer lies where the map is above 0.1, or is joined to that.
_FAR = 0.005


def sliding_window_logits(
    network: Callable[[Tensor], Tensor],
    volumes: Tensor,
    window: Sequence[int],
    *,
    overlap: float = 0.5,
    batch_size: int = 4,
) -> Tensor:
    """Scores of volumes that are seen window by window.

    Passed over are windows whose first channel is 0 everywhere, which is air, and, where a second
    channel is a map of markers, windows that are far from all of them. What no window looked at has
    the score -30.

    Args:
        network: Takes (N, C, d, h, w), gives (N, 1, d, h, w).
        volumes: (B, C, D, H, W).
        window: Sides of a window; a volume that is smaller along one is seen whole along it.
        overlap: Of neighbouring windows, in [0, 1).
        batch_size: Windows that pass through the network together, of whatever volume.

    Returns:
        (B, 1, D, H, W): the mean with Gaussian weights, an eighth of the window wide.

    Example:
        >>> sliding_window_logits(lambda x: x, torch.ones(1, 1, 4, 6, 6), (4, 4, 4)).shape
        torch.Size([1, 1, 4, 6, 6])
    """
    sides = [min(size, most) for size, most in zip(volumes.shape[2:], window, strict=True)]
    weight = _gaussian(sides).to(volumes.device)
    starts = [
        window_starts(size, side, overlap)
        for size, side in zip(volumes.shape[2:], sides, strict=True)
    ]
    places = [
        (index, tuple(slice(a, a + side) for a, side in zip(corner, sides, strict=True)))
        for index in range(len(volumes))
        for corner in itertools.product(*starts)
    ]
    total = volumes.new_zeros(len(volumes), *volumes.shape[2:], dtype=torch.float32)
    weights = torch.zeros_like(total)
    seen, worth_a_look = [], _worth_a_look(volumes)
    for index, where in places:
        if bool(worth_a_look[(index, *where)].any()):
            weights[(index, *where)] += weight
            seen.append((index, where))
    for begin in range(0, len(seen), batch_size):
        part = seen[begin : begin + batch_size]
        scores = network(
            torch.stack([volumes[(index, slice(None), *where)] for index, where in part])
        )
        for (index, where), score in zip(part, scores, strict=True):
            total[(index, *where)] += weight * score[0]
    return (total / weights).where(weights > 0, _NOTHING)[:, None]


def _worth_a_look(volumes: Tensor) -> Tensor:
    """Voxels, bool (B, D, H, W), for whose sake a window is looked at."""
    worth = volumes[:, 0] != 0
    if volumes.shape[1] > 1:
        near = volumes[:, 1] > _FAR
        # Without any marker all of the volume is looked at.
        worth &= near | ~near.flatten(1).any(1)[:, None, None, None]
    return worth


def window_starts(size: int, window: int, overlap: float) -> list[int]:
    """Where windows begin along one side; the last one ends with the volume."""
    step = max(1, int(window * (1 - overlap)))
    return [*range(0, size - window, step), size - window]


def _gaussian(sides: Sequence[int]) -> Tensor:
    lines = [
        torch.exp(-(((torch.arange(side) - (side - 1) / 2) / (_WIDTH * side)) ** 2) / 2)
        for side in sides
    ]
    z, y, x = lines
    return (z[:, None, None] * y[:, None] * x).clamp(min=_LEAST_WEIGHT)
