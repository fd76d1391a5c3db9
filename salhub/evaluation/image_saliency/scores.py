"""One protocol for every explainer of image classifiers.

An explainer is a callable `(pixel_values (B, 3, H, W), class_labels (B, T)) -> maps`. Maps are a
tensor (B, T, h, w), or a mapping from names to such tensors where one pass gives many maps.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from salhub.data.mosaic import Mosaic, assemble
from salhub.evaluation.image_saliency.classified_sample import ClassifiedSample, Classify
from salhub.evaluation.shared_rows import shared_rows
from salhub.metrics.bootstrap import Estimate
from salhub.metrics.class_sensitivity import class_sensitivity
from salhub.metrics.grid_pointing_game import grid_pointing_game
from salhub.metrics.perturbation import deletion, insertion
from salhub.metrics.randomization import Mode, map_similarity, randomized_models
from salhub.results import Results

Explainer = Callable[[Tensor, Tensor], Tensor | Mapping[str, Tensor]]
Explainers = Mapping[str, Explainer]


class InOrder:
    """An explainer whose maps depend on how often it was called, such as random ones.

    Attributes:
        number: How often that was, or would have been where others measure some rows.
    """

    number: int = 0


@dataclass
class Scores:
    """Values of one metric for one map, in the order they were measured.

    Attributes:
        values: One number an example; NaN where the number does not exist.
        groups: Group of each value for the bootstrap (the mosaic, the picture).
    """

    values: list[float] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)

    def extend(self, values: Tensor, groups: Sequence[int]) -> None:
        """Add the values of one batch."""
        self.values += values.double().tolist()
        self.groups += list(groups)

    def record(self, results: Results, name: str, *, unit: str = "") -> Estimate:
        """Add the mean to the results, see `Results.add_mean`."""
        return results.add_mean(name, self.values, groups=self.groups, unit=unit)

    @property
    def total(self) -> int:
        """Sum of counted events, such as empty maps."""
        return round(sum(self.values))


ScoreTable = dict[str, dict[str, Scores]]  # map name -> metric name -> scores
Row = dict[str, dict[str, list[float]]]  # the same of one picture or mosaic


def record_table(
    results: Results, prefix: str, table: ScoreTable, metrics: Sequence[str], *, unit: str = ""
) -> dict[str, dict[str, Estimate]]:
    """Record the named metrics of every map as `prefix/metric/map`.

    Returns:
        map name -> metric name -> estimate.
    """
    return {
        name: {
            metric: scores[metric].record(results, f"{prefix}/{metric}/{name}", unit=unit)
            for metric in metrics
        }
        for name, scores in table.items()
    }


def explain_all(
    explainers: Explainers, pixel_values: Tensor, class_labels: Tensor
) -> Iterator[tuple[str, Tensor]]:
    """Maps of all explainers, resized to the pictures' size.

    Args:
        explainers: Explainers by name; the name of a group is not part of its maps' names.
        pixel_values: (B, 3, H, W).
        class_labels: (B, T) int64.

    Yields:
        (name, float32 maps (B, T, H, W) in main memory).

    Raises:
        ValueError: If an explainer returns another shape, or two maps have the same name.
    """
    seen = set()
    for explainer_name, explain in explainers.items():
        found = explain(pixel_values, class_labels)
        maps = found if isinstance(found, Mapping) else {explainer_name: found}
        for name, saliency in maps.items():
            if saliency.ndim != 4 or saliency.shape[:2] != class_labels.shape:
                raise ValueError(
                    f"explainer {name!r} must return (B, T, H, W) with (B, T) = "
                    f"{tuple(class_labels.shape)}, got {tuple(saliency.shape)}."
                )
            if name in seen:
                raise ValueError(f"two explainers return a map called {name!r}; rename one.")
            seen.add(name)
            yield name, _resized(saliency.detach().float().cpu(), pixel_values.shape[2:])


def mosaic_pixels(
    sample: ClassifiedSample, mosaic: Mosaic, size: tuple[int, int] | None = None
) -> Tensor:
    """One mosaic as a batch (1, 3, H, W), scaled to `size` where that is given."""
    pixel_values = assemble(sample.pixel_values(mosaic.members))[None]
    if size is None:
        return pixel_values
    return functional.interpolate(pixel_values, size=size, mode="bilinear", antialias=True)


def measure_grid_game(
    explainers: Explainers,
    sample: ClassifiedSample,
    mosaics: Sequence[Mosaic],
    *,
    picture_size: tuple[int, int] | None = None,
    progress: bool = True,
) -> ScoreTable:
    """Grid pointing game: every cell of every mosaic, all classes of a mosaic in one call.

    Args:
        explainers: Explainers by name.
        sample: The pictures the mosaics refer to.
        mosaics: Drawn by `salhub.data.mosaic.draw_mosaics`.
        picture_size: (height, width) to which mosaics are scaled; None keeps the tiles' size.
        progress: Whether to show a bar.

    Returns:
        "mass", "hit" and "empty" of each map, one value a cell, grouped by mosaic.
    """

    def of_mosaic(mosaic: Mosaic) -> Row:
        pixel_values = mosaic_pixels(sample, mosaic, picture_size)
        labels = torch.tensor([mosaic.class_labels])
        cells = torch.arange(len(mosaic.members))
        side = round(len(mosaic.members) ** 0.5)
        row = {}
        for name, saliency in explain_all(explainers, pixel_values, labels):
            game = grid_pointing_game(saliency[0], cells, side)
            row[name] = _row(mass=game.mass, hit=game.hit, empty=game.empty)
        return row

    return _measured("grid game", mosaics, range(len(mosaics)), of_mosaic, explainers, progress)


def measure_class_sensitivity(
    explainers: Explainers,
    sample: ClassifiedSample,
    positions: Sequence[int],
    *,
    progress: bool = True,
) -> ScoreTable:
    """Rank correlation between the maps of the most and the least likely class of each picture.

    Args:
        explainers: Explainers by name.
        sample: The pictures.
        positions: Which pictures.
        progress: Whether to show a bar.

    Returns:
        "rho" and "absolute_rho" of each map, one value a picture, NaN for a constant map.
    """

    def of_picture(position: int) -> Row:
        labels, row = sample.extreme_classes([position]), {}
        for name, saliency in explain_all(explainers, sample.pixel_values([position]), labels):
            rho = class_sensitivity(saliency[:, 0], saliency[:, 1]).rho
            row[name] = _row(rho=rho, absolute_rho=rho.abs())
        return row

    return _measured("class sensitivity", positions, positions, of_picture, explainers, progress)


def measure_perturbation(
    explainers: Explainers,
    classify: Classify,
    sample: ClassifiedSample,
    positions: Sequence[int],
    *,
    pixels_per_step: int | None = None,
    include_insertion: bool = True,
    batch_size: int = 16,
    progress: bool = True,
) -> ScoreTable:
    """Deletion and insertion areas for the true class of each picture.

    Args:
        explainers: Explainers by name.
        classify: pixel_values -> logits of the explained classifier.
        sample: The pictures.
        positions: Which pictures.
        pixels_per_step: As in `salhub.metrics.perturbation.deletion`.
        include_insertion: Whether to measure insertion too.
        batch_size: Perturbed pictures classified at once.
        progress: Whether to show a bar.

    Returns:
        "deletion" (low is good) and "insertion" (high is good), one value a picture.
    """
    curves = {"deletion": deletion} | ({"insertion": insertion} if include_insertion else {})

    def of_picture(position: int) -> Row:
        pixel_values = sample.pixel_values([position])
        label, row = sample.class_labels[[position]], {}
        for name, saliency in explain_all(explainers, pixel_values, label[:, None]):
            areas = {
                metric: curve(
                    classify,
                    pixel_values,
                    saliency[:, 0],
                    label,
                    pixels_per_step=pixels_per_step,
                    batch_size=batch_size,
                    score_function=sample.score_function,
                ).area
                for metric, curve in curves.items()
            }
            row[name] = _row(**areas)
        return row

    return _measured("deletion", positions, positions, of_picture, explainers, progress)


def measure_randomization(
    model: nn.Module,
    explainers_of: Callable[[Any], Explainers],
    classify_with: Callable[[Any, Tensor], Tensor],
    sample: ClassifiedSample,
    positions: Sequence[int],
    layers: Sequence[str],
    *,
    mode: Mode = "cascade",
    stops: Sequence[str] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, ScoreTable]:
    """Compare the maps of a model with those of copies whose layers are re-initialised.

    Two classes are explained: the class the trained network predicts ("fixed"), and whatever the
    randomised copy predicts ("predicted"), each compared with the trained map of the fixed class.

    Args:
        model: The explainer with the network inside; it is copied, never changed.
        explainers_of: Gives the explainers of a model or of its copy.
        classify_with: (model, pixel_values) -> logits, for a model or its copy.
        sample: The pictures.
        positions: Which pictures.
        layers: Names of sub-modules of `model`, head first.
        mode: "cascade" from the head down or "independent", one layer at a time.
        stops: The layers of `layers` at which maps are compared; None compares at each.
        seed: Seed of the random weights.
        progress: Whether to show a bar.

    Returns:
        layer -> map -> "rho", "absolute_rho", "ssim" and "constant" for the fixed class and
        "predicted_rho" for the predicted one, one value a picture.
    """
    pixel_values = sample.pixel_values(positions)
    with torch.no_grad():
        fixed = classify_with(model, pixel_values).argmax(dim=1, keepdim=True)
    trained = dict(explain_all(explainers_of(model), pixel_values, fixed))
    chosen = layers if stops is None else stops
    # An unknown one is refused where its copy is made.
    wanted = [
        *(one for one in layers if one in chosen),
        *(one for one in chosen if one not in layers),
    ]

    def of_layer(layer: str) -> Row:
        # A copy does not depend on those before it.
        copies = randomized_models(model, layers, mode=mode, stops=[layer], seed=seed)
        changed = next(iter(copies))[1]
        with torch.no_grad():
            predicted = classify_with(changed, pixel_values).argmax(dim=1, keepdim=True)
        labels = torch.cat([fixed, predicted], dim=1)
        return {
            name: _compared(trained[name][:, 0], saliency)
            for name, saliency in explain_all(explainers_of(changed), pixel_values, labels)
        }

    rows = shared_rows(f"randomisation, {mode}", wanted, of_layer, progress=progress)
    return {layer: _table([row], [positions]) for layer, row in zip(wanted, rows, strict=True)}


def _compared(trained: Tensor, saliency: Tensor) -> dict[str, list[float]]:
    same_class = map_similarity(trained, saliency[:, 0])
    return _row(
        rho=same_class.rank_correlation,
        absolute_rho=same_class.absolute_rank_correlation,
        ssim=same_class.structural_similarity,
        constant=same_class.constant,
        predicted_rho=class_sensitivity(trained, saliency[:, 1]).rho,
    )


def _measured(
    title: str,
    units: Sequence[Any],
    groups: Sequence[int],
    measure: Callable[[Any], Row],
    explainers: Explainers,
    progress: bool,
) -> ScoreTable:
    """Scores of pictures or mosaics, each a row that others may measure."""
    numbered = list(enumerate(units))

    def of_unit(unit: tuple[int, Any]) -> Row:
        for explain in explainers.values():
            if isinstance(explain, InOrder):
                explain.number = unit[0]
        return measure(unit[1])

    rows = shared_rows(title, numbered, of_unit, progress=progress)
    return _table(rows, [[group] for group in groups])


def _row(**values: Tensor) -> dict[str, list[float]]:
    return {metric: one.double().tolist() for metric, one in values.items()}


def _table(rows: Sequence[Row], groups: Sequence[Sequence[int]]) -> ScoreTable:
    """Put rows together; the groups of a row are those of its values, or one for all of them."""
    table: ScoreTable = {}
    for row, own in zip(rows, groups, strict=True):
        for name, metrics in row.items():
            for metric, values in metrics.items():
                known = table.setdefault(name, {}).setdefault(metric, Scores())
                known.values += values
                known.groups += (list(own) * len(values))[: len(values)]
    return table


def _resized(saliency: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(saliency.shape[2:]) == tuple(size):
        return saliency
    return functional.interpolate(saliency, size=tuple(size), mode="bilinear", align_corners=False)
