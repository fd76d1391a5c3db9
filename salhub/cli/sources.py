"""What a command reads: a file, a folder of files, an address, a sample or standard input."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import typer

from salhub.data.folder_listing import describe_left_out, is_companion, list_folder
from salhub.data.samples import PREFIX
from salhub.errors import did_you_mean
from salhub.files import ending_of

STDIN = "-"
# Says in an output folder what made it, so that a resumed run does not mix two settings.
RUN_FILE = "salhub-run.json"
_LONGEST_STEM = 40
_NOT_IN_FILE_NAMES = re.compile(r"[^\w.+-]+")
_MOST_ENDINGS = 6


@dataclass(frozen=True)
class Source:
    """One thing to read.

    Args:
        text: How the user wrote it, or the path of a file in the user's folder.
        stem: What files made from it are called.
        is_path: Whether `text` is the path of a file or folder.
        members: What it is made of, where several things are read as one.
        companions: Keyword of the call -> file that belongs to it.
        left_out: Sentences of what lies beside it and was not taken; "" for nothing.
    """

    text: str
    stem: str
    is_path: bool = False
    members: tuple["Source", ...] = ()
    companions: Mapping[str, Path] = field(default_factory=dict, compare=False)
    left_out: str = ""

    def read(self, pipeline_class: Any) -> Any:
        """Read it as the pipeline wants it.

        Raises:
            OSError, ValueError: It cannot be read; the sentence says why.
        """
        if self.members:
            return [member.read(pipeline_class) for member in self.members]
        if self.text != STDIN:
            return pipeline_class.read(Path(self.text) if self.is_path else self.text)
        content = typer.get_binary_stream("stdin").read()
        if not content:
            raise ValueError("Standard input is empty; pipe a file into the command.")
        return pipeline_class.read(content)


def single_source(text: str, pipeline_class: Any) -> Source:
    """Return the source of one input.

    Args:
        text: What the user wrote.
        pipeline_class: Who will read it.

    Raises:
        FileNotFoundError: It looks like a file and there is none.
    """
    if text == STDIN:
        return Source(text, "stdin")
    if _is_literal(text, pipeline_class):
        name = _NOT_IN_FILE_NAMES.sub("-", text[:_LONGEST_STEM]).strip(".-")
        return Source(text, name or "input")
    if "://" in text:
        stem = PurePosixPath(urlsplit(text).path).stem
        return Source(text, stem or urlsplit(text).netloc)
    kind, colon, rest = text.partition(":")
    # "sample:cat" and "data:..." are the pipeline's to read; "C:\\x" is a Windows path.
    if colon and len(kind) > 1 and not Path(text).exists():
        return Source(text, rest if kind == "sample" else kind)
    path = Path(text)
    if pipeline_class.folder_is_one_input and path.is_dir():
        return Source(text, path.resolve().name, is_path=True)
    if not path.is_file():
        raise FileNotFoundError(_missing(path))
    return Source(text, _stem(path, pipeline_class), is_path=True)


def _stem(path: Path, pipeline_class: Any) -> str:
    if path.is_dir():
        return path.name
    ending = ending_of(path.name, pipeline_class.input_suffixes)
    return path.name[: -len(ending)] if ending else path.stem


def _is_literal(text: str, pipeline_class: Any) -> bool:
    """Whether the input is what was written, a text or the name of a class, and no place."""
    if not _has_files(pipeline_class):
        return True
    if not pipeline_class.takes_literals or text.startswith(PREFIX):
        return False
    if not text.strip():
        return True
    # A name with the ending of a file is the file that is missing.
    is_name = len(text.split()) == 1 and ending_of(text, pipeline_class.input_suffixes)
    # Unlike Path.exists, this takes a text that no path can be.
    return not is_name and not os.path.exists(text)  # noqa: PTH110


def _has_files(pipeline_class: Any) -> bool:
    return bool(pipeline_class.input_suffixes) or pipeline_class.folder_is_one_input


@dataclass(frozen=True)
class FolderSources:
    """What a folder holds.

    Args:
        sources: The inputs, in the order of their names.
        left_out: Files that are none, and belong to none.
        folders: Sub-folders, which are not entered.
    """

    sources: list[Source]
    left_out: list[Path]
    folders: list[Path]


def folder_sources(text: str, pipeline_class: Any) -> FolderSources | None:
    """Return the inputs that a folder holds.

    Args:
        text: What the user wrote.
        pipeline_class: Who will read them.

    Returns:
        The files with its endings; and, where a folder is one input, the sub-folders with files.
        None where the text names no folder, or one that is an input itself.

    Raises:
        FileNotFoundError: There is no input in the folder.
        ValueError: It may be one input or hold several.
    """
    if text == STDIN or not _has_files(pipeline_class) or not os.path.isdir(text):
        return None
    listing = list_folder(text, pipeline_class.input_suffixes)
    beside = [ending for endings in pipeline_class.companions.values() for ending in endings]
    names = {_stem(path, pipeline_class) for path in listing.files}
    # A companion may be of the kind of an input, as a mask beside its volume is.
    found = [path for path in listing.files if _owner(path, beside) not in names]
    folders = [path for path in listing.folders if _holds_files(path)]
    others = [path for path in listing.left_out if path.name != RUN_FILE]
    if pipeline_class.folder_is_one_input:
        is_series = not found and any(not ending_of(path.name, beside) for path in others)
        if is_series and folders:
            raise ValueError(
                f"{text} has {others[0].name} next to folders such as {folders[0].name}, so it is "
                "unclear whether it is one input or several; give the folder to use."
            )
        if is_series:
            return None
        found, folders = sorted([*found, *folders]), []
    if not found:
        raise FileNotFoundError(_no_input(text, pipeline_class, others))
    sources = [Source(str(path), _stem(path, pipeline_class), is_path=True) for path in found]
    stems = {one.stem for one in sources}
    foreign = [path for path in others if _owner(path, beside) not in stems]
    return FolderSources(sources, foreign, folders)


def _owner(path: Path, beside: Sequence[str]) -> str | None:
    """Return what an input is called that a file would belong to by its ending; None for none."""
    ending = ending_of(path.name, beside)
    return path.name[: -len(ending)] if ending else None


def _no_input(text: str, pipeline_class: Any, others: Sequence[Path]) -> str:
    endings = pipeline_class.input_suffixes
    what = f"file ending in {', '.join(endings)}" if endings else "folder with files"
    if len(endings) > _MOST_ENDINGS:
        what = f"{pipeline_class.input_type} that can be read"
    seen = f", only others such as {others[0].name}" if others else ""
    return f"The folder {text} has no {what}{seen}; sub-folders are not searched."


def _holds_files(folder: Path) -> bool:
    return any(path.is_file() and not is_companion(path.name) for path in folder.iterdir())


def pile_source(text: str, pipeline_class: Any) -> Source:
    """Return all files of a folder as one input.

    Raises:
        NotADirectoryError: It is no folder.
        FileNotFoundError: None of its files can be read by the pipeline.
    """
    found = folder_sources(text, pipeline_class)
    if found is None:
        raise NotADirectoryError(f"--together needs a folder, but {text} is not one.")
    return Source(
        text,
        Path(text).resolve().name,
        members=tuple(found.sources),
        left_out=describe_left_out(found.left_out, found.folders),
    )


def accompanied(source: Source, pipeline_class: Any, given: Mapping[str, Any]) -> Source:
    """Return a source with the files that belong to it.

    Args:
        source: The input.
        pipeline_class: Says which files there may be.
        given: Name -> the file that the user named, a folder with a file for each input, or None
            for none; otherwise a file beside the input is taken that is called like it.

    Raises:
        FileNotFoundError: A file that was named, or that is needed, is not there.
    """
    found, own, foreign = {}, Path(source.text), []
    if source.is_path and own.name in ("", ".."):  # "." and ".." are called by their place
        own = own.resolve()
    for name, endings in pipeline_class.companions.items():
        place = given.get(name, own.parent if source.is_path else None)
        path = None if place is None else Path(str(place))
        if path is not None and path.is_dir():
            beside = _called_like(_stem(own, pipeline_class), path, endings)
            fitting = [one for one in beside if pipeline_class.belongs(name, one)]
            foreign += [
                f"Skipped {one}: it contains no {name}." for one in beside if one not in fitting
            ]
            path = fitting[0] if fitting else None
        elif path is not None and not path.is_file():
            raise FileNotFoundError(_missing(path))
        if path is not None:
            found[name] = path
        elif name in pipeline_class.required_companions and not source.text.startswith(PREFIX):
            where = f"there is no {source.stem}{' or '.join(endings)} next to it; " * source.is_path
            raise FileNotFoundError(
                f"{source.text} needs a {name}; {where}give one with --{name.replace('_', '-')}."
            )
    left_out = " ".join(filter(None, [source.left_out, *foreign]))
    return replace(source, companions=found, left_out=left_out)


def _called_like(stem: str, folder: Path, endings: Iterable[str]) -> list[Path]:
    cases = (str.lower, str.upper, str.title)
    written = [case(ending) for ending in endings for case in cases]
    paths = (folder / f"{stem}{ending}" for ending in written)
    # Unlike Path.is_file, this takes a name that is too long.
    return [path for path in paths if os.path.isfile(path)]  # noqa: PTH113


def _missing(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"The folder {folder} does not exist, so {path.name} cannot be read."
    hint = did_you_mean(path.name, [entry.name for entry in folder.iterdir()])
    return f"There is no file {path}.{hint}"
