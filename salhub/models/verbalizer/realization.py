"""From chosen words to sentences: phrases with their exact places, and templates by language."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from string import Formatter
from typing import Any

import yaml

from salhub.models.verbalizer.configuration_verbalizer import VerbalizerConfig
from salhub.models.verbalizer.selection import runs_of
from salhub.models.verbalizer.words import Words

_TEMPLATES = Path(__file__).parent / "templates"
PLACEHOLDER = "{placeholder}"
_SENTENCE = ("kind", "quotes", "share", "note")
_PLACEHOLDERS = {
    "first": (*_SENTENCE, "prediction"),
    "also_one": (*_SENTENCE, "prediction"),
    "also_many": _SENTENCE,
    "against": (*_SENTENCE, "prediction"),
}


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
    for name, sentence in config.templates.items():
        _check_placeholders(name, sentence, known[name])
    return {**known, **config.templates}


def _check_placeholders(name: str, sentence: Any, usual: Any) -> None:
    if not isinstance(sentence, str) or not isinstance(usual, str):
        return
    allowed = {*_placeholders(usual), *_PLACEHOLDERS.get(name, ())}
    try:
        unknown = [one for one in _placeholders(sentence) if one not in allowed]
    except ValueError as error:
        raise ValueError(f"The template '{name}' cannot be read: {error}.") from error
    if unknown:
        raise ValueError(
            f"The template '{name}' has no {{{unknown[0]}}}; it may use "
            f"{', '.join(sorted(f'{{{one}}}' for one in allowed)) or 'none'}."
        )


def _placeholders(sentence: str) -> list[str]:
    return [field for _, field, _, _ in Formatter().parse(sentence) if field is not None]


def cues_of(config: VerbalizerConfig) -> Mapping[str, Any]:
    """The templates, with English cues beside their own: chat models often answer in English."""
    if not config.templates:
        return _cues_of_language(config.language)
    return _with_english(templates_of(config))


@lru_cache(maxsize=8)
def _cues_of_language(name: str) -> Mapping[str, Any]:
    return _with_english(_language(name))


def _with_english(own: Mapping[str, Any]) -> Mapping[str, Any]:
    english = _language("en")
    cues = {name: [*own[name], *english[name]] for name in own if name.endswith("_cues")}
    return {**own, **cues, "beyond": list(dict.fromkeys([own["beyond"], english["beyond"]]))}


def label_texts(templates: Mapping[str, Any], labels: Sequence[str]) -> list[str]:
    """How templates name a prediction, the longest first."""
    masks = [PLACEHOLDER, "{other}"]
    names = [*labels, *masks]
    pairs = [(one, other) for one in names for other in names if one != other]
    texts = [_named(templates["for_label"], one) for one in names]
    texts += [_named(templates["for_contrast"], one, other) for one, other in pairs]
    return sorted(texts, key=lambda one: -len(one))


def fixed_sentences(templates: Mapping[str, Any], labels: Sequence[str]) -> list[tuple[str, str]]:
    """Templates that quote nothing, by name, about every prediction that may be meant."""
    predictions = [*label_texts(templates, labels), templates["for_prediction"]]
    found = [("nothing", templates["nothing"])]
    for name in ("lacking", "lacking_against"):
        found += [(name, templates[name].format(prediction=one)) for one in predictions]
    return found


def _named(sentence: str, label: str, other: str = "") -> str:
    return sentence.replace("{label}", label).replace("{other}", other)


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
        has_words: Whether there are words of the wanted sign, though none may have been found.
    """

    words: Words
    config: VerbalizerConfig
    label: str | None = None
    other: str | None = None
    has_words: bool = False

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
            # A search for words against the class says nothing of those for it.
            start = [] if self.config.sign == "-" and phrases else [self._lacking(templates)]
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

    def _lacking(self, templates: Mapping[str, Any]) -> str:
        if self.has_words:
            return templates["nothing"]
        name = "lacking_against" if self.config.sign == "-" else "lacking"
        return templates[name].format(prediction=self._prediction(templates))

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
            prediction=prediction or self._prediction(templates),
        )

    def _kind(self, phrase: Phrase) -> str:
        if len(phrase.indices) == 1:
            return "word"
        return "span" if "." in phrase.text[:-1] else "phrase"

    def _share(self, coverage: float, templates: Mapping[str, Any]) -> str:
        # Without evidence for the class there is nothing to be a share of.
        if not self.config.show_coverage or coverage == 0:
            return ""
        # "2330 % of the evidence" tells nobody anything.
        return f" ({templates['beyond'] if coverage < -1 else percent(coverage, templates)})"

    def _note(self, phrases: Sequence[Phrase], templates: Mapping[str, Any]) -> str:
        marks = self.words.is_punctuation
        has_marks = any(marks[index] for phrase in phrases for index in phrase.indices)
        return templates["punctuation"] if has_marks else ""

    def _prediction(self, templates: Mapping[str, Any]) -> str:
        if self.label is None:
            return templates["for_prediction"]
        label = PLACEHOLDER if self.config.mask_label else self.label
        if self.other is None:
            return _named(templates["for_label"], label)
        other = "{other}" if self.config.mask_label else self.other
        return _named(templates["for_contrast"], label, other)

    def _joined(self, sentences: Sequence[str]) -> str:
        return ("" if self.config.language == "zh" else " ").join(sentences)
