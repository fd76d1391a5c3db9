"""Bars in HTML: shares of two states side by side, readable without colours; text is escaped."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class BarRow:
    """One row of bars.

    Args:
        name: What it is of.
        values: A share for each series, 0 to 1.
        is_marked: Written in bold, as the one that the visitor chose.
    """

    name: str
    values: Sequence[float]
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
    bars = "".join(
        f'<div title="{escape(name, quote=True)}"><span><i class="salhub-bar-{place}" '
        f'style="width: {100 * min(max(value, 0), 1):.1f}%"></i></span>'
        f"<b>{100 * value:.0f} %</b></div>"
        for place, (name, value) in enumerate(zip(series, row.values, strict=True))
    )
    chosen = ' class="salhub-chosen"' if row.is_marked else ""
    return f'<tr{chosen}><th scope="row">{escape(row.name)}</th><td>{bars}</td></tr>'
