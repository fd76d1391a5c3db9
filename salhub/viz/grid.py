"""Many small pictures in rows, their pixels kept sharp."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

from salhub.viz.figure import CAPTION_SIZE
from salhub.viz.text import draw_lines, font_for, text_height, wrap

_INK, _FRAME, _PAPER = "#1b1b1b", "#c4c4c4", "#ffffff"
_MARGIN = 10
_GAP = 6
_ROW_GAP = 14
_WIDEST_CAPTION = 220


class _Line(NamedTuple):
    caption: list[str]
    pictures: list[Image.Image]


def enlarge(picture: Image.Image, side: int) -> Image.Image:
    """Enlarge a small picture by a whole factor, so that its pixels stay squares.

    Args:
        picture: Any picture.
        side: What its longer side may grow to, in pixels; a larger picture is left as it is.

    Example:
        >>> enlarge(Image.new("L", (28, 20)), 96).size
        (84, 60)
    """
    factor = side // max(picture.size)
    if factor < 2:
        return picture
    size = (factor * picture.width, factor * picture.height)
    return picture.resize(size, Image.Resampling.NEAREST)


def picture_grid(
    rows: Sequence[tuple[str, Sequence[Image.Image]]], *, side: int = 96, columns: int = 8
) -> Image.Image:
    """Lay pictures of one size out in rows, with the caption of a row to its left.

    Args:
        rows: (caption, pictures) from top to bottom; a long row goes on in the next line.
        side: What the longer side of a picture may be in the grid, in pixels; smaller pictures
            are enlarged by a whole factor.
        columns: Most pictures in a line.

    Returns:
        RGB picture.

    Raises:
        ValueError: No row, a row without a picture, or pictures of different sizes.

    Example:
        >>> digit = Image.new("L", (16, 16))
        >>> picture_grid([("", [digit] * 10)]).size
        (830, 218)
    """
    sizes = {picture.size for _, pictures in rows for picture in pictures}
    if not rows or not all(pictures for _, pictures in rows):
        raise ValueError("A grid needs at least one row, and a picture in each.")
    if len(sizes) > 1:
        raise ValueError(f"The pictures of a grid must have the same size, got {sorted(sizes)}.")
    room = _caption_room([caption for caption, _ in rows])
    lines = [line for row in rows for line in _lines(*row, room, side, columns)]
    width, height = lines[0].pictures[0].size
    left = _MARGIN + room
    places, bottom = [], _MARGIN
    for number, line in enumerate(lines):
        top = bottom + (0 if number == 0 else _ROW_GAP if line.caption else _GAP)
        places.append(top)
        bottom = top + max(height, text_height(line.caption, CAPTION_SIZE))
    longest = max(len(line.pictures) for line in lines)
    right = left + longest * (width + _GAP) - _GAP
    grid = Image.new("RGB", (right + _MARGIN, bottom + _MARGIN), _PAPER)
    for line, top in zip(lines, places, strict=True):
        _draw_line(grid, line, left, top)
    return grid


def _draw_line(grid: Image.Image, line: _Line, left: int, top: int) -> None:
    draw_lines(grid, (_MARGIN, top), line.caption, CAPTION_SIZE, _INK)
    for picture in line.pictures:
        grid.paste(picture, (left, top))
        # Without a frame nobody sees where a picture with a white border ends.
        frame = (left - 1, top - 1, left + picture.width, top + picture.height)
        ImageDraw.Draw(grid).rectangle(frame, outline=_FRAME)
        left += picture.width + _GAP


def _caption_room(captions: Sequence[str]) -> int:
    widest = max(font_for(one, CAPTION_SIZE).getlength(one) for one in captions)
    return min(_WIDEST_CAPTION, math.ceil(widest)) + _ROW_GAP if widest else 0


def _lines(
    caption: str, pictures: Sequence[Image.Image], room: int, side: int, columns: int
) -> list[_Line]:
    drawn = [_fit(picture, side) for picture in pictures]
    parts = [drawn[start : start + columns] for start in range(0, len(drawn), columns)]
    captions = [wrap(caption, CAPTION_SIZE, room - _ROW_GAP), *([] for _ in parts[1:])]
    return [_Line(text, part) for text, part in zip(captions, parts, strict=True)]


def _fit(picture: Image.Image, side: int) -> Image.Image:
    picture = enlarge(picture.convert("RGB"), side)
    scale = side / max(picture.size)
    if scale >= 1:
        return picture
    size = tuple(max(1, round(edge * scale)) for edge in picture.size)
    return picture.resize(size, Image.Resampling.LANCZOS)
