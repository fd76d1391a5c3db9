"""What a network of several tasks says of one picture, and what each task reads in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image

from salhub.models.rep_mtl.configuration_rep_mtl import Task
from salhub.models.rep_mtl.task_metrics import TaskMeter
from salhub.models.rep_mtl.task_pictures import (
    answer_words,
    label_colors,
    metric_words,
    number_span,
    task_picture,
)
from salhub.pipelines.result import PICTURE_WRITERS, PipelineResult, check_comparable, finite
from salhub.viz import ColorBar, compare, enlarge, message_panel, overlay

_SIDE = 192
_HOW_TO_READ = (
    "Saliency shows where a change of the shared map would change a task's loss most: the "
    "task reads the map in bright areas. It is computed from the network's own answers, not "
    "from the true labels."
)


@dataclass(eq=False, repr=False)
class MultiTaskResult(PipelineResult):
    """All answers of a network for one picture; T tasks in their order.

    Args:
        image: The picture: RGB, turned upright.
        tasks: The tasks.
        answers: Task -> its answer, at the size that the network sees; see `task_picture`.
        saliency: |mean over channels| of each task's saliency, float32 (T, h, w), h and w those of
            the shared map.
        shares: How the tasks share each position, (T, h, w); 0 where all are silent.
        affinity: Cosines between the tasks' saliencies, (T, T) in [-1, 1].
        truth: Task -> its labels, where they are known, as of rendered rooms.
        model_name: The model that was asked.
        image_name: The name of the picture's file, or "".
        notes: Sentences to read before the answers.

    Example:
        >>> import salhub
        >>> result = salhub.pipeline("salhub/rep-mtl-rooms")("sample:room")  # doctest: +SKIP
        >>> result.answers["depth"].shape, result.saliency.shape  # doctest: +SKIP
        ((64, 64), (3, 16, 16))
    """

    writers = {**PICTURE_WRITERS, ".json": "write_json", ".npz": "write_arrays"}
    views = {"plot": "plot", "answers": "answer_plot", "saliency": "saliency_plot"}

    image: Image.Image
    tasks: Sequence[Task]
    answers: Mapping[str, np.ndarray]
    saliency: np.ndarray
    shares: np.ndarray
    affinity: np.ndarray
    truth: Mapping[str, np.ndarray] = field(default_factory=dict)
    model_name: str = ""
    image_name: str = ""
    notes: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"MultiTaskResult({self.summary()!r}, model {self.model_name!r})"

    @property
    def dominance(self) -> np.ndarray:
        """The task that rules each position, int64 (h, w); -1 where all are silent."""
        return np.where(self.shares.sum(0) > 0, self.shares.argmax(0), -1)

    @property
    def entropy(self) -> np.ndarray:
        """How evenly tasks share each position, (h, w) in [0, 1], 1 where all share alike."""
        logs = np.log(np.where(self.shares > 0, self.shares, 1))
        return -(self.shares * logs).sum(0) / np.log(max(2, len(self.tasks)))

    @property
    def ruled(self) -> dict[str, float]:
        """Task -> the share of the positions with saliency that it rules."""
        dominance = self.dominance
        count = max(1, int((dominance >= 0).sum()))
        return {
            task.name: float((dominance == n).sum() / count) for n, task in enumerate(self.tasks)
        }

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """Task -> metric -> value for this one picture, of tasks whose truth is known."""
        found = {}
        for task in self.tasks:
            if task.name in self.truth:
                meter = TaskMeter(task)
                meter.add(
                    torch.from_numpy(_as_predicted(task, self.answers[task.name]))[None],
                    torch.from_numpy(np.asarray(self.truth[task.name]))[None],
                )
                found[task.name] = meter.numbers()
        return found

    # --- pictures ---------------------------------------------------------------------------------

    def answer_picture(self, task: str) -> Image.Image:
        """Draw the answer of a task, of the size of the picture."""
        return self._drawn(task, self.answers[task])

    def truth_picture(self, task: str) -> Image.Image:
        """Draw the truth of a task in the colours of its answer.

        Raises:
            KeyError: It is not known.
        """
        return self._drawn(task, self.truth[task])

    def _drawn(self, task: str, values: np.ndarray) -> Image.Image:
        chosen = self._task(task)
        span = None
        if chosen.type in ("depth", "regression"):
            both = [self.answers[task], *([self.truth[task]] if task in self.truth else [])]
            span = number_span(chosen, [np.asarray(one) for one in both])
        return task_picture(chosen, np.asarray(values), self.image.size, span)

    def saliency_picture(self, task: str) -> Image.Image:
        """Draw what a task reads over the picture; of a silent task a sentence."""
        values = self.saliency[[one.name for one in self.tasks].index(task)]
        if not float(values.max()):
            return message_panel(self.image.size, f"{_title(self._task(task))} reads nothing here.")
        grown = Image.fromarray(values.astype(np.float32)).resize(
            self.image.size, Image.Resampling.BILINEAR
        )
        return overlay(self.image, np.asarray(grown))

    def dominance_picture(self) -> Image.Image:
        """Draw the task that rules each position, each in a colour of its own."""
        colors = label_colors(self.dominance, len(self.tasks))
        return Image.fromarray(colors).resize(self.image.size, Image.Resampling.NEAREST)

    def plot(self) -> Image.Image:
        """Draw the picture, all answers, the truth where it is known, and all saliencies."""
        return self._figure([*self._answer_rows(), self._saliency_row()])

    def answer_plot(self) -> Image.Image:
        """Draw the picture, all answers, and the truth where it is known."""
        return self._figure(self._answer_rows())

    def saliency_plot(self) -> Image.Image:
        """Draw where each task reads, and the task that rules each place."""
        return self._figure([self._saliency_row()], ColorBar.for_map(signed=False))

    def _answer_rows(self) -> list[tuple[str, list[Image.Image]]]:
        names = [task.name for task in self.tasks]
        rows = [("The network", [self.image, *(self.answer_picture(name) for name in names)])]
        if self.truth:
            unknown = message_panel((_SIDE, _SIDE), "not known")
            known = [self.truth_picture(n) if n in self.truth else unknown for n in names]
            rows.append(("The truth", [self.image, *known]))
        return rows

    def _saliency_row(self) -> tuple[str, list[Image.Image]]:
        maps = [self.saliency_picture(task.name) for task in self.tasks]
        return ("Dominant task, and what each task reads", [self.dominance_picture(), *maps])

    def _figure(
        self,
        rows: Sequence[tuple[str, Sequence[Image.Image]]],
        color_bar: ColorBar | None = None,
    ) -> Image.Image:
        columns = ["Picture", *(_title(task) for task in self.tasks)]
        sharp = [(caption, [enlarge(one, _SIDE) for one in drawn]) for caption, drawn in rows]
        summary = self.summary()
        return compare(
            columns,
            sharp,
            title=self.model_name or None,
            lead=" ".join([*self.notes, summary]),
            note=f"{_HOW_TO_READ} {self._legend()}",
            color_bar=color_bar,
            side=_SIDE,
        )

    def _legend(self) -> str:
        names = ", ".join(
            f"{_title(task).lower()} {_COLOR_NAMES[n % len(_COLOR_NAMES)]}"
            for n, task in enumerate(self.tasks)
        )
        said = [f"Colours of the dominant task: {names}."]
        for task in self.tasks:
            # More classes than colours would share some.
            class_names = task.class_names or ()
            if task.type == "segmentation" and 0 < len(class_names) <= len(_COLOR_NAMES):
                named = zip(class_names, _COLOR_NAMES, strict=False)
                classes = ", ".join(f"{name} {color}" for name, color in named)
                said.append(f"{_title(task)}: {classes}.")
        if any(task.type == "depth" for task in self.tasks):
            said.append("Depth is darker farther away.")
        return " ".join(said)

    @classmethod
    def compare(cls, results: Mapping[str, Self]) -> Image.Image:
        """Draw the answers and saliencies of several models for one picture, two rows each.

        Args:
            results: Name of the model -> its result.

        Raises:
            ValueError: Nothing to compare, other pictures, or other tasks.
        """
        check_comparable(results)
        first = next(iter(results.values()))
        names = [task.name for task in first.tasks]
        rows = []
        for name, one in results.items():
            if [task.name for task in one.tasks] != names:
                raise ValueError(
                    "The results have different tasks; compare models with the same tasks."
                )
            answers, saliency = one._answer_rows()[0][1], one._saliency_row()[1]
            rows += [(name, answers), (f"{name}: saliency", saliency)]
        rows = [(name, [enlarge(one, _SIDE) for one in drawn]) for name, drawn in rows]
        notes = dict.fromkeys(note for one in results.values() for note in one.notes)
        columns = ["Picture", *(_title(task) for task in first.tasks)]
        return compare(columns, rows, lead=" ".join(notes), note=_HOW_TO_READ, side=_SIDE)

    # --- words and files --------------------------------------------------------------------------

    def summary(self) -> str:
        """Return what every task says, and which of them rules most of the map."""
        said = "; ".join(
            f"{_title(task)}: {answer_words(task, self.answers[task.name])}" for task in self.tasks
        )
        ruled = self.ruled
        most = max(ruled, key=lambda name: ruled[name])
        share = f"{100 * ruled[most]:.0f} %"
        return f"{said}. {_title(self._task(most))} dominates {share} of the shared map."

    def metric_words(self) -> dict[str, str]:
        """Task -> its metrics for this picture in one line, where the truth is known."""
        return {name: metric_words(numbers) for name, numbers in self.metrics.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return what every task says, what it reads, and the metrics, without the maps."""
        ruled, metrics = self.ruled, self.metrics
        tasks = [
            {
                "name": task.name,
                "type": task.type,
                "answer": answer_words(task, self.answers[task.name]),
                "rules": ruled[task.name],
                "metrics": {k: finite(v) for k, v in metrics.get(task.name, {}).items()},
            }
            for task in self.tasks
        ]
        return {
            "model": self.model_name,
            "image": self.image_name,
            "size": list(self.image.size),
            "tasks": tasks,
            "affinity": self.affinity.round(6).tolist(),
            "mean_entropy": finite(float(self.entropy.mean())),
            "saliency_of": "predictions",
            "notes": self.notes,
        }

    def write_arrays(self, path: Path) -> None:
        """Write answers ("answer_TASK"), truth, saliency, shares and affinity as one archive."""
        arrays = {f"answer_{name}": values for name, values in self.answers.items()}
        arrays |= {f"truth_{name}": np.asarray(values) for name, values in self.truth.items()}
        with path.open("wb") as file:
            np.savez_compressed(
                file, saliency=self.saliency, shares=self.shares, affinity=self.affinity, **arrays
            )

    def _task(self, name: str) -> Task:
        return next(one for one in self.tasks if one.name == name)


_COLOR_NAMES = ("orange", "light blue", "green", "yellow", "blue", "red", "pink", "grey")


def _title(task: Task) -> str:
    return task.name.replace("_", " ").capitalize()


def _as_predicted(task: Task, answer: np.ndarray) -> np.ndarray:
    """An answer as the network gives it, for metrics: scores of classes, and logits of edges."""
    if task.type == "segmentation":
        return np.moveaxis(np.eye(task.num_labels or 1, dtype=np.float32)[answer], -1, 0)
    return answer - 0.5 if task.type == "edge" else answer
