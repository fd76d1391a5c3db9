"""Which groups of columns get a bit less and which a bit more, by their salience."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from salhub.models.slim_llm.group_scales import BinaryScale, group_scales

Salience = Literal["cholesky", "hinv"]
_LEAST_PROBABILITY = 1e-6


def weight_salience(weight: Tensor, factor: Tensor, kind: Salience = "cholesky") -> Tensor:
    """What it costs to lose a weight, float32 (n, m).

    Args:
        weight: Of a linear layer, float32 (n, m).
        factor: Upper triangular U with H⁻¹ = UᵀU, (m, m).
        kind: "cholesky" divides by U_jj², which is what the error of one weight costs when the
            columns behind it make up for it; "hinv" by [H⁻¹]_jj², as it is published.

    Source: Huang et al. 2024 (arXiv 2405.14917), eq. 4; "cholesky" as in Frantar et al. 2023
        (arXiv 2210.17323), eq. 2.
    """
    diagonal = factor.diagonal() if kind == "cholesky" else factor.square().sum(dim=0)
    return (weight / diagonal).square()


def group_means(values: Tensor, group_size: int) -> Tensor:
    """Means of the columns of every group, the last one perhaps narrower: (n, m) -> (k,).

    Example:
        >>> group_means(torch.tensor([[1.0, 3.0, 5.0]]), 2).tolist()
        [2.0, 5.0]
    """
    return torch.stack([part.mean() for part in values.split(group_size, dim=1)])


@dataclass
class BitAllocation:
    """The bits of every group of columns.

    Args:
        group_bits: uint8 (k,).
        num_swapped: Groups that have a bit less, and as many that have one more.
        divergences: D(p) of the p that were tried, p being the place in the list; None where p was
            not tried.
    """

    group_bits: Tensor
    num_swapped: int
    divergences: list[float | None]


def swapped_bits(salience: Tensor, bits: int, count: int, *, swappable: int) -> Tensor:
    """The least salient groups with a bit less, the most salient with one more, uint8 (k,).

    Args:
        salience: Of every group, (k,).
        bits: Of the others.
        count: How many of either.
        swappable: Groups from the first on that may be swapped; a narrow last group is not, as the
            mean of the bits would change.
    """
    found = torch.full((len(salience),), bits, dtype=torch.uint8)
    order = salience[:swappable].argsort(stable=True)
    if count:
        found[order[:count]] = bits - 1
        found[order[-count:]] = bits + 1
    return found


def allocate_bits(
    weight: Tensor,
    inputs: Tensor,
    salience: Tensor,
    bits: int,
    group_size: int,
    *,
    allow_uniform: bool,
    binary_scale: BinaryScale = "centered",
) -> BitAllocation:
    """Swap bits between groups so that the outputs of a layer stay closest to what they were.

    D(p) is the divergence KL(softmax of the outputs with rounded weights ‖ softmax of the outputs),
    summed over the features and averaged over the rows, with p groups a bit lower and p a bit
    higher; probabilities below 1e-6 count as that. The smallest of equally good p is taken. The
    three roundings of a group are made once, and a step of p changes the outputs by two groups.

    Args:
        weight: float32 (n, m).
        inputs: Rows that go into the layer, float32 (T, m).
        salience: Of every group, (k,).
        bits: The mean that is kept.
        group_size: Columns of a group.
        allow_uniform: Whether p = 0 is tried too; it is where nothing else can be.
        binary_scale: As of `group_scales`.

    Source: Huang et al. 2024 (arXiv 2405.14917), section 3.2, eq. 5-6, algorithm 1.
    """
    groups = weight.split(group_size, dim=1)
    swappable = len(groups) - (groups[-1].shape[1] < group_size)
    most = _most_swapped(swappable)
    order = salience[:swappable].argsort(stable=True).tolist()
    parts = inputs.split(group_size, dim=1)

    def rounded(place: int, width: int) -> Tensor:
        return group_scales(groups[place], width, binary_scale=binary_scale).rounded(groups[place])

    uniform = [rounded(place, bits) for place in range(len(groups))]
    outputs = inputs @ torch.cat(uniform, dim=1).T
    wanted = log_probabilities(inputs @ weight.T)
    divergences: list[float | None] = [None]
    if allow_uniform or most == 0:
        divergences = [output_divergence(outputs, wanted)]
    for count in range(1, most + 1):
        for place, width in ((order[count - 1], bits - 1), (order[-count], bits + 1)):
            change = rounded(place, width) - uniform[place]
            outputs.addmm_(parts[place], change.T)
        divergences.append(output_divergence(outputs, wanted))
    tried = [count for count, found in enumerate(divergences) if found is not None]
    best = min(tried, key=lambda count: divergences[count])
    return BitAllocation(swapped_bits(salience, bits, best, swappable=swappable), best, divergences)


def allocate_by_error(
    errors: Tensor, bits: int, *, swappable: int, allow_uniform: bool = True
) -> BitAllocation:
    """Swap bits between groups so that what all of them lose is least.

    Groups are put in the order of what two bits are worth to them, E(bits - 1) - E(bits + 1). For
    every p the first p get a bit less and the last p one more; the p with the least sum of errors
    is taken, the smallest of equally good ones.

    Args:
        errors: E of every group with a bit less, with `bits` and with one more, (3, k).
        bits: The mean that is kept.
        swappable: Groups from the first on that may be swapped, see `swapped_bits`.
        allow_uniform: Whether p = 0 may be taken; it is where nothing else can be.

    Returns:
        The bits; its divergences are the sums of the errors, as a share of that without a swap.

    Example:
        >>> errors = torch.tensor([[9.0, 3.0, 40.0], [4.0, 2.0, 16.0], [1.0, 1.0, 4.0]])
        >>> allocate_by_error(errors, 2, swappable=3).group_bits.tolist()
        [2, 1, 3]

    Source: ours. The search along one number p is that of Huang et al. 2024 (arXiv 2405.14917),
        algorithm 1.
    """
    below, same, above = errors[:, :swappable].double()
    worth = errors[0].double() - errors[2].double()
    order = worth[:swappable].argsort(stable=True)
    most = swappable // 2
    changes = (below - same)[order[:most]] + (above - same)[order.flip(0)[:most]]
    whole = errors[1].double().sum()
    sums = torch.cat([whole[None], whole + changes.cumsum(0)])
    shares = (sums / whole.clamp(min=torch.finfo(torch.float64).tiny)).tolist()
    first = 0 if allow_uniform or most == 0 else 1
    best = min(range(first, most + 1), key=lambda count: shares[count])
    tried = [None] * first + shares[first:]
    return BitAllocation(swapped_bits(worth, bits, best, swappable=swappable), best, tried)


def _most_swapped(groups: int) -> int:
    """Published is up to k / 2 - 1, which leaves nothing to choose among two or three groups."""
    return max(groups // 2 - 1, 1) if groups >= 2 else 0


def log_probabilities(outputs: Tensor) -> Tensor:
    """Logarithms of the softmax over the features of outputs, at least log 1e-6, (T, n)."""
    return outputs.softmax(dim=1).clamp_(min=_LEAST_PROBABILITY).log_()


def output_divergence(outputs: Tensor, wanted: Tensor) -> float:
    """KL(softmax of outputs ‖ wanted), summed over the features, averaged over the rows.

    Args:
        outputs: (T, n).
        wanted: Of `log_probabilities`, (T, n).
    """
    found = outputs.softmax(dim=1).clamp_(min=_LEAST_PROBABILITY)
    return float((found * (found.log() - wanted)).sum(dim=1).mean())


def divergence_curve(divergences: Sequence[float | None]) -> list[tuple[int, float]]:
    """The p that were tried and their D(p), for a plot.

    Example:
        >>> divergence_curve([None, 0.5, 0.25])
        [(1, 0.5), (2, 0.25)]
    """
    return [(count, found) for count, found in enumerate(divergences) if found is not None]
