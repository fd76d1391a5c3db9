"""The page of several tasks: one rendered room, all answers, and what each task reads in it."""

import json
import tempfile
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder
from PIL import Image

from salhub.models.rep_mtl.result_rep_mtl import MultiTaskResult
from salhub.models.rep_mtl.sample_rooms import NUM_SAMPLES
from salhub.models.rep_mtl.task_metrics import HIGHER_IS_BETTER, relative_improvement
from salhub.pipelines import pipeline
from salhub.pipelines.base import whole_number
from salhub.ui.controls import sent_number, slider
from salhub.ui.page import Contents, State, Tab
from salhub.ui.page import Page as Frame
from salhub.ui.panes import (
    Fact,
    PictureCell,
    facts,
    file_stem,
    notes,
    picture_table,
    pipeline_program,
    python,
    sentence,
)
from salhub.viz import enlarge

_SIDE = 192
_MOST_ANSWERS = 8
_FILES = {"figure": ("Figure (.png)", ".png"), "arrays": ("All maps (.npz)", ".npz")}
_READING = (
    "All tasks read the same feature map of the encoder. Bright areas are where a change of "
    "the map would change the loss of the task most, measured with the network's own "
    "answers instead of the true labels."
)
# Rows of NYUv2 that the paper prints: single-task networks, and Rep-MTL.
_EXAMPLE = {
    "single": "segmentation: miou 53.50, pixel_accuracy 75.39\ndepth: abs_error 0.3926, rel_error "
    "0.1605\nnormals: mean_angle 21.99, median_angle 15.16, within_11.25 39.04, within_22.5 65.00, "
    "within_30 75.16",
    "several": "segmentation: miou 54.59, pixel_accuracy 76.04\ndepth: abs_error 0.3750, rel_error "
    "0.1542\nnormals: mean_angle 21.91, median_angle 15.28, within_11.25 38.37, within_22.5 64.72, "
    "within_30 75.05",
}


class TasksTab(Tab):
    """The room, every answer, its truth, and the saliency of every task."""

    title = "All tasks"

    def panes(self) -> dict[str, Component]:
        """Build the pictures, the numbers and the files."""
        panes: dict[str, Component] = {"notes": gr.HTML(visible=False), "pictures": gr.HTML()}
        gr.HTML(sentence(_READING))
        panes["facts"] = gr.HTML()
        with gr.Row(elem_classes="salhub-buttons"):
            for name, (label, _) in _FILES.items():
                panes[name] = gr.DownloadButton(label, size="md")
        return panes

    def contents(self, query: State) -> Contents:
        """Do all tasks on the room."""
        result = self.page.answer(query)
        stem = file_stem(result.image_name, "tasks")
        return {
            "notes": notes(result.notes),
            "pictures": {"value": _pictures(result)},
            "facts": {"value": facts(_numbers(result))},
            **{
                name: {"value": _written(result, f"{stem}{ending}")}
                for name, (_, ending) in _FILES.items()
            },
        }


class SharingTab(Tab):
    """Which task rules where, how evenly tasks share, and whether they pull the same way."""

    title = "What each task reads"

    def panes(self) -> dict[str, Component]:
        """Build the maps and the table."""
        panes: dict[str, Component] = {"ruling": gr.HTML(), "affinity": gr.HTML()}
        gr.HTML(
            sentence(
                "Cosines lie between -1 and 1. Below 0, two tasks pull the shared map of "
                "this room in opposite directions, which makes training them together "
                "harder."
            )
        )
        return panes

    def contents(self, query: State) -> Contents:
        """Draw the maps of the room."""
        result = self.page.answer(query)
        even = Image.fromarray((255 * result.entropy.clip(0, 1)).astype("uint8"))
        ruled = result.ruled
        cells = [
            PictureCell(_grown(result.dominance_picture()), "The dominant task at each position"),
            PictureCell(
                enlarge(even.convert("RGB"), _SIDE),
                "How evenly the tasks share each position",
                note=f"mean {100 * result.entropy.mean():.0f} %; 1 means equal shares",
            ),
        ]
        table = picture_table(
            "Shared feature map of the encoder",
            ["Ruling task", "Shared evenly"],
            [(", ".join(f"{name} {100 * share:.0f} %" for name, share in ruled.items()), cells)],
        )
        names = [task.name for task in result.tasks]
        pairs = [
            Fact(f"{result.affinity[a, b]:+.2f}", f"{names[a]} and {names[b]}", "mean cosine")
            for a in range(len(names))
            for b in range(a + 1, len(names))
        ]
        return {"ruling": {"value": table}, "affinity": {"value": facts(pairs)}}


