"""What is measured of every classifier while it is trained."""

import logging
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from salhub.data.labelled_split import stratified_places
from salhub.runner.batches import generator_of

logger = logging.getLogger(__name__)

# Of each class, where no option says it.
_SHARE = 0.15
# Tells the draw apart from the others of a run.
_CHOOSE_BY = 4


def classification_numbers(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy and mean cross-entropy, for `validate`.

    Args:
        logits: float (N, classes).
        labels: int64 (N,).

    Example:
        >>> classification_numbers(torch.zeros(2, 4), torch.tensor([0, 1]))["accuracy"]
        0.5
    """
    accuracy = (logits.argmax(-1) == labels).double().mean()
    return {"accuracy": float(accuracy), "loss": float(F.cross_entropy(logits, labels))}


def places_to_choose_by(name: str, labels: Tensor, learned: Tensor, arguments: Any) -> Tensor:
    """A part of what would be learned, to choose the best model by instead of the test part.

    Args:
        name: Of the data.
        labels: Class of each of their rows, int64 (N,).
        learned: Places that would be learned, int64 (n,).
        arguments: With `seed` and perhaps `train_val_split`, the share of each class.

    Returns:
        Some of `learned`, int64 (m,), ascending.

    Raises:
        ValueError: The share is 0.
    """
    share = getattr(arguments, "train_val_split", _SHARE)
    if not share:
        raise ValueError(
            f"keep_best needs a validation part, but {name} has none and train_val_split=0 "
            "holds nothing out; set train_val_split above 0, or leave out keep_best."
        )
    generator = generator_of(arguments.seed, _CHOOSE_BY)
    places = learned[stratified_places(labels[learned], share, generator)]
    logger.warning(
        "keep_best uses %d of the %d training rows for validation, a share of each class "
        "drawn with the seed, because %s has no validation part.",
        len(places), len(learned), name,
    )  # fmt: skip
    return places
