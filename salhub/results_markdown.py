"""Measured numbers as Markdown: tables, and how they were measured."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from salhub.results import Results, Table


def markdown_table(table: Table) -> str:
    """A table with its heading (third level) and note."""
    rows = [[cell_text(value) for value in row] for row in table.rows]
    parts = [f"### {table.title}", paragraph(table.note), plain_table(table.columns, rows)]
    return "\n\n".join(part for part in parts if part)


def metrics_table(results: Results) -> str:
    """All numbers of a results file as one table."""
    rows = [
        [metric.name, metric.value, _interval_text(metric.interval), metric.n, metric.unit]
        for metric in results.metrics
    ]
    columns = ["metric", "value", "95 % interval", "n", "unit"]
    return markdown_table(Table("Metrics", "", columns, rows))


def conditions(results: Results) -> str:
    """Command, seed, data, machine and versions, as a list."""
    machine = {**results.machine, "wall_seconds": results.wall_seconds}
    return "\n".join(
        [
            "### How these were measured",
            "",
            f"- command: `{results.command}`",
            f"- seed: {results.seed}",
            f"- data: {_pairs(results.data)}",
            f"- machine: {_pairs(machine)}",
            f"- versions: {_pairs(results.versions)}",
        ]
    )


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    r"""A table of texts.

    Example:
        >>> print(plain_table(["what", "how many"], [["a|b", "2"]]))
        | what | how many |
        | --- | --- |
        | a\|b | 2 |
    """
    return "\n".join(map(_row, [columns, ["---"] * len(columns), *rows]))


def cell_text(value: Any) -> str:
    """A number with four digits, what does not exist as "n/a", and text as it is."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "n/a"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def paragraph(text: str) -> str:
    """Text on one line."""
    return " ".join(str(text).split())


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _interval_text(interval: tuple[float, float] | None) -> str | None:
    return None if interval is None else " to ".join(cell_text(end) for end in interval)


def _pairs(content: Mapping[str, Any]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in content.items())
