"""Which rows make a step, and which of them a process and a pass take.

Everything is decided by the seed and the number of the step alone. So a run that goes on from a
checkpoint sees what it would have seen, and two processes share the rows that one would have had.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# A prime of the Mersenne twister's range; neighbouring steps get unrelated generators.
_MIX = 1_000_003
_LIMIT = 2**63 - 1


def mixed_seed(*numbers: int) -> int:
    """One seed out of several numbers, such as (seed, step).

    Example:
        >>> mixed_seed(0, 1) != mixed_seed(1, 0)
        True
    """
    mixed = 0x9E3779B97F4A7C15
    for number in numbers:
        mixed = ((mixed ^ (number + 1)) * _MIX + 0x2545F4914F6CDD1D) & _LIMIT
    return mixed


def generator_of(*numbers: int) -> torch.Generator:
    """A CPU generator seeded with `mixed_seed` of the numbers."""
    return torch.Generator().manual_seed(mixed_seed(*numbers))


@dataclass(frozen=True)
class Share:
    """The part of a process: `index` of `count`."""

    index: int = 0
    count: int = 1


@dataclass(frozen=True)
class Batch:
    """Some of the rows of one optimizer step: those that one process passes through at once.

    Args:
        rows: Their numbers in the data, int64 (b,).
        places: Where they stand among the rows of the step, int64 (b,).
        step_size: Rows of the whole step, over all processes and passes.
        seed: Seed of what is drawn in this step.
        step: Number of the step, from 0.
        epoch: Number of the pass over the data, from 0.
        is_padding: The process has no rows left; it passes through one row that does not count.
    """

    rows: Tensor
    places: Tensor
    step_size: int
    seed: int
    step: int
    epoch: int
    is_padding: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    def draw(self, make: Callable[[int, torch.Generator], Tensor], name: int = 0) -> Tensor:
        """Draw something for every row, which does not depend on how the step is shared.

        Args:
            make: Takes a number of rows and a generator, returns a tensor of that many rows.
            name: Tells apart several draws of one step.

        Returns:
            The rows of this batch, (b, ...).

        Example:
            >>> batch = next(step_batches(torch.arange(4), seed=0, step=0, epoch=0))
            >>> batch.draw(lambda n, generator: torch.rand(n, generator=generator)).shape
            torch.Size([4])
        """
        return make(self.step_size, generator_of(self.seed, self.step, name))[self.places]


def epoch_order(size: int, seed: int, epoch: int, stage: int) -> Tensor:
    """The rows of a stage in the order of one epoch, int64 (size,)."""
    return torch.randperm(size, generator=generator_of(seed, epoch, stage))


def step_batches(
    rows: Tensor,
    *,
    seed: int,
    step: int,
    epoch: int,
    share: Share | None = None,
    largest: int | None = None,
) -> Iterator[Batch]:
    """Cut the rows of one step for a process, and that into passes of at most `largest` rows.

    Every process gets the same number of passes, so that they meet at each; one that has no rows
    left gets the first row, marked as padding.

    Args:
        rows: Rows of the step, (n,).
        seed, step, epoch: As of `Batch`.
        share: The part of this process; everything when None.
        largest: Most rows of a pass; None for no limit.

    Example:
        >>> batches = step_batches(
        ...     torch.arange(5), seed=0, step=0, epoch=0, share=Share(1, 2), largest=1
        ... )
        >>> [(batch.rows.tolist(), batch.is_padding) for batch in batches]
        [([3], False), ([4], False), ([0], True)]
    """
    share = share or Share()
    part = -(-len(rows) // share.count)
    largest = min(largest or part, part)
    places = torch.arange(len(rows))[share.index * part : (share.index + 1) * part]
    for begin in range(0, part, largest):
        chosen = places[begin : begin + largest]
        is_padding = len(chosen) == 0
        chosen = torch.zeros(1, dtype=torch.long) if is_padding else chosen
        yield Batch(rows[chosen], chosen, len(rows), seed, step, epoch, is_padding)
