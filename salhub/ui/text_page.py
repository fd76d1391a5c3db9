"""The base of pages that are asked with a text."""

from collections.abc import Mapping
from typing import Any, ClassVar

import gradio as gr
from gradio.components import Component

from salhub.data.text_sources import load_text, whole_text
from salhub.ui.page import Page, State
from salhub.ui.panes import text_buttons


class TextPage(Page):
    """A text, and what is made of it at the press of a button.

    Attributes:
        verb: Written on the button.
        samples: Name of a sample, as visitors read it -> its text, as of `load_text`.
        help: Written above the text.
        most_characters: Longer texts are refused.
    """

    verb: ClassVar[str]
    samples: Mapping[str, str]
    help: ClassVar[str | None] = None
    most_characters: ClassVar[int]

    def asked(self) -> dict[str, Component]:
        """Build the text, samples, and the button."""
        asked: dict[str, Component] = {
            "text": gr.Textbox(
                load_text(next(iter(self.samples.values()))),
                label="Text",
                info=self.help,
                lines=7,
                max_lines=14,
                max_length=self.most_characters,
                elem_classes="salhub-text",
            )
        }
        if len(self.samples) > 1:
            asked["samples"] = gr.HTML(text_buttons("Samples", list(self.samples)))
        asked["ask"] = gr.Button(self.verb, variant="primary")
        return asked

    def picked(self, pick: str, state: State) -> State:
        """Return the text of a sample; the button asks for what stands there."""
        if pick == "ask":
            return {}
        if pick not in self.samples:
            return super().picked(pick, state)
        return {"text": load_text(self.samples[pick])}

    def query(self, state: State) -> State:
        """Check the text.

        Raises:
            ValueError: There is none, or too much of it.
        """
        text = state["text"]
        if not isinstance(text, str) or not text.strip():
            raise ValueError("There is no text yet; type or paste one.")
        if len(text) > self.most_characters:
            raise ValueError(
                f"The text has {len(text)} characters, but the limit on this page is "
                f"{self.most_characters}; use salhub run for longer texts."
            )
        whole_text(text, "The text")
        return state

    def values_of(self, state: State, *names: str) -> tuple[Any, ...]:
        """Answer a program as the page answers a visitor, with the values of some components."""
        query = self.query(state)
        contents = {**self.contents(query), "code": {"value": self.code(query)}}
        return tuple(contents[name]["value"] for name in names)
