"""Randomisation sanity check of the family, with guided backpropagation as negative control."""

from collections.abc import Sequence

from torch import Tensor

from salhub.evaluation.image_saliency.evaluation import Evaluation, add_grid, classifier_of
from salhub.evaluation.image_saliency.scores import Explainer, ScoreTable, measure_randomization
from salhub.metrics.bootstrap import Estimate
from salhub.metrics.randomization import layer_stages
from salhub.models.normgrad.evaluation_maps import (
    Family,
    GridPass,
    run_grid_pass,
    without_postprocessing,
)
from salhub.models.normgrad.methods import INPUT_LAYER
from salhub.models.normgrad.modeling_normgrad import NormGradForImageSaliency

METHODS = ("gradient", "norm_grad", "norm_grad_selective", "linear_approx", "grad_cam")
CONTROL = "guided_backprop"
METRICS = ("rho", "absolute_rho", "ssim", "predicted_rho")
NOTES = {
    "cascade": "All stages from the head down to the named one are re-initialised",
    "independent": "The named stage alone is re-initialised",
}

Recorded = dict[str, dict[str, dict[str, Estimate]]]  # stage -> map -> metric -> estimate


def evaluate_randomization(
    run: Evaluation, model: NormGradForImageSaliency, family: Family, num_images: int
) -> None:
    """Add the randomisation tables: from the head down, and one stage at a time.

    Args:
        run: The evaluation; its results are filled.
        model: The model whose network is randomised in copies.
        family: Says which depths there are and which methods fit the network.
        num_images: Pictures.
    """
    deepest = family.depths[-1]
    passes = [GridPass(METHODS, {INPUT_LAYER: INPUT_LAYER, deepest: deepest})]
    if CONTROL not in family.unfit:
        passes.append(GridPass((CONTROL,), {INPUT_LAYER: INPUT_LAYER}))
    stages = layer_stages(model.backbone, "backbone.")[::-1]
    shown = [f"backbone.{depth}" for depth in family.depths]
    shown = [stage for stage in stages if stage in {stages[0], stages[-1], *shown}]
    for mode in NOTES:
        found = measure_randomization(
            without_postprocessing(model),
            lambda changed: {"family": _explainer(changed, passes)},
            lambda changed, pixel_values: classifier_of(changed)(pixel_values),
            run.sample,
            run.positions[:num_images],
            stages,
            mode=mode,
            stops=shown,
            seed=run.results.seed,
            progress=run.progress,
        )
        recorded = _record(run, f"randomization/{mode}", found)
        for metric, label in (("absolute_rho", "Spearman of magnitudes"), ("ssim", "SSIM")):
            note = (
                f"{NOTES[mode]}; {num_images} pictures, class fixed, 95 % bootstrap "
                "interval. A map that depends only on the weights falls towards 0; "
                f"{CONTROL} is the known failure. Methods that read activations keep the "
                "part of the picture that a random network passes on. Undefined: the map of "
                "the randomized network is constant."
            )
            title = f"Randomisation, {mode}: similarity to the trained map ({label})"
            cells = _cells(recorded, found, shown, metric)
            add_grid(run.results, title, note, cells, [_short(stage) for stage in shown])


def _explainer(model: NormGradForImageSaliency, passes: Sequence[GridPass]) -> Explainer:
    def explain(pixel_values: Tensor, class_labels: Tensor) -> dict[str, Tensor]:
        maps: dict[str, Tensor] = {}
        for grid_pass in passes:
            maps |= run_grid_pass(model, grid_pass, pixel_values, class_labels)
        return maps

    return explain


def _record(run: Evaluation, prefix: str, found: dict[str, ScoreTable]) -> Recorded:
    return {
        stage: {
            name: {
                metric: scores[metric].record(
                    run.results, f"{prefix}/{_short(stage)}/{metric}/{name}"
                )
                for metric in METRICS
            }
            for name, scores in table.items()
        }
        for stage, table in found.items()
    }


def _cells(
    recorded: Recorded, found: dict[str, ScoreTable], shown: Sequence[str], metric: str
) -> dict[tuple[str, str], str]:
    cells = {}
    for stage in shown:
        for name, estimates in recorded[stage].items():
            text = f"{estimates[metric]:.2f}"
            constant = found[stage][name]["constant"].total
            if constant and not estimates[metric].num_not_finite:
                text += f", {constant} constant"
            cells[name, _short(stage)] = text
    return cells


def _short(stage: str) -> str:
    return stage.removeprefix("backbone.")
