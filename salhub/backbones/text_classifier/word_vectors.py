"""Word vectors from the company that words keep: counts of neighbours, made small."""

from collections.abc import Sequence

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

# Neighbours up to this far count, the k-th one 1/k.
_WINDOW = 5
# Rare neighbours would weigh too much without it.
_SMOOTHING = 0.75
_OVERSAMPLING = 16
_POWER_ITERATIONS = 4


def word_vectors(
    documents: Sequence[Sequence[int]], vocab_size: int, size: int, *, generator: torch.Generator
) -> Tensor:
    """Make a vector of every token from the tokens around it, without any label.

    Args:
        documents: Tokens of each text.
        vocab_size: Number of tokens.
        size: Numbers of a vector.
        generator: For the randomised decomposition.

    Returns:
        float32 (vocab_size, size) whose mean square is 1; tokens without neighbours get zeros.

    Raises:
        ValueError: More numbers than half of the tokens, or texts in which nothing meets.

    Source: Levy and Goldberg, "Neural Word Embedding as Implicit Matrix Factorization", NeurIPS
        2014, section 3 (positive pointwise mutual information) and equation 8 (the square root of
        the singular values); Halko et al. 2011, algorithm 4.4, for the decomposition.

    Example:
        >>> vectors = word_vectors([[0, 1, 2, 3]], 4, 2, generator=torch.Generator())
        >>> vectors.shape
        torch.Size([4, 2])
    """
    if 2 * size > vocab_size:
        raise ValueError(f"vectors of {size} numbers need {2 * size} tokens, got {vocab_size}.")
    counts = _neighbour_counts(documents, vocab_size)
    if not counts.nnz:
        raise ValueError("The texts have no two neighbouring tokens, so nothing can be learned.")
    information = _positive_information(counts)
    vectors, values = _largest_singular(information, size, generator)
    scaled = vectors * np.sqrt(values)
    return torch.from_numpy(scaled / np.sqrt(np.mean(scaled**2))).float()


def _neighbour_counts(
    documents: Sequence[Sequence[int]], vocab_size: int
) -> scipy.sparse.csr_array:
    gap = np.full(_WINDOW, -1)
    parts = [part for document in documents for part in (np.asarray(document, dtype=int), gap)]
    tokens = np.concatenate(parts)
    counts = scipy.sparse.csr_array((vocab_size, vocab_size))
    for distance in range(1, _WINDOW + 1):
        first, second = tokens[:-distance], tokens[distance:]
        is_pair = (first >= 0) & (second >= 0)
        pairs = (first[is_pair], second[is_pair])
        weights = np.full(len(pairs[0]), 1 / distance)
        counts += scipy.sparse.coo_array((weights, pairs), shape=counts.shape).tocsr()
    return counts + counts.T


def _positive_information(counts: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
    pairs = counts.tocoo()
    totals = np.asarray(counts.sum(axis=1)).ravel()
    context = totals**_SMOOTHING / (totals**_SMOOTHING).sum()
    row, column = pairs.coords
    information = np.log(pairs.data / (totals[row] * context[column])).clip(min=0)
    return scipy.sparse.coo_array((information, (row, column)), shape=pairs.shape).tocsr()


def _largest_singular(
    matrix: scipy.sparse.csr_array, count: int, generator: torch.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Left vectors (n, count) and values (count,), largest first, each vector of fixed sign."""
    width = min(count + _OVERSAMPLING, matrix.shape[1])
    drawn = torch.randn(matrix.shape[1], width, generator=generator, dtype=torch.float64)
    basis = _orthonormal(matrix @ drawn.numpy())
    for _ in range(_POWER_ITERATIONS):
        basis = _orthonormal(matrix @ _orthonormal(matrix.T @ basis))
    projected = torch.from_numpy((matrix.T @ basis).T.copy()).clone()
    small, values, _ = torch.linalg.svd(projected, full_matrices=False)
    vectors = (torch.from_numpy(basis) @ small).numpy()
    largest = np.abs(vectors).argmax(axis=0)
    signs = np.sign(vectors[largest, np.arange(vectors.shape[1])])
    return (vectors * signs)[:, :count], values[:count].numpy()


def _orthonormal(columns: np.ndarray) -> np.ndarray:
    # By torch, whose memory is aligned: the last bits of numpy's depend on where an array lies.
    return torch.linalg.qr(torch.from_numpy(columns).clone())[0].numpy()
