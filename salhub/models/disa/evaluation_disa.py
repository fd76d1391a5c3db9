"""Evaluation of prompts: beside the frozen CLIP, on their classes, on others and on other data."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from salhub.data.class_names import first_name
from salhub.data.labelled_pictures import PictureRows, pictures_of, read_labelled_pictures
from salhub.data.picture_preparation import PicturePreparation
from salhub.data.split_beside import find_split
from salhub.evaluation.shared_rows import ranges, shared_batches
from salhub.models.disa.losses import cosine_logits
from salhub.results import Results, Table, measured

logger = logging.getLogger(__name__)

SHARES_ROWS = True
_ROWS, _ROWS_TO_READ = 512, 32
_BINS = 15


@dataclass
class Answers:
    """What prompts and the frozen CLIP say of the same pictures.

    Args:
        prompted: Scores with prompts, float32 (n, K).
        frozen: Scores without, float32 (n, K).
        labels: True classes, int64 (n,).
    """

    prompted: Tensor
    frozen: Tensor
    labels: Tensor

    @property
    def right(self) -> np.ndarray:
        """1 where the prompts are right, float64 (n,)."""
        return (self.prompted.argmax(-1) == self.labels).double().numpy()

    @property
    def frozen_right(self) -> np.ndarray:
        """1 where the frozen CLIP is right, float64 (n,)."""
        return (self.frozen.argmax(-1) == self.labels).double().numpy()


@torch.no_grad()
def image_features(
    model: Any, preparation: PicturePreparation, images: Tensor | PictureRows, *,
    accelerator: Any = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Features of length 1 of pictures, with prompts and without, two of (n, D) on the CPU.

    Args:
        model: A `DiSaForImageClassification` in evaluation mode.
        preparation: Of its base.
        images: Bytes (n, 3, H, W), or pictures that are read when they are needed.
        accelerator: Shares the rows among processes; None for this one alone.
    """
    size = _ROWS if isinstance(images, Tensor) else _ROWS_TO_READ

    def of(places: Tensor) -> Tensor:
        parts = []
        for rows in places.split(size):
            pixels = preparation(images[rows].to(model.device)).to(model.dtype)
            both = [model.encode_images(pixels, prompted=one) for one in (True, False)]
            parts.append(torch.stack(both, 1).float())
        return torch.cat(parts)

    places = torch.arange(len(images))
    if accelerator is None:
        batches = ranges(len(images), size)
        found = shared_batches("pictures", batches, lambda rows: of(torch.tensor(rows)).cpu())
    else:
        with accelerator.split_between_processes(places, apply_padding=True) as own:
            found = accelerator.gather(of(own))[: len(images)].cpu()
    return found[:, 0], found[:, 1]


@torch.no_grad()
def answers_of(
    model: Any, features: tuple[Tensor, Tensor], labels: Tensor, names: Sequence[str]
) -> Answers:
    """What is said of pictures among some classes.

    Args:
        model: The prompts.
        features: By `image_features`.
        labels: Places among the names, int64 (n,).
        names: The classes, which may be others than those of the prompts.
    """
    scale = model._scale().cpu()
    texts = [model.encode_classes(names, prompted=one).float().cpu() for one in (True, False)]
    logits = [cosine_logits(one, own, scale) for one, own in zip(features, texts, strict=True)]
    return Answers(logits[0], logits[1], labels)


def harmonic_mean(one: float, two: float) -> float:
    """2ab / (a + b), 0 where both are 0.

    Example:
        >>> harmonic_mean(0.6, 0.3)
        0.4
    """
    return 2 * one * two / (one + two) if one + two else 0.0


def calibration_error(logits: Tensor, labels: Tensor) -> float:
    """Expected calibration error in 15 bins of equal width, in [0, 1].

    Source: Guo et al. 2017 (arXiv 1706.04599), equation 3.

    Example:
        >>> calibration_error(torch.tensor([[0.0, 0.0]]), torch.tensor([0]))
        0.5
    """
    sure, found = logits.softmax(-1).max(-1)
    right = (found == labels).double()
    bins = (sure * _BINS).long().clamp(max=_BINS - 1)
    gaps = [
        abs(float(right[bins == one].mean() - sure[bins == one].double().mean()))
        * float((bins == one).double().mean())
        for one in bins.unique()
    ]
    return float(sum(gaps))


