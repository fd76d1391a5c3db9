"""What a tab of a page is."""

from typing import Any, ClassVar

import gradio as gr
from gradio.components import Component

from salhub.ui.query import Contents, Query


class Tab:
    """One view of a query. It is computed when it is opened and whenever a control moves.

    Args:
        page: The page it belongs to.
    """

    title: ClassVar[str]
    # Panes with things to press; a press opens the first tab with what `picked` returns.
    pickable: ClassVar[tuple[str, ...]] = ()

    def __init__(self, page: Any) -> None:
        self.page = page
        self.components: dict[str, Component] = {}

    def controls(self, query: Query) -> dict[str, Component]:
        """Build controls that only this tab needs, by the name they have in a query."""
        return {}

    def panes(self, contents: Contents) -> dict[str, Component]:
        """Build what the tab shows, with the properties of `contents`, and return it by name."""
        raise NotImplementedError

    def contents(self, query: Query) -> Contents:
        """Answer a query: the properties of each component of `panes`."""
        raise NotImplementedError

    @property
    def first_pane(self) -> Component:
        """Where a visitor sees that the tab is being computed."""
        return next(iter(self.components.values()))

    def picked(self, pick: str) -> dict[str, Any]:
        """Return the values that controls get when something was pressed.

        Raises:
            ValueError: There is no such thing to press.
        """
        raise ValueError(f"There is no '{pick}' to open.")

    def blank(self) -> Contents:
        """Return the contents for when there is no answer."""
        return {name: {"value": _nothing(one)} for name, one in self.components.items()}


def _nothing(component: Component) -> str | None:
    return "" if isinstance(component, gr.HTML) else None


def picture_pane(label: str, properties: dict[str, Any]) -> gr.Image:
    """Build a picture that can be enlarged and saved."""
    return gr.Image(
        **{"label": label, "alt_text": label, **properties},
        interactive=False,
        format="png",
        buttons=["download", "fullscreen"],
        elem_classes="salhub-pane",
    )


def code_pane(code: str, label: str, language: str = "python") -> gr.Code:
    """Build a program to be copied, without numbers of lines.

    Args:
        code: The program.
        label: What it does.
        language: As Gradio calls it.
    """
    return gr.Code(
        code,
        language=language,
        label=label,
        interactive=False,
        wrap_lines=True,
        show_line_numbers=False,
        buttons=["copy"],
    )
