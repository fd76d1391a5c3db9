"""Checkpoints that are whole or not there, and finding the one to go on from."""

import re
import shutil
from pathlib import Path

from accelerate import Accelerator

from salhub.files import put_in_place
from salhub.runner.arguments import LATEST

_NAME = re.compile(r"checkpoint-(\d+)")
_DRAFT = ".checkpoint-"


def checkpoint_steps(folder: Path) -> list[int]:
    """Steps at which there is a whole checkpoint in a folder, ascending."""
    matches = (_NAME.fullmatch(path.name) for path in folder.glob("checkpoint-*"))
    return sorted(int(match[1]) for match in matches if match)


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"checkpoint-{step}"


def save_checkpoint(accelerator: Accelerator, folder: Path, step: int, limit: int | None) -> None:
    """Save everything the run needs to go on; whoever looks sees a whole checkpoint or none.

    Args:
        accelerator: Has prepared the model and the optimizer.
        folder: Of the run.
        step: Optimizer steps taken.
        limit: Checkpoints kept, the latest ones; None for all.
    """
    draft = folder / f"{_DRAFT}{step}"
    accelerator.save_state(str(draft))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        put_in_place(draft, checkpoint_path(folder, step))
        for old in checkpoint_steps(folder)[: -limit if limit else 0]:
            shutil.rmtree(checkpoint_path(folder, old))
    accelerator.wait_for_everyone()


def remove_checkpoint_drafts(folder: Path) -> None:
    """Remove the checkpoints that a killed run had begun to save."""
    for draft in folder.glob(f"{_DRAFT}*"):
        shutil.rmtree(draft)


def remove_checkpoints(folder: Path) -> None:
    """Remove all checkpoints of a folder, and those that a killed run had begun to save."""
    remove_checkpoint_drafts(folder)
    for step in checkpoint_steps(folder):
        shutil.rmtree(checkpoint_path(folder, step))


def find_checkpoint(folder: Path, wanted: str | None) -> Path | None:
    """The checkpoint to go on from, or None to start anew.

    Args:
        folder: Of the run.
        wanted: "latest", the folder of a checkpoint, or None.

    Raises:
        FileNotFoundError: A folder was named and is no checkpoint.
        ValueError: It is one of another run.
    """
    if wanted is None:
        return None
    if wanted == LATEST:
        steps = checkpoint_steps(folder)
        return checkpoint_path(folder, steps[-1]) if steps else None
    path = Path(wanted)
    if not path.is_dir() or _NAME.fullmatch(path.name) is None:
        steps = checkpoint_steps(folder)
        known = f"it has those of steps {', '.join(map(str, steps))}" if steps else "it has none"
        raise FileNotFoundError(
            f"{wanted} is no checkpoint; give 'latest' or a folder checkpoint-STEP of {folder}: "
            f"{known}."
        )
    if path.resolve().parent != folder.resolve():
        raise ValueError(
            f"{wanted} is a checkpoint of the run in {path.parent}, and output_dir is {folder}; "
            f"give output_dir={path.parent} to go on with it."
        )
    return path
