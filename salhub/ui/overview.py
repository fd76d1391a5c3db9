"""The first page of the gallery: each method with a picture, a sentence and a link to its page."""

from collections.abc import Mapping
from html import escape
from pathlib import Path

import gradio as gr
from PIL import Image

from salhub.entries import METHODS
from salhub.manifest import NAMESPACE
from salhub.model_facts import method_in_short
from salhub.results import cards_folder
from salhub.ui.panes import data_address, header

TITLE = "All methods"
# Wide enough for a screen of double density.
_PICTURE_WIDTH = 640


def build_overview(pages: Mapping[str, gr.Blocks], addresses: Mapping[str, str]) -> gr.Blocks:
    """Build the page that shows what there is.

    Args:
        pages: Method -> its page.
        addresses: Method -> the address of its page, beside this one.

    Returns:
        Blocks without controls.
    """
    cards = "".join(_card(name, page.title, addresses[name]) for name, page in pages.items())
    sentence = f"{len(pages)} published methods, each with a page to try it on something of yours."
    with gr.Blocks(title=TITLE, analytics_enabled=False) as overview:
        gr.HTML(header("salhub", sentence))
        gr.HTML(f'<ul class="salhub-methods">{cards}</ul>')
    return overview


def _card(method: str, title: str, address: str) -> str:
    default = METHODS[method].default or ""
    path = cards_folder() / f"{default.removeprefix(NAMESPACE)}.png"
    picture = _picture(path, f"An example of {title}")
    return (
        f'<li><a href="{escape(address, quote=True)}">{picture}<h2>{escape(title)}</h2>'
        f"<p>{escape(method_in_short(method))}</p></a></li>"
    )


def _picture(path: Path, alternative: str) -> str:
    """The picture of a model's card, or an empty frame where it has none."""
    if not path.is_file():
        return '<div class="salhub-no-picture"></div>'
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    picture.thumbnail((_PICTURE_WIDTH, _PICTURE_WIDTH), Image.Resampling.LANCZOS)
    return f'<img src="{data_address(picture)}" alt="{escape(alternative, quote=True)}">'
