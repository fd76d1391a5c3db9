"""Evaluation of an unlearned classifier beside the original and the retrained one."""

import copy
import os
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from salhub.data.labelled_pictures import (
    PictureData,
    PictureRows,
    pictures_of,
    read_labelled_pictures,
    some_of,
)
from salhub.data.labelled_split import LabelledSplit
from salhub.data.picture_preparation import PicturePreparation
from salhub.data.split_beside import find_file
from salhub.evaluation.image_classification import add_accuracies, shared_logits
from salhub.evaluation.shared_rows import shared_rows
from salhub.explaining.modeling_explained_classifier import load_classifier
from salhub.modeling import attribution_scope
from salhub.models.salun.forget_set import (
    check_reference_split,
    evaluated_split,
    places_digest,
)
from salhub.models.salun.masked_optimizer import closed_weights_digest
from salhub.models.salun.membership_inference import FEATURES
from salhub.models.salun.modeling_salun import SalUnForImageClassification
from salhub.models.salun.unlearning_report import (
    Outputs,
    UnlearningReport,
    check_attack,
    measure_unlearning,
)
from salhub.models.salun.weight_mask import FILE_NAME, WeightMask, block_of
from salhub.results import Results, Table, measured

SHARES_ROWS = True
_THIS, _ORIGINAL, _RETRAINED = "this model", "original", "retrained"
# Of the fine-tuning that brings forgotten pictures back.
_BATCH, _LEARNING_RATE = 64, 0.01


def evaluate(
    model: SalUnForImageClassification,
    image_processor: Any,
    data_path: str | os.PathLike[str],
    *,
    original: str | None = None,
    retrained: str | None = None,
    attack: str = "threshold",
    seed: int = 0,
    image_column: str | None = None,
    label_column: str | None = None,
    progress: bool = True,
) -> Results:
    """Measure what a classifier knows of what it was, and was not, to forget.

    Args:
        model: The classifier, with the `split.json` of its training beside it.
        image_processor: Its image processor.
        data_path: The pictures that it was trained on, see `read_labelled_pictures`.
        original: The model before unlearning, for the table; None to leave it out.
        retrained: The model that never saw what is forgotten, for the gaps; None to leave it out.
        attack: Membership inference: "threshold", "svc" or "none".
        seed: Seed of orders and of the bootstrap.
        image_column, label_column: Of the data, where they have columns.
        progress: Whether to show bars.

    Returns:
        `Results` with the tables of the card.

    Raises:
        FileNotFoundError: There are no such data.
        ValueError: It is not known what the model was trained on, or it was other data.

    Source: Fan et al. 2024 (arXiv 2310.12508), section 5.1, for the measures.
    """
    columns = {"image_column": image_column, "label_column": label_column}
    archive, split, results = start(model, data_path, seed, **columns)
    results.data["num_train"] = len(split.train)
    # What cannot be loaded is said before any work.
    models = {}
    if len(split.forgotten):
        check_attack(attack)
        models = _models_beside(model, split, original, retrained)
    sets = _Sets(archive, split, PicturePreparation(image_processor), seed)
    with measured(results), attribution_scope(model):
        outputs = {
            "train": sets.outputs(model, "retain"),
            "test": sets.outputs(model, "test"),
        }
        titles = {"train": "training pictures", "test": "test pictures"}
        add_accuracies(results, outputs, titles)
        if len(split.forgotten):
            _add_unlearning(results, sets, models, attack)
    return results


def start(
    model: Any, data_path: str | os.PathLike[str], seed: int, **columns: str | None
) -> tuple[PictureData, LabelledSplit, Results]:
    """The data of a model that was, or can be, unlearned, and results that say which they are."""
    names = getattr(model.config, "id2label", None) or {}
    archive = read_labelled_pictures(data_path, class_names=list(names.values()), **columns)
    split = evaluated_split(model.config.name_or_path, archive)
    results = Results.of_model(model, archive.name, seed)
    results.data = {**split.data, "split": split.digest[:16]}
    return archive, split, results


