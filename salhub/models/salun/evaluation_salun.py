"""Evaluation of an unlearned classifier beside the original and the retrained one."""

import os
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import nn

from salhub.data.labelled_split import LabelledSplit
from salhub.data.picture_archive import PictureArchive, as_rgb
from salhub.data.picture_preparation import PicturePreparation
from salhub.evaluation.archive_accuracy import add_accuracies
from salhub.evaluation.sections import name_and_command
from salhub.explaining.modeling_explained_classifier import load_classifier
from salhub.metrics.membership_inference import FEATURES
from salhub.modeling import attribution_scope
from salhub.models.salun.class_sweep import (
    ClassSweep,
    add_accuracy_by_class,
    block_densities,
)
from salhub.models.salun.forget_set import (
    check_reference_split,
    evaluated_split,
    places_digest,
)
from salhub.models.salun.masked_optimizer import closed_weights_digest
from salhub.models.salun.method_comparison import MethodComparison, repeated_training
from salhub.models.salun.modeling_salun import SalUnForImageClassification
from salhub.models.salun.relearning import pictures_to_relearn
from salhub.models.salun.unlearning_report import Outputs, UnlearningReport, measure_unlearning
from salhub.models.salun.weight_mask import WeightMask
from salhub.results import Results, Table, measured

_THIS, _ORIGINAL, _RETRAINED = "this model", "original", "retrained"


def evaluate(
    model: SalUnForImageClassification,
    image_processor: Any,
    data_path: str | os.PathLike[str],
    *,
    original: str | None = None,
    retrained: str | None = None,
    classes: str | None = None,
    repeats: str | None = None,
    comparison: str | None = None,
    num_seeds: int = 3,
    attack: str = "threshold",
    seed: int = 0,
    progress: bool = True,
) -> Results:
    """Measure what a classifier knows of what it was, and was not, to forget.

    Args:
        model: The classifier, with the `split.json` of its training beside it.
        image_processor: Its image processor.
        data_path: The archive that it was trained on, see `PictureArchive`.
        original: The model before unlearning, for the table; None to leave it out.
        retrained: The model that never saw what is forgotten, for the gaps; None to leave it out.
        classes: Folder for runs that forget each class in turn (half an hour; what is there is not
            run again), on the original; None to leave them out.
        repeats: Folder for trainings of the same recipe with the seeds 0 to `num_seeds`, to see how
            much the seed matters; None to leave them out.
        comparison: Folder for runs of all methods on small subsets (hours; what is there is not
            run again); None to leave the table out.
        num_seeds: Seeds of those tables.
        attack: Membership inference: "threshold", "svc" or "none".
        seed: Seed of orders and of the bootstrap.
        progress: Whether to show bars.

    Returns:
        `Results` with the tables of the card.

    Raises:
        FileNotFoundError: There is no archive.
        ValueError: It is not known what the model was trained on, or it was other data.

    Source: Fan et al. 2024 (arXiv 2310.12508), section 5.1, for the measures.
    """
    archive = PictureArchive(data_path)
    split = evaluated_split(model.config.name_or_path, archive)
    name, command = name_and_command(model, archive.path.stem, seed)
    results = Results(model=name, command=command, seed=seed)
    results.data = {**split.data, "split": split.digest[:16], "num_train": len(split.train)}
    sets = _Sets(archive, split, PicturePreparation(image_processor), seed)
    with measured(results), attribution_scope(model):
        outputs = {
            "train": sets.outputs(model, "retain"),
            "test": sets.outputs(model, "test"),
        }
        titles = {"train": "training pictures", "test": "test pictures"}
        add_accuracies(results, outputs, titles)
        if len(split.forgotten):
            _add_unlearning(results, sets, model, original, retrained, attack)
        if classes is not None and original is not None:
            sweep = ClassSweep(str(archive.path), original, Path(classes))
            _add_classes(results, sets, sweep, archive.class_names)
        if repeats is not None:
            _add_repeats(results, str(archive.path), Path(repeats), num_seeds)
        if comparison is not None:
            seeds = tuple(range(1, num_seeds + 1))
            runs = MethodComparison(str(archive.path), Path(comparison), seeds=seeds)
            runs.measure(results)
    return results


