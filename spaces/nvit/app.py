"""Space: a vision transformer pruned to any speed, its shape, and what it still sees."""

import gradio as gr

from salhub.ui import build_page, launch


def build() -> gr.Blocks:
    """Build the page, with a shape on it."""
    return build_page("salhub/nvit-cifar10-050")


if __name__ == "__main__":
    launch(build())
