"""Curves over the course of something, such as the loss of a training, one panel a quantity."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from salhub.viz.text import draw_lines, font_for, shorten

Points = Sequence[tuple[float, float]]

# Wide enough for a screen, and its letters can still be read where it is shown half as wide.
WIDTH = 780
_LETTERS, _TITLE = 26, 30
_EDGE, _SPACE = 18, 12
_LEFT, _RIGHT, _TOP, _BOTTOM = 100, 30, 62, 84
_HEIGHT = 250
_INK, _SOFT_INK, _GRID, _PAPER = "#1b1b1b", "#4a4a4a", "#dedede", "#ffffff"
# Told apart by people who see few colours, and by their lightness.
_COLORS = ("#3b6fb6", "#d1495b", "#2a9d4b", "#7a4fa3", "#8a6d3b")
_LINE, _DOT = 3, 5
_MOST_DOTS = 40
_FINER = 3  # lines are drawn so many times larger, and then made smaller
_MOST_TICKS = 5


@dataclass(frozen=True)
class CurvePanel:
    """What is drawn on two axes of its own.

    Args:
        title: What is measured.
        curves: Name of each curve -> (x, y) of its points, x ascending.
        is_share: Whether y is in [0, 1] and written as a percentage.
    """

    title: str
    curves: Mapping[str, Points]
    is_share: bool = False


def draw_curves(panels: Sequence[CurvePanel], x_title: str) -> Image.Image:
    """Draw panels below each other, with one x axis for all; a name has one colour in all of them.

    Args:
        panels: From top to bottom.
        x_title: What x counts.

    Returns:
        RGB picture, 780 pixels wide.

    Raises:
        ValueError: No panel, or one without a point.

    Example:
        >>> loss = CurvePanel("loss", {"training": [(1, 2.0), (2, 1.0)]})
        >>> draw_curves([loss], "epoch").size
        (780, 414)
    """
    if not panels or not all(any(panel.curves.values()) for panel in panels):
        raise ValueError("Curves need at least one point in every panel.")
    names = list(dict.fromkeys(name for panel in panels for name in panel.curves))
    colors = {name: _COLORS[place % len(_COLORS)] for place, name in enumerate(names)}
    every_x = [x for panel in panels for points in panel.curves.values() for x, _ in points]
    low = 0.0 if min(every_x) >= 0 else min(every_x)
    span_x = (low, max(every_x) if max(every_x) > low else low + 1)
    pitch = _TOP + _HEIGHT + _BOTTOM
    figure = Image.new("RGB", (WIDTH, pitch * len(panels) + _EDGE), _PAPER)
    for place, panel in enumerate(panels):
        _draw_panel(figure, panel, colors, span_x, place * pitch + _EDGE, x_title)
    return figure


def ticks(low: float, high: float, most: int = _MOST_TICKS) -> list[float]:
    """Round numbers from a low one to a high one, the ends of an axis among them.

    Example:
        >>> ticks(0.13, 0.88)
        [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 2.5, 5, 10, 20) if _count(low, high, s * power) <= most)
    first, count = math.floor(low / step + 1e-9), _count(low, high, step)
    return [round((first + place) * step, 12) for place in range(count)]


def _count(low: float, high: float, step: float) -> int:
    return math.ceil(high / step - 1e-9) - math.floor(low / step + 1e-9) + 1


