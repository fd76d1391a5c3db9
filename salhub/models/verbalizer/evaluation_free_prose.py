"""The baseline of the paper: a chat model that is free to write, measured by what it quotes."""

import re
from collections.abc import Iterator
from typing import Any

from salhub.models.verbalizer.audit import Evidence, Findings, report
from salhub.models.verbalizer.instruction import scored_words
from salhub.models.verbalizer.verbalizer import Verbalization
from salhub.pipelines.chat import Messages

_ASKED = (
    "A classifier read this text:\n{text}\n\nIt chose '{label}'. After that, it was computed how "
    "much each word mattered for this choice; the classifier itself never saw these scores.\n\n"
    "{told}\n\nIn one or two short sentences, explain why the classifier chose '{label}'. Put the "
    'words of the text that you name in "double quotes", exactly as they stand there. Do not name '
    "other words and do not invent numbers."
)
# Pairs of marks that people and chat models use. Both kinds of curly marks end with “ or ”, and an
# apostrophe inside a word ends nothing.
_QUOTATIONS = re.compile(
    '"([^"\n]{1,200})"|[\u201c\u201e\u201d]([^\u201c\u201d\u201e\n]{1,200})[\u201c\u201d]'
    "|[\u00ab\u00bb]\\s?([^\u00ab\u00bb\n]{1,200}?)\\s?[\u00ab\u00bb]|`([^`\n]{1,200})`"
    "|(?<!\\w)['\u2018\u201a]([^\n]{1,200}?)['\u2018\u2019](?!\\w)"
)
_NUMBER = re.compile(r"(?<![\w.,])[-+\u2212]?(\d+(?:[.,]\d+)?)\s*(%|per ?cent\b|pct\b)?", re.I)
_GAP = re.compile(r"\s*(?:\u2026|\.{3})\s*")
_ENDS = " .,;:!?\u2026"
_TOLERANCE = 0.005 + 1e-9


def free_prompt(told: Verbalization, evidence: Evidence) -> Messages:
    """The conversation that asks for free prose.

    Source: Feldhus et al. 2023 (arXiv 2210.07222), section 4, for what it has to hold; the wording,
        and that found phrases are told unless `evidence` is "tokens", is ours.
    """
    lines = [
        f'- "{one.text}": {round(100 * abs(one.coverage))} % '
        f"{'for' if one.sign == '+' else 'against'} it"
        for one in told.phrases
    ]
    if evidence.config.evidence == "tokens":
        lines = [f"All words with their scores:\n{scored_words(told, evidence)}"]
    asked = _ASKED.format(text=told.words.text, label=told.label, told="\n".join(lines))
    return [{"role": "user", "content": asked}]


def audit_free_prose(text: str, evidence: Evidence) -> dict[str, Any]:
    """Measure free prose by its quotations and numbers; signs and ranks are not read.

    Args:
        text: What a chat model wrote.
        evidence: The map.

    Returns:
        As of `audit`. A quotation is right where it stands in the text, a share or score where it
        is that of a quotation of its sentence, or of all of them. `is_faithful` asks for one
        quotation or more, and for no fault.

    Example:
        >>> from salhub.models.verbalizer.configuration_verbalizer import VerbalizerConfig
        >>> from salhub.models.verbalizer.words import Words
        >>> import numpy as np
        >>> words = Words.of_tokens(["a", "warm", "film"])
        >>> evidence = Evidence(words, np.array([0.0, 0.9, 0.1]), VerbalizerConfig())
        >>> audit_free_prose('“warm” (90 %) and “superb” matter.', evidence)["citation_precision"]
        0.5
    """
    findings = Findings()
    labels = {str(name).lower() for name in (evidence.names.label, evidence.names.other) if name}
    for sentence in re.split(r"(?<=[.!?])\s+|\n+", text):
        said: list[tuple[int, ...]] = []
        for match in _QUOTATIONS.finditer(sentence):
            quotation = next(filter(None, match.groups()), "").strip()
            if quotation.strip(_ENDS).lower() in labels or not quotation.strip(_ENDS):
                continue
            places = list(_places(quotation, evidence))
            if not findings.citations.add(bool(places)):
                findings.problems.append(f"'{quotation}' is not in the text")
            said += places
            findings.named += places[:1]
            findings.ranked += places[:1]
        for match in _NUMBER.finditer(_QUOTATIONS.sub(" ", sentence)):
            if not match[2] and not re.search("[.,]", match[1]):
                continue
            value = float(match[1].replace(",", ".")) / (100 if match[2] else 1)
            groups = [*said, sorted({place for one in findings.named for place in one})]
            truths = [evidence.share(one) for one in groups]
            truths += [float(evidence.scores[list(one)].sum()) for one in groups if not match[2]]
            if not findings.numbers.add(any(abs(value - abs(one)) <= _TOLERANCE for one in truths)):
                findings.problems.append(f"the number {match[0]} does not match the scores")
    if not findings.citations.all:
        findings.problems.append("it does not quote any word of the text")
    return report(text, evidence, findings)


def _places(quotation: str, evidence: Evidence) -> Iterator[tuple[int, ...]]:
    """The words of each place where a quotation stands in the text, its parts in order."""
    parts = [one.strip(_ENDS) for one in _GAP.split(quotation)]
    patterns = [r"\s+".join(map(re.escape, one.split())) for one in parts if one]
    spans = evidence.words.spans
    for match in re.finditer(".*?".join(f"({one})" for one in patterns), evidence.words.text, re.I):
        chosen: list[int] = []
        for part in range(1, len(patterns) + 1):
            start, end = match.span(part)
            chosen += ((spans[:, 0] >= start) & (spans[:, 1] <= end)).nonzero()[0].tolist()
            is_cut = (spans[:, 0] < start) & (spans[:, 1] > start)
            if (is_cut | ((spans[:, 0] < end) & (spans[:, 1] > end))).any():
                chosen = []
                break
        if chosen:
            yield tuple(chosen)
