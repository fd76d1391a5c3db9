"""Scales and zeros of groups of columns, and the search for the range that they cover."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

BinaryScale = Literal["centered", "abs"]
# Just above one half, so that a weight at the mean counts as above it.
_HALF = 0.50000006
# The smallest step that half precision keeps; nothing is divided by 0 where weights are equal.
_SMALLEST = 2.0**-23
# Numbers that are looked at together stay in the caches of a core.
_NUMBERS_TOGETHER = 2**18


@dataclass
class GroupScales:
    """How a group of columns is written, a value for every row.

    A code c stands for (c - zero) * step + mean. Groups of one bit have a step of twice their
    scale and lie around their mean; the others have a mean of 0. Steps of a symmetric grid may be
    below 0.

    Args:
        step, zero, mean, top: float32 (n, 1); `top` is the largest code.
    """

    step: Tensor
    zero: Tensor
    mean: Tensor
    top: Tensor

    def codes(self, weight: Tensor) -> Tensor:
        """The nearest codes of weights, float32 (n, β)."""
        codes = ((weight - self.mean) / self.step + self.zero).round_()
        return torch.minimum(codes.clamp_(min=0), self.top)

    def values(self, codes: Tensor) -> Tensor:
        """What codes stand for, float32 (n, β)."""
        # The constant that breaks ties is no part of the value.
        zero = torch.where(self.top == 1, 0.5, self.zero)
        return (codes - zero) * self.step + self.mean

    def rounded(self, weight: Tensor) -> Tensor:
        """Weights as they are written, float32 (n, β)."""
        return self.values(self.codes(weight))

    def stored(self) -> "GroupScales":
        """The same in the half precision in which scales are kept."""
        # A step of one bit is twice what is kept.
        step = (self.step.abs().half().clamp(min=_SMALLEST) * self.step.sign()).float()
        return GroupScales(step, self.zero, self.mean.half().float(), self.top)


def group_scales(
    weight: Tensor,
    bits: int,
    *,
    binary_scale: BinaryScale = "centered",
    symmetric: bool = False,
) -> GroupScales:
    """Scales that cover the range of every row, zero included.

    A symmetric grid has its zero at 2^(bits - 1), so that no zeros need to be kept, and one code
    more on one side. The sign of the step puts that side where the largest weight is, which is the
    last code of it.

    Args:
        weight: Columns of a group, float32 (n, β).
        bits: Of the group.
        binary_scale: Of one bit: the mean distance to the mean of the row ("centered"), which is
            nearest in squares, or the mean size of a weight ("abs"), as published.
        symmetric: Whether the grid is symmetric; of two bits or more.

    Source: Huang et al. 2024 (arXiv 2405.14917), section 3.3; "centered" is ours.
    """
    top = weight.new_full((len(weight), 1), 2**bits - 1)
    if bits == 1:
        mean = weight.mean(dim=1, keepdim=True)
        distance = weight if binary_scale == "abs" else weight - mean
        step = 2 * distance.abs().mean(dim=1, keepdim=True)
        return GroupScales(step.clamp(min=_SMALLEST), torch.full_like(mean, _HALF), mean, top)
    lowest = weight.amin(dim=1, keepdim=True).clamp(max=0)
    highest = weight.amax(dim=1, keepdim=True).clamp(min=0)
    is_empty = (lowest == 0) & (highest == 0)
    lowest, highest = lowest.masked_fill(is_empty, -1), highest.masked_fill(is_empty, 1)
    if symmetric:
        zero = top // 2 + 1
        step = (torch.maximum(highest, -lowest) / zero).clamp(min=_SMALLEST)
        step = torch.where(highest > -lowest, -step, step)
        return GroupScales(step, zero, torch.zeros_like(step), top)
    step = ((highest - lowest) / top).clamp(min=_SMALLEST)
    return GroupScales(step, (-lowest / step).round(), torch.zeros_like(step), top)


def range_factors(shrink: float, stretch: float, steps: int) -> list[float]:
    """Factors of the range in the order in which they are tried: 1, then outwards, then inwards.

    Args:
        shrink: How far the range is shrunk, as a share of it; 0 for not at all.
        stretch: How far it is stretched.
        steps: Steps either way.

    Example:
        >>> range_factors(0.1, 0.2, 2)
        [1.0, 1.1, 1.2, 0.95, 0.9]
    """
    outwards = [1 + stretch * (place + 1) / steps for place in range(steps if stretch else 0)]
    inwards = [1 - shrink * (place + 1) / steps for place in range(steps if shrink else 0)]
    return [1.0, *outwards, *inwards]


def searched_scales(
    weight: Tensor,
    bits: int,
    column_weights: Tensor,
    *,
    norm: float,
    factors: list[float],
    binary_scale: BinaryScale = "centered",
    symmetric: bool = False,
) -> GroupScales:
    """Scales of the range that leaves the least weighted error in every row.

    The factors leave the zero where it is, as both ends of the range move alike. Groups of one bit
    have no range to search.

    Args:
        weight: Columns of a group, float32 (n, β).
        bits: Of the group.
        column_weights: What an error counts, float32 (n, β), (1, β) or (n, 1).
        norm: The power of an error.
        factors: Of the range, the first of equally good ones is taken.
        binary_scale: As of `group_scales`.
        symmetric: As of `group_scales`.

    Source: Huang et al. 2024 (arXiv 2405.14917), section 3.3, eq. 7-8.
    """
    scales = group_scales(weight, bits, binary_scale=binary_scale, symmetric=symmetric)
    if bits == 1:
        return scales
    tried = weight.new_tensor(factors).view(-1, 1, 1)
    rows = max(1, _NUMBERS_TOGETHER // (len(factors) * weight.shape[1]))
    weights = column_weights.expand_as(weight)
    chosen = [
        _best_factor(part, step, zero, float(scales.top[0]), tried, counted, norm)
        for part, step, zero, counted in zip(
            weight.split(rows),
            scales.step.split(rows),
            scales.zero.split(rows),
            weights.split(rows),
            strict=True,
        )
    ]
    scales.step = scales.step * torch.cat(chosen)
    return scales


def _best_factor(
    weight: Tensor,
    step: Tensor,
    zero: Tensor,
    top: float,
    factors: Tensor,
    counted: Tensor,
    norm: float,
) -> Tensor:
    """float32 (n, 1)."""
    steps = step * factors
    error = (weight / steps).add_(zero).round_().clamp_(0, top).sub_(zero).mul_(steps).sub_(weight)
    error = error.square_() if norm == 2 else error.abs_().pow_(norm)
    losses = error.mul_(counted).sum(dim=2)
    return factors.view(-1)[losses.argmin(dim=0)].unsqueeze(1)
