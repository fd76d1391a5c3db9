"""Meta-saliency measured: class sensitivity gained, and what the step does to the network."""

import torch
from torch import Tensor

from salhub.evaluation.image_saliency.evaluation import Evaluation
from salhub.evaluation.image_saliency.scores import measure_class_sensitivity
from salhub.evaluation.shared_rows import shared_rows
from salhub.models.normgrad.evaluation_maps import without_postprocessing
from salhub.models.normgrad.meta_step import ParameterizedClassifier, stepped_parameters
from salhub.models.normgrad.modeling_normgrad import NormGradForImageSaliency
from salhub.ops.class_scores import apply_score_function
from salhub.results import Table

METHODS = ("norm_grad", "norm_grad_selective")
STEPS = (0.0, 1e-3, 1e-2)


class SteppedMaps:
    """NormGrad and its selective form at several depths after one meta step, as an explainer."""

    def __init__(self, model: NormGradForImageSaliency, depths: list[str], step: float) -> None:
        self.model = without_postprocessing(model, meta_step=step)
        self.depths = depths

    def __call__(self, pixel_values: Tensor, class_labels: Tensor) -> dict[str, Tensor]:
        """Maps (B, T, H, W) by "method/depth"."""
        outputs = self.model.forward_grid(
            pixel_values, class_labels, methods=METHODS, layers=self.depths
        )
        return {f"{method}/{depth}": out.saliency for (method, depth), out in outputs.items()}


def evaluate_meta_step(
    run: Evaluation,
    model: NormGradForImageSaliency,
    depths: list[str],
    num_mosaics: int,
    num_images: int,
) -> None:
    """Add the meta-step table: rho, grid mass, and p(class) before and after, for each step size.

    A large step on an unlikely class lowers rho by wrecking the network; the last columns show it.

    Args:
        run: The evaluation; its results are filled.
        model: The model whose network is explained.
        depths: Layers, shallow to deep.
        num_mosaics: Mosaics of the grid game.
        num_images: Pictures of the class sensitivity.
    """
    rows = []
    positions = run.positions[:num_images]
    for step in STEPS:
        explainers = {"stepped": SteppedMaps(model, depths, step)}
        grid = run.play_grid_game(explainers, num_mosaics)
        rho = measure_class_sensitivity(explainers, run.sample, positions, progress=run.progress)
        probability = _probability_text(run, model, positions, step)
        for name in grid:
            prefix = f"meta_step/{step:g}"
            mass = grid[name]["mass"].record(run.results, f"{prefix}/mass/{name}")
            correlation = rho[name]["rho"].record(run.results, f"{prefix}/rho/{name}")
            method, depth = name.split("/", 1)
            texts = [f"{correlation:.3f}", f"{mass:.3f}"]
            rows.append([method, depth, f"{step:g}", *texts, *probability])
    rows.sort(key=lambda row: (METHODS.index(row[0]), depths.index(row[1])))
    note = (
        f"Class similarity on {len(positions)} pictures, grid mass of the true class on "
        f"{num_mosaics} mosaics (chance {run.chance:.2f}), 95 % bootstrap intervals. Step 0 "
        "means no step. The last columns show how the step changes the probability of its "
        "class: if the probability of the least likely class jumps, rho falls only because "
        "a different network is explained."
    )
    columns = ["method", "layer", "step", "rho", "grid mass"]
    columns += ["p(most likely) before -> after", "p(least likely) before -> after"]
    run.results.tables.append(Table("Meta-saliency: one step on the network", note, columns, rows))


def _probability_text(
    run: Evaluation, model: NormGradForImageSaliency, positions: list[int], step: float
) -> list[str]:
    rows = shared_rows(
        f"probabilities after {step:g}",
        positions,
        lambda position: _probabilities(run, model, position, step),
    )
    before, after = zip(*rows, strict=True)
    texts = []
    for column, label in enumerate(("most_likely", "least_likely")):
        means = []
        for moment, values in (("before", before), ("after", after)):
            name = f"meta_step/{step:g}/probability_{moment}/{label}"
            known = torch.stack(values)[:, column]
            found = run.results.add_mean(name, known, groups=positions, unit="fraction")
            means.append(found.mean)
        texts.append(f"{means[0]:.2g} -> {means[1]:.2g}")
    return texts


def _probabilities(
    run: Evaluation, model: NormGradForImageSaliency, position: int, step: float
) -> tuple[Tensor, Tensor]:
    """P of the most and the least likely class, before and after a step for each; (2,) both."""
    pixel_values = run.sample.pixel_values([position]).to(model.device, model.dtype)
    labels = run.sample.extreme_classes([position])[0].to(model.device)
    classifier = ParameterizedClassifier(model)
    before, after = [], []
    with torch.enable_grad():
        for scores, label, parameters in stepped_parameters(
            classifier, pixel_values, labels, step=step
        ):
            with torch.no_grad():
                stepped = classifier.classify(pixel_values, parameters)
            for found, one in ((before, scores), (after, stepped)):
                shares = apply_score_function(one.double(), run.sample.score_function)
                found.append(shares[0, label].cpu())
    return torch.stack(before), torch.stack(after)
