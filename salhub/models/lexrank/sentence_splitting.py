"""From a text to its sentences, each with its place in the text."""

import functools
import logging
import re
from dataclasses import dataclass

from salhub.errors import MissingExtraError, require_extra

logger = logging.getLogger(__name__)

# An end of a sentence, with closing quotes and brackets; an empty line ends one too.
_END = re.compile(r"[.!?…]+[\"'”’»)\]]*(?=\s|$)|[。！？｡]+[”’」』）]*|[।॥؟۔]+(?=\s|$)|\n\s*\n")  # noqa: RUF001 - other scripts have ends of their own
_WORD, _CLAUSE_ENDS = re.compile(r"\S+"), ",;:—–"  # noqa: RUF001
_MOST_WORDS = 200


@dataclass(frozen=True)
class Span:
    """A part of a text.

    Args:
        start: Place of its first character.
        end: Place after its last one.
    """

    start: int
    end: int

    def of(self, text: str) -> str:
        """The part itself."""
        return text[self.start : self.end]


def split_sentences(text: str, language: str = "en", splitter: str = "sentencex") -> list[Span]:
    """Find the sentences of a text.

    Args:
        text: Any text.
        language: Code of its language, such as "en"; "sentencex" knows about 300.
        splitter: "sentencex", which knows abbreviations and comes with the extra `text`; or
            "punctuation", which ends a sentence at every full stop, and takes the place of
            sentencex, with a warning, where that is not installed.

    What goes on for more than 200 words without an end, such as a transcript, is divided at the
    ends of lines and clauses, or between words.

    Returns:
        Their places, without surrounding white space; no sentence is empty.

    Example:
        >>> text = "Dr. Fenner walked. She was glad!"
        >>> [span.of(text) for span in split_sentences(text)]
        ['Dr. Fenner walked.', 'She was glad!']
    """
    ends = _sentencex_ends(text, language) if splitter == "sentencex" else _punctuation_ends(text)
    spans, start = [], 0
    for end in [*ends, len(text)]:
        span = _stripped(text, start, end)
        if span.start < span.end:
            spans += _divided(text, span)
        start = max(start, end)
    return spans


def _divided(text: str, span: Span) -> list[Span]:
    """A sentence as it is, or in parts of at most 200 words."""
    parts, start = [], span.start
    words = list(_WORD.finditer(text, span.start, span.end))
    while len(words) > _MOST_WORDS:
        # The later half, so that the parts are not much shorter than they may be.
        later = range(_MOST_WORDS // 2, _MOST_WORDS)
        breaks = [one for one in later if "\n" in text[words[one].end() : words[one + 1].start()]]
        clauses = [one for one in later if text[words[one].end() - 1] in _CLAUSE_ENDS]
        last = (breaks or clauses or later)[-1]
        parts.append(Span(start, words[last].end()))
        words = words[last + 1 :]
        start = words[0].start()
    return [*parts, Span(start, span.end)]


def _sentencex_ends(text: str, language: str) -> list[int]:
    try:
        sentencex = require_extra("sentencex", "text")
    except MissingExtraError as error:
        _warn_once(f"Sentences are split at every full stop, even after abbreviations. {error}")
        return _punctuation_ends(text)
    return [found["end_index"] for found in sentencex.get_sentence_boundaries(language, text)]


@functools.cache
def _warn_once(message: str) -> None:
    logger.warning(message)


def _punctuation_ends(text: str) -> list[int]:
    return [match.end() for match in _END.finditer(text)]


def _stripped(text: str, start: int, end: int) -> Span:
    part = text[start:end]
    left = len(part) - len(part.lstrip())
    return Span(start + left, start + max(left, len(part.rstrip())))
