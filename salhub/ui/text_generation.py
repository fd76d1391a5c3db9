"""The page of every language model."""

from html import escape
from typing import Any

import gradio as gr
from gradio.components import Component

import salhub.pipelines  # noqa: F401 - registers all pipelines before one is imported
from salhub.pipelines import pipeline
from salhub.tokenizing import token_limit
from salhub.ui.controls import sent_number, slider
from salhub.ui.page import Contents, State
from salhub.ui.panes import notes, pipeline_program, python
from salhub.ui.text_page import TextPage

_MOST_TOKENS, _FIRST_TOKENS = 200, 40


class TextGenerationPage(TextPage):
    """A text, and what a language model adds to it."""

    sentence = "See how a language model continues your text, one likely word after another."
    verb = "Continue"
    samples = {
        "A film": "The film",
        "A story": "Once there was a king who",
        "A report": "The company said that",
    }
    most_characters = 20_000
    endpoints = {"continue_text": (gr.Textbox, gr.JSON)}

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.pipeline = pipeline(self.name)
        limit = token_limit(self.pipeline.model, self.pipeline.tokenizer)
        self.most_tokens = _MOST_TOKENS if limit is None else max(2, min(_MOST_TOKENS, limit // 2))

    @property
    def display_title(self) -> str:
        """The name of the model, as no method has one."""
        return self.title or self.name.rpartition("/")[2]

    def main_controls(self) -> dict[str, Component]:
        """Build how the text is drawn."""
        return {
            "temperature": slider(
                0, 2, 0.8, step=0.1, label="Temperature",
                info="0 always takes the most likely token.",
            ),
            "seed": slider(0, 99, 0, step=1, label="Seed", info="Another seed gives another text."),
        }  # fmt: skip

    def setting_controls(self) -> dict[str, Component]:
        """Build the length."""
        first = min(_FIRST_TOKENS, self.most_tokens)
        label = "Number of new tokens"
        return {"max_new_tokens": slider(1, self.most_tokens, first, step=1, label=label)}

    def panes(self) -> dict[str, Component]:
        """Build what was written, and what is to be known of it."""
        return {"written": gr.HTML(), "notes": gr.HTML(visible=False)}

    def contents(self, query: State) -> Contents:
        """Continue the text."""
        result = self.pipeline(query["text"], **generation_settings(query))
        text = f"<strong>{escape(result.prompt)}</strong>{escape(result.completion)}"
        shown = f'<p class="salhub-sentence" dir="auto" style="white-space: pre-wrap">{text}</p>'
        return {"written": {"value": shown}, "notes": notes(result.notes)}

    def code(self, query: State) -> str:
        """Return the program that writes the text."""
        return pipeline_program(
            "write",
            self.name,
            python(query["text"]),
            ["print(result.text)"],
            call=generation_settings(query),
        )

    def continue_text(
        self, text: str, max_new_tokens: float = 40, temperature: float = 0.8, seed: float = 0
    ) -> tuple[str, dict[str, Any]]:
        """Continue a text.

        Args:
            text: The text.
            max_new_tokens: Most tokens that are added.
            temperature: 0 to take the likeliest token each time, or above it to draw.
            seed: Draws the same again.

        Returns:
            The whole text, and all that is known of it.
        """
        state = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
        query = self.query({"text": text, **state})
        result = self.pipeline(query["text"], **generation_settings(query))
        return result.text, result.to_dict()


def generation_settings(query: State) -> dict[str, Any]:
    """The settings of a call that a visitor chose."""
    names = ("max_new_tokens", "temperature", "seed")
    return {name: sent_number(name, query[name]) for name in names}
