"""What a text claims about the words of another: quotations, numbers, signs and ranks."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from salhub.models.verbalizer.realization import Phrase

# Pairs of quotation marks that people and chat models use.
_MARKS = (("» ", " «"), ("“", "”"), ("„", "“"), ("«", "»"), ("「", "」"), ('"', '"'), ("`", "`"))
_SINGLE = re.compile(r"(?<!\w)'([^'\n]{1,80}?)'(?!\w)")
_SENTENCE_END = re.compile("[.!?](?=\\s|$)|[\u3002\uff01\uff1f]|\n+")
_NUMBER = re.compile(
    r"(?<![\w.,])([-+\u2212]?\d+(?:[.,]\d+)?)\s*"
    r"(%|percent\b|Prozent\b|pour cent\b|por ciento\b)?(?![\w])"
)
# Stands for a quotation while sentences are looked for, so that its full stops do not count.
_HIDDEN = "\ue000"


@dataclass(frozen=True)
class Quotation:
    """Words in quotation marks.

    Args:
        text: Between the marks.
        start: Where the marks begin.
        end: Where they end.
        span: The slice of the explained text that is meant, where that is known.
    """

    text: str
    start: int
    end: int
    span: tuple[int, int] | None = None


@dataclass(frozen=True)
class Number:
    """A printed number.

    Args:
        value: Its value; of a percentage, the hundredth part.
        is_percentage: Whether it was one.
    """

    value: float
    is_percentage: bool


@dataclass(frozen=True)
class Sentence:
    """A sentence and what it claims.

    Args:
        text: The sentence.
        mentions: Quotations, those joined by a gap together.
        numbers: Printed numbers.
        sign: "+", or "-" where it says that the words speak against.
        is_superlative: Whether it says that something is the most important.
    """

    text: str
    mentions: list[list[Quotation]]
    numbers: list[Number]
    sign: str
    is_superlative: bool


def read_claims(
    text: str,
    templates: Mapping[str, Any],
    phrases: Sequence[Phrase] = (),
    source: str = "",
    labels: Sequence[str] = (),
) -> list[Sentence]:
    """Read the claims of a text.

    Args:
        text: The explanation.
        templates: Its language's, for the words that say against and most.
        phrases: Phrases whose quotations are known; they are found by their own words first, so
            that quotation marks in them do no harm.
        source: The explained text.
        labels: Names of classes, which are no quotations.
    """
    quotations = _quotations(text, templates, phrases, source, labels)
    hidden = list(text)
    for one in quotations:
        hidden[one.start : one.end] = _HIDDEN * (one.end - one.start)
    masked = "".join(hidden)
    for label in labels:
        masked = masked.replace(label, _HIDDEN * len(label))
    sentences, begin = [], 0
    for end in [*(match.end() for match in _SENTENCE_END.finditer(masked)), len(text)]:
        if masked[begin:end].strip():
            own = [one for one in quotations if begin <= one.start < end]
            sentences.append(_sentence(text[begin:end].strip(), masked, begin, end, own, templates))
        begin = end
    return sentences


def _sentence(
    text: str,
    masked: str,
    begin: int,
    end: int,
    quotations: list[Quotation],
    templates: Mapping[str, Any],
) -> Sentence:
    plain = masked[begin:end]
    lowered = plain.lower()
    mentions: list[list[Quotation]] = []
    for one in quotations:
        is_joined = mentions and masked[mentions[-1][-1].end : one.start] == templates["gap"]
        if is_joined:
            mentions[-1].append(one)
        else:
            mentions.append([one])
    return Sentence(
        text,
        mentions,
        [_number(match) for match in _NUMBER.finditer(plain) if _is_claim(match)],
        "-" if any(cue in lowered for cue in templates["against_cues"]) else "+",
        any(cue in lowered for cue in templates["first_cues"]),
    )


def _is_claim(match: re.Match[str]) -> bool:
    # Whole numbers without a unit count things, or the lines of a list.
    return match[2] is not None or "." in match[1] or "," in match[1]


def _number(match: re.Match[str]) -> Number:
    value = float(match[1].replace(",", ".").replace("\u2212", "-"))
    return Number(value / 100 if match[2] else value, match[2] is not None)


def _quotations(
    text: str,
    templates: Mapping[str, Any],
    phrases: Sequence[Phrase],
    source: str,
    labels: Sequence[str],
) -> list[Quotation]:
    found = _known(text, templates, phrases, source)
    names = {label.lower() for label in labels} | {"{placeholder}", "{other}"}
    for start, end, content in _marked(text):
        is_free = all(end <= one.start or start >= one.end for one in found)
        cleaned = content.strip(" .,;:!?…")
        if is_free and cleaned and cleaned.lower() not in names:
            found.append(Quotation(cleaned, start, end))
    return sorted(found, key=lambda one: one.start)


def _known(
    text: str, templates: Mapping[str, Any], phrases: Sequence[Phrase], source: str
) -> list[Quotation]:
    begin, end = templates["quotes"]
    found, position = [], 0
    for phrase in phrases:
        for span in phrase.char_spans:
            slice_ = source[span[0] : span[1]]
            start = text.find(f"{begin}{slice_}{end}", position)
            if start < 0:
                continue
            position = start + len(begin) + len(slice_) + len(end)
            found.append(Quotation(slice_, start, position, span))
    return found


def _marked(text: str) -> list[tuple[int, int, str]]:
    found = []
    for begin, end in _MARKS:
        pattern = f"{re.escape(begin)}([^\n]{{1,200}}?){re.escape(end)}"
        found += [(match.start(), match.end(), match[1]) for match in re.finditer(pattern, text)]
    found += [(match.start(), match.end(), match[1]) for match in _SINGLE.finditer(text)]
    kept: list[tuple[int, int, str]] = []
    for one in sorted(found, key=lambda each: (each[0], -each[1])):
        if not kept or one[0] >= kept[-1][1]:
            kept.append(one)
    return kept
