"""Figures: pictures side by side with captions, a colour bar, a title and a note."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from PIL import Image, ImageDraw

from salhub.viz.colormaps import DIVERGING, SEQUENTIAL, colorize
from salhub.viz.text import draw_lines, text_height, wrap

MARGIN = 24
GAP = 16
TITLE_SIZE = 24
CAPTION_SIZE = 17
NOTE_SIZE = 16

_INK, _SOFT_INK, _FRAME, _PAPER = "#1b1b1b", "#595959", "#c4c4c4", "#ffffff"
_BLANK = "#e2e2e2"
_SMALLEST_COLUMN = 0.62
_BAR_WIDTH = 18
_BAR_LABEL_WIDTH = 92


@dataclass(frozen=True)
class ColorBar:
    """The legend of a colour map.

    Args:
        colormap: One of `salhub.viz.COLORMAPS`.
        low: What the lowest colour means.
        high: What the highest colour means.
        middle: What the middle colour means, or "".
    """

    colormap: str
    low: str
    high: str
    middle: str = ""

    @classmethod
    def for_map(cls, signed: bool) -> "ColorBar":
        """The bar of the colours that `overlay` and `paint` choose."""
        if signed:
            return cls(DIVERGING, "against", "for", "no effect")
        return cls(SEQUENTIAL, "least", "most salient")


@dataclass(frozen=True)
class _Cell:
    picture: Image.Image
    above: list[str]
    below: list[str]


def panels(
    items: Sequence[tuple[Image.Image, str]],
    *,
    title: str | None = None,
    lead: str | None = None,
    note: str | None = None,
    color_bar: ColorBar | None = None,
    side: int = 360,
) -> Image.Image:
    """Put pictures in one row, each with its caption below.

    Args:
        items: (picture, caption) from left to right.
        title: Text above.
        lead: Smaller text under the title, to be read before the pictures.
        note: Text below, such as how to read the figure.
        color_bar: Legend drawn at the right.
        side: Longest side of a picture in the figure, in pixels; proportions are kept.

    Returns:
        RGB picture.

    Raises:
        ValueError: No item.

    Example:
        >>> photo = Image.new("RGB", (90, 60))
        >>> panels([(photo, "a photo")], side=180).mode
        'RGB'
    """
    if not items:
        raise ValueError("A figure needs at least one picture.")
    cells = [_fit_cell(picture, side, below=caption) for picture, caption in items]
    return _compose([cells], (title, lead, note), color_bar)


def compare(
    columns: Sequence[str],
    rows: Sequence[tuple[str, Sequence[Image.Image]]],
    *,
    title: str | None = None,
    lead: str | None = None,
    note: str | None = None,
    color_bar: ColorBar | None = None,
    side: int = 240,
    most_columns: int = 5,
) -> Image.Image:
    """Put the results of several methods side by side, one row a photo.

    A single photo with more methods than fit is broken into several rows.

    Args:
        columns: Name of each column.
        rows: (caption, one picture a column) from top to bottom.
        title: Text above.
        lead: Smaller text under the title, to be read before the pictures.
        note: Text below.
        color_bar: Legend drawn at the right.
        side: Longest side of a picture in the figure, in pixels.
        most_columns: Where a single row is broken.

    Returns:
        RGB picture.

    Raises:
        ValueError: Nothing to compare, or a row with more or fewer pictures than columns.

    Example:
        >>> photo = Image.new("RGB", (90, 60))
        >>> compare(["photo", "grad_cam"], [("a cat", [photo, photo])]).mode
        'RGB'
    """
    if not columns or not rows:
        raise ValueError("A comparison needs at least one column and one row.")
    for caption, pictures in rows:
        if len(pictures) != len(columns):
            raise ValueError(
                f"Row '{caption}' has {len(pictures)} pictures for {len(columns)} columns."
            )
    if len(rows) == 1 and len(columns) > most_columns:
        cells = [
            _fit_cell(picture, side, above=name)
            for name, picture in zip(columns, rows[0][1], strict=True)
        ]
        per_row = -(-len(cells) // -(-len(cells) // most_columns))
        broken = [cells[start : start + per_row] for start in range(0, len(cells), per_row)]
        return _compose(broken, (title or rows[0][0], lead, note), color_bar)
    grid = [
        [
            _fit_cell(
                picture,
                side,
                above=columns[place] if number == 0 else "",
                below=caption if place == 0 else "",
            )
            for place, picture in enumerate(pictures)
        ]
        for number, (caption, pictures) in enumerate(rows)
    ]
    return _compose(grid, (title, lead, note), color_bar)


def message_panel(size: tuple[int, int], message: str) -> Image.Image:
    """Draw a sentence where a picture would be.

    Args:
        size: Width and height in pixels.
        message: What to say; wrapped to the width.

    Returns:
        Grey RGB picture of that size.

    Example:
        >>> message_panel((90, 60), "The map is constant.").size
        (90, 60)
    """
    panel = Image.new("RGB", size, _BLANK)
    # The text must be readable after the figure has scaled the panel.
    letters = max(6, round(max(size) / 16))
    lines = wrap(message, letters, round(0.86 * size[0]))
    top = (size[1] - text_height(lines, letters)) // 2
    draw_lines(panel, (size[0] // 2, top), lines, letters, _SOFT_INK, anchor="m")
    return panel


def _fit_cell(picture: Image.Image, side: int, above: str = "", below: str = "") -> _Cell:
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    resized = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    room = max(size[0], round(side * _SMALLEST_COLUMN))
    return _Cell(resized, wrap(above, CAPTION_SIZE, room), wrap(below, CAPTION_SIZE, room))


def _compose(
    grid: list[list[_Cell]],
    texts: tuple[str | None, str | None, str | None],
    color_bar: ColorBar | None,
) -> Image.Image:
    """Measure, then draw from top to bottom: title and lead, the rows, the note."""
    title, lead, note = texts
    widths = [max(map(_cell_width, column)) for column in _columns(grid)]
    inner = sum(widths) + GAP * (len(widths) - 1)
    inner += GAP + _BAR_WIDTH + _BAR_LABEL_WIDTH if color_bar else 0
    title_lines = wrap(title or "", TITLE_SIZE, inner)
    lead_lines = wrap(lead or "", NOTE_SIZE, inner)
    note_lines = wrap(note or "", NOTE_SIZE, inner)
    heights = [_row_height(row) for row in grid]
    title_space = text_height(title_lines, TITLE_SIZE) + GAP if title_lines else 0
    lead_space = text_height(lead_lines, NOTE_SIZE) + GAP if lead_lines else 0
    note_space = text_height(note_lines, NOTE_SIZE) + GAP if note_lines else 0
    rows_space = sum(heights) + GAP * (len(grid) - 1)
    total = 2 * MARGIN + title_space + lead_space + rows_space + note_space
    figure = Image.new("RGB", (inner + 2 * MARGIN, total), _PAPER)
    draw_lines(figure, (MARGIN, MARGIN), title_lines, TITLE_SIZE, _INK)
    draw_lines(figure, (MARGIN, MARGIN + title_space), lead_lines, NOTE_SIZE, _INK)
    top = MARGIN + title_space + lead_space
    for number, (row, height) in enumerate(zip(grid, heights, strict=True)):
        bar = color_bar if number == 0 else None
        _draw_row(figure, row, widths, top, bar)
        top += height + GAP
    note_top = figure.height - MARGIN - text_height(note_lines, NOTE_SIZE)
    draw_lines(figure, (MARGIN, note_top), note_lines, NOTE_SIZE, _SOFT_INK)
    return figure


def _columns(grid: list[list[_Cell]]) -> list[list[_Cell]]:
    return [[cell for cell in column if cell] for column in zip_longest(*grid)]


def _cell_width(cell: _Cell) -> int:
    if not (cell.above or cell.below):
        return cell.picture.width
    return max(cell.picture.width, round(max(cell.picture.size) * _SMALLEST_COLUMN))


def _row_height(row: list[_Cell]) -> int:
    above, below = _caption_space(row)
    return above + max(cell.picture.height for cell in row) + below


def _caption_space(row: list[_Cell]) -> tuple[int, int]:
    above = max(text_height(cell.above, CAPTION_SIZE) for cell in row)
    below = max(text_height(cell.below, CAPTION_SIZE) for cell in row)
    return above + (GAP // 3 if above else 0), below + (GAP // 2 if below else 0)


def _draw_row(
    figure: Image.Image, row: list[_Cell], widths: list[int], top: int, bar: ColorBar | None
) -> None:
    above, _ = _caption_space(row)
    height = max(cell.picture.height for cell in row)
    left = MARGIN
    for cell, width in zip(row, widths, strict=False):
        draw_lines(figure, (left, top), cell.above, CAPTION_SIZE, _INK)
        place = (left, top + above + (height - cell.picture.height) // 2)
        figure.paste(cell.picture, place)
        _draw_frame(figure, place, cell.picture.size)
        draw_lines(figure, (left, top + above + height + GAP // 2), cell.below, CAPTION_SIZE, _INK)
        left += width + GAP
    if bar:
        right = MARGIN + sum(widths) + GAP * len(widths)
        _draw_bar(figure, bar, right, top + above, height)


def _draw_bar(figure: Image.Image, bar: ColorBar, left: int, top: int, height: int) -> None:
    ramp = colorize(np.linspace(1, 0, height)[:, None].repeat(_BAR_WIDTH, axis=1), bar.colormap)
    figure.paste(Image.fromarray(ramp), (left, top))
    _draw_frame(figure, (left, top), (_BAR_WIDTH, height))
    text_left, room = left + _BAR_WIDTH + 7, _BAR_LABEL_WIDTH - 7
    for label, share in ((bar.high, 0.0), (bar.middle, 0.5), (bar.low, 1.0)):
        lines = wrap(label, NOTE_SIZE, room)
        y = top + round(share * (height - text_height(lines, NOTE_SIZE)))
        draw_lines(figure, (text_left, y), lines, NOTE_SIZE, _SOFT_INK)


def _draw_frame(figure: Image.Image, place: tuple[int, int], size: tuple[int, int]) -> None:
    left, top = place
    box = (left - 1, top - 1, left + size[0], top + size[1])
    ImageDraw.Draw(figure).rectangle(box, outline=_FRAME)
