"""Which sentences resemble each other by more than a threshold, without a matrix of all pairs."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy import sparse

# Words that stand in very many sentences; products with them are dense, whatever they are kept in.
_NUM_FREQUENT = 256
_BLOCK_BYTES = 2**26
# Four bytes a neighbour.
MAX_EDGES = 2**28


def similarity_graph(
    parts: Sequence[Any],
    threshold: float,
    *,
    top_edges: int | None = None,
    max_edges: int = MAX_EDGES,
) -> sparse.csr_array:
    """Sentences that resemble each other by more than a threshold.

    Args:
        parts: Matrices of N rows, dense or sparse; similarities are the sums of their inner
            products.
        threshold: In [0, 1).
        top_edges: Most neighbours of a sentence, those nearest to it; the graph is what either of
            two sentences chooses. None for all.
        max_edges: Most neighbours in all.

    Returns:
        Symmetric (N, N) of ones, the diagonal included.

    Raises:
        ValueError: More neighbours than `max_edges`; the message names what to do.
    """
    count = parts[0].shape[0]
    rows, columns, found = [], [], 0
    for start, block in similarity_blocks(parts):
        is_near = block > threshold
        local, near = np.nonzero(is_near)
        if top_edges is not None:
            local, near = _strongest(block, local, near, top_edges)
        rows.append((local + start).astype(np.int32))
        columns.append(near.astype(np.int32))
        found += len(near)
        if found > max_edges:
            raise ValueError(
                f"more than {max_edges} pairs of sentences resemble each other by more than "
                f"{threshold}; raise the threshold, keep fewer with top_edges=50, or use "
                "threshold=None, which needs no pairs."
            )
    own = np.arange(count, dtype=np.int32)
    rows, columns = np.concatenate([*rows, own]), np.concatenate([*columns, own])
    ones = np.ones(len(rows), dtype=np.float32)
    graph = sparse.coo_array((ones, (rows, columns)), shape=(count, count)).tocsr()
    if top_edges is not None:
        graph = graph.maximum(graph.T).tocsr()
    graph.data[:] = 1
    return graph


def similarity_blocks(parts: Sequence[Any]) -> Iterator[tuple[int, np.ndarray]]:
    """Similarities of some sentences to all, block by block.

    Args:
        parts: As of `similarity_graph`.

    Yields:
        The number of the first sentence of the block, and float32 (b, N).
    """
    count = parts[0].shape[0]
    size = max(1, _BLOCK_BYTES // (4 * max(1, count)))
    divided = [_Columns(part) for part in parts]
    for start in range(0, count, size):
        rows = slice(start, min(start + size, count))
        block = divided[0].products(rows)
        for columns in divided[1:]:
            block += columns.products(rows)
        yield start, block


class _Columns:
    """Frequent words as a dense matrix, all others as a sparse one."""

    def __init__(self, features: Any) -> None:
        if not sparse.issparse(features):
            self.frequent = np.asarray(features, dtype=np.float32)
            self.rare = None
            return
        features = features.astype(np.float32)
        uses = np.bincount(features.indices, minlength=features.shape[1])
        is_frequent = np.zeros(features.shape[1], dtype=bool)
        is_frequent[np.argsort(-uses, kind="stable")[:_NUM_FREQUENT]] = True
        columns = features.tocsc()
        self.frequent = columns[:, is_frequent].toarray()
        self.rare = columns[:, ~is_frequent].tocsr()
        self.turned = self.rare.T.tocsr()

    def products(self, rows: slice) -> np.ndarray:
        """Inner products of some rows with all, float32 (b, N)."""
        block = self.frequent[rows] @ self.frequent.T
        if self.rare is not None:
            products = (self.rare[rows] @ self.turned).tocoo()
            # Coordinates are distinct, so that nothing is added twice.
            block[products.coords] += products.data
        return block


def _strongest(
    block: np.ndarray, rows: np.ndarray, columns: np.ndarray, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """At most so many columns of each row, those with the largest values, the first of equals."""
    order = np.lexsort((columns, -block[rows, columns], rows))
    rows, columns = rows[order], columns[order]
    starts = np.searchsorted(rows, np.arange(len(block)))
    is_kept = np.arange(len(rows)) - starts[rows] < most
    return rows[is_kept], columns[is_kept]
