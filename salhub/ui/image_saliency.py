"""The page of every model that draws a map over a picture."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import gradio as gr
from gradio.components import Component

from salhub.entries import Model
from salhub.pipelines import pipeline
from salhub.pipelines.image_saliency_result import ImageSaliencyResult
from salhub.ui.assembly import PageAssembly, shown_notice
from salhub.ui.endpoints import EndpointAnswer, endpoint_answer
from salhub.ui.map_tab import MapTab
from salhub.ui.markup import header
from salhub.ui.models_tab import ModelsTab
from salhub.ui.picture_input import UploadedPicture
from salhub.ui.query import Contents, Query
from salhub.ui.reproducing import pipeline_code
from salhub.viz import COLORMAPS

Answer = TypeVar("Answer")

# Answers kept, so that another opacity or another tab does not run the network again.
_REMEMBERED_ANSWERS = 8
_LONGEST_CLASS = 300


class ImageSaliencyPage:
    """A picture, its likely classes, and the map that explains the chosen one.

    A method with more to show derives from it: `title`, `sentence` and `tabs` say what is on the
    page, `main_controls` and `setting_controls` add controls, `explain` runs the model.

    Args:
        name: The model.
        method: Its method.
    """

    title: ClassVar[str | None] = None
    sentence: ClassVar[str] = (
        "Which parts of a picture speak for a class, in the eyes of a network."
    )
    tabs: ClassVar[tuple[type, ...]] = (MapTab, ModelsTab)
    # Controls whose choices depend on the picture; `class_choices` fills them.
    class_controls: ClassVar[tuple[str, ...]] = ("class_label",)

    def __init__(self, name: str, method: Model) -> None:
        self.name = name
        self.method = method
        self.pipeline = pipeline(name)
        # Explaining hooks into the network, so that two requests must not do it at one time.
        self.lock = threading.Lock()
        self._answers: OrderedDict[tuple, tuple[Any, float]] = OrderedDict()

    # --- what a method may replace -------------------------------------------------------------

    def main_controls(self) -> dict[str, Component]:
        """Build the controls that are always in sight, by the name they have in a query."""
        return {}

    def setting_controls(self) -> dict[str, Component]:
        """Build the controls in the accordion, by the name they have in a query."""
        return {
            "opacity": gr.Slider(0, 1, 0.6, step=0.05, label="Strength of the colours"),
            "colors": gr.Dropdown(
                [("automatic", ""), *((name, name) for name in COLORMAPS)],
                value="",
                label="Colours",
            ),
        }

    def pipeline_settings(self, query: Query) -> dict[str, Any]:
        """Return what differs from the model as it is shipped, for `salhub.pipeline`."""
        return {}

    def explain(self, query: Query) -> ImageSaliencyResult:
        """Run the model on a query."""
        return self.pipeline(query.image, class_labels=query.class_label)

    def endpoint_controls(self) -> list[Component]:
        """Build the components behind the parameters of `saliency` after the first two."""
        return []

    def saliency(self, picture: UploadedPicture | None, class_label: str = "") -> EndpointAnswer:
        """Explain a picture: which of its parts speak for a class.

        Args:
            picture: Any picture: a file, or the address of one.
            class_label: The class to explain, a name or an index; empty for the most likely one.

        Returns:
            The map over the photo, the map as a NumPy file (float32, the size of the picture, whose
            longer side is at most 1024 pixels), and what was explained.
        """
        return self.endpoint_result(picture, class_label, {})

    def endpoint_result(
        self, picture: UploadedPicture | None, class_label: str, settings: Mapping[str, Any]
    ) -> EndpointAnswer:
        """Answer a program as the page answers a visitor."""
        text = str(class_label or "").strip()
        if len(text) > _LONGEST_CLASS:
            raise ValueError(
                f"No class has a name of {len(text)} letters; give a name or an index."
            )
        index = self.pipeline.class_index(text) if text else None
        query = Query.of_upload(picture, index, settings)
        result, _ = self.timed_explain(query)
        return endpoint_answer(result, query.picture_name, self.method.name)

    # --- answering ------------------------------------------------------------------------------

    def timed_explain(self, query: Query) -> tuple[ImageSaliencyResult, float]:
        """Return the result of a query and the seconds the model took for it."""
        return self.timed(query, lambda: self.explain(query), "explain")

    def timed(
        self, query: Query, work: Callable[[], Answer], *question: Any
    ) -> tuple[Answer, float]:
        """Run the model, alone, and return its answer and the seconds it took.

        Args:
            query: What is asked; its picture, class and settings of the model tell it from others.
            work: Runs the model.
            *question: What else tells this use of the model from others.
        """
        settings = repr(self.pipeline_settings(query))
        key = (query.fingerprint, query.class_label, settings, *question)
        with self.lock:
            if key not in self._answers:
                start = time.perf_counter()
                answer = work()
                self._answers[key] = (answer, time.perf_counter() - start)
                while len(self._answers) > _REMEMBERED_ANSWERS:
                    self._answers.popitem(last=False)
            return self._answers[key]

    def code(self, query: Query) -> str:
        """Return the program that makes the map in sight."""
        label = None if query.class_label is None else self.class_name(query.class_label)
        return pipeline_code(self.name, query, label, self.pipeline_settings(query))

    def class_name(self, index: int) -> str:
        """Return the name of a class."""
        return self.pipeline.model.id2label.get(index, f"class {index}")

    def guesses(self, query: Query) -> list[tuple[str, int, float]]:
        """Return the likeliest classes of a picture: (name, index, probability)."""
        with self.lock:
            return self.pipeline(query.image).predictions

    def answer(self, tab: Any, query: Query) -> Contents:
        """Return the contents of a tab and of what stands beside the tabs."""
        contents = tab.contents(query)
        return {**contents, "notice": shown_notice(""), "code": {"value": self.code(query)}}

    def class_choices(self, query: Query) -> tuple[Contents, Query]:
        """Return the class picker for a new picture, and the query for one of its classes.

        Args:
            query: The picture; its class is taken where it names one, else the likeliest.
        """
        guesses = self.guesses(query)
        choices = [(f"{name} {_share(share)}", index) for name, index, share in guesses]
        wanted = query.class_label
        if wanted is not None and wanted not in [index for _, index, _ in guesses]:
            choices.append((self.class_name(wanted), wanted))
        query = query.with_class(guesses[0][1] if wanted is None else wanted)
        return {"class_label": {"choices": choices, "value": query.class_label}}, query

    # --- building -------------------------------------------------------------------------------

    def build(self) -> gr.Blocks:
        """Build the page, with a sample explained on it."""
        return PageAssembly(self).build()

    def heading(self) -> str:
        """Return the head of the page as HTML."""
        links = []
        arxiv = self.method.paper.partition("arXiv:")[2]
        if arxiv:
            links.append(("The paper.", f"https://arxiv.org/abs/{arxiv}"))
        return header(self.display_title, self.sentence, links)

    @property
    def display_title(self) -> str:
        """The title of the page."""
        return self.title or self.method.name.replace("_", " ").capitalize()


def _share(probability: float) -> str:
    # Bound by a no-break space, so that a narrow screen does not tear the number off its sign.
    return "<1\xa0%" if probability < 0.01 else f"{100 * probability:.0f}\xa0%"
