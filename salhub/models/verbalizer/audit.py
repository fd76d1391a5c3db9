"""Whether a text says of a saliency map what the map shows: every quotation, number, sign, rank."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from salhub.models.verbalizer.candidates import normalized
from salhub.models.verbalizer.claims import Quotation, Sentence, read_claims
from salhub.models.verbalizer.configuration_verbalizer import VerbalizerConfig
from salhub.models.verbalizer.realization import Phrase, templates_of
from salhub.models.verbalizer.words import Words

# Half a percentage point, and half a hundredth of a score.
_TOLERANCE = 0.005 + 1e-9
_WORD = re.compile(r"\w+")
_COVERAGE_AT = range(1, 11)


@dataclass(frozen=True)
class Evidence:
    """What is known about one text.

    Args:
        words: The words.
        scores: Of the words, (n,).
        config: Of the verbalizer.
        labels: Names of the classes, which are no quotations.
        probability: Of the explained class, where it may be printed.
    """

    words: Words
    scores: np.ndarray
    config: VerbalizerConfig
    labels: Sequence[str] = ()
    probability: float | None = None

    @property
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

    def places_of(self, quotation: Quotation) -> tuple[int, ...]:
        """The words that a quotation means, () where the text does not hold it.

        Where it stands in the text several times, the place with the largest scores is meant.
        """
        spans = [quotation.span] if quotation.span else self._occurrences(quotation.text)
        found = [self._inside(*span) for span in spans]
        return max(found, key=lambda places: abs(self.share(places)), default=())

    def _occurrences(self, quoted: str) -> list[tuple[int, int]]:
        text, wanted = self.words.text.lower(), " ".join(quoted.lower().split())
        if len(text) != len(self.words.text):  # letters whose lower case is longer
            text, wanted = self.words.text, quoted
        spans, begin = [], text.find(wanted)
        while begin >= 0:
            if self._inside(begin, begin + len(wanted)):
                spans.append((begin, begin + len(wanted)))
            begin = text.find(wanted, begin + 1)
        return spans

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
    templates = templates_of(evidence.config)
    return read_claims(text, templates, phrases, evidence.words.text, evidence.labels)


def check_sentences(sentences: Sequence[Sentence], evidence: Evidence) -> _Findings:
    """Check every claim; `is_clean` says of each sentence whether all of its own are right."""
    findings = _Findings()
    tops = []
    for sentence in sentences:
        before = len(findings.problems)
        mentions = [_check_mention(one, sentence, evidence, findings) for one in sentence.mentions]
        places = [one for one in mentions if one]
        (findings.against if sentence.sign == "-" else findings.named).extend(places)
        _check_numbers(sentence, places, evidence, findings)
        if sentence.is_superlative and places and sentence.sign == "+":
            tops.append((len(findings.is_clean), places[0]))
        findings.is_clean.append(len(findings.problems) == before and bool(places))
    best = max((evidence.share(places) for places in findings.named), default=0.0)
    for number, places in tops:
        if not findings.ranks.add(evidence.share(places) >= best - 1e-9):
            findings.problems.append(f"{_shown(places, evidence)} is not the most important named")
            findings.is_clean[number] = False
    is_sayable = (evidence.scores > 0) & ~evidence.words.is_punctuation
    if not findings.citations.all and is_sayable.any():
        findings.problems.append("it quotes no word of the text")
    return findings


def _check_mention(
    mention: list[Quotation], sentence: Sentence, evidence: Evidence, findings: _Findings
) -> tuple[int, ...]:
    places: list[int] = []
    for quotation in mention:
        own = evidence.places_of(quotation)
        if not findings.citations.add(bool(own)):
            findings.problems.append(f"'{quotation.text}' is not in the text")
        places += own
    direction = -1 if sentence.sign == "-" else 1
    marks = evidence.words.is_punctuation
    wrong = [place for place in places if direction * evidence.scores[place] < 0]
    for place in places:
        if not marks[place] or place in wrong:
            findings.signs.add(place not in wrong)
    if wrong:
        says = "against" if direction < 0 else "for"
        findings.problems.append(f"{_shown(wrong, evidence)} does not speak {says} the class")
    return tuple(places)


def _check_numbers(
    sentence: Sentence, places: list[tuple[int, ...]], evidence: Evidence, findings: _Findings
) -> None:
    if not sentence.numbers:
        return
    together = sorted({place for one in places for place in one})
    so_far = sorted({place for one in findings.named for place in one})
    shares = [evidence.share(one) for one in (*places, together, so_far)]
    if evidence.probability is not None:
        shares.append(evidence.probability)
    scaled = normalized(evidence.scores[None])[0] if len(evidence.scores) else evidence.scores
    own = [float(values[place]) for place in together for values in (evidence.scores, scaled)]
    for number in sentence.numbers:
        truths = shares if number.is_percentage else shares + own
        nearest = min((abs(number.value - truth) for truth in truths), default=1.0)
        if not findings.numbers.add(nearest <= _TOLERANCE):
            unit = f"{100 * number.value:g} %" if number.is_percentage else f"{number.value:g}"
            findings.problems.append(f"the number {unit} is not one of the map")


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
