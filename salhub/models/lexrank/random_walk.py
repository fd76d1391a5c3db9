"""The random walk of LexRank: stationary distributions, with and without a matrix, one and many.

Source: Erkan and Radev 2004 (JAIR 22), section 3.2: p = M^T p with M = (1 - d) U + d B, B the
similarities divided by their row sums. `damping` is d, the probability of following a link. That
products with B need no matrix of similarities, where those are inner products, is ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from torch import Tensor

_ROUNDING = 1e-9


class Walk(Protocol):
    """Similarities of N sentences, as far as a random walk needs to know them.

    Attributes:
        degrees: Row sums of the similarities, each above 0, (N,).
    """

    degrees: Any

    def spread(self, shares: Any) -> Any:
        """Product of the similarities with a vector, (N,) -> (N,)."""
        ...


@dataclass(frozen=True)
class Stationary:
    """Where a random walk is, in the long run.

    Args:
        probabilities: (N,), sum 1.
        num_iterations: Steps taken.
        residual: Sum of absolute changes in the last one.
        converged: Whether that is below the tolerance.
    """

    probabilities: Any
    num_iterations: int
    residual: float
    converged: bool


class MatrixWalk:
    """Similarities that stand in a matrix, dense or sparse.

    Args:
        similarity: (N, N), symmetric, 0 or more, with positive row sums.
    """

    def __init__(self, similarity: Any) -> None:
        self.similarity = similarity
        self.degrees = np.asarray(similarity.sum(axis=1), dtype=np.float64).reshape(-1)

    def spread(self, shares: np.ndarray) -> np.ndarray:
        return self.similarity @ shares


class FeatureWalk:
    """Similarities that are inner products of vectors; the matrix of them is never made.

    A sentence whose vector is 0 resembles only itself, as its cosine to itself counts as 1.

    Args:
        parts: Matrices of N rows, dense or sparse. Similarities are the sums of their inner
            products, none of which is below 0; rows of all parts together have the length 1 or 0.
    """

    def __init__(self, parts: Sequence[Any]) -> None:
        self.pairs = [(part, part.T.tocsr() if sparse.issparse(part) else part.T) for part in parts]
        self.missing = missing_lengths(parts)
        self.degrees = self.spread(np.ones(len(self.missing)))

    def spread(self, shares: np.ndarray) -> np.ndarray:
        products = sum(part @ (turned @ shares) for part, turned in self.pairs)
        return products + self.missing * shares


def missing_lengths(parts: Sequence[Any]) -> np.ndarray:
    """What each sentence lacks of a similarity of 1 to itself, (N,).

    Args:
        parts: As of `FeatureWalk`.
    """
    missing = 1 - np.sum([_squared_lengths(part) for part in parts], axis=0)
    return np.where(np.abs(missing) < _ROUNDING, 0, missing)


def _squared_lengths(part: Any) -> np.ndarray:
    if sparse.issparse(part):
        return np.asarray(part.multiply(part).sum(axis=1)).reshape(-1)
    return np.square(part).sum(axis=1)


def stationary_distribution(
    walk: Walk,
    *,
    damping: float = 0.85,
    teleport: Any = None,
    tolerance: float = 1e-6,
    max_iterations: int = 200,
) -> Stationary:
    """Find the stationary distribution by the power method.

    Args:
        walk: The similarities.
        damping: Probability of following a link, above 0 and at most 1.
        teleport: Where a jump ends, (N,), sum 1; uniform by default.
        tolerance: Sum of absolute changes at which the method stops.
        max_iterations: Steps after which it stops anyway.

    Example:
        >>> walk = MatrixWalk(np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 1.0]]))
        >>> stationary_distribution(walk).probabilities.round(3).tolist()
        [0.292, 0.416, 0.292]
    """
    uniform = walk.degrees * 0 + 1 / len(walk.degrees)
    jump = (1 - damping) * (uniform if teleport is None else teleport)
    found, residual = uniform, float("inf")
    for number in range(1, max_iterations + 1):
        new = jump + damping * walk.spread(found / walk.degrees)
        new = new / new.sum()  # rounding adds up over many steps
        residual = float(np.abs(new - found).sum())
        found = new
        if residual < tolerance:
            return Stationary(found, number, residual, converged=True)
    return Stationary(found, max_iterations, residual, converged=False)


def count_components(walk: Walk) -> int:
    """How many groups of sentences there are that have nothing in common with each other."""
    if isinstance(walk, MatrixWalk):
        return connected_components(sparse.csr_array(walk.similarity), directed=False)[0]
    if not isinstance(walk, FeatureWalk) or not all(sparse.issparse(p) for p, _ in walk.pairs):
        return 1  # vectors of an encoder are never quite at right angles
    words = sparse.hstack([part for part, _ in walk.pairs])
    # Sentences and words are points, and a word in a sentence joins them.
    used = words[:, np.unique(words.tocoo().coords[1])]
    return connected_components(sparse.bmat([[None, used], [used.T, None]]), directed=False)[0]


@dataclass(frozen=True)
class DenseWalk:
    """Where the walks of a batch are, in the long run.

    Args:
        probabilities: (B, N), sum 1 over the sentences that are there.
        degrees: Row sums of the similarities, (B, N).
        num_iterations: Steps taken by each, int64 (B,).
        residuals: Sums of absolute changes in the last one, (B,).
    """

    probabilities: Tensor
    degrees: Tensor
    num_iterations: Tensor
    residuals: Tensor


def dense_stationary(
    similarity: Tensor,
    mask: Tensor,
    *,
    damping: float,
    teleport: Tensor | None,
    tolerance: float,
    max_iterations: int,
) -> DenseWalk:
    """Stationary distributions of a batch, by the power method.

    Args:
        similarity: (B, N, N), symmetric, 0 or more, 1 on the diagonal.
        mask: Which sentences are there, bool (B, N).
        damping: Probability of following a link.
        teleport: Where a jump ends, (B, N), sum 1; uniform by default.
        tolerance: Sum of absolute changes at which a walk stops.
        max_iterations: Steps after which all stop.

    Source: Erkan and Radev 2004 (JAIR 22), equations 3 to 6.
    """
    there = mask.to(similarity.dtype)
    similarity = similarity * there[:, :, None] * there[:, None, :]
    degrees = similarity.sum(-1)
    uniform = there / there.sum(-1, keepdim=True)
    jump = (1 - damping) * (uniform if teleport is None else teleport)
    found, steps = uniform, torch.zeros(len(similarity), dtype=torch.int64, device=mask.device)
    residuals = torch.full_like(degrees[:, 0], float("inf"))
    for _ in range(max_iterations):
        is_moving = residuals >= tolerance
        if not bool(is_moving.any()):
            break
        shares = found / degrees.clamp(min=torch.finfo(degrees.dtype).tiny)
        new = jump + damping * torch.bmm(similarity, shares[..., None])[..., 0]
        new = new / new.sum(-1, keepdim=True)
        # A walk that has stopped stays, so that a batch gives what its items give.
        new = torch.where(is_moving[:, None], new, found)
        residuals = torch.where(is_moving, (new - found).abs().sum(-1), residuals)
        steps += is_moving
        found = new
    return DenseWalk(found, degrees, steps, residuals)
