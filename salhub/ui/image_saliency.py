"""The page of every model that draws a map over a picture."""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, TypeVar

import gradio as gr
from gradio.components import Component
from PIL import Image
from torch import Tensor

from salhub.data.picture_fit import FITS, clipped
from salhub.ops.class_scores import ScoreFunction, apply_score_function
from salhub.outputs import ImageSaliencyOutput
from salhub.pipelines.image_saliency_result import ImageSaliencyResult
from salhub.pipelines.picture_view import Explained, View
from salhub.ui.controls import Dropdown, Radio, UploadedPicture, slider
from salhub.ui.model_comparison import ModelsTab
from salhub.ui.page import Contents, State, Tab
from salhub.ui.panes import (
    Fact,
    array_file,
    facts,
    file_stem,
    map_pictures,
    notes,
    picture_file,
    picture_pane,
    pipeline_program,
    python,
    sentence,
)
from salhub.ui.picture_page import PicturePage, Query
from salhub.viz import COLORMAPS

# Files of the overlay and of the map, and the facts.
EndpointAnswer = tuple[str, str, dict[str, Any]]
Answer = TypeVar("Answer")

# Answers kept, so that another opacity or another tab does not run the network again.
_REMEMBERED_ANSWERS = 8
_REMEMBERED_PICTURES = 16
_LONGEST_CLASS = 300


class MapTab(Tab):
    """The map of the chosen class, over the photo and alone, what it means, and files of it."""

    title = "Map"
    # Name and label of each picture, and how they are laid out.
    pictures: ClassVar[tuple[tuple[str, str], ...]] = (
        ("overlay", "Map over the photo"),
        ("map", "Map alone"),
    )
    layout: ClassVar[str] = "salhub-panes"

    def panes(self) -> dict[str, Component]:
        """Build the pictures, the legend, the facts and the downloads."""
        panes: dict[str, Component] = {"notes": gr.HTML(visible=False)}
        with gr.Row(elem_classes=self.layout):
            panes |= {name: picture_pane(label) for name, label in self.pictures}
        panes |= {name: gr.HTML() for name in ("legend", "reading", "facts")}
        with gr.Row(elem_classes="salhub-buttons"):
            panes["png"] = gr.DownloadButton("Save figure (.png)", size="md")
            panes["npy"] = gr.DownloadButton("Save map (.npy)", size="md")
        return panes

    def contents(self, query: Query) -> Contents:
        """Explain the chosen class."""
        result, seconds = self.page.timed_explain(query)
        return self.show(query, result, [duration(seconds, self.page)])

    def show(self, query: Query, result: ImageSaliencyResult, numbers: list[Fact]) -> Contents:
        """Return the contents for a result.

        Args:
            query: What was asked.
            result: The answer.
            numbers: Facts for below the map.
        """
        stem = file_stem(query.picture_name, self.page.entry.name, result.label)
        return {
            "notes": notes(result.notes),
            **map_pictures(result, query.settings),
            "reading": {"value": sentence(result.reading())},
            "facts": {"value": facts(numbers)},
            "png": {"value": picture_file(result.plot(), stem)},
            "npy": {"value": array_file(result.saliency, stem)},
        }


