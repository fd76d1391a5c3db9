"""Sentences as tf-idf vectors of unit length."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from salhub.models.lexrank.words import words_of

Stem = Callable[[list[str]], list[str]]


@dataclass(frozen=True)
class WordReader:
    """Turns texts into words, the same ones for a collection and for what is ranked.

    Args:
        lowercase: Whether "The" and "the" are one word.
        stopwords: Words, in lower case, that are left out.
        stem: What turns words into their stems.
    """

    lowercase: bool
    stopwords: frozenset[str]
    stem: Stem

    def __call__(self, text: str) -> list[str]:
        """Words of a text, without stop words."""
        words = words_of(text.lower() if self.lowercase else text)
        if self.stopwords:
            words = [word for word in words if word.lower() not in self.stopwords]
        return self.stem(words)


def document_frequencies(
    texts: Iterable[str], read: Callable[[str], list[str]]
) -> tuple[Counter[str], int]:
    """In how many texts each word stands, and how many texts there are; one text at a time.

    Args:
        texts: The collection; an iterator is enough.
        read: Gives the words of a text.
    """
    counts: Counter[str] = Counter()
    number = 0
    for text in texts:
        counts.update(set(read(text)))
        number += 1
    return counts, number


def term_counts(
    words: Sequence[Sequence[str]], vocabulary: Mapping[str, int]
) -> tuple[sparse.csr_array, list[str]]:
    """How often each word stands in each sentence.

    Args:
        words: Words of N sentences.
        vocabulary: Known words -> columns 0 to V - 1.

    Returns:
        float64 (N, V + U), and the U words that are not in the vocabulary, in the order of the
        columns behind it.
    """
    columns = dict(vocabulary)
    number = len(columns)
    flat = list(itertools.chain.from_iterable(words))
    places = np.fromiter((columns.setdefault(w, len(columns)) for w in flat), np.int64, len(flat))
    lengths = np.fromiter(map(len, words), np.int64, len(words))
    rows = np.repeat(np.arange(len(words)), lengths)
    shape = (len(words), max(1, len(columns)))
    counts = sparse.coo_array((np.ones(len(flat)), (rows, places)), shape=shape).tocsr()
    counts.sum_duplicates()
    return counts, list(itertools.islice(columns, number, None))


def unit_vectors(counts: sparse.csr_array, idf: np.ndarray) -> sparse.csr_array:
    """The tf-idf vectors, scaled to length 1; those without a weight stay 0.

    Their inner products are the idf-modified cosines of the paper.

    Args:
        counts: (N, V).
        idf: (V,).

    Source: Erkan and Radev 2004 (JAIR 22), equation 1.
    """
    weighted = counts.copy()
    weighted.data = weighted.data * idf[weighted.indices]
    squares = np.add.reduceat(
        np.append(weighted.data**2, 0.0), np.minimum(weighted.indptr[:-1], weighted.nnz)
    )
    lengths = np.diff(weighted.indptr)
    norms = np.sqrt(np.where(lengths > 0, squares, 0.0))
    scale = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    weighted.data *= np.repeat(scale, lengths)
    weighted.eliminate_zeros()
    return weighted


def idf_of(frequencies: np.ndarray, number: int) -> np.ndarray:
    """Inverse document frequency log(N / n), natural logarithm.

    Args:
        frequencies: In how many texts each word stands, (V,), each 1 or more.
        number: Texts in all.
    """
    return np.log(number / frequencies)
