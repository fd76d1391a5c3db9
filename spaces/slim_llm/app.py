"""Space: a language model in two bits a weight, beside the full one."""

import gradio as gr

from salhub.ui import build_page, launch


def build() -> gr.Blocks:
    """Build the page, with a text continued on it."""
    return build_page("salhub/slim-llm-tiny-llama-w2")


if __name__ == "__main__":
    launch(build())
