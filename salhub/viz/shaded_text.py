"""Text on a shaded ground: the stronger the colour, the more a part matters."""

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from salhub.viz.text import font_for

Part = tuple[str, float]

# Amber speaks for, blue against; both leave black letters readable at full strength.
_FOR, _AGAINST = (255, 190, 60), (120, 170, 255)
# Of the strongest colour in HTML: on a dark ground light letters stay readable above it.
_MOST_ALPHA = 0.5
_PADDING = 12
_LINE_SPACE = 1.6


@dataclass(frozen=True)
class _Placed:
    text: str
    left: int
    line: int
    width: int
    value: float


def shaded_text(parts: Sequence[Part], *, width: int = 760, size: int = 16) -> Image.Image:
    """Draw text whose parts are shaded.

    Args:
        parts: Texts that follow each other, white space included, and how much each matters, in
            [-1, 1]; 0 is not shaded.
        width: Of the picture, in pixels.
        size: Of the letters, in pixels.

    Returns:
        RGB picture, as high as the text needs.

    Example:
        >>> shaded_text([("A good ", 0.0), ("film", 1.0)]).width
        760
    """
    placed = list(_layout(parts, width - 2 * _PADDING, size))
    step = round(size * _LINE_SPACE)
    lines = 1 + max((word.line for word in placed), default=0)
    picture = Image.new("RGB", (width, lines * step + 2 * _PADDING), "white")
    draw = ImageDraw.Draw(picture)
    for word in placed:
        left, top = word.left + _PADDING, word.line * step + _PADDING
        if word.value:
            draw.rectangle((left, top, left + word.width, top + step - 3), fill=shade(word.value))
        draw.text((left, top + (step - size) // 3), word.text, "black", font_for(word.text, size))
    return picture


def shaded_html(parts: Sequence[Part]) -> str:
    """Write text whose parts are shaded as HTML; nothing in the text becomes markup.

    Colours are laid over whatever ground there is, so that it reads in dark mode too.

    Args:
        parts: As of `shaded_text`.

    Returns:
        One element, whose text is that of the parts, to the letter.

    Example:
        >>> shaded_html([("a<b", 0.0)])
        '<div style="white-space: pre-wrap" dir="auto">a&lt;b</div>'
    """
    spans = []
    for text, value in parts:
        escaped = html.escape(text)
        if value:
            red, green, blue = _FOR if value > 0 else _AGAINST
            alpha = _MOST_ALPHA * min(1.0, abs(value))
            style = f"background: rgb({red} {green} {blue} / {alpha:.2f}); color: inherit"
            escaped = f'<mark style="{style}" title="{value:+.2f}">{escaped}</mark>'
        spans.append(escaped)
    return f'<div style="white-space: pre-wrap" dir="auto">{"".join(spans)}</div>'


def shade(value: float) -> tuple[int, int, int]:
    """The ground of a part that matters so much, in [-1, 1]; white for 0."""
    full, strength = (_FOR if value > 0 else _AGAINST), min(1.0, abs(value))
    red, green, blue = (round(255 + strength * (channel - 255)) for channel in full)
    return red, green, blue


def _layout(parts: Sequence[Part], width: int, size: int) -> Iterator[_Placed]:
    left = line = 0
    for text, value in parts:
        for word in _words(text):
            if word == "\n":
                left, line = 0, line + 1
                continue
            room = round(font_for(word, size).getlength(word))
            if left and left + room > width:
                left, line = 0, line + 1
            if word.isspace() and not left:
                continue
            yield _Placed(word, left, line, room, value)
            left += room


def _words(text: str) -> Iterator[str]:
    """Words, the spaces between them, and ends of lines; scripts without spaces break anywhere."""
    word = ""
    for character in text:
        breaks = character.isspace() or ord(character) > 0x2E7F
        if word and (breaks or word.isspace()):
            yield word
            word = ""
        if character == "\n" or (breaks and not character.isspace()):
            yield character
        else:
            word += character
    if word:
        yield word
