"""Space: salient relevance of a picture of the visitor's."""

import gradio as gr

from salhub.ui import build_page, launch


def build() -> gr.Blocks:
    """Build the page, with a sample explained on it."""
    return build_page("salhub/salient-relevance-efficientnet-lite0")


if __name__ == "__main__":
    launch(build())
