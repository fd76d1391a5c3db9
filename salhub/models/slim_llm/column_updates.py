"""Weights written column by column, those behind making up for the error of those before."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from salhub.models.slim_llm.group_scales import (
    BinaryScale,
    GroupScales,
    range_factors,
    searched_scales,
)
from salhub.quantization.quantized_weight import QuantizedWeight

Backbone = Literal["gptq", "rtn"]
SearchWeights = Literal["mask", "salience", "none"]
# Of a group's saliences, in standard deviations from their mean.
_OUTLIER = 2.0


@dataclass(frozen=True)
class RangeSearch:
    """How the range of a group is chosen.

    Args:
        weights: What an error counts: "mask" `salience_weight` times as much for salient weights,
            "salience" by 1 / U_jj², "none" alike.
        salience_weight: See `weights`; at 1 the mask changes nothing.
        norm: The power of an error.
        search_range: How far the range is shrunk, as a share of it; 0 for not at all.
        search_stretch: How far it is stretched; None for as far as it is shrunk.
        search_steps: Steps either way.
        binary_scale: As of `group_scales`.
        symmetric: As of `group_scales`.
    """

    weights: SearchWeights = "mask"
    salience_weight: float = 1.0
    norm: float = 2.4
    search_range: float = 0.1
    search_stretch: float | None = None
    search_steps: int = 50
    binary_scale: BinaryScale = "centered"
    symmetric: bool = False

    @property
    def factors(self) -> list[float]:
        """Factors of the range in the order in which they are tried."""
        shrink, stretch = self.search_range, self.search_stretch
        return range_factors(shrink, shrink if stretch is None else stretch, self.search_steps)


def salient_mask(salience: Tensor) -> Tensor:
    """The weights of a group that stand out: at least as salient as the least of the outliers.

    Args:
        salience: Of the weights of a group, (n, β).

    Returns:
        bool (n, β); none where there is no outlier.

    Source: the released code of Huang et al. 2024 (arXiv 2405.14917); the paper (section 3.3) takes
        weights beyond three standard deviations.
    """
    deviation = (salience - salience.mean()) / salience.std(correction=0).clamp(min=1e-30)
    outliers = salience[deviation.abs() > _OUTLIER]
    return salience >= outliers.min() if len(outliers) else torch.zeros_like(salience, dtype=bool)


def quantized_columns(
    weights: Sequence[Tensor],
    group_bits: Sequence[Tensor],
    factor: Tensor,
    group_size: int,
    search: RangeSearch,
    *,
    backbone: Backbone = "gptq",
) -> list[QuantizedWeight]:
    """Write the weights of layers that read the same inputs, all of them at once.

    The scales of a group are fitted to what the columns before it have left.

    Args:
        weights: Of each layer, float32 (n, m).
        group_bits: Of each layer, uint8 (k,).
        factor: Upper triangular U with H⁻¹ = UᵀU, float32 (m, m).
        group_size: Columns of a group.
        search: How ranges are chosen.
        backbone: "gptq", or "rtn" where columns are only rounded.

    Source: Frantar et al. 2023 (arXiv 2210.17323), algorithm 1, a block being a group; Huang et al.
        2024 (arXiv 2405.14917), algorithm 1.
    """
    left = torch.cat([weight.float() for weight in weights])
    codes = torch.empty_like(left, dtype=torch.uint8)
    found: list[GroupScales] = []
    for place, begin in enumerate(range(0, left.shape[1], group_size)):
        end = min(begin + group_size, left.shape[1])
        block, inner = left[:, begin:end], factor[begin:end, begin:end]
        rows = block.split([len(weight) for weight in weights])
        bits = [int(widths[place]) for widths in group_bits]
        scales = _joined([_fitted(*one, inner, search) for one in zip(rows, bits, strict=True)])
        found.append(scales)
        if backbone == "rtn":
            codes[:, begin:end] = scales.codes(block)
            continue
        written, errors = _column_by_column(block, inner, scales)
        codes[:, begin:end] = written
        if end < left.shape[1]:
            left[:, end:].addmm_(errors, factor[begin:end, end:], alpha=-1)
    return _split(codes, found, weights, group_bits, group_size)


def expected_errors(
    weight: Tensor, bits: int, factor: Tensor, group_size: int, search: RangeSearch
) -> Tensor:
    """What each group costs with a bit less than `bits`, with them and with one more, (3, k).

    It is Σ (w - ŵ)² / U_jj² over a group that is only rounded, with the scales that the search
    finds: the error that column updates leave, but for what the columns before hand on.

    Args:
        weight: float32 (n, m).
        bits: Of most groups.
        factor: Upper triangular U with H⁻¹ = UᵀU, float32 (m, m).
        group_size: Columns of a group.
        search: How ranges are chosen.

    Source: Frantar et al. 2023 (arXiv 2210.17323), eq. 2, for the cost of one weight.
    """
    errors = []
    for begin in range(0, weight.shape[1], group_size):
        columns = slice(begin, begin + group_size)
        block, inner = weight[:, columns], factor[columns, columns]
        costs = inner.diagonal().square().reciprocal()
        for width in (bits - 1, bits, bits + 1):
            away = _fitted(block, width, inner, search).rounded(block).sub_(block)
            errors.append(away.square_().mul_(costs).sum())
    return torch.stack(errors).view(-1, 3).T


def _fitted(block: Tensor, bits: int, inner: Tensor, search: RangeSearch) -> GroupScales:
    """Scales of the rows of one layer."""
    costs = inner.diagonal().square().reciprocal()
    if search.weights == "salience":
        counted = (costs / costs.mean()).unsqueeze(0)
    elif search.weights == "mask" and search.salience_weight != 1:
        is_salient = salient_mask(block.square() * costs)
        counted = torch.where(is_salient, search.salience_weight, 1.0)
    else:
        counted = block.new_ones(1, 1)
    return searched_scales(
        block,
        bits,
        counted,
        norm=search.norm,
        factors=search.factors,
        binary_scale=search.binary_scale,
        symmetric=search.symmetric,
    ).stored()


def _joined(parts: Sequence[GroupScales]) -> GroupScales:
    return GroupScales(
        *(
            torch.cat([getattr(one, name) for one in parts])
            for name in ("step", "zero", "mean", "top")
        )
    )


def _column_by_column(block: Tensor, inner: Tensor, scales: GroupScales) -> tuple[Tensor, Tensor]:
    """Codes and errors of the columns of a group, float32 (n, β) each."""
    # Columns lie together in memory when they are rows.
    left = block.T.contiguous()
    codes, errors = torch.empty_like(left), torch.empty_like(left)
    step, mean, top = (one.squeeze(1) for one in (scales.step, scales.mean, scales.top))
    breaking = scales.zero.squeeze(1)
    zero = torch.where(top == 1, 0.5, breaking)
    diagonal = inner.diagonal().tolist()
    for place, pivot in enumerate(diagonal):
        column = left[place]
        code = codes[place]
        torch.sub(column, mean, out=code)
        code.div_(step).add_(breaking).round_().clamp_(min=0)
        torch.minimum(code, top, out=code)
        error = errors[place]
        torch.sub(code, zero, out=error)
        # column - ((code - zero) * step + mean)
        error.mul_(step).add_(mean).neg_().add_(column).div_(pivot)
        if place + 1 < len(diagonal):
            left[place + 1 :].addr_(inner[place, place + 1 :], error, alpha=-1)
    return codes.T, errors.T


def _split(
    codes: Tensor,
    found: Sequence[GroupScales],
    weights: Sequence[Tensor],
    group_bits: Sequence[Tensor],
    group_size: int,
) -> list[QuantizedWeight]:
    sizes = [len(weight) for weight in weights]
    step, zero, mean = (
        torch.cat([getattr(one, name) for one in found], dim=1) for name in ("step", "zero", "mean")
    )
    made = []
    for widths, code, steps, zeros, means in zip(
        group_bits, *(one.split(sizes) for one in (codes, step, zero, mean)), strict=True
    ):
        is_binary = widths == 1
        made.append(
            QuantizedWeight(
                codes=code.clone(),
                group_size=group_size,
                group_bits=widths,
                scales=torch.where(is_binary, steps / 2, steps).half(),
                zeros=zeros.masked_fill(is_binary, 0).to(torch.uint8),
                means=means.masked_fill(~is_binary, 0).half(),
            )
        )
    return made
