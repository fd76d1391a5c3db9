"""What a command reads: a file, a folder of files, an address, a sample or standard input."""

import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import typer

from salhub.errors import did_you_mean

STDIN = "-"
_NOT_IN_FILE_NAMES = re.compile(r"[^\w.+-]+")


@dataclass(frozen=True)
class Source:
    """One thing to read.

    Args:
        text: How the user wrote it, or the path of a file in the user's folder.
        stem: What files made from it are called.
    """

    text: str
    stem: str

    def read(self, pipeline_class: Any) -> Any:
        """Read it as the pipeline wants it.

        Raises:
            OSError, ValueError: It cannot be read; the sentence says why.
        """
        if self.text != STDIN:
            return pipeline_class.read(self.text)
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
    if not pipeline_class.input_suffixes:
        # The input is what was written, such as the name of a class, and no place to read from.
        return Source(text, _NOT_IN_FILE_NAMES.sub("-", text).strip(".-") or "input")
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
    return Source(text, path.stem)


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
    return [Source(str(p), p.stem if count[p.stem] == 1 else p.name) for p in paths]


def _missing(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"There is no folder {folder}, so no {path.name} in it."
    hint = did_you_mean(path.name, [entry.name for entry in folder.iterdir()])
    return f"There is no file {path}.{hint}"