def add_answers(results: Results, name: str, found: Answers) -> list[str]:
    """Write accuracies, calibration and agreement of one set, and return its row of the table."""
    own = results.add_mean(f"accuracy/{name}/prompts", found.right, unit="fraction")
    frozen = results.add_mean(f"accuracy/{name}/frozen", found.frozen_right, unit="fraction")
    count = len(found.labels)
    for kind, logits in (("prompts", found.prompted), ("frozen", found.frozen)):
        error = calibration_error(logits, found.labels)
        results.add_metric(f"calibration_error/{name}/{kind}", error, n=count)
    same = (found.prompted.argmax(-1) == found.frozen.argmax(-1)).double().numpy()
    results.add_mean(f"agreement/{name}", same, unit="fraction")
    gain = own.mean - frozen.mean
    return [
        name,
        str(found.prompted.shape[1]),
        *(f"{100 * e.mean:.1f} [{100 * e.low:.1f}, {100 * e.high:.1f}]" for e in (own, frozen)),
        f"{100 * gain:+.1f}",
        str(count),
    ]


def accuracy_table(rows: list[list[str]]) -> Table:
    """The table of `add_answers` for the card."""
    return Table(
        "Accuracy",
        "Percent of pictures whose true class is the most likely one of the set's classes, "
        "with 95 % bootstrap intervals; the frozen CLIP uses the mean text features of its "
        "templates.",
        ["set", "classes", "with prompts", "frozen CLIP", "difference", "n"],
        [list(row) for row in rows],
    )


