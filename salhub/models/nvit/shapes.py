"""The shape of a vision transformer: the widths of its blocks, weights and multiplications."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from salhub.models.nvit.configuration_nvit import BLOCK_FIELDS, NViTConfig

# Structures of a block in the order of `BLOCK_FIELDS`; "embedding" is shared by all blocks.
BLOCK_STRUCTURES = ("head", "qk", "v", "mlp")
STRUCTURES = ("embedding", *BLOCK_STRUCTURES)


@dataclass(frozen=True)
class NViTShape:
    """Widths of a network, and what they cost.

    Args:
        hidden_size: Channels of the residual stream.
        head: Heads of each block.
        qk: Query and key channels of each head, by block.
        v: Value channels of each head, by block.
        mlp: Hidden neurons, by block.

    Example:
        >>> NViTShape.of(NViTConfig()).mlp[:2]
        (768, 768)
    """

    hidden_size: int
    head: tuple[int, ...]
    qk: tuple[int, ...]
    v: tuple[int, ...]
    mlp: tuple[int, ...]

    @classmethod
    def of(cls, config: NViTConfig) -> Self:
        """The shape that a configuration has."""
        return cls(config.hidden_size, *(tuple(getattr(config, name)) for name in BLOCK_FIELDS))

    @property
    def num_blocks(self) -> int:
        """Number of blocks."""
        return len(self.head)

    @property
    def blocks(self) -> list[tuple[int, int, int, int]]:
        """Heads, qk, v and neurons of each block."""
        return list(zip(self.head, self.qk, self.v, self.mlp, strict=True))

    def fields(self) -> dict[str, int | list[int]]:
        """The same as fields of a configuration."""
        widths = (list(getattr(self, name)) for name in BLOCK_STRUCTURES)
        return {"hidden_size": self.hidden_size, **dict(zip(BLOCK_FIELDS, widths, strict=True))}

    def num_parameters(self, config: NViTConfig) -> int:
        """Weights of a classifier of this shape.

        Args:
            config: Says all that is no width: patches, classes, biases.
        """
        width, bias = self.hidden_size, int(config.qkv_bias)
        patch = config.num_channels * config.patch_size**2 * width + width
        tokens = (2 * config.num_tokens - config.num_patches) * width
        total = (
            patch + tokens + 2 * width + config.num_classifiers * (width + 1) * config.num_labels
        )
        for head, qk, v, mlp in self.blocks:
            total += head * (2 * qk + v) * (width + bias) + head * v * width + width
            total += 2 * width * mlp + mlp + width + 4 * width
        return total

    def num_block_parameters(self, config: NViTConfig) -> int:
        """Weights of the matrices inside the blocks, the part that pruning is about."""
        return sum(
            self.hidden_size * (head * (2 * qk + 2 * v) + 2 * mlp)
            for head, qk, v, mlp in self.blocks
        )

    def macs(self, config: NViTConfig) -> int:
        """Multiplications and additions of one picture, in pairs.

        Source: attention, MLP and patch projection as the paper counts them; the classifier is
        left out.
        """
        width, tokens = self.hidden_size, config.num_tokens
        total = config.num_patches * config.num_channels * config.patch_size**2 * width
        for head, qk, v, mlp in self.blocks:
            total += tokens * width * head * (2 * qk + v) + tokens * head * v * width
            total += tokens**2 * head * (qk + v) + 2 * tokens * width * mlp
        return total


class UnitLayout:
    """Where the units of every structure stand in one flat vector.

    First the residual channels, then for each block its heads, query-key channels, value channels
    and neurons. Scores, gates and masks are such vectors.

    Args:
        shape: Of the network.

    Example:
        >>> layout = UnitLayout(NViTShape(4, (2,), (3,), (5,), (6,)))
        >>> layout.size, layout.place("v", 0)
        (20, slice(9, 14, None))
    """

    def __init__(self, shape: NViTShape) -> None:
        self.shape = shape
        self.keys = [("embedding", None)] + [
            (name, block) for block in range(shape.num_blocks) for name in BLOCK_STRUCTURES
        ]
        self.sizes = [shape.hidden_size, *(width for block in shape.blocks for width in block)]
        starts = [0]
        for size in self.sizes:
            starts.append(starts[-1] + size)
        self.size = starts[-1]
        self._places = {
            key: slice(begin, end)
            for key, begin, end in zip(self.keys, starts, starts[1:], strict=False)
        }

    def __iter__(self) -> Iterator[tuple[str, int | None, slice]]:
        for name, block in self.keys:
            yield name, block, self._places[name, block]

    def place(self, structure: str, block: int | None = None) -> slice:
        """Units of a structure of a block; of "embedding" where block is None."""
        return self._places[structure, block]

    def places_of(self, structure: str) -> Tensor:
        """Places of all units of a structure, in all blocks, int64 (n,)."""
        parts = [torch.arange(s.start, s.stop) for name, _, s in self if name == structure]
        return torch.cat(parts)

    def split(self, flat: Tensor) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
        """A vector by structure.

        Args:
            flat: (..., size).

        Returns:
            The part of the residual channels, (..., E), and those of heads, qk, v and neurons for
            each block.
        """
        first, *others = flat.split(self.sizes, dim=-1)
        step = len(BLOCK_STRUCTURES)
        return first, [tuple(others[i : i + step]) for i in range(0, len(others), step)]

    def shape_of(self, mask: Tensor | Sequence[bool]) -> NViTShape:
        """The shape that is left by a mask.

        Args:
            mask: bool (size,), True for units that live.
        """
        live = torch.as_tensor(mask, dtype=torch.bool)
        counts = [int(live[place].sum()) for _, _, place in self]
        blocks = [counts[i : i + 4] for i in range(1, len(counts), 4)]
        return NViTShape(counts[0], *(tuple(widths) for widths in zip(*blocks, strict=True)))
