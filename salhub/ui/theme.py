"""How the pages look: fonts of the reader's own system, colours that work in light and dark."""

from pathlib import Path

import gradio as gr
from gradio.themes.utils import colors, sizes

_STYLE = Path(__file__).with_name("style.css")

_SYSTEM_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica", "sans-serif"]
_SYSTEM_MONOSPACE = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]


def page_head() -> str:
    """Return what every page has in its head: its style, and that it knows dark mode.

    gradio rewrites the selectors of styles that are handed to it otherwise, so that they cannot
    reach its own frame.
    """
    style = _STYLE.read_text(encoding="utf-8")
    return f'<meta name="color-scheme" content="light dark">\n<style>\n{style}</style>'


def salhub_theme() -> gr.themes.Base:
    """Return the theme of every page; it loads no font from the web.

    Example:
        >>> salhub_theme()._stylesheets
        []
    """
    theme = gr.themes.Base(
        primary_hue=colors.teal,
        secondary_hue=colors.teal,
        neutral_hue=colors.slate,
        radius_size=sizes.radius_md,
        spacing_size=sizes.spacing_md,
        font=_SYSTEM_FONTS,
        font_mono=_SYSTEM_MONOSPACE,
    )
    return theme.set(
        body_text_size="15px",
        block_label_text_size="13px",
        block_title_text_weight="600",
        button_large_padding="10px 14px",
        button_large_text_size="15px",
        button_large_text_weight="500",
        # gradio's own greys and accents are too pale to read against their ground.
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_title_text_color="*neutral_700",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        link_text_color="*primary_700",
        color_accent="*primary_700",
    )
