"""Where a command writes: named after the input and the model, never over what it read."""

import hashlib
import itertools
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from salhub.cli.choice import Choice
from salhub.cli.files import refuse_existing
from salhub.cli.settings import to_record
from salhub.cli.sources import RUN_FILE, Source
from salhub.errors import did_you_mean
from salhub.files import ending_of, write_text

# Of a name, on most file systems.
_MOST_BYTES = 255
# In the record of a folder: name of an input -> what its outputs are called.
_NAMES = "names"


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
        raise typer.BadParameter(f"'{target.name}' is only a file ending; give the file a name.")
    # Unlike Path.exists, this takes a text that no path can be.
    if target.exists() and os.path.exists(source.text) and target.samefile(source.text):  # noqa: PTH110
        raise ValueError(f"{target} is the input itself; choose another output with -o.")
    if source.is_path and target.resolve().parent == Path(source.text).resolve():
        raise ValueError(
            f"{target} is in the input folder and would be read as part of it next time; choose "
            "another output with -o."
        )
    refuse_existing(target, overwrite)
    return target


def folder_target(output: str | None, source: str, choice: Choice) -> Path:
    """Return the folder that the results of a folder go to.

    Raises:
        ValueError: It is the input folder, a file, or called like one.
    """
    writable = choice.pipeline_class.result_class.writers
    if output and not Path(output).exists() and Path(output).suffix.lower() in writable:
        raise ValueError(
            f"'{output}' looks like a file, but outputs of a folder need a folder; use "
            f"-o {Path(output).stem} --format {Path(output).suffix[1:].lower()}."
        )
    folder = Path(output or output_name(Path(source).resolve().name, f"-{choice.short_name}"))
    if folder.exists() and not folder.is_dir():
        raise ValueError(
            f"{folder} is a file, but outputs of a folder need a folder; choose one with -o."
        )
    if folder.is_dir() and folder.samefile(source):
        raise ValueError(
            f"{folder} is the input folder, and outputs there would be read as inputs next time; "
            "choose another folder with -o."
        )
    return folder


def output_name(stem: str, end: str) -> str:
    """Return the name of an output, shortened to what file systems take.

    Args:
        stem: What the input is called.
        end: What comes behind it, the ending among it.

    Example:
        >>> output_name("cat", "-normgrad.png"), len(output_name("c" * 300, "-normgrad.png"))
        ('cat-normgrad.png', 255)
    """
    return _shortened(stem, _MOST_BYTES - len(os.fsencode(end))) + end


def _shortened(text: str, room: int) -> str:
    """A name of at most `room` bytes; what is cut off is told by a digest."""
    if len(os.fsencode(text)) <= room:
        return text
    digest = "~" + hashlib.sha256(os.fsencode(text)).hexdigest()[:8]
    while text and len(os.fsencode(text)) > room - len(digest):
        text = text[:-1]
    return text + digest


def file_targets(
    folder: Path,
    sources: Sequence[Source],
    choice: Choice,
    suffix: str,
    settings: dict[str, Any],
    overwrite: bool,
    *,
    is_part: bool = False,
) -> dict[Source, Path]:
    """Return the file that each input of a folder goes to, one for each.

    What the files are made with is recorded in the folder, and so is what each input is called
    there: a folder that is resumed after other inputs came to it keeps those names. Jobs that
    share a folder of inputs all write the same record, so that it does not matter which of them is
    first, or whether their outputs are put together afterwards.

    Args:
        folder: Where the files go.
        sources: All inputs of the folder.
        choice: The model.
        suffix: Ending of the files.
        settings: What they are made with.
        overwrite: Whether files made otherwise may be replaced.
        is_part: Whether only some of them will be.

    Raises:
        ValueError: Files made otherwise are there, and may not be replaced, or would be in part.
    """
    record = {
        "model": choice.name or choice.entry.name,
        "classifier": choice.classifier,
        "settings": to_record({k: v for k, v in settings.items() if k != "classifier"}),
    }
    path = folder / RUN_FILE
    # Looked at once: another process may write it meanwhile.
    found = _read(path)
    recorded = {} if found is None else found.pop(_NAMES, {})
    if found not in (None, record) and not overwrite:
        raise ValueError(
            f"{folder} has outputs of another model or other settings (see {path.name} there); "
            "choose another folder with -o, or replace them all with --overwrite."
        )
    if found not in (None, record) and is_part:
        raise ValueError(
            f"{folder} has outputs of another model or other settings (see {path.name} there), "
            "and a shard would replace only part of them; choose another folder with -o."
        )
    names = recorded | _distinct_names(sources, recorded)
    if found != record or names != recorded:
        content = json.dumps({**record, _NAMES: names}, indent=1, default=str)
        write_text(path, content + "\n")
    end = _shortened(f"-{choice.short_name}", _MOST_BYTES // 2) + suffix
    return {one: folder / output_name(names[Path(one.text).name], end) for one in sources}


def _distinct_names(sources: Sequence[Source], recorded: Mapping[str, str]) -> dict[str, str]:
    """Name of each input -> what its output is called, distinct on every file system."""
    shared = Counter(_key(one.stem) for one in sources)
    taken = set(map(_key, recorded.values()))
    names = {}
    for one in sources:
        name = Path(one.text).name
        if name in recorded:
            continue
        # a.jpg and a.png must not write to the same file, nor a.jpg.png and both of them.
        numbered = (f"{name}-{number}" for number in itertools.count(2))
        first = [one.stem] if shared[_key(one.stem)] == 1 else []
        candidates = itertools.chain(first, [name], numbered)
        names[name] = next(one for one in candidates if _key(one) not in taken)
        taken.add(_key(names[name]))
    return names


def _key(name: str) -> str:
    """What file systems may take for the same name."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _read(path: Path) -> dict[str, Any] | None:
    """Return what a record says; None where there is none, nothing where it is broken."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except json.JSONDecodeError:
        found = None
    return found if isinstance(found, dict) else {}
