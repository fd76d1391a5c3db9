"""Pictures of a compressed model: the bits of all groups, and the search that decided them."""

import math
from collections.abc import Iterable, Mapping, Sequence

from PIL import Image, ImageDraw

from salhub.models.slim_llm.layer_report import CompressionReport, LayerReport
from salhub.viz.text import draw_lines, font_for, shorten

_INK, _SOFT_INK, _GRID, _PAPER = "#1b1b1b", "#4a4a4a", "#dedede", "#ffffff"
# A bit less, as many, and a bit more; told apart by their lightness too.
LESS, SAME, MORE = "#e8a33d", "#dfe3e8", "#2f5fa5"
_WIDTH, _EDGE, _LETTERS, _TITLE = 780, 18, 22, 26
_LARGEST_CELL = 22
_PANELS_IN_A_ROW, _PANEL_HEIGHT = 4, 150
_FINER = 3  # lines are drawn so many times larger, and then made smaller
# The first and the last block; those between lie between.
_FIRST, _LAST = (0x9E, 0xC3, 0xEA), (0x12, 0x2F, 0x5C)


def color_of(bits: int, mean: float) -> str:
    """The colour of a group in all pictures and pages."""
    return LESS if bits < mean else MORE if bits > mean else SAME


def bits_words(bits: int) -> str:
    """Bits for people.

    Example:
        >>> bits_words(1), bits_words(3)
        ('1 bit', '3 bits')
    """
    return f"{bits} bit{'' if bits == 1 else 's'}"


