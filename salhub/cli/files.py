"""Files that appear whole or not at all."""

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import typer

_DRAFTS = ".salhub-"  # and the number of the process
_LONGEST_DRAFT = 3600  # seconds


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
    prefix = f"{_DRAFTS}{os.getpid()}-"
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=prefix) as scratch:
        path = Path(scratch) / target.name
        yield path
        os.replace(path, target)


def remove_stale_drafts(folder: Path) -> None:
    """Remove what a command that was killed had begun to write in a folder.

    Args:
        folder: The folder; it need not exist.
    """
    for scratch in folder.glob(f"{_DRAFTS}*-*"):
        with suppress(FileNotFoundError):  # another run may have just finished it
            if scratch.is_dir() and not _may_be_written(scratch):
                shutil.rmtree(scratch, ignore_errors=True)


def _may_be_written(scratch: Path) -> bool:
    process = scratch.name.removeprefix(_DRAFTS).partition("-")[0]
    if not process.isdecimal():
        return True  # not named by us
    if os.name == "posix" and not _is_running(int(process)):
        return False
    # A number is given to another process in time, and no file takes this long to write.
    return time.time() - scratch.stat().st_mtime < _LONGEST_DRAFT


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


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
