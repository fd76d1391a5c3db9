"""Evaluation of the extract/aggregate family: grid game, class sensitivity, meta step and more."""

import os
from typing import Any

from salhub.evaluation.image_saliency.controls import RANDOM_MAP, RandomMaps
from salhub.evaluation.image_saliency.evaluation import (
    Evaluation,
    add_grid,
    add_summary,
    evaluation_of,
)
from salhub.evaluation.image_saliency.scores import (
    measure_class_sensitivity,
    measure_perturbation,
    record_table,
)
from salhub.metrics.bootstrap import Estimate
from salhub.models.normgrad.evaluation_maps import (
    Family,
    LayerCombinations,
    choose_depths,
    own_maps,
)
from salhub.models.normgrad.evaluation_meta import evaluate_meta_step
from salhub.models.normgrad.evaluation_randomization import evaluate_randomization
from salhub.models.normgrad.methods import INPUT_LAYER
from salhub.models.normgrad.modeling_normgrad import NormGradForImageSaliency
from salhub.results import Results, Table

SHARES_ROWS = True
OWN_MAP = "this model"
NUM_COMBINED = 4
PLACES = "This model, at its own layers, and the random map are in the last column."
PIXELS_PER_STEP = 3584  # 14 steps of a 224 x 224 picture, where the published curve has 224


def evaluate(
    model: NormGradForImageSaliency,
    image_processor: Any,
    data_path: str | os.PathLike[str],
    *,
    seed: int = 0,
    num_mosaics: int = 100,
    num_images: int = 50,
    num_meta_mosaics: int = 12,
    num_meta_images: int = 20,
    num_deletion_images: int = 20,
    num_random_images: int = 8,
    grid_size: int = 2,
    min_probability: float = 0.85,
    only_own: bool = False,
    progress: bool = True,
) -> Results:
    """Measure a model beside every other method of the family, on labelled pictures.

    Args:
        model: The model; its own settings give the row "this model", its network everything else.
        image_processor: The classifier's image processor.
        data_path: Folder of labelled pictures, see `LabelledImageFolder`.
        seed: Seed of every draw.
        num_mosaics: Mosaics of the grid pointing game.
        num_images: Pictures of the class sensitivity.
        num_meta_mosaics: Mosaics for the meta step, which costs two passes a cell.
        num_meta_images: Pictures for the meta step.
        num_deletion_images: Pictures for insertion and deletion.
        num_random_images: Pictures for the randomisation check.
        grid_size: Tiles on a side of a mosaic.
        min_probability: Smallest probability of the true class of a picture in a mosaic.
        only_own: Measure the model's own map alone, by the same draws: what the other methods do
            on its network does not depend on its settings.
        progress: Whether to show bars.

    Returns:
        `Results` with metrics, tables and the time each part took.

    Raises:
        FileNotFoundError, ValueError: The folder is missing, or has too few pictures that the
            classifier gets right.

    Example:
        >>> results = evaluate(model, processor, "pictures")  # doctest: +SKIP
        >>> results.save("normgrad.results.json")  # doctest: +SKIP

    Source: metrics and protocol after Rebuffi et al. 2020 (class sensitivity), Boehle et al. 2021
    (grid game), Petsiuk et al. 2018 (insertion, deletion), Adebayo et al. 2018 (randomisation).
    """
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
        depths = choose_depths(model.saliency_layers(tuple(run.results.data["picture_size"])))
        family = Family(model, run.first_mosaic, depths, is_empty=only_own)
        with run.timed("grid_game"):
            _evaluate_grid_game(run, model, family)
        with run.timed("class_similarity"):
            _evaluate_class_sensitivity(run, model, family)
        if not only_own:
            with run.timed("meta_step"):
                evaluate_meta_step(run, model, depths, num_meta_mosaics, num_meta_images)
        with run.timed("combination"):
            _evaluate_combination(run, model, num_deletion_images, only_own=only_own)
        if not only_own:
            with run.timed("randomization"):
                evaluate_randomization(run, model, family, num_random_images)
        _add_summary(run, family)
    return run.results


def _evaluate_grid_game(run: Evaluation, model: NormGradForImageSaliency, family: Family) -> None:
    explainers = {OWN_MAP: own_maps(model), "family": family}
    scores = run.play_grid_game(explainers | {RANDOM_MAP: RandomMaps(run.results.seed)})
    mass = record_table(run.results, "grid", scores, ["mass", "hit"], unit="fraction")
    for name, found in scores.items():
        run.results.add_metric(
            f"grid/empty/{name}", found["empty"].total, n=len(found["empty"].values), unit="count"
        )
    cells = len(run.mosaics) / run.chance
    note = (
        f"{len(run.mosaics)} mosaics, {cells:.0f} cells; chance {run.chance:.2f}. Mean and "
        "95 % interval, bootstrap over mosaics. A map that is constant or has no positive "
        'value scores 0 and is counted ("empty"), never dropped. norm_grad_proper reads '
        "the last convolution inside the block; cam reads the maps that are pooled for the "
        f"linear head. {PLACES}"
    )
    columns = [INPUT_LAYER, *family.depths]
    for metric, title in (
        ("mass", "Grid pointing game: share of positive mass in the right tile"),
        ("hit", "Grid pointing game: arg-max in the right tile"),
    ):
        cells = {
            _place(name, family): f"{found[metric]:.3f}"
            + _empty(scores[name]["empty"].total, found[metric])
            for name, found in mass.items()
        }
        add_grid(run.results, title, note, cells, columns)


