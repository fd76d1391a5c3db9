"""Accuracy of a classifier on a folder of labelled pictures."""

import os
from typing import Any

from torch import Tensor

from salhub.backbones.efficientnet_lite.modeling_efficientnet_lite import (
    EfficientNetLiteForImageClassification,
)
from salhub.data.image_folder import LabelledImageFolder
from salhub.evaluation.image_saliency.classified_sample import ClassifiedSample
from salhub.modeling import attribution_scope
from salhub.results import Results, Table, measured

SHARES_ROWS = True
TOP = (1, 5)


def evaluate(
    model: EfficientNetLiteForImageClassification,
    image_processor: Any,
    data_path: str | os.PathLike[str],
    *,
    seed: int = 0,
    batch_size: int = 16,
    progress: bool = True,
) -> Results:
    """Measure how often the true class is the most likely one, and among the five most likely.

    Args:
        model: The classifier.
        image_processor: Its image processor.
        data_path: Folder of labelled pictures, see `LabelledImageFolder`.
        seed: Seed of the bootstrap.
        batch_size: Pictures classified together.
        progress: Whether to show a bar.

    Returns:
        `Results` with "top1" and "top5", and the table of the card.

    Raises:
        FileNotFoundError, ValueError: The folder is missing, or its labels are not the model's.

    Example:
        >>> results = evaluate(model, processor, "pictures")  # doctest: +SKIP
    """
    folder = LabelledImageFolder(data_path, id2label=model.config.id2label)
    results = Results.of_model(model, folder.describe()["name"], seed)
    results.data = folder.describe()

    def classify(pixel_values: Tensor) -> Tensor:
        return model(pixel_values.to(model.device, model.dtype)).logits

    with measured(results), attribution_scope(model):
        sample = ClassifiedSample(
            folder,
            image_processor,
            classify,
            batch_size=batch_size,
            progress=progress,
            config=model.config,
        )
        _add_accuracies(results, sample)
    return results


def _add_accuracies(results: Results, sample: ClassifiedSample) -> None:
    rows = []
    for count in TOP:
        best = sample.logits.topk(min(count, sample.logits.shape[1]), dim=1).indices
        hit = (best == sample.class_labels[:, None]).any(dim=1)
        found = results.add_mean(f"top{count}", hit.double(), unit="fraction")
        interval = f"[{found.low:.3f}, {found.high:.3f}]"
        rows.append([f"top-{count} accuracy", f"{found.mean:.3f}", interval, found.n])
    note = "Share of pictures whose true class is among the most likely ones; bootstrap interval."
    columns = ["what", "value", "95 % interval", "n"]
    results.tables.append(Table("Accuracy", note, columns, rows))
