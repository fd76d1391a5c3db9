"""Space: one network, several tasks, and what each of them reads in the map that they share."""

import gradio as gr

from salhub.ui import build_page, launch


def build() -> gr.Blocks:
    """Build the page, with a room on it."""
    return build_page("salhub/rep-mtl-rooms")


if __name__ == "__main__":
    launch(build())
