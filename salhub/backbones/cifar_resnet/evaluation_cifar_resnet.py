"""Accuracy of a residual network on the test pictures of an archive."""

import os
from typing import Any

from salhub.backbones.cifar_resnet.modeling_cifar_resnet import CifarResNetForImageClassification
from salhub.data.picture_archive import PictureArchive, as_rgb
from salhub.data.picture_preparation import PicturePreparation
from salhub.evaluation.image_classification import add_accuracies
from salhub.modeling import attribution_scope
from salhub.results import Results, measured


def evaluate(
    model: CifarResNetForImageClassification,
    image_processor: Any,
    data_path: str | os.PathLike[str],
    *,
    seed: int = 0,
) -> Results:
    """Measure how often the true class of a test picture is the most likely one.

    Args:
        model: The classifier.
        image_processor: Its image processor.
        data_path: Archive of labelled pictures, see `PictureArchive`.
        seed: Seed of the bootstrap.

    Raises:
        FileNotFoundError, ValueError: There is no archive, or it has other classes.

    Example:
        >>> results = evaluate(model, processor, "mnist.npz")  # doctest: +SKIP
    """
    archive = PictureArchive(data_path)
    if len(archive.class_names) != model.config.num_labels:
        raise ValueError(
            f"{archive.path.name} has {len(archive.class_names)} classes and the model "
            f"{model.config.num_labels}; give the data that it was trained on."
        )
    results = Results.of_model(model, archive.path.stem, seed)
    results.data = archive.describe()
    places = archive.is_test.nonzero()[:, 0]
    with measured(results), attribution_scope(model):
        preparation = PicturePreparation(image_processor)
        logits = preparation.logits(model, as_rgb(archive.images(places)))
        outputs = {"test": (logits, archive.labels[places])}
        add_accuracies(results, outputs, {"test": "test pictures"})
    return results
