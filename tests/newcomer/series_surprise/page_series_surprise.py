"""The page of surprising series."""

from typing import Any

import gradio as gr
from PIL import Image

from salhub.pipelines import pipeline


class Page:
    """Numbers, and those that stand out.

    Args:
        name: The model.
        method: Its entry.
    """

    def __init__(self, name: str, method: Any) -> None:
        self.name, self.method = name, method
        self.pipeline = pipeline(name)

    def build(self) -> gr.Blocks:
        """Build the page, with numbers looked at already."""
        numbers = "60\n62\n61\n140\n63"
        found, bars = self.look(numbers)
        with gr.Blocks(title="Series surprise", analytics_enabled=False) as blocks:
            text = gr.Textbox(numbers, label="A number a line", lines=7)
            button = gr.Button("Look", variant="primary")
            outputs = [gr.Textbox(found, label="Found"), gr.Image(bars, label="Surprise")]
            button.click(self.look, [text], outputs, api_name="look")
        return blocks

    def look(self, text: str) -> tuple[str, Image.Image]:
        """Say how many values stand out, and draw them."""
        result = self.pipeline([float(one) for one in text.split()])
        return result.summary(), result.plot()
