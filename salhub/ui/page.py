"""The frame of every page: where things stand, what a press does, and what programs can ask.

A page says its controls, its panes and its answer; everything else is here.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from secrets import token_hex
from typing import Any, ClassVar, Literal

import gradio as gr
from gradio.components import Component
from gradio.utils import get_icon_path

from salhub.entries import Model
from salhub.errors import did_you_mean
from salhub.ui.controls import PictureInput, Slider, UploadedPicture, endpoint_inputs
from salhub.ui.film_input import FilmInput, UploadedFilm
from salhub.ui.panes import PICK_ON_CLICK, code_pane, header, notice
from salhub.ui.share_link import (
    COPY,
    COPY_SCRIPT,
    READ_SCRIPT,
    RESTORE_SCRIPT,
    link_query,
    read_link,
)

logger = logging.getLogger(__name__)

# Properties of components by the component's name: what gradio takes to build or to update it.
Contents = dict[str, dict[str, Any]]
# The value of every control by its name, the title of the open tab under "tab", and under "visit"
# what tells this visit from others, from the first answer on.
State = dict[str, Any]

OUR_FAULT = (
    "Something went wrong on the server, and the error was logged; try another input or "
    "other settings."
)
FORGOTTEN = "This page has expired; reload it."
# Seconds between looks for old files, and seconds that they are kept.
_KEEP_FILES = (60 * 60, 2 * 60 * 60)


class View:
    """Something that shows an answer: a tab, or a page without tabs."""

    code_language: ClassVar[str] = "python"
    # Components of HTML with things to press; see `picked`.
    pickable: ClassVar[tuple[str, ...]] = ()

    def controls(self) -> dict[str, Component]:
        """Build controls that only this view needs, by the name they have in a state."""
        return {}

    def panes(self) -> dict[str, Component]:
        """Build what is shown, empty, and return it by name."""
        raise NotImplementedError

    def contents(self, query: Any) -> Contents:
        """Answer a query: the properties of each component of `panes`."""
        raise NotImplementedError

    def picked(self, pick: str, state: State) -> State:
        """Return what changes when something was pressed.

        Args:
            pick: What: the name of a button, or what was marked in HTML (see `PICK_ON_CLICK`).
            state: Before.

        Raises:
            ValueError: There is no such thing to press.
        """
        raise ValueError(f"There is no '{pick}' to open.")


class Tab(View):
    """One view of a query. It is computed when it is opened and whenever a control moves.

    Args:
        page: The page it belongs to.
    """

    title: ClassVar[str]

    def __init__(self, page: Any) -> None:
        self.page = page

    def code(self, query: Any) -> str:
        """Return the program that makes the answer in sight; the page's by default."""
        return self.page.code(query)


