"""Evaluation of salient relevance: localisation, class sensitivity, regions, conservation."""

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from salhub.evaluation.image_saliency.controls import (
    RANDOM_DISC,
    RANDOM_MAP,
    RandomDiscs,
    RandomMaps,
)
from salhub.evaluation.image_saliency.evaluation import (
    Evaluation,
    add_grid,
    add_summary,
    classifier_of,
    evaluation_of,
)
from salhub.evaluation.image_saliency.scores import (
    Explainer,
    Scores,
    ScoreTable,
    measure_class_sensitivity,
    measure_perturbation,
    measure_randomization,
    record_table,
)
from salhub.evaluation.shared_rows import measured_once, shared_rows
from salhub.metrics.randomization import layer_stages
from salhub.models.salient_relevance.evaluation_relevance import (
    FROM_ONE,
    evaluate_conservation,
    evaluate_rules,
    with_settings,
)
from salhub.models.salient_relevance.modeling_salient_relevance import (
    SalientRelevanceForImageSaliency,
    SalientRelevanceOutput,
)
from salhub.models.salient_relevance.regions import (
    area_fraction,
    connected_components,
    top_area_mask,
    total_variation,
)
from salhub.results import Results, Table

SHARES_ROWS = True
SALIENT, CONTEXT, RELEVANCE = "salient relevance", "without foci", "relevance alone"
TOP_AREA = 0.05  # share of the picture whose connected regions are counted
PIXELS_PER_STEP = 3584  # 14 steps of a 224 x 224 picture, where the published curve has 224
NUM_STAGES = 5


def evaluate(
    model: SalientRelevanceForImageSaliency,
    image_processor: Any,
    data_path: str | os.PathLike[str],
    *,
    seed: int = 0,
    num_mosaics: int = 100,
    num_images: int = 50,
    num_rule_mosaics: int = 12,
    num_rule_images: int = 20,
    num_audit_images: int = 5,
    num_deletion_images: int = 20,
    num_random_images: int = 6,
    grid_size: int = 2,
    min_probability: float = 0.85,
    progress: bool = True,
) -> Results:
    """Measure a model on labelled pictures, beside its own first stage and random maps.

    Args:
        model: The model.
        image_processor: The classifier's image processor.
        data_path: Folder of labelled pictures, see `LabelledImageFolder`.
        seed: Seed of every draw.
        num_mosaics: Mosaics of the grid pointing game.
        num_images: Pictures of the class sensitivity and of the region counts.
        num_rule_mosaics: Mosaics of the comparison of presets.
        num_rule_images: Pictures of the comparison of presets.
        num_audit_images: Pictures of the conservation audit.
        num_deletion_images: Pictures for insertion and deletion.
        num_random_images: Pictures for the randomisation check.
        grid_size: Tiles on a side of a mosaic.
        min_probability: Smallest probability of the true class of a picture in a mosaic.
        progress: Whether to show bars.

    Returns:
        `Results` with metrics, tables and the time each part took.

    Raises:
        FileNotFoundError, ValueError: The folder is missing, or has too few pictures that the
            classifier gets right.

    Example:
        >>> results = evaluate(model, processor, "pictures")  # doctest: +SKIP

    Source: the paper (Li et al. 2019) has no numbers of this kind; all metrics are additions of
    this library, as defined in `salhub.metrics`.
    """
    measuring = with_settings(model)
    with evaluation_of(
        model,
        image_processor,
        data_path,
        seed=seed,
        num_mosaics=num_mosaics,
        num_images=num_images,
        grid_size=grid_size,
        min_probability=min_probability,
        progress=progress,
    ) as run:
        with run.timed("grid_game"):
            _evaluate_grid_game(run, measuring)
        with run.timed("class_similarity_and_regions"):
            _evaluate_pictures(run, measuring)
        with run.timed("perturbation"):
            _evaluate_perturbation(run, measuring, num_deletion_images)
        with run.timed("rules"):
            evaluate_rules(run, measuring, num_rule_mosaics, num_rule_images)
        with run.timed("conservation"):
            evaluate_conservation(run, measuring, num_audit_images)
        with run.timed("randomization"):
            _evaluate_randomization(run, measuring, num_random_images)
        _time_stages(run, measuring)
        _add_summary(run)
    return run.results


def stages(model: SalientRelevanceForImageSaliency) -> Explainer:
    """The finished map, the same without foci, and the relevance alone, as one explainer."""

    def explain(pixel_values: Tensor, class_labels: Tensor) -> dict[str, Tensor]:
        output = model(pixel_values, class_labels)
        return {
            SALIENT: output.saliency,
            CONTEXT: output.context_saliency,
            RELEVANCE: output.relevance.sum(dim=2),
        }

    return explain


