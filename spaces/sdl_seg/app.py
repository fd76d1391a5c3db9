"""Space: the tumour bed on a CT, found by the surgical clips around it."""

import gradio as gr

from salhub.ui import build_page, launch


def build() -> gr.Blocks:
    """Build the page, with a phantom segmented on it."""
    return build_page("salhub/sdl-seg-phantom")


if __name__ == "__main__":
    launch(build())
