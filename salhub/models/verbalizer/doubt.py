"""Whether a text is one that a classifier can know, told from its words and the vocabulary.

A classifier gives every text a class, one in another language or of no words too. What is looked at
is the share of words that the vocabulary knows as wholes, function words, and what prose has little
of; limits are ours, so that of ordinary texts hardly one is doubted.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from salhub.models.verbalizer.words import Words, function_word_lists, is_without_spaces

# Where vocabularies mark the tokens that begin a word, and those that go on with one.
_BEGINNINGS, _GOING_ON = ("\u2581", "\u0120"), "##"
# Whole words of a vocabulary that does not only know letters or bytes.
_FEWEST_WORDS = 1000
# Share of a language's function words that a vocabulary has if it was made for that language, and
# how much later than those of its first language they may come.
_KNOWN_SHARE, _KNOWN_DELAY = 0.75, 2.0
# Pieces beyond the first that count of a word, and what stands for one that is not known at all.
_MOST_PIECES, _UNKNOWN_PIECES = 4, 3
_HALF, _THIRD = 0.5, 0.3
# Parts of programs and of other notation among all words.
_MOST_CODE, _FEWEST_LETTERS = 0.1, 0.4
# Prose of so many words has a function word.
_LONG_ENOUGH = 7
_ADDRESS = re.compile(r"\S*(?:://|\bwww\.|@\w[\w-]*\.)\S*|\b[\w-]+(?:\.[\w-]+)*\.[a-z]{2,}/\S*")
_CODE = re.compile(
    r"[{}\[\]<>=_\\|^~`*+]+|\w\(|\b[A-Za-z_]+\.[a-z_]{2,}\b(?=[(\[)])|::|->|(?<=\s)--?\w|[;:{}]\s*$|&&",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Vocabulary:
    """What a tokenizer's vocabulary tells of the texts that it was made for.

    Args:
        has_words: Whether it knows whole words, and not only letters or bytes.
        own: Function words of the languages that it was made for.
        foreign: Those of others, a set each.
        is_of_one_language: Whether words in pieces are strange to it; a vocabulary of many
            languages cuts the words of all of them.
    """

    has_words: bool
    own: frozenset[str]
    foreign: tuple[frozenset[str], ...]
    is_of_one_language: bool


@lru_cache(maxsize=8)
def vocabulary_of(tokenizer: Any) -> Vocabulary:
    """Look through the vocabulary of a tokenizer, whose frequent words come first."""
    if not getattr(tokenizer, "is_fast", False):
        return Vocabulary(False, frozenset(), (), False)
    places: dict[str, int] = {}
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda one: one[1])
    is_marked = sum(token.startswith(_BEGINNINGS) for token, _ in vocabulary) > len(vocabulary) / 10
    for token, place in vocabulary:
        if is_marked and not token.startswith(_BEGINNINGS):
            continue
        word = token[1:].lower() if is_marked else token.lower()
        if not word.startswith(_GOING_ON):
            places.setdefault(word, place)
    has_words = sum(len(word) > 1 and word.isalpha() for word in places) >= _FEWEST_WORDS
    lists = function_word_lists()
    found = [[places[word] for word in one if word in places] for one in lists]
    middles = [float(np.median(own)) if own else np.inf for own in found]
    first = min(range(len(lists)), key=lambda one: middles[one] / max(len(found[one]), 1))
    known = [
        place
        for place, own in enumerate(found)
        if len(own) >= _KNOWN_SHARE * len(lists[place])
        and middles[place] <= _KNOWN_DELAY * max(middles[first], 1)
    ]
    foreign = [own for place, own in enumerate(lists) if place not in known]
    return Vocabulary(
        has_words,
        frozenset().union(*(lists[place] for place in known)),
        tuple(foreign) if has_words and known else (),
        has_words and len(known) < 2,
    )


def doubt_about(
    words: Words, tokenizer: Any, is_unknown: np.ndarray, num_pieces: np.ndarray
) -> str | None:
    """Say why a text is none that its classifier can know.

    Args:
        words: Of the text.
        tokenizer: Of the classifier.
        is_unknown: Words that the vocabulary does not know at all, bool (n,).
        num_pieces: Tokens of each word, int64 (n,).

    Returns:
        "few", too few words; "unknown", most are not in the vocabulary; "foreign", another
        language; "odd", no prose, such as code; or None.
    """
    vocabulary = vocabulary_of(tokenizer)
    lowered = [word.lower().replace("\u2019", "'") for word in words.strings]
    addresses = [match.span() for match in _ADDRESS.finditer(words.text)]
    is_counted = np.array([any(map(str.isalpha, word)) for word in lowered]) & ~np.array(
        [_is_within(span, addresses) for span in words.spans.tolist()], dtype=bool
    )
    counted = [word for word, one in zip(lowered, is_counted, strict=True) if one]
    if len({word for word in counted if len(word) > 1 or is_without_spaces(word)}) < 2:
        return "few"
    # Endings such as "n't" are tokens of their own, and no sign of anything.
    has_ending = np.array(["'" in word for word in lowered])
    pieces = np.clip(num_pieces - 1 - has_ending, 0, _MOST_PIECES)
    pieces = np.where(is_unknown, _UNKNOWN_PIECES, pieces * vocabulary.is_of_one_language)
    own, count = pieces[is_counted], len(counted)
    num_unknown = int((own > 0).sum())
    if num_unknown > _HALF * count or own.sum() > max(count, 4):
        return "unknown"
    if not vocabulary.own:
        return None
    familiar = sum(word in vocabulary.own for word in counted)
    other_words = frozenset().union(*vocabulary.foreign)
    other = max((sum(word in one for word in counted) for one in vocabulary.foreign), default=0)
    if other > familiar and (other > 1 or num_unknown):
        return "foreign"
    # "me" and "a" are function words of several languages.
    is_clear = any(word in vocabulary.own and word not in other_words for word in counted)
    if not is_clear and num_unknown >= _THIRD * count:
        return "unknown"
    if not familiar and count >= _LONG_ENOUGH:
        return "odd"
    code = len(_CODE.findall(words.text))
    is_code = code > 1 and code > _MOST_CODE * len(words)
    return "odd" if is_code or count < _FEWEST_LETTERS * len(words) else None


def _is_within(span: list[int], places: list[tuple[int, int]]) -> bool:
    return any(start <= span[0] and span[1] <= end for start, end in places)
