"""The folder of a run: what it holds, whether it may be used, and files that appear whole."""

import json
import logging
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any

from salhub.files import put_in_place, remove_stale_drafts, scratch_folder, write_text
from salhub.runner.blocks import remove_blocks
from salhub.runner.checkpoint import find_checkpoint, remove_checkpoint_drafts, remove_checkpoints
from salhub.runner.settings_file import SETTINGS_NAME
from salhub.runner.sources import SUFFIX

logger = logging.getLogger(__name__)

OPTIONS_NAME = "options.json"
LOG_NAME = "log.jsonl"
RESULTS_NAME = "results.json"
FAILURE_NAME = "failure.json"
# Names of the files that the run has exported, those in folders among them.
EXPORTED_NAME = "exported.json"
CARD_NAME = "README.md"
CURVES_NAME = "curves.png"
_RUN_NAMES = (
    OPTIONS_NAME,
    SETTINGS_NAME,
    RESULTS_NAME,
    CARD_NAME,
    CURVES_NAME,
    LOG_NAME,
    FAILURE_NAME,
    EXPORTED_NAME,
)
_WORK = re.compile(r"checkpoint-\d+|block-\d+\.safetensors|prepared-[\w-]+")
_PREPARED = "prepared-"


def is_of_a_run(name: str) -> bool:
    """Whether a run writes, and may remove, a file or folder of this name in its own folder."""
    return name in _RUN_NAMES or _WORK.fullmatch(name) is not None


def prepared_path(folder: Path, name: str) -> Path:
    """A folder for what a run prepares once and need not make again when it goes on.

    Args:
        folder: Of the run.
        name: Letters, digits, "-" and "_"; say in it what it was made of.
    """
    return folder / f"{_PREPARED}{name}"


def open_folder(
    folder: Path,
    options: Mapping[str, Any],
    *,
    resume: str | None,
    overwrite: bool,
    defaults: Mapping[str, Any] | None = None,
) -> tuple[bool, Path | None]:
    """Decide whether to start or to go on; looks only, and changes nothing.

    Args:
        folder: Of the run; it need not exist.
        options: What decides about the result of the run, as JSON would hold it.
        resume: "latest", the folder of a checkpoint, or None.
        overwrite: Whether a run or a model that is there may be replaced.
        defaults: What options are that a finished run, of a former version, did not know.

    Returns:
        Whether to go on with the run that is there, and the checkpoint to go on from, if any.

    Raises:
        FileExistsError: There is a run or a model that may not be replaced.
        FileNotFoundError: A checkpoint was named and is none.
        ValueError: The run that is there has other options, or the checkpoint is of another run.
    """
    checkpoint = find_checkpoint(folder, resume)
    is_begun = checkpoint is not None or (folder / OPTIONS_NAME).exists()
    if resume is not None and is_begun:
        is_finished(folder, options, defaults) or _check_options(folder / OPTIONS_NAME, options)
        return True, checkpoint
    check_unused(folder, overwrite=overwrite)
    return False, None


def check_unused(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder that holds what may not be replaced.

    Raises:
        FileExistsError: It holds a run, a model, or files named like those of a run; or it is a
            file.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"output_dir={folder} is a file; give a folder.")
    if overwrite:
        return
    if any((folder / name).exists() for name in (OPTIONS_NAME, RESULTS_NAME)):
        raise FileExistsError(
            f"{folder} already has a run; resume it with resume_from_checkpoint=latest, "
            "replace it with overwrite=true, or choose another output_dir."
        )
    if (folder / "config.json").exists() or any(folder.glob("*.safetensors")):
        raise FileExistsError(
            f"{folder} has a model that was not made by a run; choose another output_dir, or "
            "replace it with overwrite=true."
        )
    found = sorted(path.name for path in folder.glob("*") if is_of_a_run(path.name))
    if found:
        raise FileExistsError(
            f"{folder} has {', '.join(found)}, which a run would replace or remove; choose "
            "another output_dir, or allow it with overwrite=true."
        )


