"""Whether a text says of a saliency map what the map shows: every quotation, number, sign, rank."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations, islice, product
from typing import Any

import numpy as np

from salhub.models.verbalizer.candidates import normalized
from salhub.models.verbalizer.claims import Mention, Number, Sentence, read_claims
from salhub.models.verbalizer.configuration_verbalizer import VerbalizerConfig
from salhub.models.verbalizer.realization import Phrase, cues_of
from salhub.models.verbalizer.words import Words

# Half a percentage point, and half a hundredth of a score.
_TOLERANCE = 0.005 + 1e-9
_WORD = re.compile(r"\w+")
_COVERAGE_AT = range(1, 11)
_GAP = re.compile(r"\s*(?:…|\.{3})\s*")
# A word that stands in a text more often than this is looked at so many times.
_MOST_OPTIONS = 200
_MOST_CHOICES = 2000


@dataclass(frozen=True)
class Evidence:
    """What is known about one text.

    Args:
        words: The words.
        scores: Of the words, (n,).
        config: Of the verbalizer.
        labels: Names of the classes, which are no quotations.
        probability: Of the explained class, where it may be printed.
        told: Phrases that a chat model was told.
    """

    words: Words
    scores: np.ndarray
    config: VerbalizerConfig
    labels: Sequence[str] = ()
    probability: float | None = None
    told: Sequence[Phrase] = ()

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

    def options_of(self, mention: Mention) -> list[tuple[int, ...]]:
        """The words that a mention may mean, [] where the text does not hold it.

        Where it stands in the text several times, all places are given: those whose words have the
        claimed sign first, then those with the largest scores.
        """
        direction = -1 if mention.sign == "-" else 1
        if mention.quotations[0].span:
            spans = [[one.span for one in mention.quotations if one.span]]
        else:
            texts = [one.text for one in mention.quotations]
            spans = [list(one.char_spans) for one in self.told if [one.text] == texts]
            for choice in product(*(self._parts(text) for text in texts)):
                places = self._in_order([part for way in choice for part in way])
                spans += islice(places, _MOST_OPTIONS)
        found = dict.fromkeys(self._together(one) for one in spans)

        def fitness(places: tuple[int, ...]) -> tuple[bool, float]:
            is_right = all(direction * self.scores[place] >= 0 for place in places)
            return is_right, abs(self.share(places))

        return sorted((one for one in found if one), key=fitness, reverse=True)

    def holds(self, quoted: str) -> bool:
        """Whether a quotation stands in the text."""
        return any(next(self._in_order(parts), None) for parts in self._parts(quoted))

    def _parts(self, quoted: str) -> list[list[str]]:
        """Ways to read a quotation: as it is, and as pieces with gaps between them."""
        ways = [[quoted], [quoted.strip(" .,;:!?…")]]
        pieces = [one.strip(" .,;:!?…") for one in _GAP.split(quoted)]
        ways += [_GAP.split(quoted), [one for one in pieces if one]]
        return [list(way) for way in dict.fromkeys(map(tuple, ways)) if way and all(way)]

    def _in_order(self, parts: Sequence[str], begin: int = 0) -> Iterator[list[tuple[int, int]]]:
        """Places of pieces that follow each other."""
        for span in self._occurrences(parts[0], begin):
            if len(parts) == 1:
                yield [span]
            else:
                yield from ([span, *rest] for rest in self._in_order(parts[1:], span[1]))

    def _occurrences(self, quoted: str, begin: int) -> Iterator[tuple[int, int]]:
        pattern = r"\s+".join(re.escape(word) for word in quoted.split())
        match = re.compile(pattern, re.IGNORECASE)
        found = match.search(self.words.text, begin) if pattern else None
        while found:
            if self._inside(*found.span()):
                yield found.span()
            found = match.search(self.words.text, found.start() + 1)

    def _together(self, spans: Sequence[tuple[int, int]]) -> tuple[int, ...]:
        return tuple(sorted({place for span in spans for place in self._inside(*span)}))

    def _inside(self, start: int, end: int) -> tuple[int, ...]:
        """The words of a slice that begins and ends where words do; else none."""
        spans = self.words.spans
        places = ((spans[:, 0] >= start) & (spans[:, 1] <= end)).nonzero()[0]
        is_cut = ((spans[:, 0] < start) & (spans[:, 1] > start)) | (
            (spans[:, 0] < end) & (spans[:, 1] > end)
        )
        return () if is_cut.any() else tuple(places.tolist())


@dataclass
class _Tally:
    """Right claims among all of a kind."""

    right: int = 0
    all: int = 0

    def add(self, is_right: bool) -> bool:
        self.all += 1
        self.right += is_right
        return is_right

    @property
    def share(self) -> float | None:
        return self.right / self.all if self.all else None


@dataclass
class _Findings:
    citations: _Tally = field(default_factory=_Tally)
    signs: _Tally = field(default_factory=_Tally)
    numbers: _Tally = field(default_factory=_Tally)
    ranks: _Tally = field(default_factory=_Tally)
    named: list[tuple[int, ...]] = field(default_factory=list)
    against: list[tuple[int, ...]] = field(default_factory=list)
    last: list[tuple[int, ...]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    is_clean: list[bool] = field(default_factory=list)


def audit(text: str, evidence: Evidence, phrases: Sequence[Phrase] = ()) -> dict[str, Any]:
    """Check an explanation against the map.

    Args:
        text: The explanation.
        evidence: The map.
        phrases: What it names, in order, where that is known; else quotations are looked up by
            their words.

    Returns:
        `citation_precision`, share of the quotations that stand in the text; `sign_faithfulness`,
        share of the named words whose score has the claimed sign; `numeric_faithfulness`, share of
        the printed numbers within half a percentage point of a true one; `rank_faithfulness`,
        Kendall's tau between the order of mention and that of coverage, and
        `superlative_faithfulness`, share of the words called most important that are so among the
        named ones. None where there is no such claim. Further their counts, `coverage` of the named
        words and `share_of_best`, that coverage by the largest that as many words can have,
        `coverage_at_k` for k = 1..10, `brevity` (words by words of the text), `problems` (a
        sentence each) and `is_faithful`.

    Source: Feldhus et al. 2023 (arXiv 2210.07222), section 5, for the coverage of the k words of
        largest score; the other measures are ours.
    """
    sentences = _sentences(text, evidence, phrases)
    findings = check_sentences(sentences, evidence)
    named = sorted({place for places in findings.named for place in places})
    coverage, best = evidence.coverage(named), evidence.best_coverage(len(named))
    return {
        "citation_precision": findings.citations.share,
        "num_citations": findings.citations.all,
        "sign_faithfulness": findings.signs.share,
        "num_signs": findings.signs.all,
        "numeric_faithfulness": findings.numbers.share,
        "num_numbers": findings.numbers.all,
        "rank_faithfulness": _kendall([evidence.share(places) for places in findings.named]),
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


def _sentences(text: str, evidence: Evidence, phrases: Sequence[Phrase]) -> list[Sentence]:
    return read_claims(
        text,
        cues_of(evidence.config),
        phrases,
        evidence.words.text,
        evidence.labels,
        evidence.told,
    )


def check_sentences(sentences: Sequence[Sentence], evidence: Evidence) -> _Findings:
    """Check every claim; `is_clean` says of each sentence whether all of its own are right."""
    findings = _Findings()
    tops: list[tuple[int, tuple[int, ...]]] = []
    for sentence in sentences:
        before = len(findings.problems)
        places = _check_sentence(sentence, evidence, findings, tops)
        is_right = len(findings.problems) == before and bool(places or sentence.states)
        findings.is_clean.append(is_right)
    best = max((evidence.share(places) for places in findings.named), default=0.0)
    for number, places in tops:
        is_top = evidence.share(places) >= best - 1e-9 and _rank(places, evidence) == 1
        if not findings.ranks.add(is_top):
            findings.problems.append(f"{_shown(places, evidence)} is not the most important")
            findings.is_clean[number] = False
    is_mute = not findings.citations.all and not any(one.states for one in sentences)
    if is_mute and _has_words(evidence, evidence.config.sign):
        findings.problems.append("it quotes no word of the text")
    return findings


def _check_sentence(
    sentence: Sentence,
    evidence: Evidence,
    findings: _Findings,
    tops: list[tuple[int, tuple[int, ...]]],
) -> list[tuple[int, ...]]:
    """Check the claims of a sentence, and return the words of its mentions."""
    findings.problems += sentence.doubts
    for name in sentence.states:
        if not _is_state(name, evidence):
            findings.problems.append("it says that there is no such word, and there is one")
    options = [evidence.options_of(one) or [()] for one in sentence.mentions]
    fits = [_fits(number, sentence, options, evidence) for number in sentence.numbers]
    places = [one[0] for one in options]
    for mention, own in zip(sentence.mentions, places, strict=True):
        _check_mention(mention, own, evidence, findings)
        if own:
            (findings.against if mention.sign == "-" else findings.named).append(own)
            _check_rank(mention, own, evidence, findings, tops)
    for number, is_right in zip(sentence.numbers, fits, strict=True):
        is_right = is_right or _is_known(number, sentence, places, evidence, findings)
        if not findings.numbers.add(is_right):
            findings.problems.append(f"the number {number.text} is not one of the map")
    for greater, smaller in sentence.comparisons:
        if evidence.share(places[greater]) <= evidence.share(places[smaller]):
            findings.problems.append(
                f"a comparison of {_shown(places[greater], evidence)} is wrong"
            )
    findings.last = [one for one in places if one] or findings.last
    return [one for one in places if one]


def _check_mention(
    mention: Mention, places: tuple[int, ...], evidence: Evidence, findings: _Findings
) -> None:
    for quotation in mention.quotations:
        is_held = bool(places) or evidence.holds(quotation.text)
        if not findings.citations.add(is_held):
            findings.problems.append(f"'{quotation.text}' is not in the text")
    direction = -1 if mention.sign == "-" else 1
    marks = evidence.words.is_punctuation
    scores = [direction * evidence.scores[place] for place in places]
    is_empty = not any(scores)
    wrong = [place for place, score in zip(places, scores, strict=True) if score < 0 or is_empty]
    for place in places:
        if not marks[place] or place in wrong:
            findings.signs.add(place not in wrong)
    if wrong:
        says = "against" if direction < 0 else "for"
        findings.problems.append(f"{_shown(wrong, evidence)} does not speak {says} the class")


def _check_rank(
    mention: Mention,
    places: tuple[int, ...],
    evidence: Evidence,
    findings: _Findings,
    tops: list[tuple[int, tuple[int, ...]]],
) -> None:
    if mention.rank == 1:
        tops.append((len(findings.is_clean), places))
    elif mention.rank and not findings.ranks.add(_rank(places, evidence) == mention.rank):
        findings.problems.append(f"{_shown(places, evidence)} has another rank")


def _rank(places: Sequence[int], evidence: Evidence) -> int:
    """1 and the number of other words that alone weigh more."""
    config = evidence.config
    if config.compat is not None or config.sign == "any":
        # These searches do not look at every word.
        return 1
    own = float(sum(evidence.scores[place] for place in places))
    is_other = ~evidence.words.is_punctuation
    is_other[list(places)] = False
    return 1 + int((evidence.scores[is_other] > own + 1e-9 * abs(own)).sum())


def _has_words(evidence: Evidence, sign: str) -> bool:
    """Whether there are words, and not only marks, of a sign."""
    return has_words(evidence.words, evidence.scores, sign)


def has_words(words: Words, scores: np.ndarray, sign: str) -> bool:
    """Whether a map has words, and not only marks, that speak for the class, or with "-" against.

    Args:
        words: Of the text.
        scores: Of the words, (n,).
        sign: "-", or anything else for words that speak for the class.
    """
    direction = -1 if sign == "-" else 1
    return bool(((direction * scores > 0) & ~words.is_punctuation).any())


def _is_state(name: str, evidence: Evidence) -> bool:
    """Whether a template without a quotation is true."""
    if name == "nothing":
        # A search that leaves out words may find none.
        return evidence.config.compat is not None or not np.any(evidence.scores)
    return not _has_words(evidence, "-" if name == "lacking_against" else "+")


def _fits(
    number: Number, sentence: Sentence, options: list[list[tuple[int, ...]]], evidence: Evidence
) -> bool:
    """Whether a number is that of its mentions; their places are settled where it is."""
    bound = number.mentions
    if not bound:
        return False
    is_against = all(sentence.mentions[one].sign == "-" for one in bound)
    for choice in islice(product(*(options[one] for one in bound)), _MOST_CHOICES):
        groups = [{place for places in choice for place in places}]
        groups += [set(choice[-1])] if number.is_beside else []
        if any(_is_value(number, sorted(group), is_against, evidence) for group in groups):
            for one, places in zip(bound, choice, strict=True):
                options[one] = [places]
            return True
    return False


def _is_known(
    number: Number,
    sentence: Sentence,
    places: list[tuple[int, ...]],
    evidence: Evidence,
    findings: _Findings,
) -> bool:
    """Whether a number is that of all that was named, or the probability of the class."""
    probability = evidence.probability if number.may_be_probability else None
    if probability is not None and _is_near(number.value, probability):
        return True
    groups = [findings.named, findings.against] if number.is_total else []
    groups += [[one for one in places if one]] if number.is_total else []
    if not sentence.mentions:
        groups.append(findings.last)
    joined = [sorted({place for one in group for place in one}) for group in groups if group]
    is_against = bool(findings.against)
    return any(_is_value(number, group, is_against, evidence) for group in joined)


def _is_value(number: Number, places: Sequence[int], is_against: bool, evidence: Evidence) -> bool:
    """Whether a number is the share or the score of words; of those against without its sign."""
    share = evidence.share(places)
    if math.isinf(number.value):
        return is_against and share < -1
    total = float(sum(evidence.scores[place] for place in places))
    truths = [share]
    if not number.is_percentage:
        scaled = normalized(evidence.scores[None])[0]
        truths += [total, float(sum(scaled[place] for place in places))]
    if is_against:
        truths += [-truth for truth in truths if truth < 0]
    return any(_is_near(number.value, truth) for truth in truths)


def _is_near(value: float, truth: float) -> bool:
    return abs(value - truth) <= _TOLERANCE


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


def _shown(places: Sequence[int], evidence: Evidence) -> str:
    return " ".join(f"'{evidence.words.strings[place]}'" for place in places)


def repaired(text: str, evidence: Evidence) -> str:
    """Keep the sentences of an explanation whose claims are all right, and that quote something.

    What cannot be checked, because it quotes nothing, is left out as well.

    Returns:
        The text that is left, "" where none is, or where it still fails the audit.
    """
    sentences = _sentences(text, evidence, ())
    clean = check_sentences(sentences, evidence).is_clean
    kept = [sentence for sentence, is_clean in zip(sentences, clean, strict=True) if is_clean]
    joined = " ".join(sentence.text for sentence in kept)
    return joined if kept and audit(joined, evidence)["is_faithful"] else ""
