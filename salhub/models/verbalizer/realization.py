"""From chosen words to sentences: phrases with their exact places, and templates by language."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from salhub.models.verbalizer.configuration_verbalizer import VerbalizerConfig
from salhub.models.verbalizer.selection import runs_of
from salhub.models.verbalizer.words import Words

_TEMPLATES = Path(__file__).parent / "templates"
PLACEHOLDER = "{placeholder}"


@dataclass(frozen=True)
class Phrase:
    """Words that are named together.

    Args:
        text: Slices of the text; where words between them are not meant, they are joined by " … ".
        indices: The words.
        char_spans: Start and end of each slice in the text.
        score: Sum of the words' scores, in the units of the attribution.
        coverage: Share of the positive evidence; below 0 for a phrase that speaks against.
        sign: "+" or "-".
        rank: 1 for the most important; 0 for what speaks against.
        is_listed: A single word of the list that follows the phrases.
    """

    text: str
    indices: tuple[int, ...]
    char_spans: tuple[tuple[int, int], ...]
    score: float
    coverage: float
    sign: str = "+"
    rank: int = 1
    is_listed: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON."""
        return {
            "text": self.text,
            "indices": list(self.indices),
            "char_spans": [list(span) for span in self.char_spans],
            "score": self.score,
            "coverage": self.coverage,
            "sign": self.sign,
            "rank": self.rank,
        }


@lru_cache(maxsize=8)
def _language(name: str) -> Mapping[str, Any]:
    return yaml.safe_load((_TEMPLATES / f"{name}.yaml").read_text(encoding="utf-8"))


def templates_of(config: VerbalizerConfig) -> Mapping[str, Any]:
    """The sentences of a configuration: those of its language, where it has none of its own.

    Raises:
        ValueError: A sentence of its own has a name that nobody uses.
    """
    known = _language(config.language)
    if not config.templates:
        return known
    unknown = [name for name in config.templates if name not in known]
    if unknown:
        raise ValueError(f"templates has no '{unknown[0]}'; it may set {', '.join(sorted(known))}.")
    return {**known, **config.templates}


def make_phrase(words: Words, group: Sequence[int], scores: Any, **fields: Any) -> Phrase:
    """Cut the words of a group out of the text, neighbours in one slice.

    Args:
        words: Of the text.
        group: Ascending places.
        scores: Of all words, (n,).
        **fields: Of the phrase.
    """
    runs = runs_of(list(group)) if len(group) > 1 else [tuple(group)]
    spans = tuple((int(words.spans[run[0], 0]), int(words.spans[run[-1], 1])) for run in runs)
    text = " … ".join(words.text[start:end] for start, end in spans)
    total = float(sum(scores[index] for index in group))
    return Phrase(text, tuple(group), spans, total, **fields)


def quoted(phrase: Phrase, text: str, templates: Mapping[str, Any]) -> str:
    """The slices of a phrase in quotation marks."""
    begin, end = templates["quotes"]
    return templates["gap"].join(f"{begin}{text[a:b]}{end}" for a, b in phrase.char_spans)


def percent(share: float, templates: Mapping[str, Any]) -> str:
    """A share as whole percent."""
    return templates["unit"].format(number=round(100 * share))


@dataclass(frozen=True)
class Realizer:
    """Writes the sentences about one text.

    Args:
        words: Of the text.
        config: Language, `show_coverage` and `mask_label`.
        label: Name of the class, or None.
        other: Class that it is compared with, or None.
    """

    words: Words
    config: VerbalizerConfig
    label: str | None = None
    other: str | None = None

    def write(self, phrases: Sequence[Phrase], *, is_empty: bool = False) -> str:
        """Write about phrases, the most important first, then those against.

        Args:
            phrases: As chosen.
            is_empty: Whether no word has any score.
        """
        templates = templates_of(self.config)
        if is_empty:
            return templates["nothing"]
        found = [phrase for phrase in phrases if phrase.sign == "+"]
        if not found:
            opening = templates["lacking"].format(prediction=self._prediction(templates))
            # A search for words against the class says nothing of those for it.
            start = [] if self.config.sign == "-" and phrases else [opening]
            return self._joined([*start, *self._against(phrases, templates)])
        first, *others = found
        sentences = [
            self._one("first", first, templates, prediction=self._prediction(templates)),
            *self._others([one for one in others if not one.is_listed], "phrases", templates),
            *self._others([one for one in others if one.is_listed], "words", templates),
        ]
        if len(found) > 1 and self.config.show_coverage:
            covered = percent(sum(phrase.coverage for phrase in found), templates)
            sentences.append(templates["together"].format(percent=covered))
        return self._joined([*sentences, *self._against(phrases, templates)])

    def _others(self, phrases: list[Phrase], kind: str, templates: Mapping[str, Any]) -> list[str]:
        if not phrases:
            return []
        if len(phrases) == 1:
            return [self._one("also_one", phrases[0], templates)]
        is_list = kind == "words"
        share = self._share(sum(one.coverage for one in phrases), templates) if is_list else ""
        items = [
            quoted(one, self.words.text, templates)
            + ("" if is_list else self._share(one.coverage, templates))
            for one in phrases
        ]
        all_words = all(len(one.indices) == 1 for one in phrases)
        sentence = templates["also_many"].format(
            kind=templates["words" if all_words else "phrases"],
            quotes=templates["comma"].join(items[:-1]) + templates["and"] + items[-1],
            share=share,
            note=self._note(phrases, templates),
        )
        return [sentence]

    def _against(self, phrases: Sequence[Phrase], templates: Mapping[str, Any]) -> list[str]:
        return [self._one("against", one, templates) for one in phrases if one.sign == "-"]

    def _one(
        self, name: str, phrase: Phrase, templates: Mapping[str, Any], prediction: str = ""
    ) -> str:
        return templates[name].format(
            kind=templates[self._kind(phrase)],
            quotes=quoted(phrase, self.words.text, templates),
            share=self._share(phrase.coverage, templates),
            note=self._note([phrase], templates),
            prediction=prediction,
        )

    def _kind(self, phrase: Phrase) -> str:
        if len(phrase.indices) == 1:
            return "word"
        return "span" if "." in phrase.text[:-1] else "phrase"

    def _share(self, coverage: float, templates: Mapping[str, Any]) -> str:
        return f" ({percent(coverage, templates)})" if self.config.show_coverage else ""

    def _note(self, phrases: Sequence[Phrase], templates: Mapping[str, Any]) -> str:
        marks = self.words.is_punctuation
        has_marks = any(marks[index] for phrase in phrases for index in phrase.indices)
        return templates["punctuation"] if has_marks else ""

    def _prediction(self, templates: Mapping[str, Any]) -> str:
        if self.label is None:
            return templates["for_prediction"]
        label = PLACEHOLDER if self.config.mask_label else self.label
        if self.other is None:
            return templates["for_label"].replace("{label}", label)
        other = "{other}" if self.config.mask_label else self.other
        return templates["for_contrast"].replace("{label}", label).replace("{other}", other)

    def _joined(self, sentences: Sequence[str]) -> str:
        return ("" if self.config.language == "zh" else " ").join(sentences)
