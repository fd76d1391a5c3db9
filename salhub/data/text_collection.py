"""Collections of texts: a folder, or one file with many texts, read one after another."""

import csv
import gzip
import hashlib
import json
import logging
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from salhub.data.delimited import long_fields
from salhub.data.folder_listing import describe_left_out, list_folder
from salhub.data.tables import (
    FILE_TYPES,
    TEXT_NAMES,
    choose_column,
    column_of,
    read_tables,
    tables_in,
)
from salhub.data.text_sources import decode_text, whole_text

logger = logging.getLogger(__name__)

SUFFIXES = (".csv", ".jsonl", ".txt")
# Of a folder.
_FILES = (".txt",)
_OF_TABLES = set(FILE_TYPES) - set(SUFFIXES)
# Fields of a line of .jsonl that hold a text, the first that is there.
_TEXT_FIELDS = ("text", "article", "sentences")


def read_texts(path: str | Path, text_column: str | None = None) -> Iterator[str]:
    """Read the texts of a collection, holding one of them at a time.

    Args:
        path: A folder, each of whose .txt files is a text; or a file, perhaps with .gz behind its
            name: .txt, texts with blank lines between them; .jsonl, objects with "text", "article"
            or a list "sentences"; .csv, rows. With a `text_column`, or where `datasets` is needed,
            whatever `read_tables` reads: .tsv, .json, Parquet, a saved folder or a name too.
        text_column: Heading of the column with the texts. Without it, one that is plainly called
            so is taken in a .csv, and else all columns that are no numbers are joined, which is
            said.

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
    given, path = str(path), Path(path)
    if not path.exists() and (path.suffix or path.is_absolute()):
        raise FileNotFoundError(f"{path} does not exist; give a folder or file of texts.")
    is_table = not path.is_file() or Path(path.name.removesuffix(".gz")).suffix in _OF_TABLES
    if text_column is not None or (is_table and not _has_texts(path)):
        texts = _column(given, text_column)
    elif path.is_dir():
        listing = list_folder(path, _FILES)
        files = listing.files
        if not files:
            raise FileNotFoundError(f"The folder {path} has no .txt files.")
        if left_out := describe_left_out(listing.left_out, listing.folders):
            logger.warning("%s: %s", path, left_out)
        texts = (decode_text(file.read_bytes(), f"'{file}'") for file in files)
    else:
        texts = _READERS[_kind(path)](path)
    return (text for text in texts if text.strip())


def _has_texts(path: Path) -> bool:
    return path.is_dir() and bool(list_folder(path, _FILES).files or not tables_in(path))


def _column(data: str, text_column: str | None) -> Iterator[str]:
    # Of all parts; what is not clear is said before any text is given.
    columns = [
        column_of(table, choose_column(table, text_column, TEXT_NAMES, "text_column"))
        for table in read_tables(data, wanted=((text_column, TEXT_NAMES),)).values()
    ]
    return (text for column in columns for text in column if isinstance(text, str))


def fingerprint(path: str | Path) -> str:
    """Digest of a collection: of its files' bytes, 16 hexadecimal digits.

    Args:
        path: As of `read_texts`.
    """
    path, digest = Path(path), hashlib.sha256()
    files = [path] if path.is_file() else []
    if path.is_dir():
        files = list_folder(path, _FILES).files or sorted(f for f in path.rglob("*") if f.is_file())
    if not files:  # a name on the Hub
        digest.update(str(path).encode())
    for file in files:
        with file.open("rb") as content:
            while chunk := content.read(2**20):
                digest.update(chunk)
    return digest.hexdigest()[:16]


def _kind(path: Path) -> str:
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(
            f"{path} is not a collection of texts; give a folder of .txt files, or a file "
            f"ending in {', '.join(SUFFIXES)}, optionally followed by .gz."
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
        raise ValueError(f"{name} is not valid JSON ({error}).") from None
    found = [entry[f] for f in _TEXT_FIELDS if f in entry] if isinstance(entry, dict) else []
    if not found:
        raise ValueError(f"{name} has none of the fields {', '.join(_TEXT_FIELDS)}.")
    if not isinstance(found[0], str | list):
        raise ValueError(f"{name} has {found[0]!r} where a text should be.")
    return whole_text(" ".join(found[0]) if isinstance(found[0], list) else found[0], name)


def _rows(path: Path) -> Iterator[str]:
    with _opened(path) as lines:
        first = next(lines, "")
    # Other delimiters are found where the table is read.
    headings = [one.strip(' "').lower() for one in re.split(r"[,;\t|]", first.strip())]
    if sum(heading in TEXT_NAMES for heading in headings) == 1:
        yield from _column(str(path), None)
        return
    logger.warning("All non-numeric columns of %s are joined into one text.", path.name)
    with _opened(path) as lines, long_fields():
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
            raise ValueError(
                f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8."
            ) from None


_READERS = {".txt": _paragraphs, ".jsonl": _objects, ".csv": _rows}
