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

_ANGLES = (11.25, 22.5, 30.0)
# Metrics that are means over what counts.
_MEANS = {
    "classification": ("accuracy",),
    "depth": ("abs_error", "rel_error"),
    "normals": ("mean_angle", *(f"within_{limit:g}" for limit in _ANGLES)),
    "regression": ("mean_error",),
}


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
        self._confusions: list[Tensor] = []
        self._counts: list[Tensor] = []
        self._sums: dict[str, list[Tensor]] = {}
        self._angles: list[Tensor] = []

    @torch.no_grad()
    def add(self, predictions: Tensor, labels: Tensor) -> None:
        """Add a batch, as `sample_losses` takes it."""
        predictions, labels, kind = predictions.cpu(), labels.cpu(), self.task.type
        if kind in ("segmentation", "classification", "edge"):
            found = (predictions > 0).long() if kind == "edge" else predictions.argmax(1)
            counts = labels != self.task.ignore_index
            if kind == "classification":
                self._add_sums(counts, accuracy=found == labels)
            else:
                self._confusions.append(self._confusion(found, labels, counts))
        elif kind == "normals":
            counts = (labels != 0).any(1) & labels.isfinite().all(1)
            first, second = (
                torch.nn.functional.normalize(one.double(), dim=1) for one in (predictions, labels)
            )
            # The half angle: an arc cosine loses half of its digits near 0.
            angles = 2 * torch.atan2((first - second).norm(dim=1), (first + second).norm(dim=1))
            angles = torch.rad2deg(angles)
            within = {f"within_{limit:g}": angles < limit for limit in _ANGLES}
            self._add_sums(counts, mean_angle=angles, **within)
            self._angles += [angle[where] for angle, where in zip(angles, counts, strict=True)]
        else:
            labels = labels.reshape(predictions.shape).double()
            counts = labels.isfinite()
            counts &= labels > 0 if kind == "depth" else counts
            errors = (predictions.double() - labels).abs()
            if kind == "depth":
                self._add_sums(counts, abs_error=errors, rel_error=errors / labels.abs())
            else:
                self._add_sums(counts, mean_error=errors)

    def _confusion(self, found: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
        """Counts (B, C, C) of each picture, truth by answer."""
        classes = int((self.task.num_labels if self.task.type == "segmentation" else 2) or 2)
        picture = torch.arange(len(found)).view(-1, *[1] * (found.ndim - 1)).expand_as(found)
        places = (picture * classes + labels.long()) * classes + found
        size = len(found) * classes**2
        return torch.bincount(places[counts], minlength=size).view(-1, classes, classes)

    def _add_sums(self, counts: Tensor, **values: Tensor) -> None:
        """Sums over what counts in each picture."""
        self._counts.append(counts.flatten(1).sum(1) if counts.ndim > 1 else counts.long())
        for name, value in values.items():
            kept = torch.where(counts, value.double(), 0.0)
            self._sums.setdefault(name, []).append(kept.reshape(len(kept), -1).sum(1))

    def numbers(self) -> dict[str, float]:
        """Metric -> its value over all that was added; NaN where nothing counted."""
        found = self._weighted(torch.ones(self.num_pictures, dtype=torch.float64))
        if self.task.type == "normals":
            angles = torch.cat(self._angles) if self._angles else torch.zeros(0)
            median = float(np.median(angles.numpy())) if len(angles) else float("nan")
            found = {"mean_angle": found.pop("mean_angle"), "median_angle": median, **found}
        return found

    @property
    def num_pictures(self) -> int:
        """How many pictures were added."""
        return sum(map(len, self._confusions or self._counts))

    def intervals(self, num_resamples: int = 500, seed: int = 0) -> dict[str, tuple[float, float]]:
        """Metric -> its 95 % percentile interval over resampled pictures; {} of fewer than two.

        Args:
            num_resamples: Number of bootstrap samples.
            seed: Seed of the resampling.

        Source:
            Efron 1979, percentile interval; pixels of a picture are drawn together.
        """
        count = self.num_pictures
        if count < 2:
            return {}
        drawn = np.random.default_rng(seed).integers(count, size=(num_resamples, count))
        values: dict[str, list[float]] = {}
        ranked = self._ranked()
        for places in torch.from_numpy(drawn):
            weights = torch.bincount(places, minlength=count).double()
            found = self._weighted(weights)
            if ranked is not None:
                angles, pictures = ranked
                total = weights[pictures].cumsum(0)
                place = torch.searchsorted(total, total[-1] / 2)
                found["median_angle"] = float(angles[place])
            for name, value in found.items():
                values.setdefault(name, []).append(value)
        ends = {name: np.nanquantile(found, [0.025, 0.975]) for name, found in values.items()}
        return {name: (float(low), float(high)) for name, (low, high) in ends.items()}

    def _ranked(self) -> tuple[Tensor, Tensor] | None:
        """Angles in rising order, and the pictures they are of."""
        if not any(map(len, self._angles)):
            return None
        angles = torch.cat(self._angles)
        lengths = torch.tensor([len(one) for one in self._angles])
        order = angles.argsort()
        return angles[order], torch.arange(len(lengths)).repeat_interleave(lengths)[order]

    def _weighted(self, weights: Tensor) -> dict[str, float]:
        """Numbers where a picture counts `weights` (N,) times; the median of angles is left out."""
        if self.task.type in ("segmentation", "edge"):
            if not self._confusions:
                empty = ("miou", "pixel_accuracy") if self.task.type == "segmentation" else ("f1",)
                return dict.fromkeys(empty, float("nan"))
            matrix = torch.tensordot(weights, torch.cat(self._confusions).double(), dims=1)
            right = matrix.diagonal()
            if self.task.type == "edge":
                return {"f1": float(2 * right[1] / (matrix[1].sum() + matrix[:, 1].sum()))}
            union = matrix.sum(0) + matrix.sum(1) - right
            accuracy = float(right.sum() / matrix.sum())
            return {"miou": float((right / union)[union > 0].mean()), "pixel_accuracy": accuracy}
        if not self._counts:
            return dict.fromkeys(_MEANS[self.task.type], float("nan"))
        total = weights @ torch.cat(self._counts).double()
        return {n: float(weights @ torch.cat(sums) / total) for n, sums in self._sums.items()}


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