class _Sets:
    """Pictures of a split, and what models say of them."""

    def __init__(
        self,
        archive: PictureArchive,
        split: LabelledSplit,
        preparation: PicturePreparation,
        seed: int,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(split.train), generator=generator)
        places = {
            "forget": split.forgotten,
            "retain": split.train[order],
            "test": split.test,
        }
        # An original has forgotten nothing, and there is no picture without a place.
        places = {name: part for name, part in places.items() if len(part)}
        self.images = {name: as_rgb(archive.images(part)) for name, part in places.items()}
        self.labels = {name: archive.labels[part] for name, part in places.items()}
        self.split, self.preparation = split, preparation

    def outputs(self, model: nn.Module, name: str) -> Outputs:
        return self.preparation.logits(model, self.images[name]), self.labels[name]

    @property
    def forgotten_classes(self) -> tuple[int, ...]:
        """Classes of which nothing is left to train on."""
        gone = set(self.labels["forget"].tolist()) - set(self.labels["retain"].tolist())
        return tuple(sorted(gone))


def _add_unlearning(
    results: Results,
    sets: _Sets,
    model: SalUnForImageClassification,
    original: str | None,
    retrained: str | None,
    attack: str,
) -> None:
    results.data |= {
        "forgotten": model.config.forget or "",
        "num_forgotten": len(sets.split.forgotten),
        "forget_digest": places_digest(sets.split.forgotten),
    }
    models: dict[str, nn.Module] = {}
    if original is not None:
        models[_ORIGINAL] = load_classifier(original)
    if retrained is not None:
        check_reference_split(retrained, sets.split, model.config.forget or "its forget set")
        models[_RETRAINED] = load_classifier(retrained)
    models[_THIS] = model
    reports = {}
    for name, one in models.items():
        outputs = {part: sets.outputs(one, part) for part in ("forget", "retain", "test")}
        reports[name] = measure_unlearning(
            **outputs, forgotten_classes=sets.forgotten_classes, attack=attack
        )
        reports[name].add_to(results, "" if name == _THIS else f"{name}/")
    relearned = _relearned(sets, models)
    results.tables.append(_table_of(reports, relearned))
    if attack != "none":
        results.tables.append(_attacks_table(reports))
    if retrained is not None:
        gap = reports[_THIS].average_gap(reports[_RETRAINED])
        results.add_metric("average_gap", gap, unit="points")
    _add_mask(results, model, models.get(_ORIGINAL))


def _relearned(sets: _Sets, models: dict[str, nn.Module]) -> dict[str, int | None]:
    """Pictures that each model needs until it knows nine tenths of what the original knew."""
    if _ORIGINAL not in models:
        return {}
    logits, labels = sets.outputs(models[_ORIGINAL], "forget")
    wanted = 0.9 * float((logits.argmax(-1) == labels).double().mean())
    return {
        name: pictures_to_relearn(
            one, sets.preparation, sets.images["forget"], labels, wanted_accuracy=wanted
        )
        for name, one in models.items()
    }


def _table_of(reports: dict[str, UnlearningReport], relearned: dict[str, int | None]) -> Table:
    reference = reports.get(_RETRAINED)
    rows = []
    for name, report in reports.items():
        gap = None if reference is None else report.average_gap(reference)
        cells = [report.headline.get(measure) for measure in ("UA", "RA", "TA", "MIA")]
        count = relearned.get(name)
        again = None if name not in relearned else ("more than 6400" if count is None else count)
        rows.append([name, *cells, report.forgotten_test_accuracy, gap, again])
    note = (
        "Percent; one model each. UA: forgotten pictures that are not recognised. RA, TA: retained "
        "and test pictures that are, without forgotten classes. MIA: forgotten pictures that a "
        "membership attack takes for never seen. The average gap is the mean distance from the "
        "retrained model over the four, in points. The last column counts the pictures after which "
        "fine-tuning on half of the forgotten ones brings back nine tenths of what the original "
        "knew of the other half: few of them mean that knowledge was hidden, not removed."
    )
    columns = ["", "UA", "RA", "TA", "MIA", "test, forgotten class", "average gap", "to relearn"]
    return Table("Before and after", note, columns, rows)


