"""Space: the pages of all methods of salhub, in one place."""

import gradio as gr

from salhub.ui import build_gallery, launch


def build() -> gr.Blocks:
    """Build the pages, each with a sample explained on it."""
    return build_gallery()


if __name__ == "__main__":
    launch(build())
