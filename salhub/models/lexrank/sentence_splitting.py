"""From a text to its sentences, each with its place in the text."""

import functools
import logging
import re
from dataclasses import dataclass

from salhub.errors import MissingExtraError, require_extra

logger = logging.getLogger(__name__)

# An end of a sentence, with closing quotes and brackets; an empty line ends one too.
_END = re.compile(r"[.!?…]+[\"'”’»)\]]*(?=\s|$)|[。！？｡]+[”’」』）]*|[।॥؟۔]+(?=\s|$)|\n\s*\n")  # noqa: RUF001 - other scripts have ends of their own


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
            spans.append(span)
        start = max(start, end)
    return spans


def _sentencex_ends(text: str, language: str) -> list[int]:
    try:
        sentencex = require_extra("sentencex", "text")
    except MissingExtraError as error:
        _warn_once(f"Sentences end at every full stop, abbreviations included. {error}")
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