def _attacks_table(reports: dict[str, UnlearningReport]) -> Table:
    features = [name for name in FEATURES if name in next(iter(reports.values())).membership]
    rows = [[name, *(one.membership[f] for f in features)] for name, one in reports.items()]
    note = (
        "Percent of forgotten pictures that an attack on one feature of the output takes for never "
        "seen; nearer to the retrained model is better."
    )
    titles = [feature.replace("_", " ") for feature in features]
    return Table("Membership attacks", note, ["", *titles], rows)


def _add_classes(results: Results, sets: _Sets, sweep: ClassSweep, class_names: list[str]) -> None:
    """What each class costs the others, and where the weights are that it takes."""
    original = sets.outputs(load_classifier(sweep.original), "test")
    add_accuracy_by_class(results, "original", original, class_names)
    rows = []
    for index, name in enumerate(class_names):
        model = sweep.forgetting(name)
        logits, labels = sets.outputs(model, "test")
        add_accuracy_by_class(results, f"forget/{name}", (logits, labels), class_names)
        densities = block_densities(sweep.mask(name, model))
        for block, (opened, total) in densities.items():
            results.add_metric(f"forget/{name}/density/{block}", opened / total, n=total)
        others = labels != index
        cells = [
            100 * float((one.argmax(-1) == labels)[part].double().mean())
            for part in (~others, others)
            for one in (original[0], logits)
        ]
        rows.append([name, *cells])
    note = (
        f"Percent of test pictures that are recognised before and after SalUn forgets the class of "
        f"the row, with {sweep.num_retain} retained pictures and {sweep.epochs} passes."
    )
    columns = ["forgotten", "the class, before", "after", "the others, before", "after"]
    results.tables.append(Table("Each class in turn", note, columns, rows))


def _add_repeats(results: Results, data: str, folder: Path, num_seeds: int) -> None:
    """How the accuracy of the recipe differs between its seeds."""
    found = {seed: repeated_training(data, folder, seed) for seed in range(num_seeds + 1)}
    others = [100 * value for seed, value in found.items() if seed]
    mean, deviation = statistics.mean(others), statistics.stdev(others)
    results.add_metric("repeats/test accuracy", mean, n=len(others), unit="percent")
    results.add_metric("repeats/test accuracy sd", deviation, n=len(others), unit="percent")
    note = (
        f"The recipe of this model, run again. Seeds 1 to {num_seeds}: {mean:.2f} ± "
        f"{deviation:.2f} % of the test pictures (mean and standard deviation). Seed 0 is that of "
        "the shipped model; on another kind of machine sums are rounded otherwise."
    )
    rows = [[seed, 100 * value] for seed, value in found.items()]
    results.tables.append(Table("Trained again", note, ["seed", "test accuracy"], rows))


def _add_mask(
    results: Results, model: SalUnForImageClassification, original: nn.Module | None
) -> None:
    """How open each part of the network was, and that nothing else has moved."""
    from salhub.hub import resolve

    folder = Path(resolve(model.config.name_or_path).config_folder)
    if not (folder / "mask.safetensors").is_file():
        return
    mask = WeightMask.from_pretrained(folder).for_model(model)
    rows = []
    for block, (opened, total) in block_densities(mask).items():
        rows.append([block, opened, total, opened / total])
        results.add_metric(f"mask/density/{block}", opened / total, n=total, unit="fraction")
    results.add_metric("mask/density", mask.density(), n=mask.num_weights, unit="fraction")
    note = f"Weights that could move, by part of the network; ranked by {mask.saliency}."
    if original is not None:
        same = closed_weights_digest(original, mask) == closed_weights_digest(model, mask)
        results.add_metric("mask/closed_weights_equal", float(same), unit="truth")
        note += (
            f" The {mask.num_weights - mask.num_open} other weights "
            f"{'are those of the original, bit by bit' if same else 'have moved'} (sha256 "
            f"{closed_weights_digest(model, mask)[:16]})."
        )
    columns = ["part", "open", "weights", "share open"]
    results.tables.append(Table("Where the mask is open", note, columns, rows))