def _draw_panel(
    figure: Image.Image,
    panel: CurvePanel,
    colors: Mapping[str, str],
    span_x: tuple[float, float],
    top: int,
    x_title: str,
) -> None:
    values = [y for points in panel.curves.values() for _, y in points]
    low, high = min(values), max(values)
    if high == low:
        room = abs(high) / 10 or 0.5
        low, high = low - room, high + room
        low, high = (max(low, 0.0), min(high, 1.0)) if panel.is_share else (low, high)
    marks_y = ticks(low, high)
    marks_x = [x for x in ticks(*span_x, most=7) if span_x[0] <= x <= span_x[1]]
    if all(float(x).is_integer() for points in panel.curves.values() for x, _ in points):
        marks_x = [x for x in marks_x if x.is_integer()]  # there is no half of a step
    span_y = (marks_y[0], marks_y[-1])
    box = (_LEFT, top + _TOP, WIDTH - _RIGHT, top + _TOP + _HEIGHT)
    _draw_heading(figure, panel, colors, top)
    _draw_plot(figure, panel, colors, box, (span_x, span_y), (marks_x, marks_y))
    scale, unit = (100, " %") if panel.is_share else (1, "")
    for y, label in zip(marks_y, _numbers([scale * y for y in marks_y]), strict=True):
        text = label + unit
        place = box[3] - round(_share(y, span_y) * _HEIGHT) - _LETTERS // 2 - 2
        draw_lines(figure, (_LEFT - _SPACE, place), [text], _LETTERS, _SOFT_INK, "r")
    width = box[2] - box[0]
    for x, text in zip(marks_x, _numbers(marks_x), strict=True):
        place = (_LEFT + round(_share(x, span_x) * width), box[3] + _SPACE - 4)
        draw_lines(figure, place, [text], _LETTERS, _SOFT_INK, "m")
    middle = (_LEFT + width // 2, box[3] + _SPACE + _LETTERS)
    draw_lines(figure, middle, [x_title], _LETTERS, _SOFT_INK, "m")


def _draw_heading(
    figure: Image.Image, panel: CurvePanel, colors: Mapping[str, str], top: int
) -> None:
    """The title at the left, and from the right what the colours mean."""
    draw, right = ImageDraw.Draw(figure), WIDTH - _RIGHT
    middle = top + _LETTERS // 2 + 6
    for name in reversed([*panel.curves]):
        text = shorten(name, _LETTERS, WIDTH // 3)
        draw_lines(figure, (right, top + 2), [text], _LETTERS, _INK, "r")
        right -= round(font_for(text, _LETTERS).getlength(text)) + _SPACE
        draw.line((right - 34, middle, right, middle), colors[name], 2 * _LINE)
        right -= 34 + 2 * _SPACE
    title = shorten(panel.title, _TITLE, right - _EDGE)
    draw_lines(figure, (_EDGE, top), [title], _TITLE, _INK)


def _draw_plot(
    figure: Image.Image,
    panel: CurvePanel,
    colors: Mapping[str, str],
    box: tuple[int, int, int, int],
    spans: tuple[tuple[float, float], tuple[float, float]],
    marks: tuple[list[float], list[float]],
) -> None:
    # Dots at the ends of an axis are whole.
    edge = 2 * _DOT
    inner = (box[2] - box[0], box[3] - box[1])
    size = tuple(_FINER * (side + 2 * edge) for side in inner)
    plot = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(plot)

    def at(x: float, y: float) -> tuple[float, float]:
        across, up = _share(x, spans[0]) * inner[0], (1 - _share(y, spans[1])) * inner[1]
        return _FINER * (edge + across), _FINER * (edge + up)

    for y in marks[1]:
        draw.line((*at(spans[0][0], y), *at(spans[0][1], y)), _GRID, _FINER)
    for x in marks[0]:
        draw.line((*at(x, spans[1][0]), *at(x, spans[1][1])), _GRID, _FINER)
    for name, points in panel.curves.items():
        places = [at(x, y) for x, y in points]
        draw.line(places, colors[name], _FINER * _LINE, joint="curve")
        if len(places) <= _MOST_DOTS:
            for x, y in places:
                radius = _FINER * _DOT
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), colors[name])
    smaller = (inner[0] + 2 * edge, inner[1] + 2 * edge)
    figure.paste(plot.resize(smaller, Image.Resampling.LANCZOS), (box[0] - edge, box[1] - edge))


def _share(value: float, span: tuple[float, float]) -> float:
    return (value - span[0]) / (span[1] - span[0])


def _numbers(values: Sequence[float]) -> list[str]:
    """Numbers of an axis, all with as many decimals."""
    largest = max(map(abs, values))
    if largest and not 1e-2 <= largest < 1e5:
        return [f"{value:.1e}" for value in values]
    decimals = max(len(f"{round(value, 6):.10g}".partition(".")[2]) for value in values)
    return [f"{value:.{decimals}f}" for value in values]
