"""What is told of a compressed language model: tables of its card, and files beside it."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from salhub.files import write_text
from salhub.results import Table

Report = TypeVar("Report")
# Of a number in a report; more would say nothing and double its size.
_DIGITS = 5

# Kinds of `model_bytes` -> what people call them.
_PARTS = {
    "linears": "packed weights",
    "scales": "their scales, zeros and means",
    "embeddings": "embedding and head",
    "others": "norms, biases and the header",
    "total": "all",
}
_ERROR = "error/"


def size_table(sizes: Mapping[str, int], plain_bytes: int) -> Table:
    """What the parts of a file weigh.

    Args:
        sizes: Of `model_bytes`.
        plain_bytes: Of all weights in 16 bits each.

    Example:
        >>> parts = {"linears": 60, "scales": 20, "embeddings": 15, "others": 5, "total": 100}
        >>> size_table(parts, 400).rows[-1]
        ['all weights in 16 bits each', 400, '400.0 %']
    """
    whole = sizes["total"]
    rows: list[list[str | float | int | None]] = [
        [words, sizes[kind], f"{100 * sizes[kind] / whole:.1f} %"] for kind, words in _PARTS.items()
    ]
    rows.append(["all weights in 16 bits each", plain_bytes, f"{100 * plain_bytes / whole:.1f} %"])
    note = "Bytes of the saved file; in memory, an unpacked model takes more."
    return Table("Size", note, ["part", "bytes", "share"], rows)


def error_table(measures: Mapping[str, Mapping[str, float]]) -> Table:
    """What the layers of every block lost.

    Args:
        measures: Block -> "error/LAYER" -> relative error of its outputs.

    Example:
        >>> error_table({"layers.0": {"error/mlp.up_proj": 0.25}}).rows
        [['layers.0', 0.25]]
    """
    layers = list(dict.fromkeys(
        key.removeprefix(_ERROR)
        for block in measures.values()
        for key in block
        if key.startswith(_ERROR)
    ))  # fmt: skip
    rows: list[list[str | float | int | None]] = [
        [name, *(block.get(_ERROR + layer) for layer in layers)] for name, block in measures.items()
    ]
    note = (
        "Change of the outputs of a layer compared with the full weights, relative to their "
        "size, on the calibration text: norm of X(Ŵ - W)ᵀ divided by norm of XWᵀ."
    )
    columns = ["block", *(layer.rpartition(".")[2] for layer in layers)]
    return Table("Error of each layer", note, columns, rows)


def save_report(path: Path, content: Mapping[str, Any]) -> None:
    """Write a report as JSON, its numbers cut to five digits."""
    text = json.dumps(_shortened(content), indent=1, allow_nan=False)
    write_text(path, f"{text}\n")


def load_report(path: Path, build: Callable[[dict[str, Any]], Report]) -> Report:
    """Read a report.

    Args:
        path: The file.
        build: Makes the report of its content.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is none of ours.
    """
    try:
        return build(json.loads(path.read_text(encoding="utf-8")))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path.name} cannot be read ({error}); download it again.") from None


def _shortened(content: Any) -> Any:
    if isinstance(content, float):
        return float(f"{content:.{_DIGITS}g}")
    if isinstance(content, Mapping):
        return {key: _shortened(one) for key, one in content.items()}
    return [_shortened(one) for one in content] if isinstance(content, list) else content
