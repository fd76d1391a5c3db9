"""Words of a text out of the tokens of any tokenizer, each with its exact place in the text."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

# Punctuation, and signs such as "<" and "$"; not emoji.
_MARKS = frozenset({"Pc", "Pd", "Pe", "Pf", "Pi", "Po", "Ps", "Sc", "Sk", "Sm"})


@dataclass(frozen=True)
class Words:
    """The words of a text.

    Args:
        text: The text.
        spans: Start and end of each word in it, int64 (n, 2).
        token_words: Word of each token, -1 for tokens of no word, int64 (T,); None where the words
            were given.

    Example:
        >>> Words.of_tokens(["a", "good", "film"])[1:3]
        'good film'
    """

    text: str
    spans: np.ndarray
    token_words: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, places: slice) -> str:
        """The slice of the text from one word to another, both with a step of 1."""
        start, stop, _ = places.indices(len(self))
        return self.text[self.spans[start, 0] : self.spans[stop - 1, 1]]

    @cached_property
    def strings(self) -> list[str]:
        """Each word."""
        return [self.text[start:end] for start, end in self.spans.tolist()]

    @cached_property
    def is_punctuation(self) -> np.ndarray:
        """Which words are punctuation or signs only, bool (n,)."""
        return np.array([_is_punctuation(word) for word in self.strings], dtype=bool)

    @classmethod
    def of_tokens(cls, tokens: Sequence[str]) -> "Words":
        """Words that were given one by one; the text joins them with spaces."""
        ends = np.cumsum([len(token) + 1 for token in tokens], dtype=np.int64) - 1
        sizes = np.array([len(token) for token in tokens], dtype=np.int64)
        return cls(" ".join(tokens), np.stack([ends - sizes, ends], axis=1))

    @classmethod
    def of_encoding(
        cls,
        text: str,
        offsets: np.ndarray,
        word_ids: Sequence[int | None] | None,
        is_special: np.ndarray,
    ) -> "Words":
        """Join the tokens of a text to words.

        Args:
            text: The text.
            offsets: Start and end of each token in it, int64 (T, 2).
            word_ids: Word that the tokenizer counts each token to; None makes every token a word.
            is_special: Which tokens are special or padding, bool (T,).
        """
        offsets = _tidied(text, np.asarray(offsets, dtype=np.int64).reshape(-1, 2))
        belongs = ~np.asarray(is_special, dtype=bool) & (offsets[:, 1] > offsets[:, 0])
        tokens = belongs.nonzero()[0]
        given = range(len(offsets)) if word_ids is None else word_ids
        names = np.array([-1 if given[token] is None else given[token] for token in tokens])
        # A character in several byte tokens is one place, which they share.
        begins = np.ones(len(tokens), dtype=bool)
        if len(tokens):
            same_place = offsets[tokens[1:], 0] < offsets[tokens[:-1], 1]
            begins[1:] = (names[1:] != names[:-1]) & ~same_place
        words = begins.cumsum() - 1
        token_words = np.full(len(offsets), -1, dtype=np.int64)
        token_words[tokens] = words
        count = int(begins.sum())
        starts, ends = np.full(count, len(text)), np.zeros(count, dtype=np.int64)
        np.minimum.at(starts, words, offsets[tokens, 0])
        np.maximum.at(ends, words, offsets[tokens, 1])
        return cls(text, np.stack([starts, ends], axis=1), token_words)

    def merged(self, scores: np.ndarray, how: str) -> np.ndarray:
        """Scores of the words out of those of the tokens.

        Args:
            scores: (T,).
            how: "sum", or "max_abs" for the piece of largest size.

        Returns:
            float64 (n,).
        """
        tokens = (self.token_words >= 0).nonzero()[0]
        own, words = np.asarray(scores, dtype=np.float64)[tokens], self.token_words[tokens]
        if how == "sum":
            return np.bincount(words, own, len(self))
        largest, smallest = np.zeros(len(self)), np.zeros(len(self))
        np.maximum.at(largest, words, own)
        np.minimum.at(smallest, words, own)
        return np.where(largest >= -smallest, largest, smallest)


def _tidied(text: str, offsets: np.ndarray) -> np.ndarray:
    """Places of whole letters, without the space that byte-level tokenizers count to a token."""
    trimmed = offsets.copy()
    for index, (start, end) in enumerate(offsets.tolist()):
        while start < end and text[start].isspace():
            start += 1
        while start < end and text[end - 1].isspace():
            end -= 1
        # Marks on the last letter, such as vowel signs, which some tokenizers throw away.
        while start < end < len(text) and unicodedata.category(text[end]).startswith("M"):
            end += 1
        trimmed[index] = start, end
    return trimmed


def _is_punctuation(word: str) -> bool:
    return all(unicodedata.category(character) in _MARKS for character in word)