class Page(View):
    """Base of all pages.

    A visitor's state is kept on the server. Each press sends what it changes, and presses are
    answered one after the other, so that the last one has the last word however fast they come.

    Args:
        name: The model.
        entry: What is known of its kind.
        classifier: A network of somebody's own that the method explains, by name; or None.

    Attributes:
        title: In the head and on the tab of the browser; by default the name of the method.
        sentence: What the page is for.
        tabs: Its views; a page without tabs is its own view.
        code_title: What the program below the answer does.
        dependents: Control -> controls whose choices depend on it; `choices` fills them.
        endpoints: Name of a method that programs can call -> the components of what it returns.
        progress: Shown while an answer is made: "full" has the bar of a `gradio.Progress`.
    """

    title: ClassVar[str | None] = None
    sentence: ClassVar[str]
    tabs: ClassVar[tuple[type[Tab], ...]] = ()
    code_title: ClassVar[str] = "The same in Python"
    dependents: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    endpoints: ClassVar[Mapping[str, Sequence[Callable[[], Component]]]] = {}
    progress: ClassVar[Literal["minimal", "full"]] = "minimal"

    def __init__(self, name: str, entry: Model, classifier: str | None = None) -> None:
        self.name = name
        self.entry = entry
        self.loading = {"classifier": classifier} if classifier else {}  # of `salhub.pipeline`
        # One request runs a model at a time.
        self.lock = threading.RLock()

    # --- what a page says -----------------------------------------------------------------------

    def asked(self) -> dict[str, Component]:
        """Build what a visitor gives, which comes first on a page, by name."""
        return {}

    def main_controls(self) -> dict[str, Component]:
        """Build the controls that are always in sight, by name."""
        return {}

    def setting_controls(self) -> dict[str, Component]:
        """Build the controls in the accordion, by name."""
        return {}

    def choices(self, state: State) -> Contents:
        """Return choices and value of the controls in `dependents`."""
        return {}

    def consequences(self, state: State, moved: list[str]) -> State:
        """Return what else changes when controls moved."""
        return {}

    def query(self, state: State) -> Any:
        """Return what views are asked with; the state by default."""
        return state

    def code(self, query: Any) -> str:
        """Return the program that makes the answer in sight; "" for none."""
        return ""

    @classmethod
    def serves(cls, name: str) -> bool:
        """Whether this page can show a model of its method; others get the page of their task."""
        return True

    @property
    def display_title(self) -> str:
        """The title of the page."""
        return self.title or self.entry.name.replace("_", " ").capitalize()

    # --- building -------------------------------------------------------------------------------

    def build(self) -> gr.Blocks:
        """Build the page, with something on it before the first press."""
        self.views: dict[str, View] = {one.title: one(self) for one in self.tabs} or {"": self}
        self.components: dict[str, Component] = {}
        self.inputs: dict[str, Component] = {}
        self.panes_of: dict[str, dict[str, Component]] = {}
        self.pickers: dict[str, Callable[[str, State], State]] = {}
        title = self.display_title
        with gr.Blocks(title=title, analytics_enabled=False, delete_cache=_KEEP_FILES) as blocks:
            whose = "".join(f" The network is {Path(x).name}." for x in self.loading.values())
            gr.HTML(header(title, self.sentence + whose, self.entry.paper or ""))
            with gr.Column(elem_classes="salhub-page"):
                self._add_column("asked", self.asked)
                self._add_column("controls", self.main_controls)
                with gr.Column(elem_classes="salhub-settings") as column:
                    with gr.Accordion("More settings", open=False) as settings:
                        self._add_controls(self.setting_controls(), self)
                    column.visible = bool(settings.children)
                with gr.Column(elem_classes="salhub-result"):
                    self._add_result()
            self._fill()
            self._connect(blocks)
            self._add_endpoints()
        return blocks

    def _add_column(self, name: str, build: Callable[[], dict[str, Component]]) -> None:
        with gr.Column(elem_classes=f"salhub-{name}") as column:
            self._add_controls(build(), self)
        column.visible = bool(column.children)

    def _add_result(self) -> None:
        self.components["notice"] = gr.HTML(visible=False)
        if len(self.views) > 1:
            with gr.Tabs(overflow_behavior="wrap") as self.tab_row:
                for title, view in self.views.items():
                    with gr.Tab(title, id=title):
                        self._add_view(title, view)
        else:
            self._add_view(*next(iter(self.views.items())))
        for name in ("link", "visit"):
            self.components[name] = gr.Textbox("", visible="hidden")
        icon = get_icon_path("link.svg")
        self.link_button = gr.Button(COPY, size="md", icon=icon, elem_classes="salhub-link")
        with gr.Accordion(self.code_title, open=True):
            self.components["code"] = code_pane()

    def _add_view(self, title: str, view: View) -> None:
        self._add_controls(view.controls(), view)
        self.panes_of[title] = view.panes()
        self.components.update(self.panes_of[title])
        self.pickers.update(dict.fromkeys(view.pickable, view.picked))

    def _add_controls(self, controls: Mapping[str, Component], view: View) -> None:
        self.components.update(controls)
        for name, one in controls.items():
            if isinstance(one, gr.Button | gr.HTML):
                self.pickers[name] = view.picked
            else:
                self.inputs[name] = one

    def _fill(self) -> None:
        """Show the first answer."""
        state: State = {name: one.value for name, one in self.inputs.items()}
        state |= {"tab": next(iter(self.views)), "visit": ""}
        for name, control in self.inputs.items():
            if isinstance(control, PictureInput):
                state[name] = UploadedPicture.of_sample(control.constructor_args["value"])
        picker = self.choices(state)
        state |= _values(picker, picker)
        contents = {**self._answer(state), **picker}
        for name, properties in contents.items():
            _fill(self.components[name], properties)
        self.first_state = state | _values(contents.keys() & self.inputs.keys(), contents)
        self.defaults = {**self.first_state, **dict.fromkeys(self.all_dependents)}

    @property
    def all_dependents(self) -> list[str]:
        """Every control whose choices depend on another."""
        return [name for names in self.dependents.values() for name in names]

    # --- events ---------------------------------------------------------------------------------

    def _connect(self, blocks: gr.Blocks) -> None:
        self.state = gr.State(self.first_state)
        self.outputs = dict(self.components)
        # Texts change without an event, so they are sent along with every one.
        self.texts = [name for name, one in self.inputs.items() if isinstance(one, gr.Textbox)]
        if len(self.views) > 1:
            self.outputs["tab"] = self.tab_row
            # Of the row and not of each tab, which a browser also reports when it loads the page.
            self._ask(self.tab_row.select, self._open_tab, [])
        for name, control in self.inputs.items():
            if isinstance(control, PictureInput | FilmInput):
                self._on(control.upload, name)
                # The browser still sends the picture that the page was opened with.
                self._on(control.clear, **{name: None})
            elif isinstance(control, gr.Textbox):
                self._on(control.submit)
            else:
                self._on(control.input, name)
        for name, picked in self.pickers.items():
            self._on_press(name, picked)
        link, button = self.components["link"], self.link_button
        quiet = {"api_visibility": "private", "queue": False, "show_progress": "hidden"}
        copied = button.click(None, link, [link, button], js=COPY_SCRIPT, **quiet)
        copied.then(None, None, button, js=RESTORE_SCRIPT, **quiet)
        # An address without a view changes nothing here, and so asks the server for nothing.
        address = gr.Textbox("", visible="hidden")
        blocks.load(None, None, address, js=READ_SCRIPT, **quiet)
        self._ask(address.change, self._open_link, [address])

    def _on(self, event: Callable, name: str | None = None, **fixed: Any) -> None:
        """Answer an event: of a control that moved, or with fixed changes."""
        names = [*self.texts, *([name] if name else [])]

        def respond(state: State, *values: Any) -> dict[Component, Any]:
            return self._respond(state, dict(zip(names, values, strict=True)) | fixed)

        is_dragged = name is not None and isinstance(self.inputs[name], gr.Slider)
        # Of what is dragged some values may be passed over.
        mode = "always_last" if is_dragged else "multiple"
        self._ask(event, respond, [self.inputs[one] for one in names], mode)

    def _on_press(self, name: str, picked: Callable[[str, State], State]) -> None:
        """Answer a press on a button, or on what is marked in HTML."""
        component = self.components[name]
        is_button = isinstance(component, gr.Button)

        # gradio looks at the annotation of the event, which a partial would hide.
        def respond(event: gr.EventData, state: State, *values: Any) -> dict[Component, Any]:
            texts = dict(zip(self.texts, values, strict=True))
            # A request can be made by hand, without what the page sends along.
            pick = name if is_button else str(getattr(event, "pick", ""))
            try:
                found = picked(pick, state | texts)
            except ValueError as error:
                return {self.outputs["notice"]: gr.update(**_shown_notice(str(error)))}
            return self._respond(state, texts | found, shown=found)

        # One that is drawn on says by itself what is picked.
        if isinstance(component, gr.HTML) and "js_on_load" not in component.constructor_args:
            component.js_on_load = PICK_ON_CLICK
        # "always_last" would answer a press that had to wait with the event of the first one.
        self._ask(component.click, respond, [self.inputs[one] for one in self.texts])

    def _ask(
        self, event: Callable, function: Callable, inputs: list[Component], trigger_mode="multiple"
    ) -> None:
        @wraps(function)
        def respond(*arguments: Any) -> dict[Component, Any]:
            *given, visit = arguments
            # gradio drops states, and then hands out the first one. Of presses that did not wait
            # for the first answer, none knows the visit yet.
            if visit and visit != given[-1 - len(inputs)]["visit"]:
                return {self.outputs["notice"]: gr.update(**_shown_notice(FORGOTTEN))}
            return function(*given)

        event(
            self._guarded(respond),
            [self.state, *inputs, self.components["visit"]],
            [self.state, *self.outputs.values()],
            show_progress=self.progress,
            show_progress_on=[next(iter(panes.values())) for panes in self.panes_of.values()],
            trigger_mode=trigger_mode,
            api_visibility="private",
            **self._alone,
        )

    @property
    def _alone(self) -> dict[str, Any]:
        return {"concurrency_limit": 1, "concurrency_id": f"page-{id(self)}"}

    def _open_tab(self, event: gr.SelectData, state: State, *_: Any) -> dict[Component, Any]:
        title = event.value if event.value in self.views else state["tab"]
        return self._respond(state, {"tab": title})

    def _open_link(self, state: State, search: str, *_: Any) -> dict[Component, Any]:
        try:
            found = read_link(search, self.inputs, self.all_dependents, list(self.views))
        except ValueError as error:
            return {self.outputs["notice"]: gr.update(**_shown_notice(str(error)))}
        return self._respond(state, found, shown=found) if found else {self.state: state}

    def _respond(self, state: State, changes: State, shown: State | None = None) -> dict:
        """Answer a state after changes.

        Args:
            state: Before.
            changes: Controls that moved.
            shown: Those whose component does not show the change yet.
        """
        shown = shown or {}
        given = {**state, **changes, "visit": state["visit"] or token_hex(8)}
        moved = [name for name in changes if given[name] != state.get(name)]
        shown = {**shown, **self.consequences(given, moved)}
        given |= shown
        reset = [one for name in moved for one in self.dependents.get(name, ())]
        given |= {name: None for name in reset if name not in changes}
        contents = self._contents_or_refusal(given, moved, reset)
        given |= _values(contents.keys() & self.inputs.keys(), contents)
        for name, value in shown.items():
            value = value.path if isinstance(value, UploadedPicture | UploadedFilm) else value
            key = "selected" if name == "tab" else "value"
            contents[name] = {key: value, **contents.get(name, {})}
        visit = {"visit": given["visit"]}
        contents |= {
            "link": {"value": link_query(given, {**self.defaults, **visit})},
            "visit": {"value": given["visit"]},
        }
        updates = {self.outputs[name]: gr.update(**one) for name, one in contents.items()}
        return {self.state: given, **updates}

    def _contents_or_refusal(self, given: State, moved: list[str], reset: list[str]) -> Contents:
        picker: Contents = {}
        try:
            self._check_choices(given)
            if {*reset, *moved} & {*self.all_dependents}:
                picker = self.choices(given)
                given |= _values(picker, picker)
            return {**self._answer(given), **picker}
        except Exception as error:
            contents = self._refusal(given, plain_sentence(error), moved)
        # An answer to the picture before must not stand beside a picture that was refused.
        return {**contents, **(picker or {name: {"choices": [], "value": None} for name in reset})}

    def _check_choices(self, given: State) -> None:
        """Refuse what is no choice: a page that stayed open, or a program, may send any."""
        for name, control in self.inputs.items():
            if isinstance(control, Slider):
                control.check(given[name])
            if not hasattr(control, "choices") or name in self.all_dependents:
                continue
            options = [value for _, value in control.choices]
            value = given[name]
            if value not in options and not getattr(control, "allow_custom_value", False):
                raise ValueError(
                    f"{control.label} has no option '{str(value)[:60]}'; choose one of "
                    f"{', '.join(map(str, options))}.{did_you_mean(str(value), map(str, options))}"
                )

    def _answer(self, given: State) -> Contents:
        with self.lock:
            query = self.query(given)
            view = self.views[given["tab"]]
            contents, code = view.contents(query), view.code(query)
        program = {"value": code, "language": view.code_language}
        return {**contents, "notice": _shown_notice(""), "code": program}

    def _refusal(self, given: State, sentence: str, moved: list[str]) -> Contents:
        panes = self.panes_of[given["tab"]]
        contents = {name: {"value": _nothing(one)} for name, one in panes.items()}
        files = [n for n in moved if isinstance(self.inputs.get(n), PictureInput | FilmInput)]
        contents.update({name: {"value": None} for name in files})
        return {**contents, "notice": _shown_notice(sentence), "code": {"value": ""}}

    # --- programs -------------------------------------------------------------------------------

    def _add_endpoints(self) -> None:
        """Let programs ask: names, defaults and help of the parameters are those of the methods."""
        with gr.Column(visible=False):
            for name, outputs in self.endpoints.items():
                function = getattr(self, name)
                gr.Button().click(
                    self._guarded(function),
                    endpoint_inputs(function),
                    [one() for one in outputs],
                    api_name=name,
                    **self._alone,
                )

    def _guarded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Run alone, and answer with a plain sentence instead of a traceback."""

        @wraps(function)
        def guarded(*arguments: Any, **keywords: Any) -> Any:
            try:
                with self.lock:
                    return function(*arguments, **keywords)
            except Exception as error:
                raise gr.Error(plain_sentence(error), print_exception=False) from error

        return guarded


def plain_sentence(error: Exception) -> str:
    """Return what to tell a visitor about an error.

    Our own messages are written for people and are passed on. Anything else is a fault of the
    program: it is logged with its traceback and not shown.

    Example:
        >>> plain_sentence(ValueError("The picture is empty; save it again."))
        'The picture is empty; save it again.'
    """
    if isinstance(error, gr.Error):
        return error.message
    # The system's own messages name files of the server; ours carry no error number.
    is_of_system = isinstance(error, OSError) and error.errno is not None
    if isinstance(error, ValueError | TypeError | OSError) and str(error) and not is_of_system:
        return str(error)
    logger.error("A page failed on a request.", exc_info=error)
    return OUR_FAULT


def _shown_notice(sentence: str) -> dict[str, Any]:
    """The notice for a sentence; hidden when there is none, so that it takes no room."""
    return {"value": notice(sentence), "visible": bool(sentence)}


def _values(names: Iterable[str], contents: Contents) -> State:
    return {name: contents[name]["value"] for name in names if "value" in contents[name]}


def _nothing(component: Component) -> str | None:
    return "" if isinstance(component, gr.HTML | gr.Textbox | gr.Code) else None


def _fill(component: Component, properties: Mapping[str, Any]) -> None:
    """Give a component that is already in its place what it shows."""
    component.constructor_args.update(properties)
    fresh = type(component)(**{**component.constructor_args, "render": False})
    for name in properties:
        setattr(component, name, getattr(fresh, name))
    # Or gradio would take them for files of a visitor, and delete them after some hours.
    component.keep_in_cache |= fresh.keep_in_cache
