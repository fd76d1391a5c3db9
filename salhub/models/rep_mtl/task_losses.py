"""The loss of each kind of task: one number a picture, whose mean is that of a batch."""

import torch
import torch.nn.functional as F
from torch import Tensor

from salhub.models.rep_mtl.configuration_rep_mtl import Task

_WITH_CLASSES = ("segmentation", "classification")


def sample_losses(task: Task, predictions: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of each picture, the mean over what counts in it.

    Args:
        task: What it is a loss of.
        predictions: What its head gave, see `RepMTLOutput`.
        labels: int64 (B, H, W) or (B,) for kinds with classes; numbers (B, H, W) for depth and
            edges, (B, 3, H, W) for normals, and of the shape of the predictions for regression,
            where a single output may be left out of the shape.

    Returns:
        Losses (B,), 0 where nothing counts, and where something does, bool (B,).

    Raises:
        TypeError: Classes that are no integers.
        ValueError: Labels of another shape or out of range; naming the task.
    """
    _check_labels(task, predictions, labels)
    predictions = predictions if predictions.dtype == torch.float64 else predictions.float()
    counts = _counting(task, labels)
    if task.type in _WITH_CLASSES:
        values = F.cross_entropy(predictions, torch.where(counts, labels, 0), reduction="none")
    elif task.type == "edge":
        target = torch.where(counts, labels, 0).to(predictions.dtype)
        values = F.binary_cross_entropy_with_logits(predictions, target, reduction="none")
    elif task.type == "normals":
        target = torch.where(counts[:, None], labels, 1).to(predictions.dtype)
        # Predictions have length 1; the second derivative of a cosine would take long.
        values = 1 - (predictions * F.normalize(target, dim=1)).sum(1)
    else:
        labels, counts = labels.reshape(predictions.shape), counts.reshape(predictions.shape)
        error = predictions - torch.where(counts, labels, 0).to(predictions.dtype)
        values = error.abs() if task.loss == "l1" else error.square()
    counts = counts.flatten(1) if counts.ndim > 1 else counts[:, None]
    values = torch.where(counts, values.reshape(counts.shape), 0)
    number = counts.sum(1)
    return values.sum(1) / number.clamp_min(1), number > 0


def mean_loss(task: Task, predictions: Tensor, labels: Tensor) -> Tensor | None:
    """The mean over the pictures that have labels, (); None where none has."""
    values, has_labels = sample_losses(task, predictions, labels)
    if not bool(has_labels.any()):
        return None
    return values.sum() / has_labels.sum()


def own_losses(task: Task, predictions: Tensor) -> Tensor:
    """A loss of each picture that needs no labels, for saliency of a network's own answer, (B,).

    Kinds with classes, and edges, take their own answer for the truth. An answer of numbers would
    have a loss of 0 then, and no gradient, so that the mean of its absolute values is taken.

    Args:
        task: What it is of.
        predictions: What its head gave.
    """
    if task.type in _WITH_CLASSES:
        return sample_losses(task, predictions, predictions.argmax(1))[0]
    if task.type == "edge":
        return sample_losses(task, predictions, (predictions > 0).to(predictions.dtype))[0]
    return predictions.float().abs().flatten(1).mean(1)


def _counting(task: Task, labels: Tensor) -> Tensor:
    """Which labels count, bool of their shape, of normals without the axis of their components."""
    if task.type in _WITH_CLASSES or task.type == "edge":
        return labels != task.ignore_index
    if task.type == "normals":
        return (labels != 0).any(1) & labels.isfinite().all(1)
    return labels.isfinite() & (labels > 0) if task.type == "depth" else labels.isfinite()


def check_learnable(task: Task, labels: Tensor, where: str) -> None:
    """Refuse labels that nothing can be learned of.

    Args:
        task: What they are labels of.
        labels: As of `sample_losses`, of many pictures.
        where: Where they are from, for messages.

    Raises:
        ValueError: Some are out of range, or none counts.
    """
    _check_range(task, labels, where)
    if not bool(_counting(task, labels).any()):
        raise ValueError(
            f"{where} has no valid label for task '{task.name}' ({task.type}), so the task "
            "cannot be learned; leave the task out, or check its labels."
        )


def _check_labels(task: Task, predictions: Tensor, labels: Tensor) -> None:
    expected = predictions.shape
    if task.type in _WITH_CLASSES:
        expected = (*expected[:1], *expected[2:])
    is_single = task.type == "regression" and task.num_labels == 1
    if labels.shape != expected and not (is_single and labels.shape == _without_one(expected)):
        raise ValueError(
            f"Labels of task '{task.name}' ({task.type}) must have shape {tuple(expected)}, "
            f"got {tuple(labels.shape)}; resize pictures and labels to the same size with "
            "RepMTLImageProcessor."
        )
    if task.type in _WITH_CLASSES and labels.dtype != torch.int64:
        raise TypeError(
            f"Labels of task '{task.name}' ({task.type}) must be int64, got {labels.dtype}."
        )
    _check_range(task, labels)


def _check_range(task: Task, labels: Tensor, where: str = "") -> None:
    if task.type not in (*_WITH_CLASSES, "edge"):
        return
    most = 1 if task.type == "edge" or task.num_labels is None else task.num_labels - 1
    is_wrong = (labels != task.ignore_index) & ((labels < 0) | (labels > most))
    if bool(is_wrong.any()):
        raise ValueError(
            f"Labels of task '{task.name}' ({task.type}){f' in {where}' if where else ''} must lie "
            f"in 0 to {most} or be ignore_index={task.ignore_index}, got "
            f"{labels[is_wrong][0].item()}."
        )


def _without_one(shape: torch.Size) -> tuple[int, ...]:
    return (*shape[:1], *shape[2:])
