"""What pages show: pieces of HTML, pictures, programs to copy, and files; text is escaped."""

import base64
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import gradio as gr
import numpy as np
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder
from PIL import Image

from salhub.pipelines.image_saliency_result import ImageSaliencyResult
from salhub.viz import ColorBar, colorize, overlay, paint

_RAMP_STEPS = 17
_THUMBNAIL_SIDE = 96
# As many pictures can still be seen side by side on a telephone.
_NARROW_COLUMNS = 4
# Of a call that stands on one line of a program; more would wrap.
_LINE_LENGTH = 72

# For `gr.HTML(js_on_load=...)`: a press on anything marked `data-pick` is a click with that text.
PICK_ON_CLICK = """
element.addEventListener('click', (event) => {
    const picked = event.target.closest('[data-pick]');
    if (picked) trigger('click', {pick: picked.dataset.pick});
});
"""


def header(title: str, sentence: str, paper: str = "") -> str:
    """Return the head of a page.

    Args:
        title: The name.
        sentence: What it does.
        paper: Where to read more: "arXiv:2004.02866", or a DOI.
    """
    arxiv = paper.partition("arXiv:")[2]
    address = f"https://arxiv.org/abs/{arxiv}" if arxiv else f"https://doi.org/{paper}"
    anchor = (
        f'<a href="{escape(address, quote=True)}" target="_blank" rel="noopener">The paper.</a>'
    )
    return (
        f'<header class="salhub-header"><h1>{escape(title)}</h1>'
        f"<p>{escape(sentence)} {anchor if paper else ''}</p></header>"
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


def text_buttons(label: str, names: Sequence[str]) -> str:
    """Return words to press; each is picked by itself (see `PICK_ON_CLICK`)."""
    buttons = "".join(
        f'<button type="button" data-pick="{escape(name, quote=True)}">{escape(name)}</button>'
        for name in names
    )
    return (
        f'<div class="salhub-samples salhub-words" role="group" '
        f'aria-label="{escape(label, quote=True)}"><span>{escape(label)}</span>{buttons}</div>'
    )


def _thumbnail(picture: Image.Image) -> Image.Image:
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side))
    return square.resize((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE), Image.Resampling.LANCZOS)


def sentence(text: str) -> str:
    """Return a paragraph of the page's own text."""
    return f'<p class="salhub-sentence">{escape(text)}</p>'


def notes(sentences: Sequence[str]) -> dict[str, Any]:
    """Return what a pane shows of sentences that are to be read first; nothing for none."""
    text = f'<p class="salhub-notes" role="note">{escape(" ".join(sentences))}</p>'
    return {"value": text if sentences else "", "visible": bool(sentences)}


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
    """Return a table of pictures for a narrow screen too.

    There, a few columns become as narrow as it takes, and more of them scroll sideways.

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
    is_narrow = " salhub-narrow" if len(columns) <= _NARROW_COLUMNS else ""
    # The caption stands outside of what scrolls, or a narrow screen would cut it.
    return (
        f'<figure class="salhub-table{is_narrow}"><figcaption>{escape(caption)}</figcaption>'
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


@dataclass(frozen=True)
class BarRow:
    """One row of bars.

    Args:
        name: What it is of.
        values: A share for each series, 0 to 1, or None for no bar.
        is_marked: Written in bold, as the one that the visitor chose.
    """

    name: str
    values: Sequence[float | None]
    is_marked: bool = False


def bar_rows(caption: str, series: Sequence[str], rows: Sequence[BarRow]) -> str:
    """Return rows of bars with their numbers.

    Args:
        caption: What the bars are.
        series: Name of each bar of a row, at most two; one alone is not named.
        rows: From top to bottom, a value a series.

    Example:
        >>> "50 %" in bar_rows("Accuracy", ["before"], [BarRow("cat", [0.5])])
        True
    """
    body = "".join(_row(series, row) for row in rows)
    key = ""
    if len(series) > 1:
        names = "".join(
            f'<span><i class="salhub-bar-{place}"></i>{escape(name)}</span>'
            for place, name in enumerate(series)
        )
        key = f'<div class="salhub-bar-key">{names}</div>'
    return (
        f'<figure class="salhub-bars"><figcaption>{escape(caption)}</figcaption>{key}'
        f"<table>{body}</table></figure>"
    )


def _row(series: Sequence[str], row: BarRow) -> str:
    full = int(len(series) == 1)
    bars = "".join(
        f'<div title="{escape(name, quote=True)}"><span><i class="salhub-bar-{place or full}" '
        f'style="width: {100 * min(max(value, 0), 1):.1f}%"></i></span>'
        f"<b>{'over 100' if value > 1 else f'{100 * value:.0f}'} %</b></div>"
        for place, (name, value) in enumerate(zip(series, row.values, strict=True))
        if value is not None
    )
    chosen = ' class="salhub-chosen"' if row.is_marked else ""
    return f'<tr{chosen}><th scope="row" dir="auto">{escape(row.name)}</th><td>{bars}</td></tr>'


def picture_pane(label: str, **properties: Any) -> gr.Image:
    """Build a picture that can be enlarged and saved."""
    return gr.Image(
        **{"label": label, "alt_text": label, "elem_classes": "salhub-pane", **properties},
        interactive=False,
        format="png",
        buttons=["download", "fullscreen"],
    )


def code_pane(language: str = "python", **properties: Any) -> gr.Code:
    """Build a program to be copied, without numbers of lines."""
    return gr.Code(
        language=language,
        **{"show_label": False, "buttons": ["copy"], **properties},
        interactive=False,
        wrap_lines=True,
        show_line_numbers=False,
    )


def pipeline_program(
    verb: str,
    name: str,
    source: str,
    last: Sequence[str],
    *,
    settings: Mapping[str, Any] | None = None,
    call: Mapping[str, Any] | None = None,
    comments: Mapping[str, str] | None = None,
) -> str:
    """Return a program that runs a pipeline on one input.

    Args:
        verb: What the pipeline is called in it.
        name: The model.
        source: The input, as Python.
        last: What is done with the result.
        settings: What is given to `salhub.pipeline` beside the name.
        call: What is given to the call beside the input.
        comments: Written behind what is given to the call.

    Example:
        >>> print(pipeline_program(
        ...     "explain", "salhub/model", '"sample:cat"', ['result.save("explained.png")'],
        ...     settings={"meta_step": 0.001}, call={"class_labels": 281},
        ...     comments={"class_labels": "tabby"},
        ... ))
        import salhub
        <BLANKLINE>
        explain = salhub.pipeline("salhub/model", meta_step=0.001)
        result = explain(
            "sample:cat",
            class_labels=281,  # tabby
        )
        result.save("explained.png")
    """
    given = [("", source)] + [(key, python(value)) for key, value in (call or {}).items()]
    loaded = [("", python(name))] + [(key, python(one)) for key, one in (settings or {}).items()]
    imports = ["from pathlib import Path", ""] if "Path(" in source else []
    return "\n".join(
        [
            *imports,
            "import salhub",
            "",
            *_call(f"{verb} = salhub.pipeline", loaded, {}),
            *_call(f"result = {verb}", given, comments or {}),
            *last,
        ]
    )


def python(value: Any) -> str:
    """Return Python for a value; text in double quotes, as in the rest of a program."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return f"[{', '.join(map(python, value))}]"
    return repr(value)


