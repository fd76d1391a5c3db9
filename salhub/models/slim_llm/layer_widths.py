"""Which layers get 2, 3 or 4 bits under a mean, for runtimes that take one width a layer."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from salhub.models.slim_llm.bit_allocation import log_probabilities, output_divergence
from salhub.models.slim_llm.group_scales import group_scales
from salhub.models.slim_llm.input_statistics import collected_inputs
from salhub.quantization.decoder_blocks import (
    BlockInputs,
    in_full_precision,
    linear_layers,
    pass_block,
)

WIDTHS = (2, 3, 4)


@dataclass
class LayerWidths:
    """The width of every layer.

    Args:
        widths: Name of a layer -> 2, 3 or 4.
        divergences: Name of a layer -> what its outputs lose at 2, 3 and 4 bits, float64 (3,).
    """

    widths: dict[str, int]
    divergences: dict[str, Tensor]


def width_divergences(
    weight: Tensor, inputs: Tensor, group_size: int, *, symmetric: bool = False
) -> Tensor:
    """What the outputs of a layer lose at 2, 3 and 4 bits, float64 (3,).

    It is the divergence of `allocate_bits`, here of weights that are all rounded to one width.

    Args:
        weight: float32 (n, m).
        inputs: Rows that go into the layer, float32 (T, m).
        group_size: Columns of a group.
        symmetric: As of `group_scales`.
    """
    wanted = log_probabilities(inputs @ weight.T)
    found = []
    for width in WIDTHS:
        rounded = [
            group_scales(group, width, symmetric=symmetric).rounded(group)
            for group in weight.split(group_size, dim=1)
        ]
        found.append(output_divergence(inputs @ torch.cat(rounded, dim=1).T, wanted))
    return torch.tensor(found, dtype=torch.float64)


def allocate_widths(divergences: Tensor, sizes: Sequence[int], mean: float) -> list[int]:
    """Choose the widths of least total divergence whose weighted mean is at most `mean`.

    The choice is the best there is: the total is found for every number of bits that may be spent,
    one part of the model after another. Of equal totals the one with fewer bits is taken, the
    earlier parts first.

    Args:
        divergences: Of every part of the model at each of `WIDTHS`, float64 (parts, 3).
        sizes: Weights of every part.
        mean: Bits of a weight, from 2 to 4.

    Returns:
        The width of every part.

    Example:
        >>> losses = torch.tensor([[5.0, 1.0, 0.5], [2.0, 1.0, 0.9]])
        >>> allocate_widths(losses, [100, 100], 2.5)
        [3, 2]
    """
    unit = math.gcd(*sizes)
    costs = [size // unit for size in sizes]
    # Bits above the least width that may be spent, in steps of a bit for `unit` weights.
    budget = math.floor((mean - WIDTHS[0]) * sum(costs) + 1e-6)
    least = np.zeros(budget + 1)
    choices = []
    for losses, cost in zip(divergences.tolist(), costs, strict=True):
        totals = np.full((len(WIDTHS), budget + 1), np.inf)
        for extra, loss in enumerate(losses):
            spent = extra * cost
            if spent <= budget:
                totals[extra, spent:] = least[: budget + 1 - spent] + loss
        choices.append(totals.argmin(axis=0).astype(np.int8))
        least = totals.min(axis=0)
    found = []
    for cost, chosen in zip(reversed(costs), reversed(choices), strict=True):
        extra = int(chosen[budget])
        found.append(WIDTHS[extra])
        budget -= extra * cost
    return found[::-1]


@torch.no_grad()
def measured_widths(
    blocks: Mapping[str, nn.Module],
    inputs: BlockInputs,
    mean: float,
    group_size: int,
    *,
    most_rows: int,
    symmetric: bool = False,
) -> LayerWidths:
    """Choose one width for every layer of a model, by one pass in full precision.

    The published search weighs widths within a layer. Runtimes want one width a layer, so the same
    divergence is taken of whole layers, added up over the model, and the widths that keep the sum
    least under the mean are found by `allocate_widths`. Layers that read the same inputs (query,
    key and value; gate and up) are fused by runtimes and get the same width.

    Args:
        blocks: Of the model, by their names.
        inputs: Of the first block; it holds the outputs of the last one afterwards.
        mean: Bits of a weight, from 2 to 4.
        group_size: Columns of a group.
        most_rows: Rows of the inputs on which a layer is measured.
        symmetric: As of `group_scales`.
    """
    parts: list[tuple[list[str], int]] = []
    divergences: dict[str, Tensor] = {}
    for name, original in tqdm(blocks.items(), desc="widths", unit="block"):
        block = in_full_precision(original)
        layers = linear_layers(block)
        with collected_inputs(
            layers,
            most_rows=most_rows,
            num_sequences=len(inputs.hidden),
            with_moments=False,
        ) as statistics:
            for place, batch in enumerate(inputs.batches()):
                begin = place * inputs.batch_size
                outputs = pass_block(block, batch, inputs.keywords)
                inputs.hidden[begin : begin + len(batch)] = outputs
        inputs.move_on(inputs.hidden)
        for one in statistics:
            for layer in one.layers:
                divergences[f"{name}.{layer}"] = width_divergences(
                    layers[layer].weight, one.rows, group_size, symmetric=symmetric
                )
            size = sum(layers[layer].weight.numel() for layer in one.layers)
            parts.append(([f"{name}.{layer}" for layer in one.layers], size))
    totals = torch.stack([sum(divergences[name] for name in names) for names, _ in parts])
    chosen = allocate_widths(totals, [size for _, size in parts], mean)
    widths = {
        name: width for (names, _), width in zip(parts, chosen, strict=True) for name in names
    }
    return LayerWidths(widths, divergences)
