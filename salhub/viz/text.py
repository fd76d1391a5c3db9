"""Text in figures: a font that is always there, wrapping, and characters it cannot draw."""

from functools import lru_cache
from typing import cast

from PIL import Image, ImageDraw, ImageFont

LINE_HEIGHT = 1.3

# Tried in this order when Pillow's own font lacks a character; found by name on most systems.
_WIDER_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "Arial.ttf")
_MISSING = "\uffff"


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont:
    # Pillow's wheels all have FreeType; only without it would this be a bitmap font.
    return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size))


@lru_cache(maxsize=64)
def _system_font(name: str, size: int) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


def font_for(text: str, size: int) -> ImageFont.FreeTypeFont:
    """Return Pillow's own font, or the one of the system that lacks fewest of the characters.

    Args:
        text: What will be drawn.
        size: Height in pixels.
    """
    characters = frozenset(text)
    best = _font(size)
    missing = len(_missing(characters, best))
    for name in _WIDER_FONTS:
        if not missing:
            break
        candidate = _system_font(name, size)
        if candidate and len(_missing(characters, candidate)) < missing:
            best, missing = candidate, len(_missing(characters, candidate))
    return best


def wrap(text: str, size: int, width: int) -> list[str]:
    """Break a text into lines of at most `width` pixels; a word that is too long is cut.

    Args:
        text: Line breaks in it are kept.
        size: Height of the letters in pixels.
        width: Room in pixels.

    Example:
        >>> wrap("one two", 16, 40)
        ['one', 'two']
    """
    font = font_for(text, size)
    lines: list[str] = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}".strip()
            if font.getlength(longer) <= width:
                line = longer
                continue
            if line:
                lines.append(line)
            *full, line = _cut(word, font, width)
            lines.extend(full)
        lines.append(line)
    return lines


def shorten(text: str, size: int, width: int) -> str:
    """Cut a text to one line of at most `width` pixels, and show that something was cut.

    Args:
        text: Line breaks in it become spaces.
        size: Height of the letters in pixels.
        width: Room in pixels.

    Example:
        >>> shorten("Egyptian cat", 16, 50)
        'Egyp…'
    """
    font = font_for(text, size)
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text.rstrip()}…"


def percentage(probability: float) -> str:
    """Write a probability for people: never 0 % or 100 % when it is neither.

    Args:
        probability: In [0, 1].

    Example:
        >>> percentage(0.6249), percentage(0.9999), percentage(0.0001)
        ('62 %', 'over 99 %', 'under 1 %')
    """
    if 0 < probability < 0.01:
        return "under 1 %"
    if 0.99 < probability < 1:
        return "over 99 %"
    return f"{100 * probability:.0f} %"


def score_words(score: float, function: str) -> str:
    """Write a score for people: a probability as `percentage`, anything else as a number.

    Args:
        score: What a classifier gives a class, or a network that predicts numbers one of them.
        function: What made the score of the network's output; "none" leaves a number.

    Example:
        >>> score_words(0.62, "softmax"), score_words(3.2104, "none")
        ('62 %', '3.21')
    """
    return f"{score:.3g}" if function == "none" else percentage(score)


def text_height(lines: list[str], size: int) -> int:
    """Return the pixels that so many lines take."""
    return round(len(lines) * size * LINE_HEIGHT)


def draw_lines(
    image: Image.Image,
    position: tuple[int, int],
    lines: list[str],
    size: int,
    color: str,
    anchor: str = "l",
) -> None:
    """Draw wrapped lines below each other.

    Args:
        image: Changed in place.
        position: Left (or centre, or right) and top in pixels.
        lines: What `wrap` returned.
        size: Height of the letters in pixels.
        color: Any colour name or "#rrggbb".
        anchor: "l", "m" or "r": what the horizontal position means.
    """
    font = font_for("".join(lines), size)
    draw = ImageDraw.Draw(image)
    x, y = position
    for number, line in enumerate(lines):
        text = _drawable(line, font)
        # The ascender anchor keeps the baselines of neighbouring captions level.
        draw.text((x, y + round(number * size * LINE_HEIGHT)), text, color, font, f"{anchor}a")


def _cut(word: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    pieces, piece = [], ""
    for character in word:
        if piece and font.getlength(piece + character) > width:
            pieces.append(piece)
            piece = ""
        piece += character
    return [*pieces, piece]


def _drawable(text: str, font: ImageFont.FreeTypeFont) -> str:
    missing = _missing(frozenset(text), font)
    return "".join("?" if character in missing else character for character in text)


@lru_cache(maxsize=1024)
def _missing(characters: frozenset[str], font: ImageFont.FreeTypeFont) -> frozenset[str]:
    blank = _shape(_MISSING, font)
    printable = (one for one in characters if not one.isspace())
    return frozenset(one for one in printable if _shape(one, font) == blank)


def _shape(character: str, font: ImageFont.FreeTypeFont) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(character)
    return mask.size, bytes(mask)
