"""From chosen words to sentences: phrases with their exact places, and templates by language."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from string import Formatter
from typing import Any

import yaml

from salhub.models.verbalizer.configuration_verbalizer import LANGUAGES, VerbalizerConfig
from salhub.models.verbalizer.selection import runs_of
from salhub.models.verbalizer.words import Words

_TEMPLATES = Path(__file__).parent / "templates"
PLACEHOLDER, OTHER_PLACEHOLDER = "{placeholder}", "{other}"
_SENTENCE = ("kind", "quotes", "share", "note", "prediction", "verdict")
_PLACEHOLDERS = {
    **dict.fromkeys(("first", "first_minor", "also_one", "also_many", "against"), _SENTENCE),
    **dict.fromkeys(("lacking", "lacking_against"), ("prediction", "verdict")),
}
# Parts of words in scripts that put spaces between them.
_WORD_PART, _LETTER = r"[^\W\u3040-\u9fff]", r"[^\W\d_\u3040-\u9fff]"
# A phrase below this share is not what a decision is "mainly" about.
_HALF = 0.495


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
        raise ValueError(
            f"templates cannot set '{unknown[0]}'; it can set {', '.join(sorted(known))}."
        )
    for name, sentence in config.templates.items():
        _check_placeholders(name, sentence, known[name])
    return {**known, **config.templates}


def _check_placeholders(name: str, sentence: Any, usual: Any) -> None:
    if isinstance(usual, list):
        if not isinstance(sentence, list) or not all(isinstance(one, str) for one in sentence):
            raise ValueError(f"The template '{name}' must be a list of texts, got {sentence!r}.")
        return
    if not isinstance(sentence, str):
        raise ValueError(f"The template '{name}' must be a text, got {sentence!r}.")
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
    """The names in braces.

    Raises:
        ValueError: A name with more than itself, such as the width of ">999999999", by which a
            text can be made as long as memory is.
    """
    names = []
    for _, name, width, conversion in Formatter().parse(sentence):
        if name is None:
            continue
        if width or conversion:
            raise ValueError(f"{{{name}}} must stand alone, without : or ! behind the name")
        names.append(name)
    return names


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
    return own | {name: [*own[name], *english[name]] for name in own if name.endswith("_cues")}


@dataclass(frozen=True)
class Names:
    """The classes that a text is about, as its sentences write them.

    Args:
        label: Name of the class, or None.
        other: Class that it is compared with, or None.
        is_masked: Whether placeholders stand for both.
        is_asked: Whether the class was asked for, and is not the classifier's own answer.
    """

    label: str | None = None
    other: str | None = None
    is_masked: bool = False
    is_asked: bool = False

    @property
    def shown(self) -> tuple[str | None, str | None]:
        """The class and the other one, or what stands for them."""
        if not self.is_masked:
            return self.label, self.other
        return self.label and PLACEHOLDER, self.other and OTHER_PLACEHOLDER

    def masked(self, text: str) -> str:
        """A text without the names of the classes, where they are masked."""
        if self.is_masked:
            for name, mask in ((self.label, PLACEHOLDER), (self.other, OTHER_PLACEHOLDER)):
                text = named(name).sub(mask, text) if name else text
        return text

    def prediction(self, templates: Mapping[str, Any]) -> str:
        """As in "the prediction positive"."""
        label, other = self.shown
        if label is None:
            return templates["for_prediction"]
        kind = "for_label" if other is None else "for_contrast"
        return _named(templates[kind], label, other or "")

    def verdict(self, templates: Mapping[str, Any]) -> str:
        """As in "Rated positive rather than negative"."""
        label, other = self.shown
        if label is None:
            return templates["verdict_unnamed"]
        is_rating = str(self.label).lower() in templates["ratings"]
        kind = f"verdict{'_rating' * is_rating}{'_asked' * self.is_asked}"
        verdict = _named(templates[kind], label)
        if other is None:
            return verdict
        return _named(templates["verdict_contrast"], label, other).replace("{verdict}", verdict)


def finds(cues: Sequence[str], text: str) -> bool:
    """Whether a text holds one of the words, or with a * the beginning or end of one."""
    return pattern_of(cues).search(text) is not None


def pattern_of(cues: Sequence[str]) -> re.Pattern[str]:
    """Finds whole words, or where a * says so all that begin or end so; … is a gap."""
    return _compiled(tuple(cues))


@lru_cache(maxsize=64)
def _compiled(cues: tuple[str, ...]) -> re.Pattern[str]:
    parts = []
    for cue in cues:
        word = re.escape(cue.strip("*")).replace("'", "['\u2019]")
        word = word.replace(re.escape(" … "), r"\b[^,;.()]{1,60}?\b")
        word += r"\w*" if cue.endswith("*") else ""
        is_part = cue.startswith("*") or cue == "n't"
        begin = r"(?<!\w)" if cue[0].isalpha() and cue[0] < "\u3000" and not is_part else ""
        end = r"(?!\w)" if cue[-1].isalpha() and cue[-1] < "\u3000" else ""
        parts.append(f"{begin}{word}{end}")
    return re.compile("|".join(parts), re.IGNORECASE)


def named(
    name: str, before: str = "", after: str = "", *, is_exact: bool = False
) -> re.Pattern[str]:
    """Finds a class, and patterns around it.

    It is found by its name with an ending of up to three letters, and where it is a rating, such as
    "positive", by other words for it in all languages; only by its name where `is_exact`.
    """
    words = [re.escape(name)]
    if not is_exact:
        words[0] += f"{_LETTER}{{0,3}}" if len(name) > 3 and name[-1].isalpha() else ""
        words += _rating_words(name)
    return re.compile(
        rf"{before}(?<!{_WORD_PART})(?:{'|'.join(words)})(?!{_WORD_PART}){after}", re.IGNORECASE
    )


@lru_cache(maxsize=64)
def _rating_words(name: str) -> list[str]:
    """Patterns of what a rating is called in all languages; none of what is no rating."""
    for kind in ("positive", "negative", "neutral", "mixed"):
        cues = [cue for one in LANGUAGES for cue in _language(one)[f"{kind}_cues"]]
        if pattern_of(cues).fullmatch(name):
            return [pattern_of(cues).pattern]
    return []


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
    text = " … ".join(_slices(words.text, spans))
    total = float(sum(scores[index] for index in group))
    return Phrase(text, tuple(group), spans, total, **fields)


def _slices(text: str, spans: Sequence[tuple[int, int]]) -> list[str]:
    """Slices of a text; what is repeated at once is there once."""
    slices = [text[start:end] for start, end in spans]
    before = ["", *(one.lower() for one in slices[:-1])]
    return [one for one, last in zip(slices, before, strict=True) if one.lower() != last]


def quoted(phrase: Phrase, text: str, templates: Mapping[str, Any], names: Names) -> str:
    """The slices of a phrase in quotation marks, with gaps between them."""
    begin, end = templates["quotes"]
    slices = map(names.masked, _slices(text, phrase.char_spans))
    return f"{begin}{templates['gap'].join(slices)}{end}"


def percent(share: float, templates: Mapping[str, Any]) -> str:
    """A share as whole percent."""
    return templates["unit"].format(number=round(100 * abs(share)))


def probability_words(probability: float, templates: Mapping[str, Any]) -> str:
    """A probability as whole percent, never 0 or 100 where it is neither."""
    number = min(max(round(100 * probability), 1), 99) if 0 < probability < 1 else 100 * probability
    sign = "<\u00a0" if 0 < probability < 0.01 else ">\u00a0" if 0.99 < probability < 1 else ""
    return templates["unit"].format(number=f"{sign}{number:.0f}")


def share_of(
    coverage: float, templates: Mapping[str, Any], *, is_shown: bool = True, is_short: bool = False
) -> str:
    """How much words carry, in parentheses: " (61 % of the evidence)", " (offsets 20 % of …)".

    Args:
        coverage: Share of the positive evidence, below 0 for words against.
        templates: Of the language.
        is_shown: Whether shares are printed.
        is_short: Leave out what they are shares of.
    """
    # Without evidence for the class there is nothing to be a share of.
    if not is_shown or coverage == 0:
        return ""
    if coverage < -1:
        # "2330 % of the evidence" tells nobody anything.
        content = templates["beyond"]
    elif coverage < 0:
        content = templates["offset"].format(percent=percent(coverage, templates))
    else:
        content = percent(coverage, templates)
        content = content if is_short else templates["of_evidence"].format(percent=content)
    return templates["aside"].format(content=content)


def listed(items: Sequence[str], templates: Mapping[str, Any]) -> str:
    """As in "a, b and c"."""
    *others, last = items
    return templates["comma"].join(others) + templates["and"] + last if others else last


@dataclass(frozen=True)
class Realizer:
    """Writes the sentences about one text.

    Args:
        words: Of the text.
        config: Language and `show_coverage`.
        names: Of the classes.
        has_words: Whether there are words of the wanted sign, though none may have been found.
    """

    words: Words
    config: VerbalizerConfig
    names: Names = field(default_factory=Names)
    has_words: bool = False

    @cached_property
    def _templates(self) -> Mapping[str, Any]:
        return templates_of(self.config)

    def write(self, phrases: Sequence[Phrase], *, is_empty: bool = False) -> str:
        """Write about phrases, the most important first, then those against.

        Args:
            phrases: As chosen.
            is_empty: Whether no word has any score.
        """
        if is_empty:
            return self._templates["nothing"]
        found = [phrase for phrase in phrases if phrase.sign == "+"]
        against = [phrase for phrase in phrases if phrase.sign == "-"]
        if not found and self.config.sign == "-" and against:
            # A search for words against the class says nothing of those for it.
            return self._sentence("against_verdict", against)
        sentences = self._for(found) if found else [self._lacking()]
        if against:
            sentences.append(self._sentence("against", against))
        return ("" if self.config.language == "zh" else " ").join(sentences)

    def _for(self, found: Sequence[Phrase]) -> list[str]:
        first, *others = found
        is_shown, templates = self.config.show_coverage, self._templates
        own = self.config.templates or {}
        is_main = first.coverage >= _HALF or "first" in own
        sentences = [self._sentence("first" if is_main else "first_minor", [first])]
        is_apart = is_shown and not {"also_one", "also_many"} & own.keys()
        small = [one for one in others if one.is_listed and is_apart]
        important = [one for one in others if one not in small]
        if important:
            sentences.append(self._sentence(_many("also", important), important))
        if small:
            amount = percent(sum(one.coverage for one in small), templates)
            sentences.append(self._sentence(_many("adds", small), small, percent=amount))
        if others and is_shown:
            covered = percent(sum(phrase.coverage for phrase in found), templates)
            sentences.append(templates["together"].format(percent=covered))
        return sentences

    def _lacking(self) -> str:
        if self.has_words:
            return self._templates["nothing"]
        name = "lacking_against" if self.config.sign == "-" else "lacking"
        return self._templates[name].format(**self._class())

    def _sentence(self, name: str, phrases: Sequence[Phrase], **fields: str) -> str:
        """A sentence about phrases; of several, each but those in `adds_many` has its share."""
        templates, is_one = self._templates, len(phrases) == 1
        is_short = not name.startswith("first")
        quotes = [quoted(one, self.words.text, templates, self.names) for one in phrases]
        shares = [
            share_of(one.coverage, templates, is_shown=self.config.show_coverage, is_short=is_short)
            for one in phrases
        ]
        if not is_one and "percent" not in fields:
            quotes = [quote + share for quote, share in zip(quotes, shares, strict=True)]
        return templates[name].format(
            kind=templates[_kind(phrases)],
            quotes=listed(quotes, templates),
            share=shares[0] if is_one else "",
            note=self._note(phrases),
            **self._class(),
            **fields,
        )

    def _class(self) -> dict[str, str]:
        templates = self._templates
        return {
            "prediction": self.names.prediction(templates),
            "verdict": self.names.verdict(templates),
        }

    def _note(self, phrases: Sequence[Phrase]) -> str:
        marks = self.words.is_punctuation
        has_marks = any(marks[index] for phrase in phrases for index in phrase.indices)
        return self._templates["punctuation"] if has_marks else ""


def _many(name: str, phrases: Sequence[Phrase]) -> str:
    return f"{name}_one" if len(phrases) == 1 else f"{name}_many"


def _kind(phrases: Sequence[Phrase]) -> str:
    """What phrases are called in templates of one's own."""
    is_word = all(len(one.indices) == 1 for one in phrases)
    if len(phrases) > 1:
        return "words" if is_word else "phrases"
    return "word" if is_word else "span" if "." in phrases[0].text[:-1] else "phrase"
