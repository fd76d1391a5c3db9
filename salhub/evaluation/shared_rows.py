"""Rows of an evaluation that several processes or jobs measure, each a part of them.

An evaluation calls `shared_rows` in place of a loop. Alone it is the loop. Under torchrun each
process measures every so many-th row, and all get all rows, so that whatever is computed from them
is the same everywhere, and the same as in one process. Jobs that know nothing of each other leave
their rows in a folder; the one that finds all others' there ends the evaluation.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from salhub.errors import SalhubError
from salhub.evaluation.row_store import RowStore


class RowsMissingError(SalhubError):
    """What is measured next depends on rows that other jobs have not measured yet."""


@dataclass
class RowSharing:
    """How the rows of one evaluation are shared.

    Args:
        index: Which part this process measures, from 0.
        count: How many parts there are.
        gather: Takes a value, and gives the values of all processes; None where the parts know
            nothing of each other.
        store: Rows that were measured before, or elsewhere; None for none.

    Attributes:
        missing: (step, row) of rows that nobody has measured yet.
        num_rows: Rows of all steps.
    """

    index: int = 0
    count: int = 1
    gather: Callable[[Any], list[Any]] | None = None
    store: RowStore | None = None
    missing: list[tuple[str, int]] = field(default_factory=list, init=False)
    num_rows: int = field(default=0, init=False)
    _num_steps: int = field(default=0, init=False)

    def rows(
        self,
        title: str,
        units: Sequence[Any],
        measure: Callable[[Any], Any],
        fit: Callable[[Any, Any], Any] | None,
        is_decisive: bool,
        progress: bool,
    ) -> list[Any]:
        """See `shared_rows`."""
        self._num_steps += 1
        self.num_rows += len(units)
        step = f"{self._num_steps} {title} {units!r}"
        found = {}
        if self.store is not None:
            self.store.refresh()
        own = range(self.index, len(units), self.count)
        for row in tqdm(own, desc=self._label(title), disable=not progress):
            found[row] = self._row(step, row, units, measure)
        if self.gather is not None:
            found = {row: value for one in self.gather(found) for row, value in one.items()}
        elif len(found) < len(units):
            absent = self._add_others(step, found, len(units))
            if absent and is_decisive:
                raise RowsMissingError(title)
            # The evaluation goes on to its next rows with some row in the place of each that is
            # absent; `missing` says that its numbers are none.
            if absent and not found:
                found[0] = self._row(step, 0, units, measure)
            some = next(iter(found.values()))
            for row in absent:
                found[row] = some if fit is None else fit(some, units[row])
        return [found[row] for row in range(len(units))]

    def _label(self, title: str) -> str:
        return title if self.count == 1 else f"{title}, part {self.index + 1} of {self.count}"

    def _row(self, step: str, row: int, units: Sequence[Any], measure: Callable[[Any], Any]) -> Any:
        if self.store is not None and self.store.has(step, row):
            return self.store.get(step, row)
        value = measure(units[row])
        if self.store is not None:
            self.store.add(step, row, value)
        return value

    def _add_others(self, step: str, found: dict[int, Any], number: int) -> list[int]:
        """Add rows that others have measured; return those that nobody has."""
        assert self.store is not None, "parts that do not communicate need a store"
        self.store.refresh()
        absent = []
        for row in [row for row in range(number) if row not in found]:
            if self.store.has(step, row):
                found[row] = self.store.get(step, row)
            else:
                absent.append(row)
        self.missing += [(step, row) for row in absent]
        return absent


_current: ContextVar[RowSharing | None] = ContextVar("row_sharing", default=None)


def shared_rows(
    title: str,
    units: Sequence[Any],
    measure: Callable[[Any], Any],
    *,
    fit: Callable[[Any, Any], Any] | None = None,
    is_decisive: bool = False,
    progress: bool = False,
) -> list[Any]:
    """Measure rows one after another, or a part of them where others measure the rest.

    Args:
        title: What is measured, for the bar.
        units: What each row is of: numbers, texts, tuples or ranges, whose `repr` tells them apart.
            What was computed from earlier rows and decides this one belongs to them.
        measure: Takes a unit, and gives its row: numbers, texts and tensors on the CPU, and lists,
            tuples and dictionaries of them. It must not depend on other rows.
        fit: Where rows are not of one shape, takes any row and a unit, and gives a row of the shape
            of the unit's; its values do not matter.
        is_decisive: Whether the rows decide what is measured later; without all of them, jobs that
            know nothing of each other cannot go on.
        progress: Whether to show a bar.

    Returns:
        All rows, in the order of the units.

    Example:
        >>> shared_rows("squares", [1, 2, 3], lambda number: number**2)
        [1, 4, 9]
    """
    known = _current.get()
    sharing = RowSharing() if known is None else known
    return sharing.rows(title, units, measure, fit, is_decisive, progress)


def shared_batches(
    title: str,
    batches: Sequence[Sequence[int]],
    measure: Callable[[Any], Tensor],
    *,
    is_decisive: bool = False,
    progress: bool = False,
) -> Tensor:
    """Measure rows in batches, which are what is shared, so that each is the same as alone.

    Args:
        title, is_decisive, progress: As of `shared_rows`.
        batches: Numbers of rows, such as `ranges` gives them.
        measure: Takes a batch, and gives a tensor (len(batch), ...) on the CPU.

    Returns:
        (n, ...), one batch after another.
    """

    def fit(other: Tensor, batch: Sequence[int]) -> Tensor:
        return other[:1].expand(len(batch), *other.shape[1:])

    keywords = {"fit": fit, "is_decisive": is_decisive, "progress": progress}
    return torch.cat(shared_rows(title, batches, measure, **keywords))


def ranges(number: int, size: int) -> list[range]:
    """Cut so many rows into batches.

    Example:
        >>> ranges(5, 2)
        [range(0, 2), range(2, 4), range(4, 5)]
    """
    return [range(begin, min(begin + size, number)) for begin in range(0, number, size)]


def measured_once(title: str, measure: Callable[[], Any]) -> Any:
    """Measure something in one process alone, such as a time; the others wait, and get it too.

    Args:
        title: What is measured.
        measure: Gives what a row may be, see `shared_rows`.
    """
    return shared_rows(title, [0], lambda _: measure())[0]


@contextmanager
def rows_shared(sharing: RowSharing) -> Generator[RowSharing]:
    """Share the rows of an evaluation that is called inside."""
    token = _current.set(sharing)
    try:
        yield sharing
    finally:
        _current.reset(token)