def describe_forgotten(model: Any, split: LabelledSplit) -> dict[str, Any]:
    """What a results file says of what was forgotten."""
    return {
        "forgotten": model.config.forget or "",
        "num_forgotten": len(split.forgotten),
        "forget_digest": places_digest(split.forgotten),
    }


def add_mask(results: Results, model: Any, original: nn.Module | None) -> WeightMask | None:
    """Write how many weights could move, and whether the others are those of the original.

    Args:
        results: To be filled.
        model: The unlearned model.
        original: The model before; None where it is not at hand.

    Returns:
        The mask that lies beside the model, or None where there is none.
    """
    path = find_file(model.config.name_or_path, FILE_NAME)
    if path is None:
        return None
    mask = WeightMask.from_pretrained(path).for_model(model)
    results.add_metric("mask/density", mask.density(), n=mask.num_weights, unit="fraction")
    if original is not None:
        same = closed_weights_digest(original, mask) == closed_weights_digest(model, mask)
        results.add_metric("mask/closed_weights_equal", float(same), unit="truth")
    return mask


class _Sets:
    """Pictures of a split, and what models say of them."""

    def __init__(
        self,
        archive: PictureData,
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
        self.images = {
            name: pictures_of(archive, part, preparation) for name, part in places.items()
        }
        self.labels = {name: archive.labels[part] for name, part in places.items()}
        self.split, self.preparation = split, preparation

    def outputs(self, model: nn.Module, name: str) -> Outputs:
        return shared_logits(self.preparation, model, self.images[name]), self.labels[name]

    @property
    def forgotten_classes(self) -> tuple[int, ...]:
        """Classes of which nothing is left to train on."""
        gone = set(self.labels["forget"].tolist()) - set(self.labels["retain"].tolist())
        return tuple(sorted(gone))


def _models_beside(
    model: SalUnForImageClassification,
    split: LabelledSplit,
    original: str | None,
    retrained: str | None,
) -> dict[str, nn.Module]:
    models: dict[str, nn.Module] = {}
    if original is not None:
        models[_ORIGINAL] = load_classifier(original)
    if retrained is not None:
        check_reference_split(retrained, split, model.config.forget or "its forget set")
        models[_RETRAINED] = load_classifier(retrained)
    return {**models, _THIS: model}


def _add_unlearning(
    results: Results, sets: _Sets, models: dict[str, nn.Module], attack: str
) -> None:
    model: Any = models[_THIS]
    results.data |= describe_forgotten(model, sets.split)
    reports = {}
    for name, one in models.items():
        outputs = {part: sets.outputs(one, part) for part in ("forget", "retain", "test")}
        reports[name] = measure_unlearning(
            **outputs,
            forgotten_classes=sets.forgotten_classes,
            attack=attack,
            warns=not reports,
        )
        reports[name].add_to(results, "" if name == _THIS else f"{name}/")
    relearned = _relearned(sets, models)
    results.tables.append(_table_of(reports, relearned))
    if attack != "none":
        results.tables.append(_attacks_table(reports))
    if _RETRAINED in reports:
        gap = reports[_THIS].average_gap(reports[_RETRAINED])
        results.add_metric("average_gap", gap, unit="points")
    _add_mask_table(results, model, models.get(_ORIGINAL))


def _relearned(sets: _Sets, models: dict[str, nn.Module]) -> dict[str, int | None]:
    """Pictures that each model needs until it knows nine tenths of what the original knew."""
    if _ORIGINAL not in models or len(sets.labels["forget"]) < 2:  # a half to learn, one to ask
        return {}
    logits, labels = sets.outputs(models[_ORIGINAL], "forget")
    wanted = 0.9 * float((logits.argmax(-1) == labels).double().mean())

    def of_model(unit: tuple[str, float]) -> int | None:
        network, images = models[unit[0]], sets.images["forget"]
        return pictures_to_relearn(
            network, sets.preparation, images, labels, wanted_accuracy=unit[1]
        )

    units = [(name, wanted) for name in models]
    return dict(zip(models, shared_rows("relearning", units, of_model), strict=True))


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
        "Percent; one model each. UA: forgotten pictures that the model does not recognize. "
        "RA, TA: retained and test pictures that it recognizes, without forgotten classes. "
        "MIA: forgotten pictures that a membership attack classifies as never seen. The "
        "average gap is the mean distance from the retrained model over the four, in "
        "points. The last column counts how many of the forgotten pictures fine-tuning "
        "needs to restore nine tenths of the original accuracy on the other half of them: a "
        "low count means that knowledge was hidden, not removed."
    )
    columns = ["", "UA", "RA", "TA", "MIA", "test, forgotten class", "average gap", "to relearn"]
    return Table("Before and after", note, columns, rows)