def bit_map_picture(report: CompressionReport) -> Image.Image:
    """The bits of every group of columns: a row for each block, the layers side by side.

    Args:
        report: Of a model.

    Returns:
        RGB picture, 780 pixels wide or more.
    """
    kinds = _by_kind(report.layers)
    groups = {kind: max(len(one.group_bits) for one in rows) for kind, rows in kinds.items()}
    label, gap = 44, 14
    room = _WIDTH - 2 * _EDGE - label - gap * (len(kinds) - 1)
    cell = max(2, min(_LARGEST_CELL, room // sum(groups.values())))
    rows = max(map(len, kinds.values()))
    height = max(cell, 4)
    top = _EDGE + 2 * (_TITLE + 14)
    width = max(_WIDTH, _EDGE * 2 + label + gap * (len(kinds) - 1) + cell * sum(groups.values()))
    figure = Image.new("RGB", (width, top + rows * height + _EDGE), _PAPER)
    draw = ImageDraw.Draw(figure)
    _legend(figure, report)
    every = max(1, math.ceil((_LETTERS + 4) / height))
    for row in range(0, rows, every):
        place = (_EDGE + label - 12, top + row * height + (height - _LETTERS) // 2 - 2)
        draw_lines(figure, place, [str(row)], _LETTERS, _SOFT_INK, "r")
    left = _EDGE + label
    for kind, layers in kinds.items():
        span = groups[kind] * cell
        text = shorten(kind, _LETTERS, span + gap - 4)
        draw_lines(figure, (left, top - _LETTERS - 10), [text], _LETTERS, _INK)
        line = 1 if cell > 5 else 0
        for row, layer in enumerate(layers):
            for place, bits in enumerate(layer.group_bits):
                x, y = left + place * cell, top + row * height
                box = (x, y, x + cell - 1 - line, y + height - 1 - line)
                draw.rectangle(box, color_of(bits, report.bits))
        left += span + gap
    return figure


def _legend(figure: Image.Image, report: CompressionReport) -> None:
    draw, left = ImageDraw.Draw(figure), _EDGE
    draw_lines(figure, (left, _EDGE - 2), ["block, and its groups"], _TITLE, _INK)
    right = figure.width - _EDGE
    widths = sorted({bits for layer in report.layers.values() for bits in layer.group_bits})
    for bits in reversed(widths):
        text = bits_words(bits)
        draw_lines(figure, (right, _EDGE), [text], _LETTERS, _INK, "r")
        right -= round(font_for(text, _LETTERS).getlength(text)) + 10
        color = color_of(bits, report.bits)
        draw.rectangle((right - 24, _EDGE + 3, right, _EDGE + _LETTERS + 3), color, _SOFT_INK)
        right -= 24 + 20


def divergence_picture(report: CompressionReport) -> Image.Image | None:
    """How D(p) goes on with p, each curve by its first value; the dot is the p that was taken.

    Args:
        report: Of a model.

    Returns:
        RGB picture, 780 pixels wide; None where nothing was searched.
    """
    kinds = {
        kind: [one for one in layers if one.curve]
        for kind, layers in _by_kind(report.layers).items()
    }
    kinds = {kind: layers for kind, layers in kinds.items() if layers}
    if not kinds:
        return None
    across = min(_PANELS_IN_A_ROW, len(kinds))
    rows = math.ceil(len(kinds) / across)
    pitch, top = _PANEL_HEIGHT + 94, _EDGE + _TITLE + 16
    figure = Image.new("RGB", (_WIDTH, top + rows * pitch), _PAPER)
    draw_lines(figure, (_EDGE, _EDGE - 2), ["Expected loss by p, first value = 1"], _TITLE, _INK)
    _depth_legend(figure)
    width = (_WIDTH - _EDGE) // across
    for place, (kind, layers) in enumerate(kinds.items()):
        corner = (_EDGE + place % across * width, top + place // across * pitch)
        _panel(figure, kind, layers, corner, width)
    return figure


def _depth_legend(figure: Image.Image) -> None:
    draw, right, y = ImageDraw.Draw(figure), _WIDTH - _EDGE, _EDGE + _LETTERS // 2 + 3
    for text, color in (("last block", _LAST), ("first", _FIRST)):
        draw_lines(figure, (right, _EDGE), [text], _LETTERS, _INK, "r")
        right -= round(font_for(text, _LETTERS).getlength(text)) + 10
        draw.line((right - 28, y, right, y), color, 5)
        right -= 28 + 20


def _panel(
    figure: Image.Image,
    kind: str,
    layers: Sequence[LayerReport],
    corner: tuple[int, int],
    width: int,
) -> None:
    left, top = corner
    curves = [_relative(layer.curve) for layer in layers]
    span_x = _span(p for curve in curves for p, _ in curve)
    span_y = _span(value for curve in curves for _, value in curve)
    draw_lines(figure, (left, top), [shorten(kind, _LETTERS, width - 20)], _LETTERS, _INK)
    label = 62
    box = (
        left + label,
        top + _LETTERS + 14,
        left + width - 16,
        top + _LETTERS + 14 + _PANEL_HEIGHT,
    )
    size = (box[2] - box[0], box[3] - box[1])
    edge = 6
    plot = Image.new("RGB", (_FINER * (size[0] + 2 * edge), _FINER * (size[1] + 2 * edge)), _PAPER)
    draw = ImageDraw.Draw(plot)

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - span_x[0]) / (span_x[1] - span_x[0]) * size[0]
        up = (y - span_y[0]) / (span_y[1] - span_y[0]) * size[1]
        return _FINER * (edge + across), _FINER * (edge + size[1] - up)

    for y in span_y:
        draw.line((*at(span_x[0], y), *at(span_x[1], y)), _GRID, _FINER)
    for place, (layer, curve) in enumerate(zip(layers, curves, strict=True)):
        share = place / max(len(layers) - 1, 1)
        color = tuple(round(a + share * (b - a)) for a, b in zip(_FIRST, _LAST, strict=True))
        points = [at(x, y) for x, y in curve]
        if len(points) > 1:
            draw.line(points, color, 2 * _FINER, joint="curve")
        for p, value in curve:
            if p == layer.num_swapped:
                x, y = at(p, value)
                reach = 4 * _FINER
                draw.ellipse((x - reach, y - reach, x + reach, y + reach), color)
    smaller = plot.resize((size[0] + 2 * edge, size[1] + 2 * edge), Image.Resampling.LANCZOS)
    figure.paste(smaller, (box[0] - edge, box[1] - edge))
    for y, place in ((span_y[1], box[1]), (span_y[0], box[3])):
        spot = (box[0] - 10, place - _LETTERS // 2 - 2)
        draw_lines(figure, spot, [f"{y:.2f}"], _LETTERS - 2, _SOFT_INK, "r")
    for x, place in ((span_x[0], box[0]), (span_x[1], box[2])):
        draw_lines(figure, (place, box[3] + 8), [f"{x:g}"], _LETTERS - 2, _SOFT_INK, "m")


def _relative(curve: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    first = curve[0][1] or 1.0
    return [(p, value / first) for p, value in curve]


def _span(values: Iterable[float]) -> tuple[float, float]:
    found = [*values]
    low, high = min(found), max(found)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _by_kind(layers: Mapping[str, LayerReport]) -> dict[str, list[LayerReport]]:
    """The layers that have the same place in their blocks, in the order of the blocks."""
    found: dict[str, list[LayerReport]] = {}
    for name, layer in layers.items():
        found.setdefault(kind_of(name), []).append(layer)
    return found


def kind_of(name: str) -> str:
    """What a layer is called in pictures.

    Example:
        >>> kind_of("model.layers.0.self_attn.q_proj")
        'q'
    """
    return name.rpartition(".")[2].removesuffix("_proj")
