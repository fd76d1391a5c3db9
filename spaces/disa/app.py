"""Space: any classes, named by a CLIP with learned prompts and without."""

import gradio as gr

from salhub.ui import build_page, launch


def build() -> gr.Blocks:
    """Build the page, with a sample named on it."""
    return build_page("salhub/disa-tiny-clip-cifar10")


if __name__ == "__main__":
    launch(build())
