"""Serving a page: how it looks, and what every page of salhub needs when it starts."""

import os
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.themes.utils import colors, sizes

from salhub.ui.controls import MAX_FILE_BYTES

_STYLE = Path(__file__).with_name("style.css")
# Fonts of the reader's own system: none comes from the web.
_SYSTEM_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica", "sans-serif"]
_SYSTEM_MONOSPACE = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]
_WAITING_VISITORS = 16
# A state holds all that a visitor wrote; who comes back later is asked to load the page again.
_KEPT_VISITS = 300


def launch(page: gr.Blocks, **settings: Any) -> tuple[Any, str, str]:
    """Serve a page and print where it is.

    Nothing is sent to anyone: no analytics, no fonts or scripts from other hosts.

    Args:
        page: From `salhub.ui.build_page`, or any Blocks.
        **settings: Anything `gradio.Blocks.launch` takes, such as `server_port`, `share` or
            `prevent_thread_lock`; they win over the settings chosen here.

    Returns:
        As `gradio.Blocks.launch`: the application, its local address, and its shared address.

    Example:
        >>> from salhub.ui import build_page, launch
        >>> app, url, _ = launch(build_page("normgrad"), prevent_thread_lock=True)  # doctest: +SKIP
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    page.analytics_enabled = False
    page.queue(max_size=_WAITING_VISITORS, default_concurrency_limit=1)
    defaults = {
        "theme": salhub_theme(),
        "head": page_head(),
        "footer_links": ["api", "settings"],
        "max_file_size": MAX_FILE_BYTES,
        "state_session_capacity": _KEPT_VISITS,
        # Rendering on the server needs node, which most machines lack.
        "ssr_mode": False,
        "show_error": True,
    }
    return page.launch(**{**defaults, **settings})


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
        button_primary_text_color="white",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
        color_accent="*primary_700",
    )
