"""Serving a page: one place for what every page of salhub needs when it starts."""

import os
from typing import Any

import gradio as gr

from salhub.ui.picture_input import MAX_FILE_BYTES
from salhub.ui.theme import page_head, salhub_theme

_WAITING_VISITORS = 16


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
        # Rendering on the server needs node, which most machines lack.
        "ssr_mode": False,
        "show_error": True,
    }
    return page.launch(**{**defaults, **settings})
