"""Words of a text out of the tokens of any tokenizer, each with its exact place in the text."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import yaml

# Punctuation, and signs such as "<" and "$"; not emoji.
_MARKS = frozenset({"Pc", "Pd", "Pe", "Pf", "Pi", "Po", "Ps", "Sc", "Sk", "Sm"})
# Part of the positive evidence that a function word must carry to be named alone; ours.
FUNCTION_WORD_GAIN = 0.02
_APOSTROPHES = "'\u2019"
_ENDING = re.compile("'(?:s|re|ve|ll|d|m|t)")
# Endings that tokenizers, and texts that are tokenised already, cut off, as in "is n't".
_CUT_OFF = re.compile(
    "(?<=[^\\W\\d_]) ?(?:n['\u2019]t|['\u2019](?:s|re|ve|ll|d|m))(?![\\w'\u2019])", re.IGNORECASE
)
# The same of whole words: "they're" says as little alone as "they"; "isn't" says more than "is".
_SHORT_VERB = re.compile("(.+?) ?'(?:s|re|ve|ll|d|m)")
# Han, kana, Thai, Lao, Tibetan, Burmese and Khmer, which put no spaces between words.
_WITHOUT_SPACES = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


@dataclass(frozen=True)
class Words:
    """The words of a text.

    Args:
        text: The text.
        spans: Start and end of each word in it, int64 (n, 2).
        token_words: Word of each token, -1 for tokens of no word, int64 (T,); None where the words
            were given.
        second: First word of the second of two texts, which no phrase reaches over; 0 for one text.

    Example:
        >>> Words.of_tokens(["a", "good", "film"])[1:3]
        'good film'
    """

    text: str
    spans: np.ndarray
    token_words: np.ndarray | None = None
    second: int = 0

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

    @cached_property
    def is_function_word(self) -> np.ndarray:
        """Which words hold others together and say little alone, such as "of", bool (n,)."""
        lowered = [word.lower().replace("\u2019", "'") for word in self.strings]
        lowered = [_SHORT_VERB.sub(r"\1", word) for word in lowered]
        # The language of the text is the one whose list knows most of its words.
        known = max(function_word_lists(), key=lambda own: sum(word in own for word in lowered))
        return np.array([word in known for word in lowered], dtype=bool)

    @cached_property
    def is_edge(self) -> np.ndarray:
        """Words that no phrase begins or ends with: function words and punctuation, bool (n,)."""
        return self.is_function_word | self.is_punctuation

    def are_weak(self, scores: np.ndarray) -> np.ndarray:
        """Words that are not named alone, bool (n,): function words of little weight, and marks.

        Args:
            scores: Of the words, above 0 for what they are named for, (n,).
        """
        least = FUNCTION_WORD_GAIN * np.maximum(scores, 0).sum()
        is_piece = np.array([_is_piece(word) for word in self.strings], dtype=bool)
        return self.is_punctuation | is_piece | (self.is_function_word & (scores < least))

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

        A word begins at white space, at punctuation, at each character of a script without spaces,
        and where the tokenizer lets one begin, but never at or after a combining mark, nor at an
        ending that was cut off, as in "is n't"; a token that reaches over such a place joins what
        it covers.

        Args:
            text: The text.
            offsets: Start and end of each token in it, int64 (T, 2).
            word_ids: Word that the tokenizer counts each token to; None makes every token a word.
            is_special: Which tokens are special or padding, bool (T,).
        """
        offsets = _tidied(text, np.asarray(offsets, dtype=np.int64).reshape(-1, 2))
        belongs = ~np.asarray(is_special, dtype=bool) & (offsets[:, 1] > offsets[:, 0])
        tokens = belongs.nonzero()[0]
        if word_ids is None:
            names = tokens
        else:
            given = [-1 if word_ids[token] is None else word_ids[token] for token in tokens]
            names = _words_of_places(text, offsets[tokens], given)
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


@lru_cache(maxsize=1)
def function_word_lists() -> list[frozenset[str]]:
    """Words that hold others together, a set for each language that there is a list of."""
    path = Path(__file__).with_name("function_words.yaml")
    lists = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [frozenset(words.split()) for words in lists.values()]


def _words_of_places(text: str, places: np.ndarray, given: Sequence[int]) -> np.ndarray:
    """Number of the word of each token, int64 (T,), from the text and the tokenizer's words."""
    begins = np.array([_begins_word(text, place) for place in range(len(text))], dtype=bool)
    for token in range(1, len(places)):
        start = int(places[token, 0])
        if given[token] != given[token - 1] and _may_begin(text, start):
            begins[start] = True
    for ending in _CUT_OFF.finditer(text):
        begins[ending.start() : ending.end()] = False
    for start, end in places.tolist():
        begins[start + 1 : end] = False
    return begins.cumsum()[places[:, 0]] if len(places) else np.zeros(0, dtype=np.int64)


def _begins_word(text: str, place: int) -> bool:
    if place == 0:
        return True
    before, here = text[place - 1], text[place]
    if _is_combining(here):
        return False
    if before.isspace() or here.isspace():
        return True
    if _is_mark(here):
        return here != before and not _is_inside(text, place)
    if _is_mark(before):
        return not _is_inside(text, place - 1)
    return bool(_WITHOUT_SPACES.match(here) or _WITHOUT_SPACES.match(before))


def _is_inside(text: str, place: int) -> bool:
    """Whether a mark belongs to the word around it: "isn't", "3.5", "snake_case"."""
    around = text[place - 1 : place] + text[place + 1 : place + 2]
    if len(around) < 2:
        return False
    if text[place] in _APOSTROPHES:
        return around.isalpha()
    return text[place] == "_" or (text[place] in ".," and around.isdigit())


def _may_begin(text: str, place: int) -> bool:
    """Whether a tokenizer may let a word begin here: not inside a number or beside a mark."""
    before = text[max(0, place - 1) : place]
    if before.isdigit() and text[place].isdigit():
        return False
    return not (_is_combining(text[place]) or (before and _is_combining(before)))


@lru_cache(maxsize=4096)
def _is_combining(character: str) -> bool:
    return unicodedata.category(character).startswith("M")


@lru_cache(maxsize=4096)
def _is_mark(character: str) -> bool:
    return unicodedata.category(character) in _MARKS


def _tidied(text: str, offsets: np.ndarray) -> np.ndarray:
    """Places of whole letters, without the space that byte-level tokenizers count to a token."""
    trimmed = offsets.copy()
    for index, (start, end) in enumerate(offsets.tolist()):
        while start < end and text[start].isspace():
            start += 1
        while start < end and text[end - 1].isspace():
            end -= 1
        # Marks on the last letter, such as vowel signs, which some tokenizers throw away.
        while start < end < len(text) and _is_combining(text[end]):
            end += 1
        trimmed[index] = start, end
    return trimmed


def _is_piece(word: str) -> bool:
    """Whether a word is the cut off end of one, such as "'s" and "n't"."""
    plain = word.lower().replace("\u2019", "'")
    return plain == "n't" or bool(_ENDING.fullmatch(plain))


def is_without_spaces(word: str) -> bool:
    """Whether a word begins in a script that puts no spaces between words."""
    return _WITHOUT_SPACES.match(word) is not None


def _is_punctuation(word: str) -> bool:
    return all(_is_mark(character) for character in word)