def _evaluate_grid_game(run: Evaluation, model: SalientRelevanceForImageSaliency) -> None:
    explainers = {"stages": stages(model), RANDOM_MAP: RandomMaps(run.results.seed)}
    scores = run.play_grid_game(explainers)
    found = record_table(run.results, "grid", scores, ["mass", "hit"], unit="fraction")
    rows = []
    for name, estimates in found.items():
        count = len(scores[name]["empty"].values)
        empty = scores[name]["empty"].total
        run.results.add_metric(f"grid/empty/{name}", empty, n=count, unit="count")
        texts = [f"{estimates[metric]:.3f}" for metric in ("mass", "hit")]
        rows.append([name, *texts, f"{empty} of {count}"])
    note = (
        f"{len(run.mosaics)} mosaics, chance {run.chance:.2f}; mean and 95 % interval, bootstrap "
        "over mosaics. A constant map scores 0 and is counted as empty."
    )
    columns = ["map", "positive mass in the right tile", "arg-max in the right tile", "empty"]
    run.results.tables.append(Table("Grid pointing game", note, columns, rows))


def _evaluate_pictures(run: Evaluation, model: SalientRelevanceForImageSaliency) -> None:
    explainers = {"stages": stages(with_settings(model, **_comparable_start(model)))}
    scores = measure_class_sensitivity(explainers, run.sample, run.positions, progress=run.progress)
    found = record_table(
        run.results, "class_similarity", scores, ["rho", "absolute_rho"], unit="rho"
    )
    rows = [
        [name, *(f"{estimate:.3f}" for estimate in estimates.values())]
        for name, estimates in found.items()
    ]
    note = (
        f"{len(run.positions)} pictures; Spearman correlation of the maps of the most and "
        "the least likely class, mean and 95 % bootstrap interval. 1 means that the map "
        "ignores the class. Relevance starts at 1 for both classes: if it started at the "
        "score, the least likely class would get the same map with the opposite sign."
    )
    run.results.tables.append(Table("Class similarity", note, ["map", "rho", "|rho|"], rows))
    _evaluate_regions(run, model)


def _comparable_start(model: SalientRelevanceForImageSaliency) -> dict[str, str]:
    """Relevance 1 instead of the score, whose sign differs between classes and networks."""
    return FROM_ONE if model.config.start == "logit" else {}


def _evaluate_regions(run: Evaluation, model: SalientRelevanceForImageSaliency) -> None:
    scores: dict[str, Scores] = {}

    def of_picture(position: int) -> dict[str, Tensor]:
        labels = run.sample.extreme_classes([position])[:, :1]
        return _region_values(model(run.sample.pixel_values([position]), labels))

    rows = shared_rows("regions", run.positions, of_picture)
    for position, row in zip(run.positions, rows, strict=True):
        for name, value in row.items():
            scores.setdefault(name, Scores()).extend(value, [position])
    found = {name: one.record(run.results, name) for name, one in scores.items()}
    medians = {name: float(np.median(one.values)) for name, one in scores.items()}
    rows = [[name, f"{one:.3f}", f"{medians[name]:.3g}"] for name, one in found.items()]
    note = (
        f"{len(run.positions)} pictures, most likely class. Regions: 8-connected parts of the "
        f"{100 * TOP_AREA:.0f} % of pixels with the largest values; reduction is relevance alone / "
        "salient relevance. Attended: where the map exceeds the foci threshold. Total variation: "
        "sum of absolute differences of neighbours by pixel, of the map scaled to [0, 1]."
    )
    columns = ["what", "mean, 95 % interval", "median"]
    run.results.tables.append(Table("Attention areas instead of speckle", note, columns, rows))


def _region_values(output: SalientRelevanceOutput) -> dict[str, Tensor]:
    """Counts and shares of one picture and class, each (1,)."""
    raw, finished, mask = (
        output.relevance[0].sum(dim=1),
        output.saliency[0],
        output.attended_mask[0],
    )
    counts = {
        name: connected_components(top_area_mask(one, TOP_AREA), connectivity=8).double()
        for name, one in ((RELEVANCE, raw), (SALIENT, finished))
    }
    return {
        f"regions/{RELEVANCE}": counts[RELEVANCE],
        f"regions/{SALIENT}": counts[SALIENT],
        # 0 / 0 of a constant map is undefined and counted as such
        "regions/reduction": counts[RELEVANCE] / counts[SALIENT],
        "attended/area": area_fraction(mask),
        "attended/regions": connected_components(mask, connectivity=8),
        f"total_variation/{RELEVANCE}": total_variation(raw),
        f"total_variation/{SALIENT}": total_variation(finished),
    }


