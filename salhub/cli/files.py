"""Targets of commands, and what goes to the terminal's output."""

import json
import sys
from pathlib import Path
from typing import Any

import typer


def refuse_existing(target: Path, overwrite: bool) -> None:
    """Raise a FileExistsError when a file is there and may not be replaced."""
    if target.exists() and not overwrite:
        raise FileExistsError(
            f"{target} exists; give --overwrite to replace it, or another output with -o."
        )


def echo_json(value: Any) -> None:
    """Print one JSON document on one line."""
    typer.echo(json.dumps(value, ensure_ascii=False))


def echo_bytes(path: Path) -> None:
    """Print the content of a file as it is."""
    sys.stdout.flush()
    sys.stdout.buffer.write(path.read_bytes())
    sys.stdout.buffer.flush()
