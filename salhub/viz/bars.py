"""Bars of shares, such as the probabilities of classes."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from salhub.viz.figure import CAPTION_SIZE
from salhub.viz.text import LINE_HEIGHT, draw_lines, percentage, shorten

_INK, _SOFT_INK, _PAPER, _TRACK = "#1b1b1b", "#595959", "#ffffff", "#ececec"
# The first bar is the answer; the others are the same hue, paler.
_FIRST, _OTHERS = "#21918c", "#9cc9c6"
# Fewer bars than this leave room below rather than grow.
_FEWEST_ROWS = 5
_EDGE, _SPACE = 12, 10


def bars(items: Sequence[tuple[str, float]], *, size: tuple[int, int] = (360, 360)) -> Image.Image:
    """Draw one horizontal bar a share, each below its label, from top to bottom.

    Args:
        items: (label, share in [0, 1]); a label that is too long is cut.
        size: Width and height in pixels; the more bars, the smaller the letters.

    Returns:
        RGB picture of that size.

    Raises:
        ValueError: No item, or a share that is not in [0, 1].

    Example:
        >>> bars([("tiger cat", 0.62), ("tabby", 0.3)]).size
        (360, 360)
    """
    if not items:
        raise ValueError("There are no bars to draw.")
    for label, share in items:
        if not 0 <= share <= 1:
            raise ValueError(f"The share of '{label}' must be in [0, 1], got {share}.")
    panel = Image.new("RGB", size, _PAPER)
    pitch = (size[1] - 2 * _EDGE) / max(len(items), _FEWEST_ROWS)
    for number, (label, share) in enumerate(items):
        _draw_bar(panel, _EDGE + number * pitch, pitch, label, share, _OTHERS if number else _FIRST)
    return panel


def _draw_bar(
    panel: Image.Image, top: float, pitch: float, label: str, share: float, color: str
) -> None:
    letters = max(6, min(CAPTION_SIZE, round(0.36 * pitch)))
    left, right = _EDGE, panel.width - _EDGE
    number = percentage(share)
    # Room for the longest number, so that no label changes with its share.
    room = right - left - 5 * letters - _SPACE
    draw_lines(panel, (left, round(top)), [shorten(label, letters, room)], letters, _INK)
    draw_lines(panel, (right, round(top)), [number], letters, _SOFT_INK, anchor="r")
    upper = round(top + letters * LINE_HEIGHT)
    lower = max(upper + 1, round(top + 0.86 * pitch))
    draw = ImageDraw.Draw(panel)
    draw.rectangle((left, upper, right, lower), fill=_TRACK)
    if share > 0:
        draw.rectangle((left, upper, left + round(share * (right - left)), lower), fill=color)
