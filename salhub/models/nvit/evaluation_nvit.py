"""Evaluation of a pruned vision transformer: accuracy, shape, and its speed beside the original."""

import os
from functools import partial
from typing import Any

import numpy as np
import torch

from salhub.data.labelled_pictures import pictures_of
from salhub.data.labelled_split import spread_places
from salhub.data.picture_preparation import PicturePreparation
from salhub.data.split_beside import find_file
from salhub.evaluation.held_out import classes_of_model, evaluate_held_out
from salhub.evaluation.image_classification import (
    add_accuracies,
    pictures_to_measure,
    shared_logits,
)
from salhub.evaluation.shared_rows import measured_once
from salhub.metrics.bootstrap import bootstrap_mean
from salhub.models.nvit.distilling_recipe import TABLE_NAME, load_nvit
from salhub.models.nvit.importance import Score, score_units
from salhub.models.nvit.latency_table import LatencyTable
from salhub.models.nvit.modeling_nvit import NViTForImageClassification
from salhub.models.nvit.score_audit import audit_scores, audit_table
from salhub.models.nvit.shapes import STRUCTURES, NViTShape
from salhub.models.nvit.speed import times_in_turns
from salhub.results import Results, Table, measured

SHARES_ROWS = True
_AUDITED: tuple[Score, ...] = ("batch", "per_sample", "taylor_abs", "magnitude", "random")


def evaluate(
    model: NViTForImageClassification,
    image_processor: Any,
    data_path: str | os.PathLike[str],
    *,
    original: str | None = None,
    latency_batch_size: int = 64,
    latency_rounds: int = 30,
    audit_images: int = 0,
    image_column: str | None = None,
    label_column: str | None = None,
    dataset_config_name: str | None = None,
    seed: int = 0,
) -> Results:
    """Measure a network, and beside it the one that it was pruned from.

    Args:
        model: The network.
        image_processor: Its image processor.
        data_path: Labelled pictures, see `read_labelled_pictures`.
        original: The network before it was pruned; None to leave it out.
        latency_batch_size: Pictures of a batch when speed is measured.
        latency_rounds: Batches of each network, in turns.
        audit_images: Held-out pictures on which scores are compared with what removing each group
            really does; 0 for none, as it takes a pass for each group.
        image_column, label_column, dataset_config_name: Of the data.
        seed: Seed of the bootstrap and of random scores.

    Returns:
        `Results` with "accuracy/test", "parameters", "macs", and beside an original
        "accuracy/original", "latency_ratio/measured" and "latency_ratio/predicted".

    Raises:
        FileNotFoundError, ValueError: As of `read_labelled_pictures` and `held_out`.

    Example:
        >>> results = evaluate(model, processor, "cifar10.npz")  # doctest: +SKIP
    """
    columns = (image_column, label_column, dataset_config_name)
    data = pictures_to_measure(model, data_path, *columns)
    preparation = PicturePreparation(image_processor)
    base = None if original is None else load_nvit(original).to(model.device).eval()
    seen: dict[str, Any] = {}

    def logits_of(places: torch.Tensor) -> torch.Tensor:
        # The first rows that are asked for are the test pictures.
        if not seen:
            seen["places"] = places
            if base is not None:
                pictures = pictures_of(data, places, preparation)
                seen["original"] = shared_logits(preparation, base, pictures)
        return shared_logits(preparation, model, pictures_of(data, places, preparation))

    results, _ = evaluate_held_out(model, data, "pictures", seed, logits_of)
    before = results.wall_seconds
    with measured(results):
        every = torch.as_tensor(data.labels)
        every = classes_of_model(every, data.class_names, model.config.id2label, data.name)
        labels = every[seen["places"]]
        if base is not None:
            pair = {"original": (seen["original"], labels)}
            names = {"original": "the network before pruning"}
            add_accuracies(results, pair, names, "Accuracy before pruning")
            _add_speed(results, model, base, latency_batch_size, latency_rounds)
        _add_shape(results, model, base)
        if audit_images:
            places = seen["places"][spread_places(len(labels), audit_images)]
            images = pictures_of(data, places, preparation)
            pixels = preparation(images[torch.arange(len(places))])
            _add_audit(results, model, pixels, every[places], seed)
    results.wall_seconds += before
    return results


