"""Files that appear whole or not at all."""

import json
import os
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer


@contextmanager
def draft(target: Path) -> Generator[Path]:
    """Give a path to write to; it becomes `target` when the block ends, and vanishes on failure.

    Args:
        target: The file wanted in the end. Its folder is made when it does not exist.

    Yields:
        A path with the same file name, on the same disk.

    Example:
        >>> with draft(Path("map.png")) as path:  # doctest: +SKIP
        ...     result.save(path)
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".salhub-") as scratch:
        path = Path(scratch) / target.name
        yield path
        os.replace(path, target)


def write_text(target: Path, text: str) -> None:
    """Write a text file as a whole."""
    with draft(target) as path:
        path.write_text(text, encoding="utf-8")


def refuse_existing(target: Path, overwrite: bool) -> None:
    """Raise a FileExistsError when a file is there and may not be replaced."""
    if target.exists() and not overwrite:
        raise FileExistsError(
            f"{target} exists; give --overwrite to replace it, or another place with -o."
        )


def echo_json(value: Any) -> None:
    """Print one JSON document on one line."""
    typer.echo(json.dumps(value, ensure_ascii=False))


def echo_bytes(path: Path) -> None:
    """Print the content of a file as it is."""
    sys.stdout.flush()
    sys.stdout.buffer.write(path.read_bytes())
    sys.stdout.buffer.flush()
