"""Weights that give what a layer gave, from inputs that the layers before it have changed."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from salhub.models.slim_llm.input_statistics import InputStatistics
from salhub.quantization.decoder_blocks import BlockInputs, layer_input_batches


def paired_statistics(
    layers: list[str],
    block: nn.Module,
    inputs: BlockInputs,
    plain: Sequence[Tensor],
    *,
    most_rows: int,
) -> tuple[InputStatistics, Tensor]:
    """What layers of a block are given, and how it goes together with what they were given.

    Args:
        layers: Names of layers that read the same.
        block: With those of its layers quantized that come before them.
        inputs: What goes into it.
        plain: What goes into the layers in the model in full precision, of the sequences of each
            batch, (B, L, m).
        most_rows: Rows kept of the inputs.

    Returns:
        Of the inputs x̂ in `block`; and the sum over all tokens of (x - x̂) x̂ᵀ with the inputs x of
        `plain`, float32 (m, m).
    """
    found: InputStatistics | None = None
    kept: list[Tensor] = []
    each = max(1, most_rows // len(inputs.hidden))
    cross = torch.empty(0)
    for given, before in zip(layer_input_batches(block, inputs, layers[0]), plain, strict=True):
        rows = given.reshape(-1, given.shape[-1])
        if found is None:
            empty = rows.new_zeros(rows.shape[1], rows.shape[1])
            found, cross = InputStatistics(layers, empty, 0, 0, rows[:0]), empty.clone()
        found.moments.addmm_(rows.T, rows)
        cross.addmm_((before - given).reshape(rows.shape).T, rows)
        found.num_sequences += len(given)
        found.num_tokens += len(rows)
        step = max(1, given.shape[1] // each)
        kept.append(given[:, ::step][:, :each].reshape(-1, rows.shape[1]))
    assert found is not None
    found.rows = torch.cat(kept)[:most_rows]
    return found, cross


def matched_weight(weight: Tensor, cross: Tensor, factor: Tensor) -> Tensor:
    """The weight whose outputs from the inputs there are come closest to those there were.

    V = W + W C H⁻¹ minimises Σ ‖Wx - Vx̂‖² over V, with C = Σ (x - x̂) x̂ᵀ and H = Σ x̂ x̂ᵀ; where H
    is damped, V is held nearer to W.

    Args:
        weight: W, float32 (n, m).
        cross: C, in the scale of H, float32 (m, m).
        factor: Upper triangular U with H⁻¹ = UᵀU, float32 (m, m).

    Source: Arai and Ichikawa 2025 (arXiv 2504.09629), the correction of weights, as a whole.
    """
    return weight + ((weight @ cross) @ factor.T) @ factor
