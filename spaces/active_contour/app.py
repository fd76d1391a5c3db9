"""Space: a contour that finds what stands out, drawn and watched."""

import gradio as gr

from salhub.ui import build_page, launch


def build() -> gr.Blocks:
    """Build the page, with a sample segmented on it."""
    return build_page("salhub/active-contour-saliency")


if __name__ == "__main__":
    launch(build())
