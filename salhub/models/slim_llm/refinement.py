"""Quantized weights made better once they are there: codes given the others, scales given codes."""

from dataclasses import replace

import torch
from torch import Tensor

from salhub.quantization.quantized_weight import QuantizedWeight

# Columns whose changes are handed on together.
_COLUMNS_TOGETHER = 64
# A scale that is fitted stays within these shares of what it was.
_LEAST, _MOST = 0.5, 2.0
# How much of its own diagonal is added to the equations of the scales, so that they are not moved
# far by what little text says nothing of.
_HELD = 1e-3
_SMALLEST = 2.0**-24


def refined(
    weight: Tensor, written: QuantizedWeight, hessian: Tensor, rounds: int
) -> QuantizedWeight:
    """Lower tr((Ŵ - W) H (Ŵ - W)ᵀ) by turns over codes and scales.

    Args:
        weight: W, float32 (n, m).
        written: Ŵ.
        hessian: H of the inputs, damped, float32 (m, m).
        rounds: How often both have their turn.
    """
    for _ in range(rounds):
        written = refined_codes(weight, written, hessian)
        written = fitted_scales(weight, written, hessian)
    return written


def refined_codes(weight: Tensor, written: QuantizedWeight, hessian: Tensor) -> QuantizedWeight:
    """Set each code to what is best given all others, one column after another.

    Args:
        weight, written, hessian: As of `refined`.

    Source: cyclic coordinate descent, as in Nair and Suggala 2024 (arXiv 2406.17542) without their
        greedy choice of the column.
    """
    groups = torch.arange(weight.shape[1]) // written.group_size
    is_binary = (written.group_bits == 1)[groups]
    steps = written.scales.float()[:, groups] * (1 + is_binary.float())
    tops = (2.0 ** written.group_bits.float() - 1)[groups].tolist()
    codes, away = written.codes.float(), written.dequantize() - weight
    for begin in range(0, weight.shape[1], _COLUMNS_TOGETHER):
        columns = slice(begin, min(begin + _COLUMNS_TOGETHER, weight.shape[1]))
        # Columns lie together in memory when they are rows.
        slopes = (away @ hessian[:, columns]).T.contiguous()
        inner, pivots = hessian[columns, columns], hessian.diagonal()[columns].tolist()
        before, step = codes[:, columns].T.contiguous(), steps[:, columns].T.contiguous()
        after = before.clone()
        for place, pivot in enumerate(pivots):
            best = before[place] - slopes[place] / (pivot * step[place])
            torch.clamp(best.round_(), 0, tops[begin + place], out=after[place])
            if place + 1 < len(pivots):
                change = (after[place] - before[place]).mul_(step[place])
                slopes[place + 1 :].addr_(inner[place, place + 1 :], change)
        codes[:, columns] = after.T
        away[:, columns] += ((after - before) * step).T
    return replace(written, codes=codes.to(torch.uint8))


def fitted_scales(weight: Tensor, written: QuantizedWeight, hessian: Tensor) -> QuantizedWeight:
    """Fit the scales of each row to its codes by least squares, all groups at once.

    Args:
        weight, written, hessian: As of `refined`.

    Source: ours.
    """
    rows, size = len(weight), written.group_size
    groups = torch.arange(weight.shape[1]) // size
    is_binary = (written.group_bits == 1)[groups]
    codes, zeros = written.codes.float(), written.zeros.float()[:, groups]
    directions = torch.where(is_binary, 2 * codes - 1, codes - zeros)
    wanted = weight - torch.where(is_binary, written.means.float()[:, groups], 0.0)
    count = len(written.group_bits)

    def summed(values: Tensor) -> Tensor:
        """Over the columns of each group, (n, k)."""
        return values.new_zeros(rows, count).index_add_(1, groups, values)

    equations = torch.stack(
        [
            summed((part @ hessian[begin : begin + part.shape[1]]) * directions)
            for begin, part in zip(
                range(0, weight.shape[1], size), directions.split(size, dim=1), strict=True
            )
        ],
        dim=1,
    ).double()
    present = written.scales.double()
    held = _HELD * equations.diagonal(dim1=1, dim2=2) + torch.finfo(torch.float32).tiny
    equations.diagonal(dim1=1, dim2=2).add_(held)
    right = summed((wanted @ hessian) * directions).double() + held * present
    found = torch.linalg.solve(equations, right)
    # Symmetric grids have steps below 0.
    growth = found / present
    scales = torch.where((growth > _LEAST) & (growth < _MOST), found, present)
    scales = scales.abs().clamp(min=_SMALLEST).copysign(scales)
    return replace(written, scales=scales.half())
