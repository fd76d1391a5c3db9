"""What a text claims about the words of another: quotations, numbers, signs and ranks."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from salhub.models.verbalizer.realization import Phrase, fixed_sentences, label_texts

# Pairs of quotation marks that people and chat models use.
_MARKS = (
    ("» ", " «"), ("»", "«"), ("“", "”"), ("“", "“"), ("„", "“"), ("„", "”"), ("”", "”"),
    ("«", "»"), ("\u2039", "\u203a"), ("\u203a", "\u2039"), ("「", "」"), ("『", "』"),
    ("《", "》"), ("〈", "〉"), ("\uff02", "\uff02"), ('"', '"'), ("`", "`"), ("``", "''"),
)  # fmt: skip
# An apostrophe inside a word ends no quotation.
_SINGLE = re.compile(
    "(?<!\\w)'([^'\n]{1,80}?)'(?!\\w)|[\u2018\u201a]([^\n]{1,80}?)[\u2018\u2019](?!\\w)"
)
_SENTENCE_END = re.compile("[.!?](?=\\s|$)|[\u3002\uff01\uff1f]|\n+")
_UNIT = (
    r"%|\uff05|percent(?:age points?)?\b|per cent\b|pct\b|Prozent(?:punkte)?\b|pour ?cent\b"
    r"|por ?ciento\b|points?\b"
)
_NUMBER = re.compile(
    r"(?<![.,])(?<![^\W\u3040-\u9fff])([-+\u2212]?(?:\d+(?:[.,]\d+)*|[.,]\d+))"
    r"(?:\s*(?:/|of|out of)\s*(\d+(?:[.,]\d+)?))?"
    rf"\s*({_UNIT})?((?:(?<=\d)[^\W\u3040-\u9fff]+)?)",
    re.IGNORECASE,
)
_SCORE_BEFORE = re.compile(
    r"(?:score|weight|value|importance|rating|share|wert|gewicht|valeur|poids|peso|valor)s?\W*"
    r"(?:(?:of|is|was|at|with|von|ist|de|es|est)\W+)*$",
    re.IGNORECASE,
)
_BESIDE = re.compile(r"\s*[(\[:=\uff08]?\s*")
_LIKELY = re.compile(
    r"probab|likel|\bcertain|\bsure\b|confiden|chance|wahrschein|sicher|\bsûr|segur|概率"
    r"|^\W*(?:with|mit|avec|con)\s+\S+\s*\S?\s+(?!\ue000)",
    re.IGNORECASE,
)
_TOGETHER = re.compile(
    r"together|total|combin|\bsum|overall|zusammen|ensemble|conjunto|juntas|合", re.IGNORECASE
)
# Amounts in words, which are not read.
_AMOUNT = re.compile(
    r"\b(?:half|quarters?|thirds|(?:a|one) third|twice|thrice|double|triple|\w+fold|hundred|ninety"
    r"|eighty|seventy|sixty|fifty|forty|thirty|twenty|ten per ?cent|five per ?cent|hälfte|drittel"
    r"|viertel|doppelt|moitié|tiers|quart|mitad|tercio|doble)\b|百分之|一半",
    re.IGNORECASE,
)
_ORDINAL = re.compile(
    r"\b(second|third|fourth|fifth|2nd|3rd|4th|5th)[- ](?:most|strongest|biggest|largest|highest"
    r"|greatest)\b"
)
_ORDINALS = ("second", "third", "fourth", "fifth", "2nd", "3rd", "4th", "5th")
_COMPARISON = re.compile(
    r"\b(more|less|fewer|\w+er)\b[^\ue000]{0,40}?\bthan\s+(?:the\s+\w+\s+)?(?=\ue000)"
)
_SMALLER = frozenset({"less", "fewer", "weaker", "smaller", "lower", "lesser"})
_VERB = r"\b(?:is|are|speaks?|supports?|matters?|helps?|carr(?:y|ies)|makes?|adds?|counts?)\b"
# What is conceded ends at a comma; before one without a verb, a list goes on.
_DESPITE = re.compile(
    r"\b(?:despite|in spite of|trotz|malgré|a pesar de)\b[^,]*,?|尽管[^\uff0c,]*[\uff0c,]?"
    rf"|\b(?:although|though|while|whereas)\b[^,]*?{_VERB}[^,]*,",
    re.IGNORECASE,
)
# Joins two clauses where both have a verb.
_AND = re.compile(rf"\band\s+(?=(?:the \w+ )?\ue000+[^\ue000]*?{_VERB})", re.IGNORECASE)
# A label is meant where one of these stands in front of it; elsewhere it may be a word.
_NAMES_LABEL = re.compile(
    r"(?:\bas|\bclass|category|label\w*|classified|predict\w*|chose\w*|choose|rather than"
    r"|vorhersage|anstelle von|klasse|als|prédiction|plutôt que|classe|predicción|en lugar de|clase"
    r"|预测|而不是)\s*$",
    re.IGNORECASE,
)
_NAMES_WORD = re.compile(r"(?:words?|phrases?|terms?|wort|wörter|mots?|palabras?|词语)\s*$", re.I)
_QUOTED_OR_DIGITS = re.compile("\ue000+|\\d+")
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
class Mention:
    """Words that are named together.

    Args:
        quotations: Those joined by a gap.
        sign: "+", or "-" where its clause says that they speak against.
        rank: 1 where they are called most important, 2 for the second, 0 without a rank.
    """

    quotations: list[Quotation]
    sign: str = "+"
    rank: int = 0

    @property
    def start(self) -> int:
        """Where it begins."""
        return self.quotations[0].start

    @property
    def end(self) -> int:
        """Where it ends."""
        return self.quotations[-1].end


@dataclass(frozen=True)
class Number:
    """A printed number.

    Args:
        value: Its value; of a percentage, the hundredth part; -inf for "more than everything that
            speaks for it", nan for what cannot be read.
        is_percentage: Whether it was one, or a fraction.
        text: As it was printed.
        mentions: The mentions of its sentence that it belongs to, together.
        is_beside: Whether it stands right behind the last of them, and may mean that one only.
        is_total: Whether it may be of all that was named so far.
        may_be_probability: Whether its clause may speak of the probability of the class.
    """

    value: float
    is_percentage: bool
    text: str
    mentions: tuple[int, ...] = ()
    is_beside: bool = False
    is_total: bool = False
    may_be_probability: bool = False


@dataclass(frozen=True)
class Sentence:
    """A sentence and what it claims.

    Args:
        text: The sentence.
        mentions: What it names.
        numbers: Printed numbers.
        comparisons: (greater, smaller) mentions.
        states: Names of the templates without a quotation that it consists of.
        doubts: Why what it says cannot be checked.
    """

    text: str
    mentions: list[Mention]
    numbers: list[Number]
    comparisons: list[tuple[int, int]] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)


def read_claims(
    text: str,
    templates: Mapping[str, Any],
    phrases: Sequence[Phrase] = (),
    source: str = "",
    labels: Sequence[str] = (),
    told: Sequence[Phrase] = (),
) -> list[Sentence]:
    """Read the claims of a text.

    Args:
        text: The explanation.
        templates: Its language's, for the words that say against and most.
        phrases: Phrases whose quotations are known; they are found by their own words first, so
            that quotation marks in them do no harm.
        source: The explained text.
        labels: Names of classes, which are no quotations where a prediction is named.
        told: Phrases that a chat model was told, whose quotations end where they end.
    """
    states, marked = _hide_states(text, templates, labels)
    quotations = _quotations(marked, templates, phrases, source, labels, told)
    masked = _hide(marked, [(one.start, one.end) for one in quotations])
    masked = _hide(masked, _label_places(masked, labels))
    sentences, begin = [], 0
    for end in [*(match.end() for match in _SENTENCE_END.finditer(masked)), len(text)]:
        if masked[begin:end].strip():
            reader = _Reader(masked, begin, end, templates)
            own = [one for one in quotations if begin <= one.start < end]
            said = [name for name, place in states if begin <= place < end]
            sentences.append(reader.read(text[begin:end].strip(), own, said))
        begin = end
    return sentences


def _hide(text: str, places: Sequence[tuple[int, int]]) -> str:
    hidden = list(text)
    for start, end in places:
        hidden[start:end] = _HIDDEN * (end - start)
    return "".join(hidden)


def _hide_states(
    text: str, templates: Mapping[str, Any], labels: Sequence[str]
) -> tuple[list[tuple[str, int]], str]:
    """Where templates without a quotation stand, and the text without them and their labels."""
    states = []
    for name, sentence in fixed_sentences(templates, labels):
        start = text.find(sentence)
        if start >= 0:
            states.append((name, start))
            # The full stop stays, so that the sentence ends there.
            text = _hide(text, [(start, start + len(sentence) - 1)])
    for named in label_texts(templates, labels):
        places = [match.span() for match in re.finditer(re.escape(named), text)]
        text = _hide(text, places)
    return states, text


def _label_places(masked: str, labels: Sequence[str]) -> list[tuple[int, int]]:
    """Where labels stand in quotation marks that are no quotations."""
    names = {label.lower() for label in labels} | {"{placeholder}", "{other}"}
    places = [(a, b) for a, b, content in _marked(masked) if content.strip().lower() in names]
    if labels:
        rivals = "|".join(map(re.escape, labels))
        pattern = rf"\b(?:rather than|instead of)\W{{1,3}}(?:{rivals})(?!\w)"
        places += [match.span() for match in re.finditer(pattern, masked, re.IGNORECASE)]
    return places


@dataclass(frozen=True)
class _Reader:
    """Reads one sentence of a text whose quotations are hidden."""

    masked: str
    begin: int
    end: int
    templates: Mapping[str, Any]

    def read(self, text: str, quotations: Sequence[Quotation], states: list[str]) -> Sentence:
        groups = self._groups(quotations)
        clauses = self._clauses([one[0].start for one in groups])
        mentions = [self._mention(one, clauses, groups) for one in groups]
        plain = self.masked[self.begin : self.end]
        for beyond in self.templates["beyond"]:
            plain = plain.replace(beyond, _HIDDEN * len(beyond))
        compared, unclear = self._compared(plain, mentions)
        return Sentence(
            text,
            mentions,
            self._numbers(plain, mentions, clauses),
            compared,
            states,
            [*unclear, *self._doubts(plain)],
        )

    def _groups(self, quotations: Sequence[Quotation]) -> list[list[Quotation]]:
        groups: list[list[Quotation]] = []
        for one in quotations:
            if groups and self.masked[groups[-1][-1].end : one.start] == self.templates["gap"]:
                groups[-1].append(one)
            else:
                groups.append([one])
        return groups

    def _clauses(self, starts: Sequence[int]) -> list[tuple[int, int]]:
        """Start and end of each clause; each has a mention, where the sentence has one."""
        plain = self.masked[self.begin : self.end]
        cuts = {match.start() for match in _finds(_pattern(self.templates["turn_cues"]), plain)}
        cuts |= {place for match in _finds(_DESPITE, plain) for place in match.span()}
        cuts |= {m.start() for m in _finds(_AND, plain) if re.search(_VERB, plain[: m.start()])}
        clauses, last = [], self.begin
        for cut in sorted(self.begin + cut for cut in cuts):
            if any(last <= start < cut for start in starts) and any(one >= cut for one in starts):
                clauses.append((last, cut))
                last = cut
        return [*clauses, (last, self.end)]

    def _mention(
        self,
        group: list[Quotation],
        clauses: Sequence[tuple[int, int]],
        groups: Sequence[list[Quotation]],
    ) -> Mention:
        start, end = next(one for one in clauses if one[0] <= group[0].start < one[1])
        clause = self.masked[start:end].lower()
        sign = "-" if any(cue in clause for cue in self.templates["against_cues"]) else "+"
        is_first = not any(start <= one[0].start < group[0].start for one in groups)
        return Mention(group, sign, self._rank(clause) if is_first and sign == "+" else 0)

    def _rank(self, clause: str) -> int:
        ordinal = _ORDINAL.search(clause)
        if ordinal:
            return _ORDINALS.index(ordinal[1]) % 4 + 2
        return int(any(cue in clause for cue in self.templates["first_cues"]))

    def _numbers(
        self, plain: str, mentions: Sequence[Mention], clauses: Sequence[tuple[int, int]]
    ) -> list[Number]:
        found = list(self._printed(plain))
        is_forward = bool(found and mentions) and found[0][0] < mentions[0].start
        numbers: list[Number] = []
        for place, (start, end, value, is_percentage) in enumerate(found):
            clause = next(one for one in clauses if one[0] <= start < one[1])
            if is_forward:
                low, high = end, found[place + 1][0] if place + 1 < len(found) else self.end
            else:
                low, high = found[place - 1][1] if place else self.begin, start
            low, high = max(low, clause[0]), min(high, clause[1])
            own = tuple(i for i, one in enumerate(mentions) if low <= one.start < high)
            is_beside = not is_forward and bool(own)
            is_beside = is_beside and bool(
                _BESIDE.fullmatch(self.masked[mentions[own[-1]].end : start])
            )
            words = self.masked[clause[0] : clause[1]]
            is_total = not mentions or (not own and bool(_TOGETHER.search(words)))
            if not own and numbers and not is_total:
                own = numbers[-1].mentions
            likely = not own or bool(_LIKELY.search(words))
            printed = self.masked[start:end].strip()
            numbers.append(Number(value, is_percentage, printed, own, is_beside, is_total, likely))
        return numbers

    def _printed(self, plain: str) -> Iterator[tuple[int, int, float, bool]]:
        """Start, end and value of what is printed, and whether it is a share."""
        found = []
        for beyond in self.templates["beyond"]:
            spots = re.finditer(re.escape(beyond), self.masked[self.begin : self.end])
            found += [(*match.span(), -float("inf"), True) for match in spots]
        for match in _NUMBER.finditer(plain):
            if _is_claim(match, plain):
                found.append((match.start(), match.end(), *_value(match)))
        found += [(*match.span(), float("nan"), True) for match in _finds(_AMOUNT, plain)]
        for start, end, value, is_share in sorted(found, key=lambda one: one[0]):
            yield self.begin + start, self.begin + end, value, is_share

    def _compared(
        self, plain: str, mentions: Sequence[Mention]
    ) -> tuple[list[tuple[int, int]], list[str]]:
        """Pairs of a greater and a smaller mention, and comparisons that cannot be read."""
        pairs, unclear = [], []
        lowered = plain.lower()
        for match in _finds(_COMPARISON, lowered):
            before = [i for i, m in enumerate(mentions) if m.end <= self.begin + match.start()]
            after = [i for i, m in enumerate(mentions) if m.start >= self.begin + match.end()]
            if before and after:
                pair = (before[-1], after[0])
                pairs.append(pair[::-1] if match[1] in _SMALLER else pair)
            else:
                unclear.append("a comparison cannot be checked")
            lowered = _hide(lowered, [match.span()])
        if any(_finds(_pattern(self.templates["comparison_cues"]), lowered)):
            unclear.append("a comparison cannot be checked")
        return pairs, unclear

    def _doubts(self, plain: str) -> list[str]:
        lowered = plain.lower()
        for cue in self.templates["against_cues"]:
            lowered = lowered.replace(cue, " ")
        if any(_finds(_pattern(self.templates["doubt_cues"]), lowered)):
            return ["what it denies or doubts cannot be checked"]
        return []


def _finds(pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    """Matches of a pattern; of sentences that differ in quotations and numbers one is searched."""
    shape = _QUOTED_OR_DIGITS.sub(lambda match: "0" if match[0].isdigit() else _HIDDEN, text)
    return pattern.finditer(text) if _occurs(pattern, shape) else iter(())


@lru_cache(maxsize=4096)
def _occurs(pattern: re.Pattern[str], text: str) -> bool:
    return pattern.search(text) is not None


@lru_cache(maxsize=64)
def _compiled(cues: tuple[str, ...]) -> re.Pattern[str]:
    parts = []
    for cue in cues:
        word = re.escape(cue.rstrip("*")).replace("'", "['\u2019]")
        is_ending = cue == "n't"
        begin = r"(?<!\w)" if cue[0].isalpha() and cue[0] < "\u3000" and not is_ending else ""
        end = r"(?!\w)" if cue[-1].isalpha() and cue[-1] < "\u3000" else ""
        parts.append(f"{begin}{word}{end}")
    return re.compile("|".join(parts), re.IGNORECASE)


def _pattern(cues: Sequence[str]) -> re.Pattern[str]:
    """Finds whole words, or with a * at the end the beginnings of some."""
    return _compiled(tuple(cues))


def _is_claim(match: re.Match[str], plain: str) -> bool:
    """Whether a number measures something; others count things, or the lines of a list."""
    glued = match[4].lower()
    if glued:
        return glued in ("x", "pp")
    if match[2] or match[3] or "." in match[1] or "," in match[1]:
        return True
    before, after = plain[: match.start()], plain[match.end(1) :]
    if _SCORE_BEFORE.search(before):
        return True
    is_line = not before.strip(" \n-*#(") and re.match(r"[.):]|\s*$", after)
    return not is_line and not re.match(r"\s*[^\W\d_\ue000]", after)


def _value(match: re.Match[str]) -> tuple[float, bool]:
    unit = (match[3] or "").lower()
    try:
        value = float(match[1].replace(",", ".").replace("\u2212", "-"))
        if match[4]:
            return float("nan"), True
        if match[2]:
            return value / float(match[2].replace(",", ".")), True
    except (ValueError, ZeroDivisionError):
        return float("nan"), True
    is_share = bool(unit) and not unit.startswith("point")
    return (value / 100 if is_share else value), is_share


def _quotations(
    text: str,
    templates: Mapping[str, Any],
    phrases: Sequence[Phrase],
    source: str,
    labels: Sequence[str],
    told: Sequence[Phrase],
) -> list[Quotation]:
    found = _known(text, templates, phrases, source)
    found += _repeated(text, told)
    for start, end, content in _marked(text):
        is_free = all(end <= one.start or start >= one.end for one in found)
        cleaned = content.strip(" .,;:!?…")
        if is_free and cleaned and not _is_label(text[:start], cleaned, labels, source):
            found.append(Quotation(content.strip(), start, end))
    return sorted(found, key=lambda one: one.start)


def _is_label(before: str, content: str, labels: Sequence[str], source: str) -> bool:
    """Whether a class is meant: where a prediction is named, or the text has no such word."""
    if content in ("{placeholder}", "{other}"):
        return True
    if content.lower() not in {label.lower() for label in labels}:
        return False
    if _NAMES_LABEL.search(before):
        return True
    is_in_text = re.search(rf"(?<!\w){re.escape(content)}(?!\w)", source, re.IGNORECASE)
    return not is_in_text and not _NAMES_WORD.search(before)


def _repeated(text: str, told: Sequence[Phrase]) -> list[Quotation]:
    """Told phrases between straight quotation marks, whatever stands in them."""
    found: list[Quotation] = []
    for phrase in sorted(told, key=lambda one: -len(one.text)):
        for match in re.finditer(re.escape(f'"{phrase.text}"'), text):
            start, end = match.span()
            if all(end <= one.start or start >= one.end for one in found):
                found.append(Quotation(phrase.text, start, end))
    return found


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
        if begin not in text:
            continue
        pattern = f"{re.escape(begin)}([^\n]{{1,200}}?){re.escape(end)}"
        found += [(match.start(), match.end(), match[1]) for match in re.finditer(pattern, text)]
    found += [(m.start(), m.end(), m[1] or m[2]) for m in _SINGLE.finditer(text)]
    kept: list[tuple[int, int, str]] = []
    for one in sorted(found, key=lambda each: (each[0], -each[1])):
        if not kept or one[0] >= kept[-1][1]:
            kept.append(one)
    return kept
