"""That an evaluation shared by jobs writes what it writes alone, and measures nothing twice."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from salhub.evaluation.row_store import RowStore
from salhub.evaluation.shared_rows import RowSharing, RowsMissingError, rows_shared
from salhub.results import Results, without_nan

_TIMES = ("seconds", "cpu_seconds", "speed/", "latency_ratio/measured")
_TABLES_OF_TIMES = ("Cost", "Speed")


def without_times(results: Results) -> str:
    """Everything that does not depend on the machine, as JSON, so that equal means bit by bit."""
    content: dict[str, Any] = without_nan(asdict(results))
    for name in ("wall_seconds", "machine", "versions"):
        del content[name]
    content["metrics"] = [one for one in content["metrics"] if not one["name"].startswith(_TIMES)]
    content["tables"] = [one for one in content["tables"] if one["title"] not in _TABLES_OF_TIMES]
    return json.dumps(content)


def check_shared(evaluate: Callable[[], Results], folder: Path, count: int = 2) -> int:
    """Compare an evaluation with one of several jobs, each of which is run until all is there.

    Args:
        evaluate: The evaluation.
        folder: For rows.
        count: How many jobs.

    Returns:
        How many jobs were run.
    """
    expected, added = without_times(evaluate()), Counter[tuple[str, int]]()

    class Counting(RowStore):
        def add(self, step: str, row: int, value: Any) -> None:
            super().add(step, row, value)
            added[step, row] += 1

    for number in range(3 * count):
        sharing = RowSharing(number % count, count, None, Counting(folder, "evaluation"))
        with rows_shared(sharing):
            try:
                found = evaluate()
            except RowsMissingError:
                continue
        if not sharing.missing:
            assert without_times(found) == expected
            # A job without a row of its own borrows the first one.
            assert all(times == 1 or row == 0 for (_, row), times in added.items())
            assert max(added.values()) <= count
            return number + 1
    raise AssertionError("Some rows were never measured.")
