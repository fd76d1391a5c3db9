"""Accuracy of any classifier of pictures on labelled pictures that it has not learned."""

import logging
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from salhub.data.labelled_pictures import PictureData, pictures_of, read_labelled_pictures
from salhub.data.picture_preparation import PicturePreparation, batches_of_pictures
from salhub.evaluation.held_out import evaluate_held_out, names_of_classes
from salhub.evaluation.shared_rows import shared_batches
from salhub.results import Results, Table

logger = logging.getLogger(__name__)

SHARES_ROWS = True


def evaluate(
    model: Any,
    image_processor: Any,
    data_path: str | os.PathLike[str],
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    dataset_config_name: str | None = None,
    batch_size: int | None = None,
    seed: int = 0,
) -> Results:
    """Measure how often the true class of a picture is the most likely one.

    Args:
        model: A classifier of pictures, of transformers or of ours.
        image_processor: Its image processor.
        data_path: Labelled pictures, see `read_labelled_pictures`, of which those are left out
            that the model has learned, see `held_out`.
        image_column, label_column, dataset_config_name: Of the data, as of
            `read_labelled_pictures`.
        batch_size: Pictures that pass through the model at once; None for many small ones, and few
            that may be large.
        seed: Seed of the bootstrap.

    Returns:
        `Results` with "accuracy/test", "accuracy/class/NAME" and the tables of the card.

    Raises:
        FileNotFoundError, ValueError: As of `read_labelled_pictures` and `held_out`.

    Example:
        >>> results = evaluate(model, processor, "photos")  # doctest: +SKIP
    """
    columns = (image_column, label_column, dataset_config_name)
    data = pictures_to_measure(model, data_path, *columns)
    preparation = PicturePreparation(image_processor)

    def logits_of(places: Tensor) -> Tensor:
        pictures = pictures_of(data, places, preparation)
        return shared_logits(preparation, model, pictures, batch_size)

    results, others = evaluate_held_out(model, data, "pictures", seed, logits_of)
    if others:
        add_accuracies(results, others, {"forgotten": "pictures that were forgotten"})
    return results


def shared_logits(
    preparation: PicturePreparation, network: Any, images: Any, batch_size: int | None = None
) -> Tensor:
    """Logits as of `preparation.logits`, of which others may find a part, see `shared_rows`."""
    if not len(images):
        return preparation.logits(network, images)

    def of_batch(rows: range) -> Tensor:
        return preparation.logits(network, images[torch.tensor(rows)], len(rows))

    return shared_batches("pictures", batches_of_pictures(images, batch_size), of_batch)


def pictures_to_measure(
    model: Any,
    data_path: str | os.PathLike[str],
    image_column: str | None = None,
    label_column: str | None = None,
    dataset_config_name: str | None = None,
) -> PictureData:
    """Labelled pictures to measure a classifier on, with the classes in its order.

    Args:
        model: The classifier.
        data_path, image_column, label_column, dataset_config_name: As of `evaluate`.

    Raises:
        FileNotFoundError, ValueError: As of `read_labelled_pictures`.
    """
    return read_labelled_pictures(
        data_path,
        image_column=image_column,
        label_column=label_column,
        dataset_config_name=dataset_config_name,
        class_names=names_of_classes(model),
        to_learn=False,
    )


def add_accuracies(
    results: Results,
    outputs: Mapping[str, tuple[Tensor, Tensor]],
    titles: Mapping[str, str],
    title: str = "Accuracy",
) -> None:
    """Write how often the true class is the most likely one, with the table of the card.

    Args:
        results: To be filled; its seed is that of the bootstrap.
        outputs: Name of a set, such as "test" -> logits (n, K) and labels (n,).
        titles: Name of a set -> what the table calls it.
        title: Heading of the table.
    """
    rows = []
    for name, (logits, labels) in outputs.items():
        if not len(labels):
            logger.warning(
                "There are no %s, so the accuracy on them is not measured.", titles[name]
            )
            continue
        right = (logits.argmax(-1) == labels).double().numpy()
        found = results.add_mean(f"accuracy/{name}", right, unit="fraction")
        cell = f"{100 * found.mean:.2f} [{100 * found.low:.2f}, {100 * found.high:.2f}]"
        rows.append([titles[name], cell, len(labels)])
    note = "Accuracy in percent, with 95 % bootstrap interval."
    results.tables.append(Table(title, note, ["of", "accuracy", "n"], rows))
