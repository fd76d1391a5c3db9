"""Space: which sentences carry a text, or a pile of texts."""

import gradio as gr

from salhub.ui import build_page, launch


def build() -> gr.Blocks:
    """Build the page, with a text summarized on it."""
    return build_page("salhub/lexrank-news-en")


if __name__ == "__main__":
    launch(build())