def _call(head: str, arguments: list[tuple[str, str]], comments: Mapping[str, str]) -> list[str]:
    written = [f"{name}={value}" if name else value for name, value in arguments]
    line = f"{head}({', '.join(written)})"
    if not comments and len(line) <= _LINE_LENGTH:
        return [line]
    behind = [
        f"  # {_comment(comments[name])}" if name in comments else "" for name, _ in arguments
    ]
    lines = [f"    {one},{note}" for one, note in zip(written, behind, strict=True)]
    return [f"{head}(", *lines, ")"]


def _comment(label: str) -> str:
    """A label on one line; a network may call its classes anything, line breaks included."""
    return "".join(letter for letter in " ".join(label.split()) if letter.isprintable())


def file_stem(*parts: str) -> str:
    """Return a file name that every system accepts, without a suffix.

    Example:
        >>> file_stem("my photo", "norm_grad", "espresso maker")
        'my-photo-norm_grad-espresso-maker'
    """
    words = (re.sub(r"[^\w]+", "-", part).strip("-") for part in parts)
    return "-".join(word for word in words if word)[:80] or "map"


def picture_file(picture: Image.Image, stem: str) -> str:
    """Write a picture as PNG and return its path."""
    buffer = io.BytesIO()
    # Level 1: the file is made on every change of a control, and mostly not taken.
    picture.save(buffer, "PNG", compress_level=1)
    return save_bytes_to_cache(buffer.getvalue(), f"{stem}.png", get_upload_folder())


def array_file(values: np.ndarray, stem: str) -> str:
    """Write a map as a NumPy file and return its path."""
    buffer = io.BytesIO()
    np.save(buffer, values)
    return save_bytes_to_cache(buffer.getvalue(), f"{stem}.npy", get_upload_folder())


def map_pictures(
    result: ImageSaliencyResult, settings: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return a map over its photo, alone, and its legend, in the opacity and colours asked for."""
    colors = settings["colors"] or None
    seen = result.viewed_box
    if result.degenerate:
        # A map that is the same everywhere says nothing, so none is drawn.
        return {
            "overlay": {"value": result.overlay(), "alt_text": "The photo, without a map"},
            "map": {"value": result.map_picture(), "alt_text": "The map is constant"},
            "legend": {"value": ""},
        }
    over = overlay(result.image, result.saliency, settings["opacity"], colors, seen)
    bar = ColorBar.for_map(result.signed)
    about = f"the map for {result.label}"
    return {
        "overlay": {"value": over, "alt_text": f"The photo with {about} laid over it"},
        "map": {"value": paint(result.saliency, colors, seen), "alt_text": f"Alone, {about}"},
        "legend": {"value": legend(bar if colors is None else replace(bar, colormap=colors))},
    }
