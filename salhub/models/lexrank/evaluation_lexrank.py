"""Evaluation of LexRank: ROUGE on texts and on clusters of texts, beside its own variants."""

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from salhub.models.lexrank.evaluation_summaries import (
    Ranker,
    compare_rankers,
    read_summarization_set,
)
from salhub.models.lexrank.modeling_lexrank import LexRankModel
from salhub.models.lexrank.summarizing import summarize
from salhub.results import Results, measured

SHARES_ROWS = True
# Rows beside the model as it is: what is set differently.
_VARIANTS: dict[str, dict[str, Any]] = {
    "without the filter of repetitions": {"redundancy": None},
    "threshold 0.1": {"threshold": 0.1},
    "threshold 0.2": {"threshold": 0.2},
    "threshold 0.3": {"threshold": 0.3},
    "degree, threshold 0.1": {"threshold": 0.1, "centrality": "degree"},
    "rareness in what is ranked": {"idf": "cluster"},
}


def evaluate(
    model: LexRankModel,
    data_path: str | os.PathLike[str],
    *,
    clusters: str | None = None,
    budget: int = 100,
    cluster_budget: int = 25,
    half: str = "test",
    variants: bool = True,
    seed: int = 0,
    progress: bool = True,
) -> Results:
    """Measure summaries by ROUGE.

    Args:
        model: Ranks the sentences.
        data_path: Texts with summaries, see `read_summarization_set`.
        clusters: The same of clusters of texts; None to leave them out.
        budget: Words of the summary of a text.
        cluster_budget: Words of the summary of a cluster.
        half: "test", "development" or "all" of the items.
        variants: Whether to measure variants of the method too.
        seed: Of the bootstrap, and of what is random.
        progress: Whether to show bars.

    Returns:
        `Results` with the tables of the card.

    Raises:
        FileNotFoundError: There is no such file.
        MissingExtraError: rouge-score is not installed.
        ValueError: A file of another kind.

    Source: Erkan and Radev 2004 (JAIR 22), section 5, for the measure and the variants.
    """
    sets = {"Texts": (data_path, budget)}
    if clusters is not None:
        sets["Clusters"] = (clusters, cluster_budget)
    items = {name: read_summarization_set(path, half) for name, (path, _) in sets.items()}
    results = Results.of_model(model, Path(data_path).stem, seed)
    results.data = {
        "name": Path(data_path).stem,
        "half": half,
        **{f"{kind.lower()}": Path(path).name for kind, (path, _) in sets.items()},
    }
    rankers = {"this model": ranker_of(model)}
    if variants:
        rankers |= {title: ranker_of(_variant(model, one)) for title, one in _VARIANTS.items()}
    with measured(results):
        for title, (path, words) in sets.items():
            compare_rankers(
                results,
                title,
                items[title],
                rankers,
                words,
                note=f"Data: {Path(path).name}, {half} half." if half != "all" else "",
                progress=progress,
            )
    return results


def ranker_of(model: LexRankModel) -> Ranker:
    """Ranks sentences as a summary would choose them, repetitions left out."""

    def rank(sentences: Sequence[str]) -> Sequence[int]:
        found = summarize(model, [list(sentences)], budget=len(sentences), order="score")
        # Blank sentences are no sentences, so numbers are looked up by place.
        places = [place for place, text in enumerate(sentences) if text.strip()]
        return [places[number] for number in found.chosen]

    return rank


def _variant(model: LexRankModel, settings: dict[str, Any]) -> LexRankModel:
    other = copy.deepcopy(model)
    for name, value in settings.items():
        setattr(other.config, name, value)
    return other
