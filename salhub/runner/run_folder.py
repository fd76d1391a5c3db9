"""The folder of a run: what it holds, whether it may be used, and files that appear whole."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from salhub.runner.checkpoint import find_checkpoint, remove_checkpoints, remove_drafts

OPTIONS_NAME = "options.json"
LOG_NAME = "log.jsonl"
RESULTS_NAME = "results.json"


def open_folder(
    folder: Path, options: Mapping[str, Any], *, resume: str | None, overwrite: bool
) -> Path | None:
    """Decide whether to start or to go on; looks only, and changes nothing.

    Args:
        folder: Of the run; it need not exist.
        options: What decides about the result of the run, as JSON would hold it.
        resume: "latest", the folder of a checkpoint, or None.
        overwrite: Whether a run that is there may be replaced.

    Returns:
        The checkpoint to go on from, or None to start.

    Raises:
        FileExistsError: There is a run, and neither resume nor overwrite was asked for.
        FileNotFoundError: A checkpoint was named and is none.
        ValueError: The run that is there has other options.
    """
    checkpoint = find_checkpoint(folder, resume)
    if checkpoint is not None:
        _check_options(checkpoint.parent / OPTIONS_NAME, options)
        return checkpoint
    if resume is None:
        check_unused(folder, overwrite=overwrite)
    return None


def check_unused(folder: Path, *, overwrite: bool) -> None:
    """Raises FileExistsError where a folder holds a run that may not be replaced."""
    is_used = any((folder / name).exists() for name in (OPTIONS_NAME, RESULTS_NAME))
    if is_used and not overwrite:
        raise FileExistsError(
            f"{folder} holds a run already; go on with resume_from_checkpoint=latest, replace it "
            "with overwrite=true, or choose another output_dir."
        )


def is_finished(folder: Path, options: Mapping[str, Any]) -> bool:
    """Whether a folder holds a finished run with these options.

    Raises:
        ValueError: It has other options.
    """
    if not (folder / RESULTS_NAME).is_file():
        return False
    _check_options(folder / OPTIONS_NAME, options)
    return True


def start_folder(folder: Path, options: Mapping[str, Any]) -> None:
    """Make the folder, remove what an earlier run left there, and write the options down."""
    folder.mkdir(parents=True, exist_ok=True)
    remove_checkpoints(folder)
    (folder / RESULTS_NAME).unlink(missing_ok=True)
    write_text(folder / OPTIONS_NAME, json.dumps(options, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file that a reader sees whole or not at all."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def fill_from(folder: Path, export: Callable[[Path], None]) -> list[Path]:
    """Let `export` write into an empty folder, and move what it wrote into `folder`.

    Args:
        folder: Where the files go, each in one step.
        export: Takes the empty folder.

    Returns:
        What is in `folder` because of it.
    """
    remove_drafts(folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as scratch:
        export(Path(scratch))
        written = []
        for path in sorted(Path(scratch).iterdir()):
            target = folder / path.name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(path, target)
            written.append(target)
    return written


def _check_options(path: Path, options: Mapping[str, Any]) -> None:
    if not path.is_file():
        raise ValueError(
            f"{path.parent} has checkpoints and no {OPTIONS_NAME}, so it is not known what run "
            "they are of; start anew with overwrite=true."
        )
    before = json.loads(path.read_text(encoding="utf-8"))
    for name in sorted(before.keys() | options.keys()):
        if before.get(name) != options.get(name):
            raise ValueError(
                f"the run in {path.parent} has {name}={before.get(name)!r} and cannot go on with "
                f"{options.get(name)!r}; give the same, or start anew with overwrite=true."
            )
