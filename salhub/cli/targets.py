"""Where a command writes: named after the input and the model, never over what it read."""

import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import typer

from salhub.cli.choice import Choice
from salhub.cli.files import refuse_existing
from salhub.cli.settings import to_record
from salhub.cli.sources import RUN_FILE, Source
from salhub.errors import did_you_mean
from salhub.files import ending_of, write_text


def output_suffix(choice: Choice, wanted: str | None) -> str:
    """Return the ending of the files to write.

    Args:
        choice: The model.
        wanted: What the user asked for, such as "npy" or ".npy", or None.

    Raises:
        typer.BadParameter: The pipeline cannot write that.
    """
    if wanted is None:
        return choice.pipeline_class.output_suffix
    suffix = "." + wanted.lower().removeprefix(".")
    _check_ending(suffix, choice.pipeline_class.result_class.writers)
    return suffix


def _check_ending(name: str, writable: Collection[str]) -> None:
    if not ending_of(name, writable):
        suffix = Path(name).suffix or (name if name[0] == "." else "")
        what = f"as '{suffix}'" if suffix else "without an ending"
        raise typer.BadParameter(
            f"The output cannot be written {what}; choose {', '.join(writable)}."
        )


def view_settings(choice: Choice, view: str | None) -> dict[str, str]:
    """Return the keywords that saving takes for a view of the result.

    Raises:
        typer.BadParameter: The results have no such view.
    """
    if view is None:
        return {}
    views = choice.pipeline_class.result_class.views
    if view not in views:
        raise typer.BadParameter(
            f"The results have no view '{view}'; they have {', '.join(views) or 'only one'}."
            f"{did_you_mean(view, views)}"
        )
    return {"view": view}


def single_target(
    output: str | None, source: Source, default: str, writable: Collection[str], overwrite: bool
) -> Path:
    """Return the file that the result of one input goes to.

    Args:
        output: What the user asked for: a file, a folder, or None.
        source: The input.
        default: Name of the file where the user gave none.
        writable: Endings that can be written.
        overwrite: Whether a file that is there may be replaced.

    Raises:
        FileExistsError: It is there already and may not be replaced.
        ValueError: It is the input itself.
        typer.BadParameter: Another ending, with those that can be written.
    """
    target = Path(output or default)
    if output and (target.is_dir() or output.endswith(("/", os.sep))):
        target = target / default
    _check_ending(target.name, writable)
    if target.name.lower() in writable:
        raise typer.BadParameter(f"'{target.name}' is only an ending; give the file a name.")
    if target.exists() and Path(source.text).exists() and target.samefile(source.text):
        raise ValueError(f"{target} is the input itself; give another place with -o.")
    if source.is_path and target.resolve().parent == Path(source.text).resolve():
        raise ValueError(
            f"{target} lies in the input folder, and would be read as part of it the next time; "
            "give another place with -o."
        )
    refuse_existing(target, overwrite)
    return target


def folder_target(output: str | None, source: str, choice: Choice) -> Path:
    """Return the folder that the results of a folder go to.

    Raises:
        ValueError: It is the input folder, or a file.
    """
    folder = Path(output or f"{Path(source).resolve().name}-{choice.short_name}")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; the outputs of a folder need a folder.")
    if folder.is_dir() and folder.samefile(source):
        raise ValueError(
            f"{folder} is the input folder; outputs there would be read as inputs the next time, "
            "give another folder with -o."
        )
    return folder


def file_targets(
    folder: Path, sources: Sequence[Source], choice: Choice, suffix: str
) -> dict[Source, Path]:
    """Return the file that each input of a folder goes to."""
    return {source: folder / f"{source.stem}-{choice.short_name}{suffix}" for source in sources}


def mark_folder(folder: Path, choice: Choice, settings: dict[str, Any], overwrite: bool) -> None:
    """Record what the files of an output folder are made with.

    Raises:
        ValueError: Files made otherwise are there, and may not be replaced.
    """
    record = {
        "model": choice.name or choice.entry.name,
        "classifier": choice.classifier,
        "settings": to_record({k: v for k, v in settings.items() if k != "classifier"}),
    }
    path = folder / RUN_FILE
    if path.is_file() and not overwrite and _read(path) != record:
        raise ValueError(
            f"{folder} holds outputs of another model or other settings, see {path.name} in it; "
            "give another folder with -o, or --overwrite to make all of them anew."
        )
    write_text(path, json.dumps(record, indent=1, default=str) + "\n")


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        return None
