"""Sentences as vectors, and the graph of those that resemble each other, without all pairs."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from salhub.models.lexrank.random_walk import (
    FeatureWalk,
    MatrixWalk,
    Walk,
    missing_lengths,
)

logger = logging.getLogger(__name__)

# Sentences of which a matrix of all pairs is still made: 134 MB.
MAX_DENSE = 4096
# Words that stand in very many sentences; products with them are dense, whatever they are kept in.
_NUM_FREQUENT = 256
_BLOCK_BYTES = 2**26
# Four bytes a neighbour.
MAX_EDGES = 2**28


@dataclass(frozen=True)
class SentenceFeatures:
    """Vectors whose inner products are similarities.

    Args:
        parts: Matrices of N rows, dense or sparse; the similarity is the sum of their inner
            products. Rows of all parts together have the length 1, or are 0.
        clips: Whether inner products may be below 0, and count as 0 then.
    """

    parts: tuple[Any, ...]
    clips: bool = False

    def __len__(self) -> int:
        return self.parts[0].shape[0]

    def similarity_to(self, places: Any) -> np.ndarray:
        """Similarities of all sentences to some.

        Args:
            places: Which ones, int (k,).

        Returns:
            (N, k).
        """
        found = sum(_dense(part @ part[places].T) for part in self.parts)
        return np.maximum(found, 0) if self.clips else found

    def similarity(self) -> np.ndarray:
        """Similarities of all pairs, (N, N), 1 on the diagonal."""
        found = self.similarity_to(np.arange(len(self)))
        np.fill_diagonal(found, 1)
        return found

    def walk(self, threshold: float | None, solver: str, top_edges: int | None) -> Walk:
        """The graph to walk on.

        Args:
            threshold: As of the configuration.
            solver: As of the configuration.
            top_edges: As of the configuration.

        Raises:
            ValueError: More neighbours than memory can be asked for.
        """
        if solver == "dense" and len(self) > MAX_DENSE:
            logger.warning(
                "%d sentences are too many for a dense matrix; another solver is used, with "
                "the same result.",
                len(self),
            )
            solver = "auto"
        if solver == "dense" and top_edges is None:
            similarity = self.similarity()
            return MatrixWalk(similarity if threshold is None else similarity > threshold)
        if threshold is not None:
            return MatrixWalk(similarity_graph(self.parts, threshold, top_edges=top_edges))
        if top_edges is not None or solver == "sparse":
            return MatrixWalk(self._weighted_graph(top_edges))
        if not self.clips:
            return FeatureWalk(self.parts)
        return MatrixWalk(self.similarity()) if len(self) <= MAX_DENSE else ClippedWalk(self)

    def _weighted_graph(self, top_edges: int | None) -> sparse.csr_array:
        """All similarities above 0, or those to the nearest sentences."""
        pattern = similarity_graph(self.parts, 0.0, top_edges=top_edges).tocoo()
        rows, columns = pattern.coords
        values = np.ones(len(rows))
        for chunk in np.array_split(np.arange(len(rows)), 1 + len(rows) // 2**20):
            first, second = rows[chunk], columns[chunk]
            values[chunk] = sum(_row_products(part[first], part[second]) for part in self.parts)
        values[rows == columns] = 1
        return sparse.csr_array((np.maximum(values, 0), (rows, columns)), shape=pattern.shape)


class ClippedWalk:
    """Similarities of which those below 0 count as 0; made anew, in blocks, for every step."""

    def __init__(self, features: SentenceFeatures) -> None:
        self.features, self.missing = features, missing_lengths(features.parts)
        self.degrees = self.spread(np.ones(len(features)))

    def spread(self, shares: np.ndarray) -> np.ndarray:
        products = np.concatenate([np.maximum(block, 0) @ shares for block in self._blocks()])
        return products + self.missing * shares

    def _blocks(self) -> Iterator[np.ndarray]:
        for _, block in similarity_blocks(self.features.parts):
            yield block


def _dense(matrix: Any) -> np.ndarray:
    return matrix.toarray() if sparse.issparse(matrix) else np.asarray(matrix)


def _row_products(first: Any, second: Any) -> np.ndarray:
    if sparse.issparse(first):
        return np.asarray(first.multiply(second).sum(axis=1)).reshape(-1)
    return np.einsum("ij,ij->i", first, second)


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
                f"more than {max_edges} pairs of sentences have a similarity above "
                f"{threshold}; raise the threshold, keep fewer pairs with top_edges=50, or "
                "use threshold=None, which needs no pairs."
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
