"""What is measured of each kind of task over a set of pictures, and whether more is better."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from salhub.models.rep_mtl.configuration_rep_mtl import Task

# Metric -> whether more of it is better. Degrees, shares of pixels or pictures, and labels' units.
HIGHER_IS_BETTER = {
    "miou": True, "pixel_accuracy": True, "abs_error": False, "rel_error": False,
    "mean_angle": False, "median_angle": False, "within_11.25": True, "within_22.5": True,
    "within_30": True, "accuracy": True, "f1": True, "mean_error": False,
}  # fmt: skip


class TaskMeter:
    """Adds up what is needed of a task, batch by batch.

    "segmentation": mean intersection over union of the classes that occur, from one confusion
    matrix, and share of pixels that are right. "depth": mean absolute error, and relative to the
    truth, over pixels with a depth. "normals": mean and median angle in degrees, and shares within
    three angles. "classification": accuracy. "edge": F1 of logits above 0. "regression": mean
    absolute error. What does not count in the loss does not count here.

    Args:
        task: The task.

    Example:
        >>> meter = TaskMeter(Task("scene", "classification", 2))
        >>> meter.add(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]))
        >>> meter.numbers()
        {'accuracy': 0.5}
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        classes = task.num_labels if task.type in ("segmentation", "classification") else 2
        self.confusion = torch.zeros(int(classes or 2), int(classes or 2), dtype=torch.int64)
        self.values: list[Tensor] = []
        self.relative: list[Tensor] = []

    @torch.no_grad()
    def add(self, predictions: Tensor, labels: Tensor) -> None:
        """Add a batch, as `sample_losses` takes it."""
        predictions, labels, kind = predictions.cpu(), labels.cpu(), self.task.type
        if kind in ("segmentation", "classification", "edge"):
            found = (predictions > 0).long() if kind == "edge" else predictions.argmax(1)
            counts = labels != self.task.ignore_index
            size = len(self.confusion)
            places = size * labels[counts].long() + found[counts]
            self.confusion += torch.bincount(places, minlength=size**2).view(size, size)
        elif kind == "normals":
            counts = (labels != 0).any(1) & labels.isfinite().all(1)
            first, second = (
                torch.nn.functional.normalize(one.double(), dim=1) for one in (predictions, labels)
            )
            # The half angle: an arc cosine loses half of its digits near 0.
            angles = 2 * torch.atan2((first - second).norm(dim=1), (first + second).norm(dim=1))
            self.values.append(torch.rad2deg(angles)[counts])
        else:
            labels = labels.reshape(predictions.shape)
            counts = labels.isfinite()
            counts &= labels > 0 if kind == "depth" else counts
            errors = (predictions.double() - labels.double()).abs()[counts]
            self.values.append(errors)
            self.relative.append(errors / labels.double()[counts].abs())

    def numbers(self) -> dict[str, float]:
        """Metric -> its value over all that was added; NaN where nothing counted."""
        kind, matrix = self.task.type, self.confusion.double()
        right = matrix.diagonal()
        share = float(right.sum() / matrix.sum())
        if kind == "classification":
            return {"accuracy": share}
        if kind == "edge":
            return {"f1": float(2 * matrix[1, 1] / (matrix[1].sum() + matrix[:, 1].sum()))}
        if kind == "segmentation":
            union = matrix.sum(0) + matrix.sum(1) - right
            return {"miou": float((right / union)[union > 0].mean()), "pixel_accuracy": share}
        values = torch.cat(self.values) if self.values else torch.zeros(0)
        mean = float(values.mean())
        if kind == "depth":
            return {"abs_error": mean, "rel_error": float(torch.cat(self.relative).mean())}
        if kind == "normals":
            median = float(np.median(values.numpy())) if len(values) else float("nan")
            within = {
                f"within_{limit:g}": float((values < limit).double().mean())
                for limit in (11.25, 22.5, 30.0)
            }
            return {"mean_angle": mean, "median_angle": median, **within}
        return {"mean_error": mean}


def relative_improvement(
    numbers: Mapping[str, Mapping[str, float]],
    baseline: Mapping[str, Mapping[str, float]],
    higher_is_better: Mapping[str, bool] = HIGHER_IS_BETTER,
) -> tuple[float, float]:
    """How much better than networks of one task each, in percent: Delta_p.

    Args:
        numbers: Task -> metric -> value.
        baseline: The same of single-task networks, of the same tasks and metrics.
        higher_is_better: Metric -> whether more of it is better.

    Returns:
        Delta_p,task, the mean over tasks of the mean over their metrics, which tables of the paper
        print; and Delta_p,metric, the plain mean over all metrics.

    Raises:
        ValueError: Other tasks or metrics than the baseline's, one that nobody knows, or a baseline
            of 0, of which there is no share.

    Example:
        >>> relative_improvement({"d": {"abs_error": 0.9}}, {"d": {"abs_error": 1.0}})
        (9.999999999999998, 9.999999999999998)

    Source: section 4 of arXiv 2507.21049. Its two formulas are easily read the other way round;
    this reading gives the numbers of its tables.
    """
    by_task = []
    if numbers.keys() != baseline.keys() or not numbers:
        raise ValueError(
            f"The tasks must be the same as in the baseline ({', '.join(baseline)}), got "
            f"{', '.join(numbers) or 'none'}."
        )
    for task, own in numbers.items():
        if own.keys() != baseline[task].keys() or not own:
            raise ValueError(
                f"The metrics of task '{task}' must be the same as in the baseline "
                f"({', '.join(baseline[task])}), got {', '.join(own) or 'none'}."
            )
        shares = []
        for metric, value in own.items():
            if metric not in higher_is_better:
                raise ValueError(
                    f"It is unknown whether a higher '{metric}' is better; add it to "
                    "higher_is_better."
                )
            if baseline[task][metric] == 0:
                raise ValueError(
                    f"The baseline has a {metric} of 0 for task '{task}', so a relative "
                    "change is undefined; leave the metric out."
                )
            change = (value - baseline[task][metric]) / abs(baseline[task][metric])
            shares.append(100 * change * (1 if higher_is_better[metric] else -1))
        by_task.append(shares)
    means = [sum(shares) / len(shares) for shares in by_task]
    every = [share for shares in by_task for share in shares]
    return sum(means) / len(means), sum(every) / len(every)
