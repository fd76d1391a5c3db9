"""Factors on activations that stand for factors on whole structures of weights."""

from dataclasses import dataclass, fields
from typing import Literal, Self

from torch import Tensor

from salhub.models.nvit.shapes import UnitLayout

GateSites = Literal["weights", "activations"]


@dataclass(frozen=True)
class BlockFactors:
    """What the activations of a block are multiplied by; None for nothing.

    G is 1, or one row for each picture of the batch.

    Args:
        norm: Outputs of both layer norms, (G, 1, E).
        query: Queries, (G, 1, H, QK).
        key: Keys, (G, 1, H, 1).
        value: Values, (G, 1, H, V).
        neuron: Hidden neurons before their activation, (G, 1, M).
        activation: The same after it, (G, 1, M).
        write: What the attention and the MLP add to the residual stream, (G, 1, E).
    """

    norm: Tensor | None = None
    query: Tensor | None = None
    key: Tensor | None = None
    value: Tensor | None = None
    neuron: Tensor | None = None
    activation: Tensor | None = None
    write: Tensor | None = None

    def times(self, other: Self) -> Self:
        """Both, one after the other."""
        pairs = [(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)]
        return type(self)(*(_product(*pair) for pair in pairs))


@dataclass(frozen=True)
class NViTFactors:
    """The same for the whole network.

    Args:
        blocks: Of each block.
        patches: Patches as they come out of their projection, (G, 1, E).
        embedded: All tokens with their positions, (G, 1, E).
        final: Output of the last layer norm, (G, 1, E).
    """

    blocks: tuple[BlockFactors, ...]
    patches: Tensor | None = None
    embedded: Tensor | None = None
    final: Tensor | None = None

    def times(self, other: Self) -> Self:
        """Both, one after the other."""
        pairs = zip(self.blocks, other.blocks, strict=True)
        return type(self)(
            tuple(first.times(second) for first, second in pairs),
            *(
                _product(getattr(self, name), getattr(other, name))
                for name in ("patches", "embedded", "final")
            ),
        )


def mask_factors(layout: UnitLayout, mask: Tensor) -> NViTFactors:
    """Factors under which the network computes as if all weights of dead units were zero.

    Args:
        layout: Of the units.
        mask: 1 for units that live and 0 for others, (size,) or (G, size) in the dtype of the
            activations.

    Source: table of section 3.1 of the paper, with the tensors that the published code zeroes.
    """
    embedding, blocks = layout.split(mask.reshape(-1, layout.size))
    wide = embedding[:, None]
    made = []
    for head, qk, v, mlp in blocks:
        heads = head[:, None, :, None]
        # Without values a head adds nothing, whatever its queries and keys are.
        made.append(
            BlockFactors(
                norm=wide,
                query=qk[:, None, None, :],
                value=heads * v[:, None, None, :],
                activation=mlp[:, None],
                write=wide,
            )
        )
    return NViTFactors(tuple(made), embedded=wide, final=wide)


def gate_factors(layout: UnitLayout, gates: Tensor, sites: GateSites = "weights") -> NViTFactors:
    """Factors whose derivatives at 1 are the scores of the units.

    Args:
        layout: Of the units.
        gates: (1, size), or (B, size) for the derivatives of each picture.
        sites: "weights" puts them where the derivative is the sum of w dL/dw over the weights that
            the published code counts: projected patches, inputs of queries, keys, values and
            neurons, outputs of attention and MLP; queries; values; neurons before the activation;
            all three projections of a head. "activations" puts one where a unit ends: what is
            written to the residual stream, queries, values, heads, and neurons after the activation
            [C].
    """
    embedding, blocks = layout.split(gates)
    wide = embedding[:, None]
    of_weights = sites == "weights"
    made = []
    for head, qk, v, mlp in blocks:
        heads, neurons = head[:, None, :, None], mlp[:, None]
        query, value = qk[:, None, None, :], heads * v[:, None, None, :]
        made.append(
            BlockFactors(wide, heads * query, heads, value, neurons, None, wide)
            if of_weights
            else BlockFactors(None, query, None, value, None, neurons, wide)
        )
    if of_weights:
        return NViTFactors(tuple(made), patches=wide)
    return NViTFactors(tuple(made), embedded=wide)


def scaled(values: Tensor, factor: Tensor | None) -> Tensor:
    """The values times a factor, where there is one."""
    if factor is None:
        return values
    # A factor of 32 bits would make all that follows in autocast wait for numbers twice as long.
    return values * (factor.to(values.dtype) if values.dtype.itemsize < 4 else factor)


def _product(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first * second