def _evaluate_perturbation(
    run: Evaluation, model: SalientRelevanceForImageSaliency, num_images: int
) -> None:
    seed = run.results.seed
    controls = {RANDOM_MAP: RandomMaps(seed), RANDOM_DISC: RandomDiscs(seed)}
    scores = measure_perturbation(
        {"stages": stages(model)} | controls,
        run.sample.classify,
        run.sample,
        run.confident_positions(num_images),
        pixels_per_step=PIXELS_PER_STEP,
        progress=run.progress,
    )
    found = record_table(run.results, "perturbation", scores, ["deletion", "insertion"])
    rows = [
        [name, *(f"{estimate:.3f}" for estimate in estimates.values())]
        for name, estimates in found.items()
    ]
    note = (
        f"{num_images} pictures, true class, {PIXELS_PER_STEP} pixels a step, 95 % bootstrap "
        "intervals. Low deletion and high insertion are good. The random disc removes one "
        "compact area of the same size around a random point."
    )
    columns = ["map", "deletion area", "insertion area"]
    run.results.tables.append(Table("Insertion and deletion", note, columns, rows))


def _evaluate_randomization(
    run: Evaluation, model: SalientRelevanceForImageSaliency, num_images: int
) -> None:
    names = layer_stages(model.backbone, "backbone.")[::-1]
    places = np.linspace(0, len(names) - 1, min(NUM_STAGES, len(names))).round().astype(int)
    stops = [names[place] for place in places]
    found = measure_randomization(
        with_settings(model, **_comparable_start(model)),
        lambda changed: {"stages": stages(changed)},
        lambda changed, pixel_values: classifier_of(changed)(pixel_values),
        run.sample,
        run.positions[:num_images],
        names,
        stops=stops,
        seed=run.results.seed,
        progress=run.progress,
    )
    for metric, label in (("rho", "Spearman"), ("ssim", "SSIM")):
        cells = _similarity_cells(run, found, metric)
        note = (
            f"All stages from the head down to the named one are re-initialised; {num_images} "
            "pictures, class fixed, relevance starts at 1, 95 % bootstrap interval. A map that "
            "explains the network falls towards 0."
        )
        title = f"Randomisation, cascade: similarity to the trained map ({label})"
        columns = [stop.removeprefix("backbone.") for stop in stops]
        add_grid(run.results, title, note, cells, columns, "map")


def _similarity_cells(
    run: Evaluation, found: dict[str, ScoreTable], metric: str
) -> dict[tuple[str, str], str]:
    cells = {}
    for stage, table in found.items():
        short = stage.removeprefix("backbone.")
        for name, scores in table.items():
            prefix = f"randomization/cascade/{short}/{metric}/{name}"
            text = f"{scores[metric].record(run.results, prefix):.2f}"
            constant = scores["constant"].total
            if constant and metric == "ssim":
                text += f", {constant} constant"
            cells[name, short] = text
    return cells


def _time_stages(run: Evaluation, model: SalientRelevanceForImageSaliency) -> None:
    """Median time of one picture: the first stage, and both."""
    pixel_values = run.sample.pixel_values(run.positions[:1])
    label = run.sample.extreme_classes(run.positions[:1])[:, 0]

    def median_seconds(explain: Callable[[Tensor, Tensor], Any]) -> float:
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            explain(pixel_values, label)
            seconds.append(time.perf_counter() - start)
        return float(np.median(seconds))

    for name, explain in (("relevance", model.relevance), ("both_stages", model)):
        found = measured_once(name, partial(median_seconds, explain))
        run.results.add_metric(f"seconds_a_picture/{name}", found, n=5, unit="s")


def _add_summary(run: Evaluation) -> None:
    rows = [
        ("grid game, mass", f"grid/mass/{SALIENT}", run.chance),
        ("grid game, arg-max", f"grid/hit/{SALIENT}", run.chance),
        ("class similarity, rho", f"class_similarity/rho/{SALIENT}", None),
        ("fewer regions than relevance, factor", "regions/reduction", None),
    ]
    for metric in ("deletion", "insertion"):
        own, control = (f"perturbation/{metric}/{name}" for name in (SALIENT, RANDOM_DISC))
        rows.append((f"{metric} area", own, run.results.metric(control).value))
    add_summary(run.results, rows, " The control for insertion and deletion is a random disc.")
