"""The skeleton of a page with a picture on it: what stands where, and what happens on a press."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.utils import get_icon_path
from PIL import Image

from salhub.data.samples import sample_names, sample_path
from salhub.ui.endpoints import add_saliency_endpoint
from salhub.ui.faults import plain_errors, plain_sentence
from salhub.ui.markup import PICK_ON_CLICK, notice, picture_buttons
from salhub.ui.picture_input import PictureInput, UploadedPicture
from salhub.ui.query import Contents, Query
from salhub.ui.share_link import (
    COPY,
    COPY_SCRIPT,
    READ_SCRIPT,
    RESTORE_SCRIPT,
    link_query,
    read_link,
)

FIRST_SAMPLE = "coffee"
_CLEAN_EVERY_SECONDS = 60 * 60
_KEEP_FILES_SECONDS = 2 * 60 * 60


def shown_notice(sentence: str) -> dict[str, Any]:
    """Return the notice for a sentence; hidden when there is none, so that it takes no room."""
    return {"value": notice(sentence), "visible": bool(sentence)}


def _pick_of(event: gr.EventData) -> str:
    # A request can be made by hand, without what the page sends along.
    return str(getattr(event, "pick", ""))


class PageAssembly:
    """Builds the components of a page and connects them.

    Args:
        page: What they show; see `ImageSaliencyPage`.
    """

    def __init__(self, page: Any) -> None:
        self.page = page
        self.inputs: dict[str, Component] = {}
        self.outputs: dict[str, Component] = {}
        self.tabs = {one.title: one(page) for one in page.tabs}

    def build(self) -> gr.Blocks:
        """Build the page, with a sample explained on it."""
        keep = (_CLEAN_EVERY_SECONDS, _KEEP_FILES_SECONDS)
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
            self._connect_link(blocks)
            add_saliency_endpoint(self.page)
        return blocks

    def _add_picture_column(self) -> None:
        sample = sample_path(FIRST_SAMPLE)
        upload = UploadedPicture(sample, sample.name)
        query = Query.of_upload(upload, None, {})
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
        with gr.Column(elem_classes="salhub-settings"), gr.Accordion("More settings", open=False):
            self.inputs.update(self.page.setting_controls())

    def _add_result(self) -> None:
        skip = ("picture", "class_label")
        settings = {name: one.value for name, one in self.inputs.items() if name not in skip}
        self.query = replace(self.query, settings=settings)
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
        self.outputs["link"] = gr.Textbox("", visible="hidden")
        self.link_button = gr.Button(COPY, size="md", icon=get_icon_path("link.svg"))
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

    # --- events ---------------------------------------------------------------------------------

    def _connect(self) -> None:
        self.defaults = {
            name: None if name in self.page.class_controls else one.value
            for name, one in self.inputs.items()
        }
        # An answer may also change a control: a new picture has other classes to pick from.
        self.outputs.update(self.inputs)
        inputs = [self.active, *self.inputs.values()]
        outputs = list(self.outputs.values())
        self.common = common = {
            "inputs": inputs,
            "outputs": outputs,
            "show_progress": "minimal",
            "show_progress_on": [tab.first_pane for tab in self.tabs.values()],
            "api_visibility": "private",
            "concurrency_id": f"page-{id(self.page)}",
            "trigger_mode": "always_last",
        }
        picture = self.inputs["picture"]
        picture.upload(plain_errors(self._on_picture), **common)
        picture.clear(plain_errors(self._on_clear), **common)
        for name, control in self.inputs.items():
            if name != "picture":
                control.input(plain_errors(self._on_control), **common)
        self.sample_row.click(plain_errors(self._on_sample), **common)
        for title, tab in self.tabs.items():
            tab.item.select(
                plain_errors(partial(self._on_tab, title)),
                **{**common, "outputs": [self.active, *outputs], "trigger_mode": "once"},
            )
            for name in tab.pickable:
                tab.components[name].click(
                    plain_errors(self._picker(tab)),
                    **{**common, "outputs": [self.tab_row, self.active, *outputs]},
                )

    def _connect_link(self, blocks: gr.Blocks) -> None:
        link, button = self.outputs["link"], self.link_button
        quiet = {"api_visibility": "private", "queue": False, "show_progress": "hidden"}
        copied = button.click(None, link, [link, button], js=COPY_SCRIPT, **quiet)
        copied.then(None, None, button, js=RESTORE_SCRIPT, **quiet)
        outputs = [self.tab_row, self.active, *self.outputs.values()]
        blocks.load(
            plain_errors(self._on_link),
            **{**self.common, "inputs": link, "outputs": outputs},
            js=READ_SCRIPT,
        )

    def _on_link(self, search: str) -> dict[Component, Any]:
        first, *_ = self.tabs
        try:
            found = read_link(search, self.inputs, self.page.class_controls)
        except ValueError as error:
            return {self.outputs["notice"]: gr.update(**shown_notice(str(error)))}
        if "picture" not in found:
            return {self.active: first}
        tab = found.pop("tab", first)
        tab = tab if tab in self.tabs else first
        given = {**self.defaults, **found}
        # Those of the picture get their value with their choices, in the answer.
        skip = ("picture", *self.page.class_controls)
        values = {k: v for k, v in found.items() if k not in skip}
        return {
            **{self.inputs[name]: gr.update(value=value) for name, value in values.items()},
            # After the values: it also brings the choices of those that depend on the picture.
            **self._respond(tab, tuple(given.values()), is_new_picture=True),
            self.inputs["picture"]: gr.update(value=found["picture"].path),
            self.active: tab,
            self.tab_row: gr.update(selected=tab),
        }

    def _on_picture(self, active: str, *values: Any) -> dict[Component, Any]:
        return self._respond_to_picture(active, values[0], values)

    def _on_clear(self, active: str, *values: Any) -> dict[Component, Any]:
        # The browser still sends the picture that the page was opened with.
        return self._respond_to_picture(active, None, values)

    def _on_control(self, active: str, *values: Any) -> dict[Component, Any]:
        return self._respond(active, values)

    def _on_sample(self, event: gr.EventData, active: str, *values: Any) -> dict[Component, Any]:
        path = sample_path(_pick_of(event))
        updates = self._respond_to_picture(active, UploadedPicture(path, path.name), values)
        return {**updates, self.outputs["picture"]: gr.update(value=path)}

    def _on_tab(self, title: str, active: str, *values: Any) -> dict[Component, Any]:
        # A browser also reports the tab that is open when it loads the page.
        if title == active:
            return {self.active: title}
        return {self.active: title, **self._respond(title, values)}

    def _picker(self, tab: Any) -> Callable[..., dict[Component, Any]]:
        # gradio looks at the annotation of the event, which a partial would hide.
        def pick(event: gr.EventData, active: str, *values: Any) -> dict[Component, Any]:
            try:
                changes = tab.picked(_pick_of(event))
            except ValueError as error:
                return {self.outputs["notice"]: gr.update(**shown_notice(str(error)))}
            return self._open_first_tab(changes, values)

        return pick

    def _open_first_tab(
        self, changes: dict[str, Any], values: tuple[Any, ...]
    ) -> dict[Component, Any]:
        first, *_ = self.tabs
        given = {**dict(zip(self.inputs, values, strict=True)), **changes}
        return {
            **self._respond(first, tuple(given.values())),
            **{self.inputs[name]: gr.update(value=value) for name, value in changes.items()},
            self.active: first,
            self.tab_row: gr.update(selected=first),
        }

    def _respond_to_picture(
        self, active: str, picture: UploadedPicture | None, values: tuple[Any, ...]
    ) -> dict[Component, Any]:
        """Answer for another picture: the classes picked for the one before mean nothing now."""
        given = dict(zip(self.inputs, values, strict=True))
        given.update(dict.fromkeys(self.page.class_controls), picture=picture)
        return self._respond(active, tuple(given.values()), is_new_picture=True)

    def _respond(
        self, active: str, values: tuple[Any, ...], is_new_picture: bool = False
    ) -> dict[Component, Any]:
        given = dict(zip(self.inputs, values, strict=True))
        try:
            contents = self._contents(self.tabs[active], given, is_new_picture)
        except Exception as error:
            contents = self._refusal(self.tabs[active], plain_sentence(error), is_new_picture)
        given["class_label"] = contents.get("class_label", {}).get("value", given["class_label"])
        query = link_query(given, self.defaults, active)
        contents["link"] = {"value": query}
        return {self.outputs[name]: gr.update(**change) for name, change in contents.items()}

    def _contents(self, tab: Any, given: Mapping[str, Any], is_new_picture: bool) -> Contents:
        settings = {k: v for k, v in given.items() if k not in ("picture", "class_label")}
        query = Query.of_upload(given["picture"], given["class_label"], settings)
        picker: Contents = {}
        if is_new_picture or query.class_label is None:
            picker, query = self.page.class_choices(query)
            for name, choice in picker.items():
                if given[name] in [value for _, value in choice["choices"]]:
                    choice["value"] = given[name]
        return {**self.page.answer(tab, query), **picker}

    def _refusal(self, tab: Any, sentence: str, is_new_picture: bool) -> Contents:
        """A map of the picture before must not stand beside a picture that was refused."""
        contents = {**tab.blank(), "notice": shown_notice(sentence), "code": {"value": ""}}
        if is_new_picture:
            for name in self.page.class_controls:
                contents[name] = {"choices": [], "value": None}
            contents["picture"] = {"value": None}
        return contents