class ImprovementTab(Tab):
    """A calculator of Delta p for anybody's metrics."""

    title = "Δp calculator"

    def controls(self) -> dict[str, Component]:
        """Build two boxes to paste metrics in."""
        names = ", ".join(HIGHER_IS_BETTER)
        return {
            "single": gr.Textbox(
                _EXAMPLE["single"],
                label="Single-task networks",
                info=f"One task per line: name: metric value, ... Metrics: {names}. Press "
                "Shift+Enter.",
                lines=3,
                max_length=2000,
            ),
            "several": gr.Textbox(
                _EXAMPLE["several"],
                label="The multi-task network",
                info="The same tasks and metrics. The example shows the paper's results on NYUv2.",
                lines=3,
                max_length=2000,
            ),
        }

    def panes(self) -> dict[str, Component]:
        """Build the numbers."""
        return {"improvement": gr.HTML()}

    def contents(self, query: State) -> Contents:
        """Compute both kinds of Delta p."""
        by_task, by_metric = relative_improvement(
            read_metrics(str(query["several"])), read_metrics(str(query["single"]))
        )
        items = [
            Fact(
                f"{by_task:+.2f} %", "Δp over tasks", "average over tasks of the mean over metrics"
            ),
            Fact(f"{by_metric:+.2f} %", "Δp over metrics", "plain mean over all metrics"),
        ]
        return {"improvement": {"value": facts(items)}}

    def code(self, query: State) -> str:
        """Return the program that computes them."""
        single, several = (read_metrics(str(query[one])) for one in ("single", "several"))
        return "\n".join([
            "from salhub.models.rep_mtl.task_metrics import relative_improvement", "",
            f"single = {json.dumps(single, indent=4)}",
            f"several = {json.dumps(several, indent=4)}",
            "print(relative_improvement(several, single))",
        ])  # fmt: skip


class Page(Frame):
    """A rendered room by its seed, and all that a network says of it."""

    title = "Rep-MTL"
    sentence = (
        "One network predicts three things from a picture of a room: what each thing is, how far "
        "away it is, and which way its surface faces. See which parts of their shared features "
        "each of these tasks uses."
    )
    tabs = (TasksTab, SharingTab, ImprovementTab)
    endpoints = {
        "see": (
            partial(gr.Image, label="Tasks", type="filepath", format="png"),
            partial(gr.JSON, label="Found"),
        )
    }

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.pipeline = pipeline(self.name)
        self._answers: OrderedDict[int, MultiTaskResult] = OrderedDict()

    def asked(self) -> dict[str, Component]:
        """Build the number of the room."""
        return {
            "room": slider(0, NUM_SAMPLES - 1, 0, step=1, label="Room number"),
            "another": gr.Button("Another room", variant="primary"),
        }

    def picked(self, pick: str, state: State) -> State:
        """Return the next room."""
        if pick != "another":
            return super().picked(pick, state)
        return {"room": (_checked_room(state["room"]) + 1) % NUM_SAMPLES}

    def answer(self, query: Mapping[str, Any]) -> MultiTaskResult:
        """Do all tasks on a room; the last answers are kept."""
        room = _checked_room(query["room"])
        with self.lock:
            if room not in self._answers:
                self._answers[room] = self.pipeline(f"sample:room-{room}")
                while len(self._answers) > _MOST_ANSWERS:
                    self._answers.popitem(last=False)
            self._answers.move_to_end(room)
            return self._answers[room]

    def code(self, query: State) -> str:
        """Return the program that makes what is in sight."""
        source = python(f"sample:room-{_checked_room(query['room'])}")
        last = ["print(result.summary())", 'result.save("tasks.png")']
        return pipeline_program("see", self.name, source, last)

    def see(self, room: float = 0) -> tuple[str, dict[str, Any]]:
        """Do all tasks on a rendered room.

        Args:
            room: Its number, 0 to 9999.

        Returns:
            The figure as PNG; and answers in words, metrics against the truth, the share of the
            shared map that each task rules, and cosines between tasks.
        """
        result = self.answer({"room": room})
        return _written(result, "tasks.png"), result.to_dict()