def _add_shape(
    results: Results, model: NViTForImageClassification, base: NViTForImageClassification | None
) -> None:
    config = model.config
    shape = NViTShape.of(config)
    results.add_metric("parameters", shape.num_parameters(config), unit="weights")
    results.add_metric("macs", shape.macs(config), unit="multiply-adds per picture")
    before = None if base is None else NViTShape.of(base.config)

    def cell(own: int, other: int | None) -> str:
        return str(own) if other in (None, own) else f"{own} of {other}"

    rows: list[list[Any]] = []
    for block, widths in enumerate(shape.blocks):
        others = [None] * 4 if before is None else before.blocks[block]
        rows.append([block + 1, *(cell(*pair) for pair in zip(widths, others, strict=True))])
    width = cell(shape.hidden_size, before and before.hidden_size)
    note = (
        f"Residual channels: {width}. In each head, QK counts the channels of queries and keys, "
        "V those of values."
    )
    columns = ["block", "heads", "QK", "V", "neurons"]
    results.tables.append(Table("Shape", note, columns, rows))


def _add_speed(
    results: Results, model: NViTForImageClassification, base: NViTForImageClassification,
    batch_size: int, rounds: int,
) -> None:  # fmt: skip
    measure = partial(times_in_turns, base, model, batch_size, rounds)
    times = np.array(measured_once("speed", lambda: measure().tolist()))
    ratios = times[:, 1] / times[:, 0]
    ratio, spread = float(np.median(ratios)), bootstrap_mean(ratios, seed=results.seed)
    results.add_metric(
        "latency_ratio/measured", ratio, interval=(spread.low, spread.high), n=rounds, unit="ratio"
    )
    record = model.config.pruning_record or {}
    predicted = record.get("predicted_ratio")
    if predicted is not None:
        results.add_metric("latency_ratio/predicted", predicted, unit="ratio")
    medians = [1e3 * float(one) for one in np.median(times, axis=0)]
    rows: list[list[Any]] = [
        ["original", medians[0], 1.0, None],
        ["this model", medians[1], ratio, predicted],
    ]
    threads, where = torch.get_num_threads(), model.device.type
    note = (
        f"Batches of {batch_size} on {where} with {threads} thread{'s' * (threads > 1)}, "
        f"{rounds} rounds, taking turns; predicted for "
        f"{record.get('latency_device', 'no device')}."
    ) + _table_words(model)
    columns = ["network", "ms per batch", "share of the original's time", "predicted"]
    results.tables.append(Table("Speed", note, columns, rows))


def _table_words(model: NViTForImageClassification) -> str:
    """How far off the latency table beside a network was, where that was measured."""
    beside = find_file(model.name_or_path, TABLE_NAME) if model.name_or_path else None
    checked = None if beside is None else LatencyTable.load(beside).validation
    if checked is None:
        return ""
    return (
        f" On {checked['networks']:.0f} whole networks of random shapes, the table was off "
        f"by {100 * checked['median']:.1f} % (median) and {100 * checked['maximum']:.1f} % "
        "at most."
    )


def _add_audit(
    results: Results, model: NViTForImageClassification, pixels: torch.Tensor,
    labels: torch.Tensor, seed: int,
) -> None:  # fmt: skip
    batches = list(zip(pixels.split(64), labels.split(64), strict=True))
    scores = {name: score_units(model, batches, score=name, seed=seed) for name in _AUDITED}
    audit = audit_scores(model, batches, scores)
    rows = audit_table(audit)
    for name, pooled, *_ in rows:
        results.add_metric(f"audit/{name}", float(pooled), n=len(audit.changes), unit="rho")
    note = (
        "Spearman's correlation between the scores and the change of the loss when each of "
        f"{len(audit.changes)} groups is removed alone, on {len(labels)} pictures."
    )
    table = Table("Score audit", note, ["score", "all", *STRUCTURES], [list(row) for row in rows])
    results.tables.append(table)
