"""Collections of texts: a folder, or one file with many texts, read one after another."""

import csv
import gzip
import hashlib
import json
import logging
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from salhub.data.folder_listing import describe_left_out, list_folder
from salhub.data.text_sources import decode_text, whole_text

logger = logging.getLogger(__name__)

SUFFIXES = (".csv", ".jsonl", ".txt")
# Of a folder.
_FILES = (".txt",)
# Fields of a line of .jsonl that hold a text, the first that is there.
_TEXT_FIELDS = ("text", "article", "sentences")


def read_texts(path: str | Path) -> Iterator[str]:
    """Read the texts of a collection, holding one of them at a time.

    Args:
        path: A folder, each of whose .txt files is a text; or a file, perhaps with .gz behind its
            name: .txt, texts with blank lines between them; .jsonl, objects with "text", "article"
            or a list "sentences"; .csv, rows, whose columns that are no numbers are joined.

    Yields:
        Texts; blank ones are left out.

    Raises:
        FileNotFoundError: There is nothing at the path, or no text in the folder.
        ValueError: Another kind of file, or a line that is none of its kind.

    Example:
        >>> from salhub.data.samples import TEXTS
        >>> len(list(read_texts(TEXTS / "article.txt")))
        6
    """
    path = Path(path)
    if path.is_dir():
        listing = list_folder(path, _FILES)
        files = listing.files
        if not files:
            raise FileNotFoundError(f"The folder {path} holds no .txt file.")
        if left_out := describe_left_out(listing.left_out, listing.folders):
            logger.warning("%s: %s", path, left_out)
        texts = (decode_text(file.read_bytes(), f"'{file}'") for file in files)
    elif path.is_file():
        texts = _READERS[_kind(path)](path)
    else:
        raise FileNotFoundError(f"There is no folder or file of texts at {path}.")
    return (text for text in texts if text.strip())


def fingerprint(path: str | Path) -> str:
    """Digest of a collection: of its files' bytes, 16 hexadecimal digits.

    Args:
        path: As of `read_texts`.
    """
    path, digest = Path(path), hashlib.sha256()
    for file in list_folder(path, _FILES).files if path.is_dir() else [path]:
        with file.open("rb") as content:
            while chunk := content.read(2**20):
                digest.update(chunk)
    return digest.hexdigest()[:16]


def _kind(path: Path) -> str:
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(
            f"{path} is no collection of texts; give a folder of .txt files, or a file ending in "
            f"{', '.join(SUFFIXES)}, perhaps with .gz behind it."
        )
    return suffix


def _paragraphs(path: Path) -> Iterator[str]:
    with _opened(path) as lines:
        text: list[str] = []
        for line in lines:
            if line.strip():
                text.append(line)
            elif text:
                yield "".join(text)
                text = []
        if text:
            yield "".join(text)


def _objects(path: Path) -> Iterator[str]:
    with _opened(path) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _text_of(line, f"line {number} of {path}")


def _text_of(line: str, name: str) -> str:
    try:
        entry: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} is no JSON ({error}).") from None
    found = [entry[f] for f in _TEXT_FIELDS if f in entry] if isinstance(entry, dict) else []
    if not found:
        raise ValueError(f"{name} has none of the fields {', '.join(_TEXT_FIELDS)}.")
    if not isinstance(found[0], str | list):
        raise ValueError(f"{name} has {found[0]!r} where a text should be.")
    return whole_text(" ".join(found[0]) if isinstance(found[0], list) else found[0], name)


def _rows(path: Path) -> Iterator[str]:
    with _opened(path) as lines:
        for row in csv.reader(lines):
            yield " ".join(cell for cell in row if not cell.strip().isdecimal())


@contextmanager
def _opened(path: Path) -> Generator[IO[str]]:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    # newline="" is what csv wants; other readers do not mind.
    with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
        try:
            yield file
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not text in UTF-8 ({error.reason}); save it so.") from None


_READERS = {".txt": _paragraphs, ".jsonl": _objects, ".csv": _rows}
