"""Summaries against references: ROUGE at one budget for whoever ranks the sentences."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from salhub.data.text_sources import decode_text
from salhub.errors import require_extra
from salhub.evaluation.shared_rows import shared_rows
from salhub.files import require_file
from salhub.metrics.bootstrap import bootstrap_mean
from salhub.results import Results, Table

HALVES = ("development", "test", "all")
MEASURES = ("rouge1", "rouge2", "rougeL", "rouge1_recall")
_TITLES = ("R-1", "R-2", "R-L", "R-1 recall")

# Sentences of a text -> their numbers, best first.
Ranker = Callable[[Sequence[str]], Sequence[int]]


@dataclass(frozen=True)
class SummarizationItem:
    """Sentences of a text, or of several texts on one topic, and summaries written for them.

    Args:
        sentences: In the order of the text.
        references: Summaries to compare with, one or more.
    """

    sentences: tuple[str, ...]
    references: tuple[str, ...]


def read_summarization_set(path: str | Path, half: str = "all") -> list[SummarizationItem]:
    """Read texts with their summaries.

    Args:
        path: A .jsonl file, an object a line with the lists "sentences" and "references".
        half: "development" for the first, third, fifth... item, on which settings may be chosen;
            "test" for the others; or "all".

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line that is no such object, or an unknown half.
    """
    path = Path(path)
    if half not in HALVES:
        raise ValueError(f"half must be one of {', '.join(HALVES)}, got {half!r}.")
    require_file(path, "file of texts and summaries")
    lines = decode_text(path.read_bytes(), f"'{path}'").removeprefix("\ufeff").splitlines()
    items = [_item(line, f"line {n} of {path}") for n, line in enumerate(lines, 1) if line.strip()]
    return items if half == "all" else items[HALVES.index(half) :: 2]


def _item(line: str, name: str) -> SummarizationItem:
    try:
        entry: Any = json.loads(line)
        item = SummarizationItem(tuple(entry["sentences"]), tuple(entry["references"]))
    except (json.JSONDecodeError, KeyError, TypeError):
        raise ValueError(f"{name} lacks the lists 'sentences' and 'references'.") from None
    if not item.sentences or not item.references:
        raise ValueError(f"{name} needs at least one sentence and one reference.")
    return item


def cut_summary(sentences: Sequence[str], ranking: Sequence[int], budget: int) -> str:
    """The best sentences until the budget is reached, in the order of the text, cut at it.

    Args:
        sentences: Of the text.
        ranking: Their numbers, best first; those that are not in it are never taken.
        budget: Words, between white space.
    """
    chosen, count = [], 0
    for number in ranking:
        chosen.append(number)
        count += len(sentences[number].split())
        if count >= budget:
            break
    words = " ".join(sentences[number] for number in sorted(chosen)).split()
    return " ".join(words[:budget])


class Rouge:
    """ROUGE-1, -2 and -L with stemming, against one reference or several.

    F1 is that of the best reference, recall the mean over all of them.

    Raises:
        MissingExtraError: rouge-score is not installed.

    Source: Lin 2004 (ACL workshop Text Summarization Branches Out), as in the package rouge-score.
    """

    def __init__(self) -> None:
        scorer = require_extra("rouge_score.rouge_scorer", "text")
        self._scorer = scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)

    def __call__(self, summary: str, references: Sequence[str]) -> dict[str, float]:
        """Scores in percent, by the names of `MEASURES`."""
        found = [self._scorer.score(reference, summary) for reference in references]
        scores = {
            name: 100 * max(one[name].fmeasure for one in found)
            for name in ("rouge1", "rouge2", "rougeL")
        }
        recall = sum(one["rouge1"].recall for one in found) / len(found)
        return {**scores, "rouge1_recall": 100 * recall}


def score_ranker(
    items: Sequence[SummarizationItem], rank: Ranker, budget: int, rouge: Rouge
) -> dict[str, np.ndarray]:
    """Scores of the summaries that a ranking of sentences gives.

    Args:
        items: Texts with their references.
        rank: Ranks the sentences of a text.
        budget: Words of a summary.
        rouge: The measure.

    Returns:
        Measure -> percent for every item, (N,).
    """
    scores = [
        rouge(cut_summary(item.sentences, rank(item.sentences), budget), item.references)
        for item in items
    ]
    return {name: np.array([one[name] for one in scores]) for name in MEASURES}


def lead(sentences: Sequence[str]) -> Sequence[int]:
    """The sentences as they stand."""
    return range(len(sentences))


def random_ranker(seed: int) -> Ranker:
    """Sentences in a random order, another one for every text."""
    generator = np.random.default_rng(seed)
    return lambda sentences: generator.permutation(len(sentences)).tolist()


def compare_rankers(
    results: Results,
    title: str,
    items: Sequence[SummarizationItem],
    rankers: dict[str, Ranker],
    budget: int,
    *,
    num_random: int = 5,
    note: str = "",
    progress: bool = False,
) -> None:
    """Write a table of ROUGE with bootstrap intervals, the lead and random sentences included.

    Args:
        results: To be filled; its seed is that of the bootstrap and of what is random.
        title: Of the table, and first part of the metrics' names.
        items: Texts with their references.
        rankers: Name of a row -> who ranks; the first one is what the others are compared with.
        budget: Words of a summary.
        num_random: Random orders that are averaged.
        note: What else the table should say.
        progress: Whether to show a bar.
    """
    rouge, rows, first = Rouge(), [], None
    random = {f"random {n}": random_ranker(results.seed + n) for n in range(num_random)}
    everyone = {**rankers, "first sentences": lead, **random}

    def of_ranker(name: str) -> dict[str, list[float]]:
        scores = score_ranker(items, everyone[name], budget, rouge)
        return {measure: values.tolist() for measure, values in scores.items()}

    scored = shared_rows(title, list(everyone), of_ranker, progress=progress)
    found = {
        name: {measure: np.array(values) for measure, values in row.items()}
        for name, row in zip(everyone, scored, strict=True)
    }
    orders = [found.pop(name) for name in random]
    found["random sentences"] = {m: np.mean([one[m] for one in orders], axis=0) for m in MEASURES}
    for name, scores in found.items():
        first = first or scores
        means = [
            results.add_mean(f"{title}/{measure}/{name}", scores[measure], unit="percent")
            for measure in MEASURES
        ]
        behind = bootstrap_mean(scores["rouge1"] - first["rouge1"], seed=results.seed)
        cells = [f"{mean:.1f}" for mean in (*means, behind)]
        rows.append([name, *cells[:-1], "" if scores is first else cells[-1]])
    text = (
        f"Percent, {len(items)} items, summaries of {budget} words: sentences are added "
        "until the budget is reached, sorted in the order of the text and cut. F1 is "
        "measured against the best reference. 95 % bootstrap intervals over the items; the "
        f"last column is the paired difference in R-1 from the first row. {note}"
    )
    columns = ["", *_TITLES, "R-1, difference"]
    results.tables.append(Table(title, text.strip(), columns, rows))
