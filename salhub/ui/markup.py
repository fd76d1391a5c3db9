"""Pieces of HTML for the pages: legends, facts, notices, tables of pictures; text is escaped."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from PIL import Image

from salhub.viz import ColorBar, colorize

_RAMP_STEPS = 17
_THUMBNAIL_SIDE = 96

# For `gr.HTML(js_on_load=...)`: a press on anything marked `data-pick` is a click with that text.
PICK_ON_CLICK = """
element.addEventListener('click', (event) => {
    const picked = event.target.closest('[data-pick]');
    if (picked) trigger('click', {pick: picked.dataset.pick});
});
"""


def header(title: str, sentence: str, links: Sequence[tuple[str, str]] = ()) -> str:
    """Return the head of a page: a title, what it does in one sentence, and where to read more."""
    anchors = " ".join(
        f'<a href="{escape(address, quote=True)}" target="_blank" rel="noopener">{escape(text)}</a>'
        for text, address in links
    )
    return (
        f'<header class="salhub-header"><h1>{escape(title)}</h1>'
        f"<p>{escape(sentence)} {anchors}</p></header>"
    )


def notice(sentence: str) -> str:
    """Return a warning that screen readers announce, or "" for an empty sentence."""
    if not sentence:
        return ""
    return f'<p class="salhub-notice" role="alert">{escape(sentence)}</p>'


def legend(bar: ColorBar) -> str:
    """Return the colour bar of a map, with what its ends mean."""
    colors = colorize(np.linspace(0, 1, _RAMP_STEPS), bar.colormap)
    stops = ", ".join(f"rgb({red} {green} {blue})" for red, green, blue in colors)
    middle = f"<span>{escape(bar.middle)}</span>" if bar.middle else ""
    return (
        '<div class="salhub-legend" role="img" aria-label="Colours from '
        f'{escape(bar.low, quote=True)} to {escape(bar.high, quote=True)}">'
        f'<div class="salhub-ramp" style="background: linear-gradient(to right, {stops})"></div>'
        f'<div class="salhub-ends"><span>{escape(bar.low)}</span>{middle}'
        f"<span>{escape(bar.high)}</span></div></div>"
    )


@dataclass(frozen=True)
class Fact:
    """A number worth seeing.

    Args:
        value: The number as text, with its unit.
        name: What it is.
        meaning: How to read it, shown below.
    """

    value: str
    name: str
    meaning: str = ""


def facts(items: Sequence[Fact]) -> str:
    """Return numbers with their names, side by side where there is room."""
    cells = "".join(
        f"<div><dt>{escape(fact.name)}</dt><dd><strong>{escape(fact.value)}</strong>"
        f"{f'<small>{escape(fact.meaning)}</small>' if fact.meaning else ''}</dd></div>"
        for fact in items
    )
    return f'<dl class="salhub-facts">{cells}</dl>'


def picture_buttons(label: str, pictures: Sequence[tuple[str, Image.Image]]) -> str:
    """Return small pictures to press; each is picked by its name (see `PICK_ON_CLICK`).

    Args:
        label: What they are for.
        pictures: (name, picture) from left to right.
    """
    buttons = "".join(
        f'<button type="button" data-pick="{escape(name, quote=True)}" '
        f'aria-label="Sample: {escape(name, quote=True)}" title="{escape(name, quote=True)}">'
        f'<img src="{data_address(_thumbnail(picture))}" alt=""></button>'
        for name, picture in pictures
    )
    return (
        f'<div class="salhub-samples" role="group" aria-label="{escape(label, quote=True)}">'
        f"<span>{escape(label)}</span>{buttons}</div>"
    )


def _thumbnail(picture: Image.Image) -> Image.Image:
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side))
    return square.resize((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE), Image.Resampling.LANCZOS)


def sentence(text: str) -> str:
    """Return a paragraph of the page's own text."""
    return f'<p class="salhub-sentence">{escape(text)}</p>'


@dataclass(frozen=True)
class PictureCell:
    """One cell of a table of pictures.

    Args:
        picture: None where there is nothing to show.
        text: Alternative text of the picture, or what is written in its place.
        is_chosen: Marked as the one the controls point at.
        pick: What a press on it picks, or "" where it cannot be pressed.
        note: Written below it.
    """

    picture: Image.Image | None
    text: str
    is_chosen: bool = False
    pick: str = ""
    note: str = ""


def picture_table(
    caption: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[PictureCell]]]
) -> str:
    """Return a table of pictures that scrolls sideways by itself on a narrow screen.

    Args:
        caption: What is in rows and columns.
        columns: Heading of each column.
        rows: (heading, one cell a column) from top to bottom.
    """
    heads = "".join(f'<th scope="col">{_breakable(column)}</th>' for column in columns)
    body = "".join(
        f'<tr><th scope="row">{_breakable(name)}</th>{"".join(map(_table_cell, cells))}</tr>'
        for name, cells in rows
    )
    # The caption stands outside of what scrolls, or a narrow screen would cut it.
    return (
        f'<figure class="salhub-table"><figcaption>{escape(caption)}</figcaption>'
        f'<div tabindex="0" role="group" aria-label="{escape(caption, quote=True)}"><table>'
        f"<thead><tr><td></td>{heads}</tr></thead><tbody>{body}</tbody></table></div></figure>"
    )


def _breakable(name: str) -> str:
    """A heading that may break after an underscore, and does at a line break."""
    return escape(name).replace("_", "_<wbr>").replace("\n", "<br>")


def _table_cell(cell: PictureCell) -> str:
    chosen = ' class="salhub-chosen"' if cell.is_chosen else ""
    note = f"<small>{escape(cell.note)}</small>" if cell.note else ""
    if cell.picture is None:
        return f"<td{chosen}><span>{escape(cell.text)}</span>{note}</td>"
    address = data_address(cell.picture)
    size = f'width="{cell.picture.width}" height="{cell.picture.height}"'
    content = f'<img src="{address}" {size} alt="{escape(cell.text, quote=True)}">'
    if cell.pick:
        pick = escape(cell.pick, quote=True)
        content = f'<button type="button" data-pick="{pick}">{content}</button>'
    return f"<td{chosen}>{content}{note}</td>"


def data_address(picture: Image.Image) -> str:
    """Return a small picture as an address that needs no request."""
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=80, method=0)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