class ImageSaliencyPage(PicturePage):
    """A picture, its likely classes, and the map that explains the chosen one.

    A method with more to show derives from it: `title`, `sentence` and `tabs` say what is on the
    page, `main_controls` and `setting_controls` add controls, `pipeline_settings` says what they
    change.
    """

    sentence = "See which parts of your picture made the network choose a class."
    picture_use = "The picture to explain"
    code_title = "Code that makes this map"
    tabs = (MapTab, ModelsTab)
    dependents = {"picture": ("class_label",)}
    endpoints = {
        "saliency": (
            partial(gr.Image, label="Overlay", type="filepath", format="png"),
            partial(gr.File, label="Map"),
            partial(gr.JSON, label="Facts"),
        )
    }

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._answers: OrderedDict[tuple, tuple[Any, float]] = OrderedDict()
        self._views: OrderedDict[str, View] = OrderedDict()
        self._scores: OrderedDict[str, Tensor] = OrderedDict()

    # --- what a method may replace -------------------------------------------------------------

    def asked(self) -> dict[str, Component]:
        """Build the picture, samples, and its likely classes."""
        asked = super().asked()
        return {
            **asked,
            "class_label": Radio(label="Class to explain", elem_classes="salhub-classes"),
        }

    def setting_controls(self) -> dict[str, Component]:
        """Build the controls in the accordion, by the name they have in a query."""
        colors = [("automatic", ""), *((name, name) for name in COLORMAPS)]
        fits = [("Whole", FITS[0]), ("Cropped at its edges, as in the evaluation", FITS[1])]
        return {
            "fit": Dropdown(fits, value=FITS[0], label="Picture as the network sees it"),
            "opacity": slider(0, 1, 0.6, step=0.05, label="Strength of the colours"),
            "colors": Dropdown(colors, value="", label="Colours"),
        }

    def pipeline_settings(self, query: Query) -> dict[str, Any]:
        """Return what differs from the model as it is shipped, for `salhub.pipeline`."""
        return {}

    def saliency(
        self, picture: UploadedPicture | None, class_label: str = "", fit: str = FITS[0]
    ) -> EndpointAnswer:
        """Explain a picture: which of its parts speak for a class.

        Args:
            picture: Any picture: a file, or the address of one.
            class_label: The class to explain, a name or an index; empty for the most likely one.
            fit: "whole", or "crop" for the picture as the network's image processor cuts it.

        Returns:
            The map over the photo, the map as a NumPy file (float32, the size of the picture, whose
            longer side is at most 1024 pixels), and what was explained.
        """
        return self.endpoint_result(picture, class_label, {"fit": fit})

    def endpoint_result(
        self, picture: UploadedPicture | None, class_label: str, settings: Mapping[str, Any]
    ) -> EndpointAnswer:
        """Answer a program as the page answers a visitor."""
        text = str(class_label or "").strip()
        if len(text) > _LONGEST_CLASS:
            raise ValueError(f"No class name has {len(text)} letters; give a name or an index.")
        index = self.pipeline.class_index(text) if text else None
        query = Query.of_upload(picture, index, settings)
        result, _ = self.timed_explain(query)
        stem = file_stem(query.picture_name, self.entry.name, result.label)
        overlay = picture_file(result.overlay(), stem)
        return overlay, array_file(result.saliency, stem), result.to_dict()

    # --- answering ------------------------------------------------------------------------------

    def timed_explain(self, query: Query) -> tuple[ImageSaliencyResult, float]:
        """Return the result of a query and the seconds the model took for it."""

        def explain() -> ImageSaliencyResult:
            settings = {**self.pipeline_settings(query), "fit": fit_of(query)}
            return self.pipeline(query.image, class_labels=query.class_label, **settings)

        return self.timed(query, explain, "explain")

    def timed(
        self, query: Query, work: Callable[[], Answer], *question: Any
    ) -> tuple[Answer, float]:
        """Run the model and return its answer and the seconds it took.

        Args:
            query: What is asked; its picture, class and settings of the model tell it from others.
            work: Runs the model.
            *question: What else tells this use of the model from others.
        """
        settings = repr(self.pipeline_settings(query))
        key = (query.fingerprint, query.class_label, repr(fit_of(query)), settings, *question)
        with self.lock:
            if key not in self._answers:
                start = time.perf_counter()
                answer = work()
                self._answers[key] = (answer, time.perf_counter() - start)
                _forget(self._answers, _REMEMBERED_ANSWERS)
            return self._answers[key]

    def code(self, query: Query) -> str:
        """Return the program that makes the map in sight."""
        label, fit = query.class_label, fit_of(query)
        call: dict[str, Any] = {} if label is None else {"class_labels": label}
        named = {name: self.pipeline.class_name(one) for name, one in call.items()}
        call |= {} if fit == FITS[0] else {"fit": fit}
        return pipeline_program(
            "explain",
            self.name,
            python(query.source),
            ['result.save("explained.png")', 'result.save("explained.npy")'],
            settings={**self.loading, **self.pipeline_settings(query)},
            call=call,
            comments=named,
        )

    def view(self, query: Query) -> View:
        """Return the picture of a query as the network sees it."""
        key = f"{query.fingerprint} {fit_of(query)}"
        with self.lock:
            if key not in self._views:
                self._views[key] = self.pipeline.view(query.image, fit_of(query))
                _forget(self._views, _REMEMBERED_ANSWERS)
            return self._views[key]

    def pixels(self, query: Query) -> Tensor:
        """Return the picture of a query as the network takes it, (1, C, h, w)."""
        return self.view(query).fitted.pixel_values.to(self.pipeline.device, self.pipeline.dtype)

    def result_of(
        self, query: Query, outputs: ImageSaliencyOutput, place: int | None = None
    ) -> ImageSaliencyResult:
        """Return the result of a run of one picture, of one of its classes where it has several."""
        explained = Explained.of_outputs(self.view(query), outputs, 0, place)
        return self.pipeline.result_of(explained)

    def scores(self, query: Query) -> Tensor:
        """Return the score of every class, (C,); those of the last pictures are kept."""
        key = f"{query.fingerprint} {fit_of(query)}"
        with self.lock:
            if key not in self._scores:
                logits = self.pipeline.model.class_scores(self.pixels(query))[0].cpu()
                function = self.pipeline.score_function(len(logits))
                self._scores[key] = apply_score_function(logits, function)
                _forget(self._scores, _REMEMBERED_PICTURES)
            return self._scores[key]

    def guesses(self, query: Query) -> list[tuple[str, int, float]]:
        """Return the likeliest classes of a picture: (name, index, score)."""
        return self.pipeline.likeliest(self.scores(query))

    def choices(self, state: State) -> Contents:
        """Return the likeliest classes of the picture, and the one that is explained."""
        query = self.query(state)
        guesses, wanted = self.guesses(query), query.class_label
        num_classes = len(self.scores(query))
        function = self.pipeline.score_function(num_classes)
        if wanted is not None and wanted not in range(num_classes):
            raise ValueError(f"The network has no class '{str(wanted)[:40]}'.")
        choices = [(f"{name} {_words(score, function)}", index) for name, index, score in guesses]
        if wanted is not None and wanted not in [index for _, index, _ in guesses]:
            choices.append((self.pipeline.class_name(wanted), wanted))
        value = guesses[0][1] if wanted is None else wanted
        return {"class_label": {"choices": choices, "value": value}}


def _forget(remembered: OrderedDict, number: int) -> None:
    while len(remembered) > number:
        remembered.popitem(last=False)


def fit_of(query: Query) -> str:
    """Return how the network sees the picture of a query."""
    return query.text("fit") or FITS[0]


def _words(score: float, function: ScoreFunction) -> str:
    if function == "none":
        return f"{score:.3g}"
    # Bound by a no-break space, so that a narrow screen does not tear the number off its sign.
    return "<1\xa0%" if score < 0.01 else f"{100 * score:.0f}\xa0%"


def seen_part(picture: Image.Image, result: ImageSaliencyResult) -> Image.Image:
    """Return the part of a picture that the network saw, for panes with little room."""
    box = clipped(result.viewed_box, (picture.height, picture.width))
    return picture.crop(tuple(round(edge) for edge in box))


def duration(seconds: float, page: ImageSaliencyPage) -> Fact:
    """Return how long the model ran."""
    device = page.pipeline.device.type.upper()
    value = f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"
    return Fact(value, "Time", f"to explain this picture, on the {device}")
