"""Space: which words made a classifier decide as it did, in a sentence that is checked."""

import gradio as gr

from salhub.ui import build_page, launch


def build() -> gr.Blocks:
    """Build the page, with a text explained on it."""
    return build_page("salhub/verbalizer-movie-reviews")


if __name__ == "__main__":
    launch(build())
