"""Numbered slots: a chat model writes "[1] carries the verdict", and the words are put in for it.

Quotation, share and direction come from the map; what the prose around them can still get wrong is
a short list, and every item of it is looked for.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from salhub.models.verbalizer.audit import Evidence, check, report, sentences_of
from salhub.models.verbalizer.realization import (
    Phrase,
    cues_of,
    finds,
    listed,
    make_phrase,
    named,
    pattern_of,
    quoted,
    share_of,
)

_SLOT = re.compile(r"\[\s*(\d{1,3})\s*\]")
_SLOTS = re.compile(r"\[\s*\d{1,3}(?:[ \t]*(?:[,;]|\][ \t]*\[)[ \t]*\d{1,3})+\s*\]")
_LINE_NUMBER = re.compile(r"^\s*(?:\d{1,2}[.)]|[-*\u2022])\s+", re.MULTILINE)
# An apostrophe, straight or typographic, is no quotation mark.
_QUOTATION = re.compile(
    '["\u201c\u201d\u201e\u00ab\u00bb\u2039\u203a\u300c\u300d\u300e\u300f\u300a\u300b\u3008\u3009'
    "\uff02`\u201a\u2018]|(?<!\\w)'[^'\n]{1,80}'(?!\\w)"
    # Emphasis of Markdown quotes too.
    "|\\*\\w[^*\n]{0,80}\\*|(?<!\\w)_[^_\n]{1,80}_(?!\\w)"
)
_DIGITS = re.compile(r"\d+")
_BEFORE_NAME, _AFTER_NAME = (
    r"[\"'\u2018\u201c\u201a\u201e\u00ab\u00bb\u300c\u00a0*_]*",
    r"[\"'\u2019\u201d\u2018\u201c\u00ab\u00bb\u300d\u00a0*_]*",
)
# Longer lists would fill the window of a small model.
MOST_WORDS = 60
# What would be printed as 0 %, or has no direction at all, is no word to explain with.
LEAST_SHARE = 0.005


@dataclass(frozen=True)
class Slot:
    """What a number stands for.

    Args:
        number: From 1 on.
        phrases: One phrase, or the single words that are listed together.
        share: Of the positive evidence, below 0 for what speaks against.
    """

    number: int
    phrases: tuple[Phrase, ...]
    share: float

    @property
    def sign(self) -> str:
        """Which side it is on: "+", or "-" for what speaks against the class."""
        return self.phrases[0].sign


def slots_of(phrases: Sequence[Phrase]) -> list[Slot]:
    """A slot for each phrase, the strongest first, and one for all single words of the list."""
    first, others = tuple(phrases[:1]), phrases[1:]
    groups = [first, *((one,) for one in others if one.sign == "+" and not one.is_listed)]
    groups.append(tuple(one for one in others if one.sign == "+" and one.is_listed))
    groups += [(one,) for one in others if one.sign == "-"]
    groups = [group for group in groups if group]
    return [
        Slot(number, group, sum(one.coverage for one in group))
        for number, group in enumerate(groups, 1)
    ]


def word_slots(evidence: Evidence) -> list[Slot]:
    """A slot for each of the first words of a text that weighs half a percent or more."""
    found: list[Slot] = []
    for place in range(len(evidence.words)):
        if len(found) == MOST_WORDS or abs(evidence.share([place])) < LEAST_SHARE:
            continue
        share, sign = evidence.share([place]), "+" if evidence.scores[place] >= 0 else "-"
        phrase = make_phrase(
            evidence.words, [place], evidence.scores, coverage=share, sign=sign, rank=0
        )
        found.append(Slot(len(found) + 1, (phrase,), share))
    return found


def filled(prose: str, slots: Sequence[Slot], evidence: Evidence) -> tuple[str, list[Phrase]]:
    """Put quotations, shares and directions in their slots.

    Returns:
        The text, and what it quotes, in order. Slots that there are not stay as they are.
    """
    templates, known = cues_of(evidence.config), {one.number: one for one in slots}
    seen: list[Phrase] = []

    def words(match: re.Match[str]) -> str:
        slot = known.get(int(match[1]))
        if slot is None:
            return match[0]
        is_again, is_short = slot.phrases[0] in seen, any(one.sign == "+" for one in seen)
        seen.extend(slot.phrases)
        quotes = [
            quoted(one, evidence.words.text, templates, evidence.names) for one in slot.phrases
        ]
        is_shown = evidence.config.show_coverage and not is_again
        aside = share_of(slot.share, templates, is_shown=is_shown, is_short=is_short)
        if slot.sign == "-" and not aside:
            aside = templates["aside"].format(content=templates["opposed"])
        return listed(quotes, templates) + aside

    return _SLOT.sub(words, prose), seen


def faults(
    prose: str, slots: Sequence[Slot], evidence: Evidence, class_names: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """What is wrong with prose around slots, whatever they hold: kinds and sentences.

    Args:
        prose: As the chat model wrote it.
        slots: That it was told.
        evidence: The map.
        class_names: All classes; to name another one than is explained is a fault.
    """
    templates, names = cues_of(evidence.config), evidence.names
    known, used = {one.number for one in slots}, _SLOT.findall(prose)
    found = [("citation", f"there is no slot [{one}]") for one in used if int(one) not in known]
    plain = _LINE_NUMBER.sub("", _SLOT.sub(" ", prose))
    own = [name for name in (names.label, names.other) if name]
    if names.is_masked and any(named(name).search(plain) for name in own):
        found.append(("", "it names the class, which is masked"))
    label, rival = names.shown
    if rival:
        # "rather than negative" is the only thing to say of the class that it is compared with.
        cues: list[str] = templates["rival_cues"]
        units = "|".join(re.escape(one) for one in sorted(cues, key=len, reverse=True))
        before = rf"(?:{units})\s*(?:(?:an?|the)\s+)?{_BEFORE_NAME}"
        plain = named(rival, before, _AFTER_NAME).sub(" ", plain)
    others = {*class_names, *filter(None, [rival])} - {label, names.label}
    told = sorted({*others, *filter(None, [label])}, key=len, reverse=True)
    for is_exact in (True, False):
        for name in told:
            pattern = named(name, _BEFORE_NAME, _AFTER_NAME, is_exact=is_exact)
            # "negatively" says the direction.
            read = plain if is_exact else pattern_of(templates["against_cues"]).sub(" ", plain)
            if name in others and pattern.search(read):
                found.append(("", f"it names the class '{name}', which is not explained"))
            plain = pattern.sub(" ", plain) if is_exact or name not in others else plain
    if _QUOTATION.search(plain):
        found.append(("citation", "it adds quotation marks"))
    plain = pattern_of(templates["harmless_cues"]).sub(" ", plain)
    if _DIGITS.search(plain) or finds(templates["amount_cues"], plain):
        found.append(("number", "it adds numbers"))
    if "[" in plain or "{" in plain:
        found.append(("citation", "it has a slot without a number"))
    if finds(templates["comparison_cues"], plain):
        found.append(("", "a comparison cannot be checked"))
    if finds(templates["doubt_cues"], pattern_of(templates["against_cues"]).sub(" ", plain)):
        found.append(("", "a denial or a doubt cannot be checked"))
    return found


def _tidied(prose: str, templates: Mapping[str, Any]) -> str:
    """Slots as they are asked for: "(1)", "[1, 2]", "[1][2]" and "slot [1]" are meant so too."""
    if not re.search(r"\[\s*\d", prose):
        prose = re.sub(r"\((\d{1,2})\)", r"[\1]", prose)
    prose = re.sub(r"\b(?:the\s+)?(?:slot|number)s?\s+(?=\[\s*\d)", "", prose, flags=re.IGNORECASE)
    return _SLOTS.sub(
        lambda match: listed([f"[{one}]" for one in _DIGITS.findall(match[0])], templates), prose
    )


def audited(
    prose: str, slots: Sequence[Slot], evidence: Evidence, class_names: Sequence[str] = ()
) -> tuple[str, dict[str, Any]]:
    """The filled text, and its audit together with the faults of the prose."""
    prose = _tidied(prose, cues_of(evidence.config))
    text, phrases = filled(prose, slots, evidence)
    findings, own = (
        check(text, evidence, phrases, is_prose=True),
        faults(prose, slots, evidence, class_names),
    )
    if not any(one.sign == evidence.config.sign.replace("any", "+") for one in slots):
        own.append(("", "no word speaks for the class, so there is nothing to explain in prose"))
    else:
        # The first phrase is the most important one; words that nobody has ranked go by share.
        ranked = [one for one in slots if one.phrases[0].rank]
        most = ranked[0] if ranked else max(slots, key=lambda one: (one.sign == "+") * one.share)
        if most.phrases[0] not in phrases:
            own.append(("", f"slot [{most.number}], which matters most, is missing"))
    for kind, _ in own:
        if kind:
            (findings.citations if kind == "citation" else findings.numbers).add(False)
    findings.problems[:0] = [problem for _, problem in own]
    return text, report(text, evidence, findings)


def repaired(
    prose: str, slots: Sequence[Slot], evidence: Evidence, class_names: Sequence[str] = ()
) -> str:
    """The sentences that have a slot and no fault, "" where they say too little."""
    kept = []
    for sentence in sentences_of(_tidied(prose, cues_of(evidence.config))):
        text, phrases = filled(sentence, slots, evidence)
        is_right = phrases and not faults(sentence, slots, evidence, class_names)
        if is_right and not check(text, evidence, phrases, is_prose=True).problems:
            kept.append(sentence.strip())
    return " ".join(kept)
