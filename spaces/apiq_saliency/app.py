"""Space: a language model in two bits a weight, with adapters that make up for them."""

import gradio as gr

from salhub.ui import build_page, launch


def build() -> gr.Blocks:
    """Build the page, with a text continued on it."""
    return build_page("salhub/apiq-saliency-tiny-llama-w2")


if __name__ == "__main__":
    launch(build())