def _evaluate_class_sensitivity(
    run: Evaluation, model: NormGradForImageSaliency, family: Family
) -> None:
    explainers = {OWN_MAP: own_maps(model), "family": family}
    scores = measure_class_sensitivity(explainers, run.sample, run.positions, progress=run.progress)
    found = record_table(
        run.results, "class_similarity", scores, ["rho", "absolute_rho"], unit="rho"
    )
    note = (
        f"{len(run.positions)} pictures; mean Spearman correlation of the maps of the most "
        "and the least likely class, 95 % bootstrap interval. 1 means that the map ignores "
        "the class. Undefined: one of the two maps is constant, so there is no correlation. "
        f"{PLACES}"
    )
    for metric, title in (
        ("rho", "Class similarity: rho"),
        ("absolute_rho", "Class similarity: |rho|"),
    ):
        cells = {_place(name, family): f"{e[metric]:.3f}" for name, e in found.items()}
        add_grid(run.results, title, note, cells, [INPUT_LAYER, *family.depths])


def _evaluate_combination(
    run: Evaluation, model: NormGradForImageSaliency, num_images: int, *, only_own: bool
) -> None:
    size = tuple(run.results.data["picture_size"])
    depths = choose_depths(model.saliency_layers(size), NUM_COMBINED)
    seed = run.results.seed
    others = {} if only_own else {"combination": LayerCombinations(model, depths)}
    grid = run.play_grid_game(others) if others else {}
    explainers = {OWN_MAP: own_maps(model), **others, RANDOM_MAP: RandomMaps(seed)}
    curves = measure_perturbation(
        explainers,
        run.sample.classify,
        run.sample,
        run.confident_positions(num_images),
        pixels_per_step=PIXELS_PER_STEP,
        progress=run.progress,
    )
    grid_found = record_table(run.results, "combination", grid, ["mass", "hit"], unit="fraction")
    found = record_table(run.results, "perturbation", curves, ["deletion", "insertion"])
    known = run.results.metric
    rows: list[list[str | None]] = []
    for name in found:
        mass = grid_found.get(name, {}).get("mass")
        text = f"{mass:.3f}" if mass else f"{known(f'grid/mass/{name}').value:.3f}"
        areas = [f"{found[name][metric]:.3f}" for metric in ("deletion", "insertion")]
        rows.append([name, text, *areas])
    note = (
        f"Grid game on {len(run.mosaics)} mosaics (chance {run.chance:.2f}); deletion (low is "
        f"good) and insertion (high is good) on {num_images} pictures for the true class, "
        f"{PIXELS_PER_STEP} pixels a step; 95 % bootstrap intervals. product and sum combine "
        f"{', '.join(depths)}."
    )
    columns = ["map", "grid mass", "deletion area", "insertion area"]
    run.results.tables.append(
        Table(
            "Combined layers compared with single ones, insertion and deletion", note, columns, rows
        )
    )


def _add_summary(run: Evaluation, family: Family) -> None:
    """The model's own numbers in front of all other tables."""
    note = ""
    if family.unfit:
        left_out = "; ".join(f"{name}: {reason}" for name, reason in family.unfit.items())
        note = f" Methods that do not fit this network: {left_out}"
    rows = [
        ("grid game, mass", f"grid/mass/{OWN_MAP}", run.chance),
        ("grid game, arg-max", f"grid/hit/{OWN_MAP}", run.chance),
        ("class similarity, rho", f"class_similarity/rho/{OWN_MAP}", None),
    ]
    for metric in ("deletion", "insertion"):
        own, control = (f"perturbation/{metric}/{name}" for name in (OWN_MAP, RANDOM_MAP))
        rows.append((f"{metric} area", own, run.results.metric(control).value))
    add_summary(run.results, rows, note)


def _place(name: str, family: Family) -> tuple[str, str]:
    """Row and column of a map's name; maps without a layer stand in the deepest column."""
    method, _, depth = name.partition("/")
    return method, depth or family.depths[-1]


def _empty(count: int, estimate: Estimate) -> str:
    return f", {count} of {estimate.n} empty" if count else ""
