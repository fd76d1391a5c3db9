"""Space: a static wide recording becomes an edited film."""

import gradio as gr

from salhub.ui import build_page, launch


def build() -> gr.Blocks:
    """Build the page, with an edited scene on it."""
    return build_page("salhub/editiq-stage")


if __name__ == "__main__":
    launch(build())
