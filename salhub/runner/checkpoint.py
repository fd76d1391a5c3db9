"""Checkpoints that are whole or passed over, and finding the one to go on from."""

import json
import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn

from salhub.files import draft
from salhub.manifest import file_sha256
from salhub.ops.tensor_files import sort_metadata
from salhub.runner.arguments import LATEST

logger = logging.getLogger(__name__)

_NAME = re.compile(r"checkpoint-(\d+)")
_FORMER_DRAFT = ".checkpoint-"
_MODEL, _TENSORS, _STATES = "model.safetensors", "states.safetensors", "states.json"
# Digests of the other files, written last.
_WHOLE = "checkpoint.json"


def checkpoint_steps(folder: Path) -> list[int]:
    """Steps at which there is a checkpoint in a folder, ascending."""
    matches = (_NAME.fullmatch(path.name) for path in folder.glob("checkpoint-*"))
    return sorted(int(match[1]) for match in matches if match)


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"checkpoint-{step}"


def save_checkpoint(
    target: Path, model: nn.Module, states: Mapping[str, Any], limit: int | None = None
) -> None:
    """Save everything the run needs to go on; on one process.

    Args:
        target: By `checkpoint_path`.
        model: Its weights are a file of their own.
        states: What else there is: objects with a `state_dict` of tensors and of what JSON holds.
        limit: Checkpoints kept, the latest ones; None for all.
    """
    with draft(target) as folder:
        folder.mkdir()
        save_model(model, str(folder / _MODEL))
        sort_metadata(folder / _MODEL)  # names of tied weights
        tensors: dict[str, Tensor] = {}
        packed = {name: _packed(state.state_dict(), tensors) for name, state in states.items()}
        save_file(tensors, folder / _TENSORS)
        (folder / _STATES).write_text(json.dumps(packed), encoding="utf-8")
        digests = {path.name: file_sha256(path) for path in folder.iterdir()}
        (folder / _WHOLE).write_text(json.dumps(digests), encoding="utf-8")
    for old in checkpoint_steps(target.parent)[: -limit if limit else 0]:
        shutil.rmtree(checkpoint_path(target.parent, old))


def load_checkpoint(path: Path, model: nn.Module, states: Mapping[str, Any]) -> None:
    """Put back what `save_checkpoint` saved, into the same kinds of objects.

    Safetensors and JSON are all that is read: whatever else lies there, no code of it is run.

    Raises:
        ValueError: It is whole, and not of such a run.
    """
    try:
        load_model(model, path / _MODEL)
        tensors = load_file(path / _TENSORS)
        packed = json.loads((path / _STATES).read_text(encoding="utf-8"))
        for name, state in states.items():
            state.load_state_dict(_unpacked(packed[name], tensors))
    except (SafetensorError, ArithmeticError, AttributeError, LookupError, RuntimeError,
            TypeError, ValueError) as error:  # fmt: skip
        why = " ".join(str(error).split())
        raise ValueError(
            f"{path} is not a checkpoint of this run ({type(error).__name__}: {why[:200]}); "
            "remove it, and resume with resume_from_checkpoint=latest."
        ) from error


def _packed(value: Any, tensors: dict[str, Tensor]) -> Any:
    """A state as JSON holds it, with its tensors put into a dictionary."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        # Two names of one tensor are no file of safetensors.
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, Mapping):
        # In pairs: optimizers count their parameters, and JSON has only names.
        return {"pairs": [[key, _packed(entry, tensors)] for key, entry in value.items()]}
    if isinstance(value, list | tuple):
        return [_packed(entry, tensors) for entry in value]
    return value


def _unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpacked(entry, tensors) for entry in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    return {key: _unpacked(entry, tensors) for key, entry in value["pairs"]}


def remove_checkpoint_drafts(folder: Path) -> None:
    """Remove the checkpoints that a killed run of a former version had begun to save."""
    for begun in folder.glob(f"{_FORMER_DRAFT}*"):
        shutil.rmtree(begun)


def remove_checkpoints(folder: Path, after: int = -1) -> None:
    """Remove the checkpoints of a folder that are of later steps than one; all by default."""
    for step in checkpoint_steps(folder):
        if step > after:
            shutil.rmtree(checkpoint_path(folder, step))


def find_checkpoint(folder: Path, wanted: str | None) -> Path | None:
    """The checkpoint to go on from, or None to start anew.

    Args:
        folder: Of the run.
        wanted: "latest" for the last whole one, the folder of a checkpoint, or None.

    Raises:
        FileNotFoundError: A folder was named and is no checkpoint.
        ValueError: It is one of another run, or damaged.
    """
    if wanted is None:
        return None
    steps = checkpoint_steps(folder)
    if wanted == LATEST:
        for step in reversed(steps):
            path = checkpoint_path(folder, step)
            if _is_whole(path):
                return path
            logger.warning("%s is damaged and was skipped.", path)
        return None
    path = Path(wanted)
    if not path.is_dir() or _NAME.fullmatch(path.name) is None:
        known = f"it has steps {', '.join(map(str, steps))}" if steps else "it has none"
        raise FileNotFoundError(
            f"{wanted} is not a checkpoint; give 'latest' or a folder checkpoint-STEP of "
            f"{folder}: {known}."
        )
    if path.resolve().parent != folder.resolve():
        raise ValueError(
            f"{wanted} is a checkpoint of the run in {path.parent}, but output_dir is "
            f"{folder}; set output_dir={path.parent} to resume it."
        )
    if not _is_whole(path):
        raise ValueError(
            f"{wanted} is damaged; set resume_from_checkpoint=latest to resume from the last "
            "intact checkpoint."
        )
    return path


def _is_whole(path: Path) -> bool:
    try:
        digests = json.loads((path / _WHOLE).read_text(encoding="utf-8"))
        return all(file_sha256(path / n) == digests[n] for n in (_MODEL, _TENSORS, _STATES))
    except (OSError, ValueError, TypeError, LookupError):
        return False