def mask_quality(keep: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Share of the kept patches whose centre is in the object's box, (n,).

    A mask at random gives the box's share of the picture, whatever its ratio.

    Args:
        keep: bool (n, h, w).
        boxes: Left, top, right, bottom in pixels of a picture of `side`, right and bottom not in
            it, (n, 4).
        side: Side of the picture in pixels.

    Example:
        >>> keep = torch.tensor([[[True, False], [True, False]]])
        >>> mask_quality(keep, torch.tensor([[0, 0, 8, 4]]), 8).tolist()
        [0.5]
    """
    inside = patches_in_boxes(keep.shape[1:], boxes, side)
    return (keep & inside).sum((1, 2)) / keep.sum((1, 2)).clamp(min=1)


def patches_in_boxes(grid: Sequence[int], boxes: Tensor, side: int) -> Tensor:
    """Patches whose centre is in a box, bool (n, h, w)."""
    rows, columns = ((torch.arange(count) + 0.5) * side / count for count in grid)
    left, top, right, bottom = (one[:, None] for one in boxes.T)
    vertical = (rows >= top) & (rows < bottom)
    horizontal = (columns >= left) & (columns < right)
    return vertical[:, :, None] & horizontal[:, None, :]


def evaluate(
    model: Any,
    image_processor: Any,
    data_path: str | os.PathLike[str],
    *,
    first_names: bool = False,
    max_pictures: int | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    dataset_config_name: str | None = None,
    seed: int = 0,
) -> Results:
    """Measure prompts and the frozen CLIP on labelled pictures, whose classes are the candidates.

    Args:
        model: The prompts with their CLIP.
        image_processor: Of the CLIP.
        data_path: Labelled pictures, see `read_labelled_pictures`; those that were learned are left
            out where the data are the ones of the training.
        first_names: Of names with commas, as WordNet has them, read only the first.
        max_pictures: Most pictures, spread over the data; None for all.
        image_column, label_column, dataset_config_name: Of the data.
        seed: Seed of the bootstrap.

    Returns:
        `Results` with "accuracy/all/prompts", "accuracy/all/frozen", and where some classes were
        learned and others were not the same of "learned" and "new", and their harmonic means.

    Raises:
        FileNotFoundError, ValueError: As of `read_labelled_pictures`.

    Example:
        >>> results = evaluate(model, processor, "pictures")  # doctest: +SKIP
    """
    data = read_labelled_pictures(
        data_path,
        image_column=image_column,
        label_column=label_column,
        dataset_config_name=dataset_config_name,
        to_learn=False,
    )
    name = model.config.name_or_path or ""
    results = Results(model=name or "disa", command="", seed=seed, data=data.describe())
    names = short_names(data.class_names) if first_names else list(data.class_names)
    places, note = _places(name, data)
    if max_pictures is not None and len(places) > max_pictures:
        order = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))
        places = places[order[:max_pictures]].sort().values
        note += f" {max_pictures} of them were drawn with the seed."
    preparation = PicturePreparation(image_processor)
    with measured(results):
        features = image_features(model, preparation, pictures_of(data, places, preparation))
        labels = data.labels[places]
        learned = [names.index(one) for one in model.config.class_names or () if one in names]
        rows = [add_answers(results, "all", answers_of(model, features, labels, names))]
        others = [place for place in range(len(names)) if place not in set(learned)]
        if learned and others:
            rows += _add_parts(results, model, features, labels, names, learned, others)
        table = accuracy_table(rows)
        results.tables.append(Table(table.title, f"{note} {table.note}", table.columns, table.rows))
    return results


def _add_parts(
    results: Results, model: Any, features: tuple[Tensor, Tensor], labels: Tensor,
    names: list[str], learned: list[int], others: list[int],
) -> list[list[str]]:  # fmt: skip
    rows = []
    for title, classes in (("learned", learned), ("new", others)):
        own = torch.isin(labels, torch.tensor(classes)).nonzero()[:, 0]
        if not len(own):
            logger.warning(
                "There are no pictures of %s classes, so these classes are left out.", title
            )
            continue
        if len(classes) == 1:
            logger.warning(
                "'%s' is the only %s class; its accuracy would always be 100 %%, so it is "
                "left out.", names[classes[0]], title,
            )  # fmt: skip
            continue
        part = (features[0][own], features[1][own])
        among = torch.tensor([classes.index(int(one)) for one in labels[own]])
        found = answers_of(model, part, among, [names[place] for place in classes])
        rows.append(add_answers(results, title, found))
    if len(rows) == 2:
        rows.append(add_harmonic_means(results, "learned", "new"))
    return rows


def add_harmonic_means(results: Results, base: str, novel: str) -> list[str]:
    """Write the harmonic means of two sets, and what was forgotten of the second one.

    Returns:
        Their row of the table of `accuracy_table`.
    """
    values = {metric.name: metric.value for metric in results.metrics}
    means = []
    for kind in ("prompts", "frozen"):
        pair = (values[f"accuracy/{base}/{kind}"], values[f"accuracy/{novel}/{kind}"])
        means.append(harmonic_mean(*pair))
        results.add_metric(f"harmonic_mean/{kind}", means[-1], unit="fraction")
    change = values[f"accuracy/{novel}/prompts"] - values[f"accuracy/{novel}/frozen"]
    results.add_metric(f"change_from_frozen/{novel}", change, unit="fraction")
    shown = [f"{100 * one:.1f}" for one in means]
    gain = f"{100 * (means[0] - means[1]):+.1f}"
    return [f"harmonic mean of {base} and {novel}", "", *shown, gain, ""]


def short_names(names: Sequence[str]) -> list[str]:
    """The first of names that are separated by commas, or all as they are where two would agree.

    Example:
        >>> short_names(["goldfish, Carassius auratus", "cat"])
        ['goldfish', 'cat']
    """
    found = [first_name(name) for name in names]
    if len(set(found)) < len(found):
        raise ValueError(
            "Some classes have the same first name; leave out first_names, or give the "
            "classes distinct names."
        )
    return found


def _places(name: str, data: Any) -> tuple[Tensor, str]:
    """Pictures that the prompts have not learned, and a sentence that says which."""
    split = find_split(name) if name else None
    if split is not None and split.data.get("fingerprint") == data.describe()["fingerprint"]:
        return split.test, f"Measured on {len(split.test)} held-out pictures."
    test = data.is_test.nonzero()[:, 0]
    if len(test):
        return test, f"Measured on the {len(test)} test pictures of {data.name}."
    return torch.arange(len(data)), f"Measured on all {len(data)} pictures of {data.name}."
