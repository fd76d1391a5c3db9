"""The first stage measured: rules beside each other, and where their relevance goes."""

import copy
from typing import Any

import numpy as np
from torch import Tensor

from salhub.evaluation.image_saliency.evaluation import Evaluation
from salhub.evaluation.image_saliency.scores import measure_class_sensitivity, record_table
from salhub.evaluation.shared_rows import shared_rows
from salhub.models.salient_relevance.modeling_salient_relevance import (
    SalientRelevanceForImageSaliency,
)
from salhub.models.salient_relevance.rules import PRESETS
from salhub.results import Table

# Started at its score, a class with a negative score gets the other sign and nothing else, which
# would pass for class sensitivity.
FROM_ONE = {"start": "one"}
# label -> settings that differ from the model's own
VARIANTS: dict[str, dict[str, Any]] = {
    **{preset: {"preset": preset, "contrast": "none"} for preset in PRESETS},
    "deep_taylor, against others": {"preset": "deep_taylor", "contrast": "others"},
    "epsilon_gamma_box, against others": {"preset": "epsilon_gamma_box", "contrast": "others"},
}
BIASES = ("absorb", "ignore", "uniform")
# Rule lrp_0 divides by pre-activations near 0: only the published handling stays in range.
ONLY_ABSORB = {"sr_reference"}
RULE_SETTINGS = (
    "first_rule",
    "convolution_rule",
    "linear_rule",
    "alpha",
    "beta",
    "relevance_image",
    "relevance_levels",
)


def with_settings(
    model: SalientRelevanceForImageSaliency, **settings: Any
) -> SalientRelevanceForImageSaliency:
    """A model that shares the network and has other settings; the given one is left as it is."""
    config = copy.deepcopy(model.config)
    if "preset" in settings:
        # Single rules of the model's own would override the preset's.
        for name in RULE_SETTINGS:
            setattr(config, name, None)
    for name, value in settings.items():
        setattr(config, name, value)
    config.validate()
    return SalientRelevanceForImageSaliency(config, backbone=model.backbone)


def relevance_explainer(model: SalientRelevanceForImageSaliency) -> Any:
    """The first stage alone, summed over colours, as an explainer."""

    def explain(pixel_values: Tensor, class_labels: Tensor) -> Tensor:
        return model.relevance(pixel_values, class_labels).relevance.sum(dim=2)

    return explain


def evaluate_rules(
    run: Evaluation, model: SalientRelevanceForImageSaliency, num_mosaics: int, num_images: int
) -> None:
    """Add the table of presets: class sensitivity and grid game of the relevance alone.

    Args:
        run: The evaluation; its results are filled.
        model: The model whose network is explained.
        num_mosaics: Mosaics of the grid game.
        num_images: Pictures of the class sensitivity.
    """
    explainers = {
        label: relevance_explainer(with_settings(model, **settings, **FROM_ONE))
        for label, settings in VARIANTS.items()
    }
    positions = run.positions[:num_images]
    rho = measure_class_sensitivity(explainers, run.sample, positions, progress=run.progress)
    grid = run.play_grid_game(explainers, num_mosaics)
    found_rho = record_table(run.results, "rules", rho, ["rho", "absolute_rho"], unit="rho")
    found_grid = record_table(run.results, "rules", grid, ["mass", "hit"], unit="fraction")
    rows = [
        [
            label,
            *(f"{one:.3f}" for one in (found_rho[label]["rho"], *found_grid[label].values())),
        ]
        for label in VARIANTS
    ]
    note = (
        "Relevance summed over colours, starting at 1, without the second stage. rho: Spearman "
        f"of the maps of the most and the least likely class on {len(positions)} pictures, 1 "
        f"ignores the class. Grid game on {num_mosaics} mosaics, chance {run.chance:.2f}. 95 % "
        "bootstrap intervals. Against others: the map minus the map of the mean of all other "
        "classes."
    )
    columns = ["rules", "rho", "grid mass", "arg-max in tile"]
    run.results.tables.append(Table("Class similarity by preset", note, columns, rows))


def evaluate_conservation(
    run: Evaluation, model: SalientRelevanceForImageSaliency, num_images: int
) -> None:
    """Add the table of what reaches the pixels, what biases absorb and what stays unexplained.

    Args:
        run: The evaluation; its results are filled.
        model: The model whose network is explained.
        num_images: Pictures, explained for the most likely class.
    """
    positions = run.positions[:num_images]
    rows = []
    for preset in PRESETS:
        for bias in BIASES[:1] if preset in ONLY_ABSORB else BIASES:
            label = f"{preset}/{bias}"
            measured = with_settings(
                model, preset=preset, bias_relevance=bias, contrast="none", start="logit"
            )
            texts = _conservation_texts(run, measured, label, positions)
            rows.append([preset, bias, *texts])
    note = (
        f"{len(positions)} pictures, most likely class, mean and 95 % bootstrap interval. "
        "Reached: sum of the relevance of all pixels / logit. Biases: share of the logit "
        "that biases kept. Unexplained: largest share of one layer's relevance that "
        "propagation, bias and stabilizer together do not account for. sr_reference stays "
        "in range only with its published settings."
    )
    columns = ["preset", "bias relevance", "reached", "biases", "unexplained"]
    run.results.tables.append(Table("Conservation of relevance", note, columns, rows))


def _conservation_texts(
    run: Evaluation,
    model: SalientRelevanceForImageSaliency,
    label: str,
    positions: list[int],
) -> list[str]:

    def of_picture(position: int) -> list[float]:
        audit = model.conservation_audit(run.sample.pixel_values([position]))[0][0]
        values = (audit.reached / audit.start, audit.bias_share, audit.largest_accounted_error)
        return [float(value) for value in values]

    rows = shared_rows(f"conservation, {label}", positions, of_picture)
    names = ("reached", "biases", "unexplained")
    scores = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    found = {
        name: run.results.add_mean(
            f"conservation/{name}/{label}", np.float32(values), groups=positions, unit="fraction"
        )
        for name, values in scores.items()
    }
    largest = max(scores["unexplained"])
    return [f"{found['reached']:.3g}", f"{found['biases']:.3g}", f"{largest:.1e}"]
