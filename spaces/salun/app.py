"""Space: forget a class, and see what it costs and which weights it takes."""

import gradio as gr

from salhub.ui import build_page, launch


def build() -> gr.Blocks:
    """Build the page, with a class forgotten on it."""
    return build_page("salhub/salun-resnet8-cifar10")


if __name__ == "__main__":
    launch(build())
