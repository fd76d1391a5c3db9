"""The page of surprising series."""

from typing import Any

import gradio as gr
from gradio.components import Component

from salhub.pipelines import pipeline
from salhub.ui.text_page import TextPage


class Page(TextPage):
    """Numbers, and those that stand out."""

    title = "Series surprise"
    sentence = "Which values of a series are unlike those seen before."
    verb = "Look"
    help = "A number a line."
    samples = {"Pulse": "60\n62\n61\n140\n63"}
    most_characters = 10_000
    endpoints = {"look": (gr.Textbox,)}

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.pipeline = pipeline(self.name)

    def panes(self) -> dict[str, Component]:
        """Build what is said, and the bars."""
        return {"summary": gr.Textbox(label="Found"), "bars": gr.Image(label="Surprise")}

    def contents(self, query: dict[str, Any]) -> dict[str, Any]:
        """Look at the numbers."""
        result = self.pipeline([float(one) for one in query["text"].split()])
        return {"summary": {"value": result.summary()}, "bars": {"value": result.plot()}}

    def look(self, text: str) -> tuple[str, ...]:
        """Look for surprises.

        Args:
            text: A number a line.

        Returns:
            How many values stand out.
        """
        return self.values_of({"text": text}, "summary")
