"""Whether a text says of a saliency map what the map shows: every quotation, number, sign, rank."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np

from salhub.models.verbalizer.configuration_verbalizer import VerbalizerConfig
from salhub.models.verbalizer.realization import (
    Names,
    Phrase,
    cues_of,
    finds,
    named,
    pattern_of,
    quoted,
)
from salhub.models.verbalizer.words import Words

# Half a percentage point.
_TOLERANCE = 0.005 + 1e-9
_WORD = re.compile(r"\w+")
_COVERAGE_AT = range(1, 11)
# A character of private use stands for each quotation while the rest is read.
_FIRST = 0xE000
_MENTION = re.compile("[\ue000-\uf8ff]")
_ASIDE = re.compile(r"\s*[(\uff08][^()\uff08\uff09]*[)\uff09]")
_OWN_ASIDE = re.compile(f"(?<={_MENTION.pattern}){_ASIDE.pattern}")
_PERCENT = re.compile(r"(\d+)\s*%")
_SENTENCE_END = re.compile("(?<=[.!?])\\s+|(?<=[\u3002\uff01\uff1f])|\n+")
# Ends a clause where its part before has said something of a mention.
_JOINT = re.compile(r"[,\uff0c]|\b(?:and|und|et|y)\b|和", re.IGNORECASE)
_VERB = re.compile(
    r"\b(?:is|are|was|were|matters?|counts?|weighs?|adds?|makes?|carr(?:y|ies)|shows?)\b", re.I
)


@dataclass(frozen=True)
class Evidence:
    """What is known about one text.

    Args:
        words: The words.
        scores: Of the words, (n,).
        config: Of the verbalizer.
        names: Of the classes.
    """

    words: Words
    scores: np.ndarray
    config: VerbalizerConfig
    names: Names = field(default_factory=Names)

    @cached_property
    def positive(self) -> float:
        """The sum of the positive scores."""
        return float(np.maximum(self.scores, 0).sum())

    def share(self, places: Sequence[int]) -> float:
        """Part of the positive evidence, below 0 for words against."""
        total = float(sum(self.scores[place] for place in places))
        return total / self.positive if self.positive > 0 else 0.0

    def coverage(self, places: Sequence[int]) -> float:
        """Part of the positive evidence, in [0, 1], every word counted once."""
        return max(0.0, self.share(sorted(set(places))))

    def best_coverage(self, count: int) -> float:
        """The largest coverage that so many words can have."""
        best = np.sort(np.maximum(self.scores, 0))[::-1][:count]
        return float(best.sum()) / self.positive if self.positive > 0 else 0.0

    def rank(self, places: Sequence[int]) -> int:
        """1 and the number of other words that alone weigh more, and may be named alone."""
        if self.config.compat is not None or self.config.sign == "any":
            # These searches do not look at every word.
            return 1
        own = float(sum(self.scores[place] for place in places))
        is_other = ~self.words.are_weak(self.scores)
        is_other[list(places)] = False
        return 1 + int((self.scores[is_other] > own + 1e-9 * abs(own)).sum())


@dataclass
class Tally:
    """Right claims among all of a kind."""

    right: int = 0
    all: int = 0

    def add(self, is_right: bool) -> bool:
        """Count a claim."""
        self.all += 1
        self.right += bool(is_right)
        return bool(is_right)

    @property
    def share(self) -> float | None:
        """Part that is right, None where nothing is claimed."""
        return self.right / self.all if self.all else None


@dataclass
class Findings:
    """What was claimed, and what of it is wrong.

    Args:
        citations: Quotations that stand in the text.
        signs: Words whose score has the claimed sign.
        numbers: Printed numbers that are true.
        ranks: Phrases called most important that are.
        named: Words of each phrase for the class, in the order of mention.
        ranked: Those among them that are no mere list of single words.
        problems: A sentence each.
    """

    citations: Tally = field(default_factory=Tally)
    signs: Tally = field(default_factory=Tally)
    numbers: Tally = field(default_factory=Tally)
    ranks: Tally = field(default_factory=Tally)
    named: list[tuple[int, ...]] = field(default_factory=list)
    ranked: list[tuple[int, ...]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def audit(text: str, evidence: Evidence, phrases: Sequence[Phrase]) -> dict[str, Any]:
    """Check a finished explanation against the map.

    Args:
        text: The explanation: sentences of a template, or a chat model's with its slots filled in.
        evidence: The map.
        phrases: What it quotes, in the order of mention.

    Returns:
        `citation_precision`, share of the quotations that stand in the text; `sign_faithfulness`,
        share of the named words whose score has the claimed sign; `numeric_faithfulness`, share of
        the printed numbers within half a percentage point of a true one; `rank_faithfulness`,
        Kendall's tau between the order of mention of phrases and that of coverage, and
        `superlative_faithfulness`, share of the words called most important that are so among the
        named ones. None where there is no such claim. Further their counts, `coverage` of the named
        words and `share_of_best`, that coverage by the largest that as many words can have,
        `coverage_at_k` for k = 1..10, `brevity` (words by words of the text), `problems` (a
        sentence each) and `is_faithful`.

    Source: Feldhus et al. 2023 (arXiv 2210.07222), section 5, for the coverage of the k words of
        largest score; the other measures are ours.
    """
    return report(text, evidence, check(text, evidence, phrases))


def report(text: str, evidence: Evidence, findings: Findings) -> dict[str, Any]:
    """The measures of `audit`."""
    named = sorted({place for places in findings.named for place in places})
    coverage, best = evidence.coverage(named), evidence.best_coverage(len(named))
    return {
        "citation_precision": findings.citations.share,
        "num_citations": findings.citations.all,
        "sign_faithfulness": findings.signs.share,
        "num_signs": findings.signs.all,
        "numeric_faithfulness": findings.numbers.share,
        "num_numbers": findings.numbers.all,
        "rank_faithfulness": _kendall([evidence.share(places) for places in findings.ranked]),
        "superlative_faithfulness": findings.ranks.share,
        "coverage": coverage,
        "share_of_best": coverage / best if best > 0 else None,
        "num_words": len(named),
        "coverage_at_k": _coverage_at(evidence, set(named)),
        "brevity": len(_WORD.findall(text)) / max(1, len(_WORD.findall(evidence.words.text))),
        "problems": findings.problems,
        "is_faithful": not findings.problems,
        "empty": not bool(np.any(evidence.scores)),
    }


def check(
    text: str, evidence: Evidence, phrases: Sequence[Phrase], *, is_prose: bool = False
) -> Findings:
    """Read a finished explanation, and check every claim; see `audit`.

    In prose that is not of a template, what is said of a phrase speaks for it unless it says so.
    """
    findings = Findings()
    templates, own = cues_of(evidence.config), dict.fromkeys(phrases)
    marked, mentions = _marked(text, evidence, phrases, findings)
    states = _check_states(marked, templates, evidence, findings)
    if not mentions and not states and has_words(evidence.words, evidence.scores, "+"):
        findings.problems.append("it does not quote any word of the text")
    for sentence in sentences_of(_without_names(marked, templates, evidence)):
        waiting: list[Phrase] = []
        for clause in clauses(sentence, templates):
            claims = _claims(clause, mentions, templates, is_prose)
            for sign, phrase, aside in claims:
                waiting.append(phrase)
                _check_sign(sign, phrase, evidence, findings)
                waiting = _check_number(aside, waiting, evidence, templates, findings)
            plain = _OWN_ASIDE.sub("", clause)
            if claims and finds(templates["first_cues"], plain):
                _check_first(claims[0][1], own, evidence, findings)
            waiting = _check_number(plain, waiting, evidence, templates, findings)
    return findings


def _marked(
    text: str, evidence: Evidence, phrases: Sequence[Phrase], findings: Findings
) -> tuple[str, dict[str, Phrase]]:
    """The text with a character for each quotation, and what each stands for."""
    templates = cues_of(evidence.config)
    parts, mentions, position = [], {}, 0
    for place, phrase in enumerate(phrases):
        slices = quoted(phrase, evidence.words.text, templates, evidence.names)
        start = text.find(slices, position)
        if not findings.citations.add(start >= 0):
            findings.problems.append(f"'{phrase.text}' is not quoted")
            continue
        character = chr(_FIRST + place)
        parts += [text[position:start], character]
        mentions[character], position = phrase, start + len(slices)
        if phrase.sign == "+" and phrase.indices not in findings.named:
            findings.named.append(phrase.indices)
            findings.ranked += [] if phrase.is_listed else [phrase.indices]
    return "".join([*parts, text[position:]]), mentions


def sentences_of(text: str) -> list[str]:
    """Sentences and lines, without those that are blank."""
    return [sentence for sentence in _SENTENCE_END.split(text) if sentence.strip()]


def _without_names(marked: str, templates: Mapping[str, Any], evidence: Evidence) -> str:
    """The text without what it calls the class, which may be any words and numbers."""
    verdict = evidence.names.verdict(templates)
    marked = marked.replace(verdict, " " * len(verdict))
    for name in filter(None, evidence.names.shown):
        if re.search(r"\d", name):
            marked = named(name).sub(" ", marked)
    return marked


def clauses(sentence: str, templates: Mapping[str, Any]) -> Iterator[str]:
    """Parts of a sentence that each say one thing of the quotations in them."""
    cues = [*templates["for_cues"], *templates["against_cues"]]
    turns = {match.start() for match in pattern_of(templates["turn_cues"]).finditer(sentence)}
    begin = 0
    for cut in sorted(turns | {match.start() for match in _JOINT.finditer(sentence)}):
        plain = _OWN_ASIDE.sub("", sentence[begin:cut])
        said = _MENTION.search(plain)
        if said and _MENTION.search(sentence, cut):
            rest = plain[said.end() :]
            is_conceded = sentence[cut] in ",\uff0c" and finds(templates["against_cues"], plain)
            if cut in turns or is_conceded or finds(cues, rest) or _VERB.search(rest):
                yield sentence[begin:cut]
                begin = cut
    yield sentence[begin:]


def _claims(
    clause: str, mentions: Mapping[str, Phrase], templates: Mapping[str, Any], is_prose: bool
) -> list[tuple[str, Phrase, str]]:
    """Of each mention of a clause: its claimed sign, the phrase, and what is put in parentheses.

    The sign is "+", "-", or "?" where the clause says both.
    """
    found = [match for match in _MENTION.finditer(clause) if match[0] in mentions]
    if not found:
        return []
    plain = _OWN_ASIDE.sub("", clause)
    is_against, is_for = (finds(templates[f"{side}_cues"], plain) for side in ("against", "for"))
    said = "?" if is_against and is_for else "-" if is_against else "+" if is_for else ""
    # A verb that nobody has listed claims, and only a bare slot does not.
    rest = _JOINT.sub(" ", pattern_of(templates["turn_cues"]).sub(" ", _MENTION.sub(" ", plain)))
    said = said or ("+" if is_prose and re.search(r"\w", rest) else "")
    claims = []
    for match in found:
        aside = _ASIDE.match(clause, match.end())
        inside = aside[0] if aside else ""
        own = "-" if inside and finds(templates["against_cues"], inside) else "+"
        claims.append((said or own, mentions[match[0]], inside))
    return claims


def _check_sign(sign: str, phrase: Phrase, evidence: Evidence, findings: Findings) -> None:
    direction = {"+": 1, "-": -1, "?": 0}[sign]
    marks, scores = evidence.words.is_punctuation, evidence.scores
    is_empty = not any(direction * scores[place] for place in phrase.indices)
    wrong = [one for one in phrase.indices if direction * scores[one] < 0 or is_empty]
    if evidence.config.sign == "any" and direction * phrase.score > 0:
        wrong = []
    for place in phrase.indices:
        if not marks[place] or place in wrong:
            findings.signs.add(place not in wrong)
    if wrong:
        says = {"+": "does not speak for it", "-": "does not speak against it"}
        findings.problems.append(
            f"'{phrase.text}' {says.get(sign, 'cannot speak both for it and against it')}"
        )


def _check_number(
    text: str,
    waiting: list[Phrase],
    evidence: Evidence,
    templates: Mapping[str, Any],
    findings: Findings,
) -> list[Phrase]:
    """Check printed shares; they are of the mentions that wait for one, or of all named words."""
    is_beyond = templates["beyond"] in text
    for match in _PERCENT.finditer(text):
        value = int(match[1]) / 100
        groups: list[list[tuple[int, ...]]] = [[one.indices for one in waiting]]
        groups += [[waiting[-1].indices]] if waiting else [findings.named]
        shares = [evidence.share(sorted({*_flat(group)})) for group in groups if group]
        if not findings.numbers.add(any(abs(value - abs(one)) <= _TOLERANCE for one in shares)):
            findings.problems.append(f"the number {match[0]} does not match the scores")
        waiting = []
    if is_beyond and waiting:
        if not findings.numbers.add(evidence.share(waiting[-1].indices) < -1):
            findings.problems.append(f"'{waiting[-1].text}' does not outweigh everything")
        waiting = []
    return waiting


def _flat(groups: Sequence[Sequence[int]]) -> Iterator[int]:
    return (place for group in groups for place in group)


def _check_first(
    phrase: Phrase, own: Mapping[Phrase, None], evidence: Evidence, findings: Findings
) -> None:
    share = evidence.share(phrase.indices)
    best = max((evidence.share(one.indices) for one in own if one.sign == "+"), default=0.0)
    is_top = share >= best - 1e-9 and evidence.rank(phrase.indices) == 1
    if not findings.ranks.add(is_top):
        findings.problems.append(f"'{phrase.text}' is not the most important")


def _check_states(
    text: str, templates: Mapping[str, Any], evidence: Evidence, findings: Findings
) -> list[str]:
    """The sentences that say that there is no such word, which must be true."""
    fields = {
        "verdict": evidence.names.verdict(templates),
        "prediction": evidence.names.prediction(templates),
    }
    has_any = {sign: has_words(evidence.words, evidence.scores, sign) for sign in "+-"}
    is_true = {
        # A search that leaves out words may find none.
        "nothing": evidence.config.compat is not None or not np.any(evidence.scores),
        "lacking": not has_any["+"],
        "lacking_against": not has_any["-"],
    }
    said = [name for name in is_true if templates[name].format(**fields) in text]
    if not all(is_true[name] for name in said):
        findings.problems.append(
            "it denies that a word speaks for or against the class, but one does"
        )
    return said


def has_words(words: Words, scores: np.ndarray, sign: str) -> bool:
    """Whether a map has words, and not only marks, that speak for the class, or with "-" against.

    Args:
        words: Of the text.
        scores: Of the words, (n,).
        sign: "-", or anything else for words that speak for the class.
    """
    direction = -1 if sign == "-" else 1
    return bool(((direction * scores > 0) & ~words.is_punctuation).any())


def _kendall(shares: list[float]) -> float | None:
    """Tau of a falling order; equal values are in any order."""
    pairs = list(combinations(shares, 2))
    if not pairs:
        return None
    return sum(1 if first >= second - 1e-9 else -1 for first, second in pairs) / len(pairs)


def _coverage_at(evidence: Evidence, named: set[int]) -> list[float]:
    order = np.argsort(-evidence.scores, kind="stable")
    covered, values = 0.0, []
    for count in _COVERAGE_AT:
        if count <= len(order) and evidence.scores[order[count - 1]] > 0:
            place = int(order[count - 1])
            covered += evidence.share([place]) if place in named else 0.0
        values.append(covered)
    return values
