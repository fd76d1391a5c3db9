"""What a command reads: a file, a folder of files, an address, a sample or standard input."""

import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import typer

from salhub.data.samples import PREFIX
from salhub.errors import did_you_mean

STDIN = "-"
_LONGEST_STEM = 40
_NOT_IN_FILE_NAMES = re.compile(r"[^\w.+-]+")


@dataclass(frozen=True)
class Source:
    """One thing to read.

    Args:
        text: How the user wrote it, or the path of a file in the user's folder.
        stem: What files made from it are called.
        is_file: Whether `text` is the path of a file.
    """

    text: str
    stem: str
    is_file: bool = False

    def read(self, pipeline_class: Any) -> Any:
        """Read it as the pipeline wants it.

        Raises:
            OSError, ValueError: It cannot be read; the sentence says why.
        """
        if self.text != STDIN:
            return pipeline_class.read(Path(self.text) if self.is_file else self.text)
        content = typer.get_binary_stream("stdin").read()
        if not content:
            raise ValueError("Standard input is empty; pipe a file into the command.")
        return pipeline_class.read(content)


def is_folder(text: str, pipeline_class: Any) -> bool:
    """Return whether an input names a folder with inputs of a pipeline."""
    return bool(pipeline_class.input_suffixes) and text != STDIN and os.path.isdir(text)


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
    if not path.is_file():
        raise FileNotFoundError(_missing(path))
    return Source(text, path.stem, is_file=True)


def _is_literal(text: str, pipeline_class: Any) -> bool:
    """Whether the input is what was written, a text or the name of a class, and no place."""
    if not pipeline_class.input_suffixes:
        return True
    if not pipeline_class.takes_literals or text.startswith(PREFIX):
        return False
    if not text.strip():
        return True
    # A name with the ending of a file is the file that is missing.
    is_name = len(text.split()) == 1 and text.lower().endswith(pipeline_class.input_suffixes)
    return not is_name and not _exists(text)


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # longer than a path can be, or with a zero byte
        return False


def folder_sources(folder: str, suffixes: tuple[str, ...]) -> list[Source]:
    """Return the files of a folder that a pipeline can read, in the order of their names.

    Args:
        folder: The folder; its sub-folders are not entered.
        suffixes: Lower-case endings of file names.

    Raises:
        FileNotFoundError: None of its files has such an ending.
    """
    paths = sorted(path for path in Path(folder).iterdir() if path.is_file())
    paths = [path for path in paths if path.suffix.lower() in suffixes and path.name[0] != "."]
    if not paths:
        raise FileNotFoundError(
            f"The folder {folder} holds no file ending in {', '.join(suffixes)}; sub-folders are "
            "not entered."
        )
    count = Counter(path.stem for path in paths)
    # a.jpg and a.png must not write to the same file.
    return [Source(str(p), p.stem if count[p.stem] == 1 else p.name, True) for p in paths]


def pile_source(text: str, pipeline_class: Any) -> Source:
    """Return all files of a folder as one input.

    Raises:
        NotADirectoryError: It is no folder.
        FileNotFoundError: None of its files can be read by the pipeline.
    """
    if not is_folder(text, pipeline_class):
        raise NotADirectoryError(f"--together takes the files of a folder, and {text} is none.")
    members = folder_sources(text, pipeline_class.input_suffixes)
    return Pile(text, Path(text).resolve().name, members=tuple(members))


@dataclass(frozen=True)
class Pile(Source):
    """Several things that are read as one input.

    Args:
        members: The things.
    """

    members: tuple[Source, ...] = ()

    def read(self, pipeline_class: Any) -> list[Any]:
        """Read all of them."""
        return [member.read(pipeline_class) for member in self.members]


def _missing(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"There is no folder {folder}, so no {path.name} in it."
    hint = did_you_mean(path.name, [entry.name for entry in folder.iterdir()])
    return f"There is no file {path}.{hint}"
