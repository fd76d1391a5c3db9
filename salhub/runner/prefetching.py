"""Reading the rows of the next passes while the network works on these."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from torch import Tensor

from salhub.runner.batches import Batch, Share, step_batches
from salhub.runner.plan import steps_after

if TYPE_CHECKING:
    from salhub.runner.recipe import TrainingRecipe

Fetch = Callable[[Batch], Mapping[str, Tensor]]
_DEPTH = 2


class Prefetcher:
    """Fetches what a pass needs, and in a thread of its own what the next ones will.

    A few passes are held at a time. Which rows come next is decided by the seed and the number of
    the step, so it does not matter whether and where the run was interrupted.

    Args:
        recipe: Has one stage.
        share: The part of this process.
        fetch: Reads the rows of a pass; what it gives depends on nothing else.
    """

    def __init__(self, recipe: "TrainingRecipe", share: Share, fetch: Fetch) -> None:
        self._recipe, self._share, self._fetch = recipe, share, fetch
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._coming: deque[tuple[Batch, Future]] = deque()
        self._next: Iterator[Batch] = iter(())

    def __call__(self, batch: Batch) -> Mapping[str, Tensor]:
        """What `fetch` gives for a pass."""
        while self._coming and not _is_same(self._coming[0][0], batch):
            self._coming.popleft()[1].cancel()
        if self._coming:
            future = self._coming.popleft()[1]
        else:
            future = self._thread.submit(self._fetch, batch)
            self._next = self._after(batch)
        while len(self._coming) < _DEPTH and (coming := next(self._next, None)) is not None:
            self._coming.append((coming, self._thread.submit(self._fetch, coming)))
        return future.result()

    def _after(self, batch: Batch) -> Iterator[Batch]:
        """The passes after one; none where it is no pass of this run."""
        arguments, is_found = self._recipe.arguments, False
        for step in steps_after(self._recipe, batch.step):
            for one in step_batches(
                step.rows,
                seed=arguments.seed,
                step=step.number,
                epoch=step.epoch,
                share=self._share,
                largest=arguments.per_device_batch_size,
            ):
                if is_found:
                    yield one
                is_found = is_found or _is_same(one, batch)
            if not is_found:
                return


def _is_same(one: Batch, other: Batch) -> bool:
    return one.step == other.step and one.rows.tolist() == other.rows.tolist()
