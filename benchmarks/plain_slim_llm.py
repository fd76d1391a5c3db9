"""SliM-LLM in the order of work of its published code, restated plainly, to be timed.

One layer after another has a Hessian of its own, summed one sequence at a time. The search of the
bits rounds the whole matrix anew for every number of swapped groups and every sequence. Ranges are
searched in a loop over the factors, with a copy of the group for each; columns are written one by
one. No step is slower than it has to be for what it does.

Source: the order is that of the released code of Huang et al. 2024 (arXiv 2405.14917).
"""

import torch
from torch import Tensor, nn

from salhub.models.slim_llm.bit_allocation import swapped_bits
from salhub.quantization.decoder_blocks import (
    BlockInputs,
    block_outputs,
    in_full_precision,
    linear_layers,
    pass_block,
)

DAMPING, ERROR_NORM, STEPS, RANGE, LEAST = 0.01, 2.4, 50, 0.1, 1e-6


@torch.no_grad()
def quantize_block(block: nn.Module, inputs: BlockInputs, bits: int, group_size: int) -> Tensor:
    """Quantize the layers of a block, and pass its inputs through it.

    Args:
        block: Of a decoder; it is left as it is.
        inputs: What goes into it.
        bits: On average.
        group_size: Columns that share a scale.

    Returns:
        What the quantized block gives, float32 (S, L, d).
    """
    working = in_full_precision(block)
    layers = linear_layers(working)
    hessians = {
        name: torch.zeros(layer.in_features, layer.in_features) for name, layer in layers.items()
    }
    rows: dict[str, list[Tensor]] = {name: [] for name in layers}

    def hook(name: str):
        def look(module: nn.Module, values: tuple[Tensor, ...]) -> None:
            seen = values[0].flatten(0, 1)
            hessians[name] += 2 * seen.T @ seen
            rows[name].append(seen)

        return look

    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    for sequence in inputs.hidden.split(1):
        pass_block(working, sequence, inputs.keywords)
    for handle in handles:
        handle.remove()
    for name, layer in layers.items():
        hessian = hessians[name] / len(inputs.hidden)
        hessian.diagonal().add_(DAMPING * hessian.diagonal().mean())
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
        factor = torch.linalg.cholesky(inverse, upper=True)
        weight = layer.weight.data
        widths = searched_bits(weight, rows[name], factor, bits, group_size)
        layer.weight.data = written(weight, widths, factor, group_size)
    return block_outputs(working, inputs)


def searched_bits(
    weight: Tensor, rows: list[Tensor], factor: Tensor, bits: int, group_size: int
) -> Tensor:
    """The widths of all groups, uint8 (k,), by rounding everything anew for each p and sequence."""
    salience = (weight / factor.diagonal()).square()
    sums = torch.stack([part.sum() for part in salience.split(group_size, dim=1)])
    wanted = [(seen @ weight.T).softmax(-1).clamp(min=LEAST).log() for seen in rows]
    best, least = 1, float("inf")
    for count in range(1, max(len(sums) // 2, 2)):
        widths = swapped_bits(sums, bits, count, swappable=len(sums))
        found = 0.0
        for seen, logs in zip(rows, wanted, strict=True):
            parts = weight.split(group_size, dim=1)
            pairs = zip(parts, widths.tolist(), strict=True)
            near = torch.cat([rounded(part, width) for part, width in pairs], dim=1)
            given = (seen @ near.T).softmax(-1).clamp(min=LEAST)
            found += float((given * (given.log() - logs)).sum())
        if found < least:
            best, least = count, found
    return swapped_bits(sums, bits, best, swappable=len(sums))


def rounded(part: Tensor, bits: int) -> Tensor:
    """A group in the range of each of its rows."""
    if bits == 1:
        mean = part.mean(dim=1, keepdim=True)
        return mean + part.abs().mean(dim=1, keepdim=True) * torch.where(part >= mean, 1.0, -1.0)
    step, zero = _range(part, bits, 1.0)
    return _values(part, step, zero, bits)


def _range(part: Tensor, bits: int, stretch: float) -> tuple[Tensor, Tensor]:
    low = stretch * part.amin(dim=1, keepdim=True).clamp(max=0)
    high = stretch * part.amax(dim=1, keepdim=True).clamp(min=0)
    step = ((high - low) / (2**bits - 1)).clamp(min=1e-8)
    return step, (-low / step).round()


def _values(part: Tensor, step: Tensor, zero: Tensor, bits: int) -> Tensor:
    return (((part / step).round() + zero).clamp(0, 2**bits - 1) - zero) * step


def written(weight: Tensor, widths: Tensor, factor: Tensor, group_size: int) -> Tensor:
    """The quantized weight, group by group and column by column, (n, m)."""
    left, made = weight.clone(), torch.zeros_like(weight)
    stretches = [1 + RANGE * (step + 1) / STEPS for step in range(STEPS)]
    stretches += [1 - RANGE * (step + 1) / STEPS for step in range(STEPS)]
    for place, begin in enumerate(range(0, weight.shape[1], group_size)):
        end = min(begin + group_size, weight.shape[1])
        block, bits = left[:, begin:end].clone(), int(widths[place])
        mean = block.mean(dim=1, keepdim=True)
        size = block.abs().mean(dim=1, keepdim=True)
        step, zero = _range(block, bits, 1.0)
        if bits > 1:
            best = (_values(block, step, zero, bits) - block).abs().pow(ERROR_NORM).sum(dim=1)
            for stretch in stretches:
                other_step, other_zero = _range(block, bits, stretch)
                near = _values(block, other_step, other_zero, bits)
                error = (near - block).abs().pow(ERROR_NORM).sum(dim=1)
                is_better = error < best
                best[is_better] = error[is_better]
                step[is_better], zero[is_better] = other_step[is_better], other_zero[is_better]
        errors = torch.zeros_like(block)
        for column in range(end - begin):
            values, pivot = block[:, column : column + 1], factor[begin + column, begin + column]
            if bits == 1:
                near = mean + size * torch.where(values >= mean, 1.0, -1.0)
            else:
                near = _values(values, step, zero, bits)
            made[:, begin + column] = near[:, 0]
            error = (values - near) / pivot
            block[:, column:] -= error @ factor[begin + column, begin + column : end][None]
            errors[:, column] = error[:, 0]
        left[:, end:] -= errors @ factor[begin:end, end:]
    return made
