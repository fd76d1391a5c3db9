"""The page of every model that draws a map over a picture."""

import logging
import threading
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import gradio as gr
from gradio.components import Component
from PIL import Image

from salhub.auto import Method
from salhub.data.samples import sample_names, sample_path
from salhub.pipelines import pipeline
from salhub.pipelines.image_saliency_result import ImageSaliencyResult
from salhub.ui.endpoints import EndpointAnswer, add_saliency_endpoint, endpoint_answer
from salhub.ui.faults import plain_sentence
from salhub.ui.map_tab import MapTab
from salhub.ui.markup import PICK_ON_CLICK, header, notice, picture_buttons
from salhub.ui.models_tab import ModelsTab
from salhub.ui.picture_input import PictureInput, UploadedPicture
from salhub.ui.query import Contents, Query
from salhub.ui.reproducing import pipeline_code
from salhub.viz import COLORMAPS

logger = logging.getLogger(__name__)

FIRST_SAMPLE = "coffee"
_KEEP_FILES_SECONDS = 24 * 60 * 60


class ImageSaliencyPage:
    """A picture, its likely classes, and the map that explains the chosen one.

    A method with more to show derives from it: `title`, `sentence` and `tabs` say what is on the
    page, `main_controls` and `setting_controls` add controls, `explain` runs the model.

    Args:
        name: The model.
        method: Its method.
    """

    title: ClassVar[str | None] = None
    sentence: ClassVar[str] = "Which parts of a picture speak for a class, in the eyes of a network."
    tabs: ClassVar[tuple[type, ...]] = (MapTab, ModelsTab)

    def __init__(self, name: str, method: Method) -> None:
        self.name = name
        self.method = method
        self.pipeline = pipeline(name)
        self.samples = {sample_path(one).name: f"sample:{one}" for one in sample_names()}
        # Explaining hooks into the network, so that two requests must not do it at one time.
        self.lock = threading.Lock()

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
            The map over the photo, the map itself, and what was explained.
        """
        return self.endpoint_result(picture, class_label, {})

    def endpoint_result(
        self, picture: UploadedPicture | None, class_label: str, settings: Mapping[str, Any]
    ) -> EndpointAnswer:
        """Answer a program as the page answers a visitor."""
        text = str(class_label or "").strip()
        index = self.pipeline.class_index(text) if text else None
        query = Query.of_upload(picture, index, settings, self.samples)
        result, _ = self.timed_explain(query)
        return endpoint_answer(result, query.picture_name, self.method.name)

    # --- answering ------------------------------------------------------------------------------

    def timed_explain(self, query: Query) -> tuple[ImageSaliencyResult, float]:
        """Run the model, alone, and return its result and the seconds it took."""
        with self.lock:
            start = time.perf_counter()
            result = self.explain(query)
            return result, time.perf_counter() - start

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
        """Return the class picker for a new picture, and the query for its likeliest class."""
        guesses = self.guesses(query)
        choices = [(f"{name} {_share(share)}", index) for name, index, share in guesses]
        query = query.with_class(guesses[0][1])
        return {"class_label": {"choices": choices, "value": query.class_label}}, query

    # --- building -------------------------------------------------------------------------------

    def build(self) -> gr.Blocks:
        """Build the page, with a sample explained on it."""
        return _Assembly(self).build()

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


def shown_notice(sentence: str) -> dict[str, Any]:
    """Return the notice for a sentence; hidden when there is none, so that it takes no room."""
    return {"value": notice(sentence), "visible": bool(sentence)}


class _Assembly:
    """Builds the components of a page and connects them."""

    def __init__(self, page: ImageSaliencyPage) -> None:
        self.page = page
        self.inputs: dict[str, Component] = {}
        self.outputs: dict[str, Component] = {}
        self.tabs = {one.title: one(page) for one in page.tabs}

    def build(self) -> gr.Blocks:
        keep = (_KEEP_FILES_SECONDS, _KEEP_FILES_SECONDS)
        with gr.Blocks(
            title=self.page.display_title, analytics_enabled=False, delete_cache=keep
        ) as blocks:
            gr.HTML(self.page.heading())
            with gr.Column(elem_classes="salhub-page"):
                self._add_picture_column()
                self._add_controls()
                with gr.Column(elem_classes="salhub-result"):
                    self._add_result()
            self._connect()
            add_saliency_endpoint(self.page)
        return blocks

    def _add_picture_column(self) -> None:
        sample = sample_path(FIRST_SAMPLE)
        upload = UploadedPicture(sample, sample.name)
        query = Query.of_upload(upload, None, {}, self.page.samples)
        first, self.query = self.page.class_choices(query)
        with gr.Column(elem_classes="salhub-picture"):
            self.inputs["picture"] = PictureInput(
                sample,
                label="Picture",
                sources=["upload", "clipboard"],
                buttons=[],
                height=240,
                alt_text="The picture to explain",
                placeholder="Drop a picture here\n- or -\nClick to choose one",
            )
            self.sample_row = gr.HTML(
                picture_buttons(
                    "Samples", [(name, Image.open(sample_path(name))) for name in sample_names()]
                ),
                js_on_load=PICK_ON_CLICK,
            )
            self.inputs["class_label"] = gr.Radio(
                **first["class_label"],
                label="Class to explain",
                elem_classes="salhub-classes",
            )

    def _add_controls(self) -> None:
        with gr.Column(elem_classes="salhub-controls") as column:
            self.inputs.update(self.page.main_controls())
        column.visible = bool(column.children)
        with gr.Column(elem_classes="salhub-settings"), gr.Accordion("Settings", open=False):
            self.inputs.update(self.page.setting_controls())

    def _add_result(self) -> None:
        self._add_initial_settings()
        first, *_ = self.tabs.values()
        contents = self.page.answer(first, self.query)
        self.outputs["notice"] = gr.HTML(**contents["notice"])
        self.active = gr.State(first.title)
        with gr.Tabs(overflow_behavior="wrap") as self.tab_row:
            for title, tab in self.tabs.items():
                with gr.Tab(title, id=title) as item:
                    self.inputs.update(tab.controls(self.query))
                    self.outputs.update(tab.panes(contents if tab is first else {}))
                tab.item = item
        gr.DeepLinkButton("Copy a link to this view", "Link copied", size="md")
        with gr.Accordion("Code that makes this map", open=True):
            self.outputs["code"] = gr.Code(
                contents["code"]["value"],
                language="python",
                show_label=False,
                interactive=False,
                wrap_lines=True,
                show_line_numbers=False,
                buttons=["copy"],
            )

    def _add_initial_settings(self) -> None:
        skip = ("picture", "class_label")
        settings = {name: one.value for name, one in self.inputs.items() if name not in skip}
        self.query = Query(
            self.query.image,
            self.query.picture_name,
            self.query.source,
            self.query.class_label,
            settings,
        )

    # --- events ---------------------------------------------------------------------------------

    def _connect(self) -> None:
        # An answer may also change a control: a new picture has other classes to pick from.
        self.outputs.update(self.inputs)
        inputs = [self.active, *self.inputs.values()]
        outputs = list(self.outputs.values())
        common = {
            "inputs": inputs,
            "outputs": outputs,
            "show_progress": "minimal",
            "api_visibility": "private",
            "concurrency_id": f"page-{id(self.page)}",
            "trigger_mode": "always_last",
        }
        picture = self.inputs["picture"]
        picture.upload(self._on_picture, **common)
        picture.clear(self._on_picture, **common)
        for name, control in self.inputs.items():
            if name != "picture":
                listen = control.release if isinstance(control, gr.Slider) else control.input
                listen(self._on_control, **common)
        self.sample_row.click(self._on_sample, **common)
        for title, tab in self.tabs.items():
            tab.item.select(
                partial(self._on_tab, title),
                **{**common, "outputs": [self.active, *outputs], "trigger_mode": "once"},
            )
            for name in tab.pickable:
                tab.components[name].click(
                    partial(self._on_pick, tab),
                    **{**common, "outputs": [self.tab_row, self.active, *outputs]},
                )

    def _on_picture(self, active: str, *values: Any) -> dict[Component, Any]:
        return self._respond(active, values, is_new_picture=True)

    def _on_control(self, active: str, *values: Any) -> dict[Component, Any]:
        return self._respond(active, values)

    def _on_sample(self, event: gr.EventData, active: str, *values: Any) -> dict[Component, Any]:
        path = sample_path(event.pick)
        values = (UploadedPicture(path, path.name), *values[1:])
        updates = self._respond(active, values, is_new_picture=True)
        return {**updates, self.outputs["picture"]: gr.update(value=path)}

    def _on_tab(self, title: str, active: str, *values: Any) -> dict[Component, Any]:
        return {self.active: title, **self._respond(title, values)}

    def _on_pick(
        self, tab: Any, event: gr.EventData, active: str, *values: Any
    ) -> dict[Component, Any]:
        try:
            changes = tab.picked(event.pick)
        except ValueError as error:
            return {self.outputs["notice"]: gr.update(**shown_notice(str(error)))}
        first, *_ = self.tabs
        given = {**dict(zip(self.inputs, values, strict=True)), **changes}
        updates = self._respond(first, tuple(given.values()))
        controls = {self.inputs[name]: gr.update(value=value) for name, value in changes.items()}
        return {
            **updates, **controls, self.active: first, self.tab_row: gr.update(selected=first)
        }  # fmt: skip

    def _respond(
        self, active: str, values: tuple[Any, ...], is_new_picture: bool = False
    ) -> dict[Component, Any]:
        given = dict(zip(self.inputs, values, strict=True))
        try:
            contents = self._contents(self.tabs[active], given, is_new_picture)
        except Exception as error:
            contents = self._refusal(self.tabs[active], plain_sentence(error), is_new_picture)
        return {self.outputs[name]: gr.update(**change) for name, change in contents.items()}

    def _contents(self, tab: Any, given: Mapping[str, Any], is_new_picture: bool) -> Contents:
        settings = {k: v for k, v in given.items() if k not in ("picture", "class_label")}
        query = Query.of_upload(
            given["picture"], given["class_label"], settings, self.page.samples
        )
        picker: Contents = {}
        if is_new_picture or query.class_label is None:
            picker, query = self.page.class_choices(query)
        return {**self.page.answer(tab, query), **picker}

    def _refusal(self, tab: Any, sentence: str, is_new_picture: bool) -> Contents:
        """A map of the picture before must not stand beside a picture that was refused."""
        contents = {**tab.blank(), "notice": shown_notice(sentence), "code": {"value": ""}}
        if is_new_picture:
            contents["class_label"] = {"choices": [], "value": None}
            contents["picture"] = {"value": None}
        return contents