def _attacks_table(reports: dict[str, UnlearningReport]) -> Table:
    features = [name for name in FEATURES if name in next(iter(reports.values())).membership]
    rows = [[name, *(one.membership[f] for f in features)] for name, one in reports.items()]
    note = (
        "Percent of forgotten pictures that an attack on one feature of the output "
        "classifies as never seen; closer to the retrained model is better."
    )
    titles = [feature.replace("_", " ") for feature in features]
    return Table("Membership attacks", note, ["", *titles], rows)


def _add_mask_table(
    results: Results, model: SalUnForImageClassification, original: nn.Module | None
) -> None:
    """How open each part of the network was, and that nothing else has moved."""
    mask = add_mask(results, model, original)
    if mask is None:
        return
    rows = []
    for block, (opened, total) in block_densities(mask).items():
        rows.append([block, opened, total, opened / total])
        results.add_metric(f"mask/density/{block}", opened / total, n=total, unit="fraction")
    note = f"Weights that could change, by part of the network; ranked by {mask.saliency}."
    if original is not None:
        same = results.metric("mask/closed_weights_equal").value
        note += (
            f" The {mask.num_weights - mask.num_open} other weights "
            f"{'equal those of the original, bit by bit' if same else 'have moved'} (sha256 "
            f"{closed_weights_digest(model, mask)[:16]})."
        )
    columns = ["part", "open", "weights", "share open"]
    results.tables.append(Table("Which weights could change", note, columns, rows))


def block_densities(mask: WeightMask) -> dict[str, tuple[int, int]]:
    """Part of the network, from input to output -> weights that could move, and all of them."""
    found: dict[str, tuple[int, int]] = {}
    for name, tensor in mask.tensors.items():
        block = block_of(name.removeprefix("backbone."))
        opened, total = found.get(block, (0, 0))
        found[block] = opened + int(tensor.sum()), total + tensor.numel()
    return found


def pictures_to_relearn(
    network: nn.Module,
    preparation: PicturePreparation,
    images: Tensor | PictureRows,
    labels: Tensor,
    *,
    wanted_accuracy: float,
    most: int = 6400,
    seed: int = 0,
) -> int | None:
    """Fine-tune a copy of a model on forgotten pictures until it knows them again.

    Half of the pictures are learned, 64 a step, by plain SGD; the other half is what is measured.

    Args:
        network: The model; it is not changed.
        preparation: Of its pictures.
        images: Forgotten pictures, uint8 (n, C, H, W) or read when needed, n at least 2.
        labels: Their classes, int64 (n,).
        wanted_accuracy: Accuracy on the half that is measured, in [0, 1].
        most: Pictures after which to give up.
        seed: Of the halves and the order.

    Returns:
        Pictures that were learned until then; 0 where the model knows them already, None where it
        was given up.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    learned, measured = order.tensor_split(2)
    device = next(network.parameters()).device
    student = copy.deepcopy(network).requires_grad_(True)
    optimizer = torch.optim.SGD(student.parameters(), lr=_LEARNING_RATE, momentum=0.9)
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # for dropout
        for seen in range(0, most + 1, _BATCH):
            verdicts = preparation.logits(student.eval(), some_of(images, measured)).argmax(-1)
            if float((verdicts == labels[measured]).double().mean()) >= wanted_accuracy:
                return seen
            rows = learned[torch.randint(len(learned), (_BATCH,), generator=generator)]
            logits = student.train()(preparation(images[rows].to(device))).logits
            F.cross_entropy(logits, labels[rows].to(device)).backward()
            optimizer.step()
            optimizer.zero_grad()
    return None
