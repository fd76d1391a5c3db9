"""Planning other shapes from what lies beside a pruned network, without any data."""

import os
from typing import Any

from salhub.data.split_beside import find_file
from salhub.hub import bundled_model, canonical_name, read_config
from salhub.models.nvit.distilling_recipe import SCORES_NAME, TABLE_NAME, load_nvit
from salhub.models.nvit.importance import NViTScores, Score, score_units
from salhub.models.nvit.latency_table import LatencyTable
from salhub.models.nvit.pruner_nvit import NViTPruner


def load_nvit_pruner(
    name: str | os.PathLike[str],
    *,
    original: str | os.PathLike[str] | None = None,
    score: Score | None = None,
    **settings: Any,
) -> NViTPruner:
    """Load a pruner for the original of a pruned network, with its latencies and scores.

    Args:
        name: The pruned network: a folder that `salhub compress nvit` or `salhub train
            nvit-finetune` has made, a shipped name or a Hub repository.
        original: The network before pruning; None for the shipped one named in its record.
        score: What units are ranked by: None for the saved scores, or "magnitude" or "random",
            which need no data either.
        **settings: Settings of `NViTPruner`, such as `kappa`.

    Raises:
        ValueError: The latency table or the scores are missing, the original is unknown, or the
            score needs data.

    Example:
        >>> pruner = load_nvit_pruner("salhub/nvit-cifar10-050")  # doctest: +SKIP
        >>> [plan] = pruner.plan([0.6])  # doctest: +SKIP
        >>> plan.shape.num_blocks  # doctest: +SKIP
        6
    """
    name = os.fspath(name)
    found = {file: find_file(name, file) for file in (TABLE_NAME, SCORES_NAME)}
    missing = [file for file, path in found.items() if path is None]
    if missing:
        raise ValueError(f"{name} has no {missing[0]}; give a folder made by salhub compress nvit.")
    if score not in (None, "magnitude", "random"):
        raise ValueError(
            f"The score '{score}' needs data; create an NViTPruner and call its score(batches)."
        )
    whole = load_nvit(original_name(name) if original is None else original).eval()
    scores = (
        NViTScores.load(found[SCORES_NAME], whole.layout)
        if score is None
        else score_units(whole, (), score=score)
    )
    record = read_config(name)["pruning_record"]
    sites = {"gate_sites": record["gate_sites"], **settings}
    table = LatencyTable.load(found[TABLE_NAME])
    pruner = NViTPruner(whole, table, score=scores.score, **sites)
    pruner.scores = scores
    return pruner


def original_name(name: str) -> str:
    """The shipped network that a pruned one was made of.

    Raises:
        ValueError: Its record names none, or one that is not shipped.
    """
    record = read_config(name).get("pruning_record") or {}
    source = str(record.get("source") or "")
    shipped = bundled_model(canonical_name(source)) if source else None
    if shipped is None:
        raise ValueError(
            f"{name} does not say which shipped network it was made "
            f"from{f' (it says {source!r})' if source else ''}; give original=NAME."
        )
    return shipped.full_name
