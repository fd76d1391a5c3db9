"""Weights that give what a layer gave, from inputs that the layers before it have changed."""

from collections.abc import Iterable

import torch
from torch import Tensor

from salhub.models.slim_llm.input_statistics import InputStatistics


def paired_statistics(
    layers: list[str],
    given: Iterable[Tensor],
    plain: Iterable[Tensor],
    *,
    most_rows: int,
    num_sequences: int,
) -> tuple[InputStatistics, Tensor]:
    """What layers of a block are given, and how it goes together with what they were given.

    Args:
        layers: Names of layers that read the same.
        given: What goes into them, of the sequences of each batch, (B, L, m).
        plain: The same in the model in full precision.
        most_rows: Rows kept of the inputs.
        num_sequences: In all batches.

    Returns:
        Of the inputs x̂ in `given`; and the sum over all tokens of (x - x̂) x̂ᵀ with the inputs x of
        `plain`, float32 (m, m).
    """
    found: InputStatistics | None = None
    kept: list[Tensor] = []
    each = max(1, most_rows // num_sequences)
    cross = torch.empty(0)
    for batch, before in zip(given, plain, strict=True):
        rows = batch.reshape(-1, batch.shape[-1])
        if found is None:
            empty = rows.new_zeros(rows.shape[1], rows.shape[1])
            found, cross = InputStatistics(layers, empty, 0, 0, rows[:0]), empty.clone()
        found.moments.addmm_(rows.T, rows)
        cross.addmm_((before - batch).reshape(rows.shape).T, rows)
        found.num_sequences += len(batch)
        found.num_tokens += len(rows)
        step = max(1, batch.shape[1] // each)
        kept.append(batch[:, ::step][:, :each].reshape(-1, rows.shape[1]))
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