def is_finished(
    folder: Path, options: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> bool:
    """Whether a folder holds a finished run with these options.

    Args:
        folder: Of the run.
        options: As in `open_folder`.
        defaults: What options are that a run of a former version did not know; without them the
            run has to know the same ones.

    Raises:
        ValueError: It has other options.
    """
    return _holds(RESULTS_NAME, folder, options, defaults)


def failure_of(
    folder: Path, options: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> str | None:
    """The sentence that the run in a folder ended with because of its options, or None.

    Takes the arguments of `is_finished`.

    Raises:
        ValueError: It has other options.
    """
    if not _holds(FAILURE_NAME, folder, options, defaults):
        return None
    return _read_json(folder / FAILURE_NAME, dict).get("failure")


def record_failure(folder: Path, sentence: str) -> None:
    """Write down that a run cannot be finished with its options."""
    write_text(folder / FAILURE_NAME, json.dumps({"failure": sentence}) + "\n")


def start_folder(folder: Path, options: Mapping[str, Any], settings: str) -> None:
    """Make the folder, remove what an earlier run left there, and write the options down.

    Args:
        folder: Of the run.
        options: What decides about its result.
        settings: Text of the file that repeats it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    clear_folder(folder)
    write_text(folder / SETTINGS_NAME, settings)
    write_text(folder / OPTIONS_NAME, json.dumps(options, indent=2) + "\n")


def clear_folder(folder: Path) -> None:
    """Remove what would be taken for a part of the next run: checkpoints, results, the log."""
    remove_drafts(folder)
    remove_checkpoints(folder)
    remove_blocks(folder)
    for path in folder.glob(f"{_PREPARED}*"):
        if is_of_a_run(path.name) and path.is_dir():
            shutil.rmtree(path)
    # Exported folders, such as snapshots, may have other names the next time.
    of_folders = [name for name in exported_files(folder) if "/" in name]
    for name in (RESULTS_NAME, FAILURE_NAME, LOG_NAME, EXPORTED_NAME, *of_folders):
        (folder / name).unlink(missing_ok=True)
    parents = {folder / parent for name in of_folders for parent in PurePath(name).parents[:-1]}
    for parent in sorted(parents, key=lambda path: -len(path.parts)):
        remove_stale_drafts(parent)
        with suppress(OSError):  # something else is in it
            parent.rmdir()


def exported_files(folder: Path) -> list[str]:
    """Names of the files that a run has exported to its folder, those in folders among them.

    One that leads out of the folder is none: a list that came with a model can name anything. A
    run that was killed may not have written all of them.
    """
    path = folder / EXPORTED_NAME
    listed = _read_json(path, list) if path.is_file() else []
    return [name for name in listed if isinstance(name, str) and _is_inside(folder, name)]


def _is_inside(folder: Path, name: str) -> bool:
    home, parts = folder.resolve(), PurePath(name).parts
    place = (home / name).resolve()
    return bool(parts) and ".." not in parts and place != home and place.is_relative_to(home)


def record_exported(folder: Path, paths: Iterable[Path]) -> None:
    """Remember files or folders that a run has exported, or is about to."""
    files = [f for path in paths for f in (path.rglob("*") if path.is_dir() else [path])]
    names = {file.relative_to(folder).as_posix() for file in files if not file.is_dir()}
    listed = sorted(names | set(exported_files(folder)))
    write_text(folder / EXPORTED_NAME, json.dumps(listed, indent=2) + "\n")


def remove_drafts(folder: Path) -> None:
    """Remove what a run that was killed had begun to write."""
    remove_checkpoint_drafts(folder)
    remove_stale_drafts(folder)


def fill_from(
    folder: Path,
    export: Callable[[Path], None],
    optional: Iterable[str] = (),
    of_run: Path | None = None,
) -> list[Path]:
    """Let `export` write into an empty folder, and move what it wrote into `folder`.

    Args:
        folder: Where the files go, each in one step.
        export: Takes the empty folder.
        optional: Files that are removed, after all others are there, unless they were written.
        of_run: The folder of the run, which remembers what was exported; `folder` by default.

    Returns:
        What is in `folder` because of it.

    Raises:
        FileExistsError: A folder that the run has not written has the name of one that it exports.
    """
    of_run = of_run or folder
    remove_drafts(folder)
    with scratch_folder(folder) as scratch:
        export(scratch)
        for path in scratch.iterdir():
            if path.is_dir() and is_taken(of_run, folder / path.name):
                raise FileExistsError(
                    f"{folder / path.name} is a folder that this run did not create; move it "
                    "away, and resume with resume_from_checkpoint=latest."
                )
        files = [path for path in scratch.rglob("*") if path.is_file()]
        # Before they are there: a run that is killed meanwhile has to know them as its own.
        record_exported(of_run, [folder / path.relative_to(scratch) for path in files])
        written = []
        # The results come last: they say that a run is finished.
        for path in sorted(scratch.iterdir(), key=lambda p: (p.name == RESULTS_NAME, p.name)):
            target = folder / path.name
            put_in_place(path, target)
            written.append(target)
    for name in optional:
        if folder / name not in written:
            (folder / name).unlink(missing_ok=True)
    return written


def is_taken(folder: Path, path: Path) -> bool:
    """Whether something is at a path in the folder of a run that the run has not exported."""
    inside = f"{path.relative_to(folder).as_posix()}/"
    if any(name.startswith(inside) for name in exported_files(folder)):
        return False
    return path.exists() and not (path.is_dir() and not any(path.iterdir()))


def check_output(arguments: Any, sources: Mapping[str, str]) -> None:
    """Refuse to write into a folder that is read, or over a file that is read.

    Args:
        arguments: The options.
        sources: Option -> which files of a folder count. One that is named in full may lie in
            `output_dir`, unless the run has another file of its name.

    Raises:
        ValueError: Naming the option.
    """
    target = Path(arguments.output_dir)
    for name, pattern in sources.items():
        value = getattr(arguments, name, None)
        for one in value if isinstance(value, list) else [value]:
            if not isinstance(one, str | Path) or not Path(one).exists():
                continue
            is_folder = "*" in pattern and target.is_dir() and target.samefile(one)
            home, place = target.resolve(), Path(one).resolve()
            inside = place.relative_to(home).parts if place.is_relative_to(home) else ()
            if is_folder:
                raise ValueError(
                    f"output_dir is the folder of {name}={one}, and its files would be lost; "
                    "choose another output_dir."
                )
            if inside and is_of_a_run(inside[0]):
                raise ValueError(
                    f"{name}={one} would be lost, because a run saves its own {inside[0]} in "
                    "output_dir; choose another output_dir."
                )


def _holds(
    name: str, folder: Path, options: Mapping[str, Any], defaults: Mapping[str, Any] | None
) -> bool:
    # One that is damaged says nothing, and is written anew in the end.
    if not (folder / name).is_file() or not _read_json(folder / name, dict):
        return False
    _check_options(folder / OPTIONS_NAME, options, defaults)
    return True


def _read_json(path: Path, kind: type) -> Any:
    """What is in a file; nothing, with a warning, where it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if isinstance(content, kind):
        return content
    logger.warning("%s is damaged and was skipped.", path)
    return kind()


def _check_options(
    path: Path, options: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> None:
    if not path.is_file():
        raise ValueError(
            f"{path.parent} has checkpoints or results but no {OPTIONS_NAME}, so their run "
            "is unknown; start again with overwrite=true."
        )
    before = _read_json(path, dict)
    if not before:
        raise ValueError(
            f"{path} is damaged, so the run in {path.parent} is unknown; start again with "
            "overwrite=true, or choose another output_dir."
        )
    if defaults is not None:
        known = {**defaults, **before}
        before = {n: v for n, v in known.items() if n in options or n.endswith(SUFFIX)}
    names = [{n for n in one if not n.endswith(SUFFIX)} for one in (before, options)]
    if names[0] != names[1]:
        raise ValueError(
            f"the run in {path.parent} was started by another version of salhub with other "
            "options and cannot be resumed; start again with overwrite=true."
        )
    for name in sorted(before.keys() | options.keys()):
        if before.get(name) != options.get(name):
            raise ValueError(
                f"the run in {path.parent} "
                f"{_difference(name, before.get(name), options.get(name))}, or start again "
                "with overwrite=true instead of resume_from_checkpoint."
            )


def _difference(name: str, before: Any, now: Any) -> str:
    if not name.endswith(SUFFIX):
        return f"has {name}={before!r} and cannot be resumed with {now!r}; give the same"
    option = name.removesuffix(SUFFIX)
    return (
        f"started with other contents of its {option} (sha256 {before or 'none'}) than now "
        f"({now or 'none'}); give the original {option}"
    )