def read_metrics(text: str) -> dict[str, dict[str, float]]:
    """Read metrics, a task a line.

    Raises:
        ValueError: A line that cannot be read.

    Example:
        >>> read_metrics("depth: abs_error 0.39, rel_error 0.16")
        {'depth': {'abs_error': 0.39, 'rel_error': 0.16}}
    """
    found: dict[str, dict[str, float]] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        task, colon, rest = line.partition(":")
        try:
            pairs = [one.split() for one in rest.split(",")]
            numbers = {name: float(value) for name, value in pairs}
        except ValueError:
            numbers = {}
        if not colon or not numbers:
            raise ValueError(
                f"'{line[:60]}' is not a task; write its name, a colon, and metrics such as "
                "miou 53.5, separated by commas."
            )
        found[task.strip()] = numbers
    return found


def _checked_room(number: Any) -> int:
    return whole_number("room", sent_number("room", number), low=0, limit=NUM_SAMPLES)


def _pictures(result: MultiTaskResult) -> str:
    names = [task.name for task in result.tasks]
    scores = result.metric_words()
    rows = [
        (
            "The network",
            [
                PictureCell(_grown(result.image), "The room"),
                *(
                    PictureCell(
                        _grown(result.answer_picture(name)), f"{name} by the network",
                        note=_first_metric(scores.get(name, "")),
                    )
                    for name in names
                ),
            ],
        )
    ]  # fmt: skip
    if result.truth:
        rows.append((
            "The truth",
            [
                PictureCell(None, ""),
                *(
                    PictureCell(_grown(result.truth_picture(name)), f"the true {name}")
                    if name in result.truth else PictureCell(None, "not known")
                    for name in names
                ),
            ],
        ))  # fmt: skip
    ruled = result.ruled
    rows.append((
        "What each task reads",
        [
            PictureCell(None, ""),
            *(
                PictureCell(
                    _grown(result.saliency_picture(name)), f"saliency of {name}",
                    note=f"dominates {100 * ruled[name]:.0f} % of the map",
                )
                for name in names
            ),
        ],
    ))  # fmt: skip
    columns = ["Room", *(name.capitalize() for name in names)]
    return picture_table("One picture, all tasks", columns, rows)


def _first_metric(words: str) -> str:
    return words.partition(",")[0]


def _grown(picture: Image.Image) -> Image.Image:
    return enlarge(picture, _SIDE)


def _numbers(result: MultiTaskResult) -> list[Fact]:
    found = []
    for name, metrics in result.metrics.items():
        first, *others = metrics.items()
        rest = ", ".join(f"{k.replace('_', ' ')} {v:.3g}" for k, v in others)
        found.append(Fact(f"{first[1]:.3g}", f"{name} {first[0].replace('_', ' ')}", rest))
    even = result.entropy.mean()
    found.append(
        Fact(f"{100 * even:.0f} %", "Shared evenly", "0 % if one task dominates every position")
    )
    return found


def _written(result: MultiTaskResult, name: str) -> str:
    """Write a file of a result where visitors may have it, and return its path."""
    with tempfile.TemporaryDirectory() as folder:
        content = result.save(Path(folder, name)).read_bytes()
    return save_bytes_to_cache(content, name, get_upload_folder())
