"""Vectors of sentences, and the graph that their inner products make."""

import logging
from collections.abc import Iterator
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
from salhub.models.lexrank.similarity_graph import similarity_blocks, similarity_graph

logger = logging.getLogger(__name__)

# Sentences of which a matrix of all pairs is still made: 134 MB.
MAX_DENSE = 4096


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
                "%d sentences are too many for a dense matrix; another solver finds the same.",
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
