"""Tables with a column of texts or pictures and one of labels, in the files that people have."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import normalize

from salhub.data.delimited import Row, Wanted, headed_rows, kind_of, read_text
from salhub.errors import did_you_mean, require_extra
from salhub.hub_reach import is_reachable

logger = logging.getLogger(__name__)

TRAIN, VALIDATION, TEST = "train", "validation", "test"
# What people call the parts of a data set.
PARTS = {
    TRAIN: ("train", "training"),
    VALIDATION: ("validation", "val", "valid", "dev"),
    TEST: ("test", "testing", "eval"),
}
TEXT_NAMES = ("text", "sentence", "review", "content", "article", "comment", "message", "document")
LABEL_NAMES = ("label", "labels", "class", "category", "target", "sentiment", "topic")
IMAGE_NAMES = ("image", "img", "picture", "photo")
FILE_TYPES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
_SAVED = ("state.json", "dataset_dict.json")


@dataclass(frozen=True)
class Table:
    """Rows with named columns.

    Args:
        name: What messages call it.
        columns: Names of the columns, in order.
        rows: Rows, a value for each column; of what is on disk they are read when asked for.
        lines: Line of the file in which each row begins, where there are such lines.
        features: What `datasets` knows of the columns, such as the names of classes.
    """

    name: str
    columns: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    lines: Sequence[int] = ()
    features: Mapping[str, Any] | None = None

    def place(self, row: int) -> str:
        """What messages call a row."""
        return f"line {self.lines[row]}" if len(self.lines) else f"row {row + 1}"


def part_named(name: str) -> str | None:
    """The part that a folder, split or file is called after, or None.

    Example:
        >>> part_named("val"), part_named("cats")
        ('validation', None)
    """
    word = name.lower()
    return next((part for part, names in PARTS.items() if word in names), None)


def is_table_file(path: Path) -> bool:
    """Whether a file's ending is one of those that are read."""
    return kind_of(path) in FILE_TYPES


def read_tables(
    data: str, config_name: str | None = None, wanted: Sequence[Wanted] = ()
) -> dict[str, Table]:
    """Read a table, or one for each part that the data have.

    Args:
        data: A CSV, TSV, JSON, JSON lines or Parquet file; a folder of such files, or one that
            `save_to_disk` of `datasets` wrote; or a name on the Hub.
        config_name: The configuration of a data set on the Hub, where it has several.
        wanted: Columns that are looked for, by which headings are known, see `headed_rows`.

    Returns:
        "train", "validation" or "test" -> its table; one without parts is "train".

    Raises:
        FileNotFoundError: There is no such file, folder or data set.
        MissingExtraError: It needs the package `datasets`.
        ValueError: A file that is damaged, in another encoding or laid out otherwise.
    """
    path = Path(data)
    if path.is_file():
        return {TRAIN: _read_file(path, wanted)}
    if path.is_dir():
        if any((path / name).is_file() for name in _SAVED):
            return _parts_of(_datasets().load_from_disk(str(path)), data)
        return _read_folder(path, wanted)
    if path.is_absolute() or path.suffix in (*FILE_TYPES, ".gz", ".npz") or data.count("/") > 1:
        raise FileNotFoundError(f"The data {data} do not exist; give a file or folder.")
    return _parts_of(_load_named(data, config_name), data)


def choose_column(table: Table, given: str | int | None, names: Sequence[str], option: str) -> str:
    """The column that was named, or the only one whose heading says it.

    Args:
        table: The rows.
        given: What a person named, or None.
        names: Headings that say it, the plainest first.
        option: How it is named, for messages.

    Raises:
        ValueError: There is no such column, or none is clear.
    """
    columns = list(table.columns)
    if given is not None:
        composed = {normalize("NFC", column): column for column in columns}
        if (asked := normalize("NFC", str(given))) in composed:
            return composed[asked]
        raise ValueError(
            f"{table.name} has no column '{given}'; {option} must be one of "
            f"{', '.join(columns)}.{did_you_mean(str(given), columns)}"
        )
    by_word = {column.strip().lower(): column for column in columns}
    found = [by_word[name] for name in names if name in by_word]
    is_clear = len(found) == 1 or (found and found[0].strip().lower() == names[0])
    if not is_clear:
        shown = ", ".join(repr(column[:40]) for column in columns)
        raise ValueError(
            f"it is not clear which column of {table.name} is {option}: it has {shown}; set "
            f"{option}=NAME, or its number counted from 1 if the file has no headings."
        )
    logger.warning("%s of %s is '%s', chosen by its heading.", option, table.name, found[0])
    return found[0]


def column_of(table: Table, name: str) -> Sequence[Any]:
    """All values of a column."""
    if table.features is not None:
        return table.rows[name][:]
    return [row.get(name) for row in table.rows]


def labels_of(table: Table, name: str) -> tuple[list[str | None], list[str] | None]:
    """The labels of a column as they are written, None where there is none.

    Args:
        table: The rows.
        name: The column.

    Returns:
        The labels, and the names of all classes in order where the data say so.

    Raises:
        ValueError: Something that is no label.
    """
    names = getattr((table.features or {}).get(name), "names", None)
    labels: list[str | None] = []
    for row, value in enumerate(column_of(table, name)):
        if names is not None and value is not None:
            # Data sets mark rows whose label is kept secret by -1.
            labels.append(normalize("NFC", str(names[value])) if value >= 0 else None)
            continue
        try:
            labels.append(label_text(value))
        except TypeError:
            raise ValueError(
                f"{table.place(row)} of {table.name} has {value!r} where a label should be, in "
                f"'{name}'."
            ) from None
    return labels, names and [normalize("NFC", str(one)) for one in names]


def class_order(names: Sequence[str]) -> list[str]:
    """Class names in the order of their numbers, or of the alphabet where one is no number.

    Example:
        >>> class_order(["10", "2", "2"])
        ['2', '10']
    """
    found = set(names)
    is_number = all(name.isdecimal() for name in found)
    return sorted(found, key=lambda name: (int(name), name) if is_number else (0, name))


def joined_order(orders: Sequence[Sequence[str] | None]) -> list[str] | None:
    """All classes of parts that say their order, the first part's first; None where one does not.

    Example:
        >>> joined_order([["b", "a"], ["a", "c"]]), joined_order([["b"], None])
        (['b', 'a', 'c'], None)
    """
    known = [order for order in orders if order is not None]
    if not known or len(known) < len(orders):
        return None
    return list(dict.fromkeys(name for order in known for name in order))


def check_learnable(
    name: str, labels: Sequence[str], parts: Sequence[str], column: str | None = None
) -> None:
    """Refuse classes of which nothing is learned, and data with a single one.

    Args:
        name: Of the data, for messages.
        labels: Class of each row.
        parts: "train", "validation" or "test" for each row.
        column: Where the labels stand, for messages; None where that is no column.

    Raises:
        ValueError: There is such a class, or fewer than two are learned.
    """
    learned = {label for label, part in zip(labels, parts, strict=True) if part == TRAIN}
    if not learned:
        raise ValueError(f"{name} has no training rows, only held-out ones.")
    strange = sorted(set(labels) - learned)
    if strange:
        raise ValueError(
            f"{name} has the class '{strange[0]}' only outside its training rows; add some "
            "of it to train, or remove it."
        )
    if len(learned) < 2:
        where = "" if column is None else f" in the column '{column}'"
        other = "" if column is None else ", or set another label_column"
        raise ValueError(
            f"{name} has {len(learned)} class{where}, but a classifier needs at least two; give "
            f"data of two or more classes{other}."
        )


def label_text(value: Any) -> str | None:
    """A label as it is written, or None where there is none.

    Example:
        >>> label_text(10), label_text(True), label_text("  "), label_text(2.0)
        ('10', 'true', None, '2')
    """
    if value is None or value != value:  # not a number
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if not isinstance(value, str | int | float):
        raise TypeError(value)
    # Macs take letters with dots and accents apart in the names of files.
    return normalize("NFC", str(value).strip()) or None


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Objects of a file of JSON lines, or of one JSON list, each with its line or number.

    Raises:
        ValueError: A line is no JSON object, or the file no list of objects.
    """
    text = read_text(path)
    if kind_of(path) == ".json" and text.lstrip().startswith("["):
        objects = enumerate(_parsed(text, path, "it"), 1)
        where = "entry"
    else:
        # Unlike splitlines, as a text may hold a line separator of Unicode.
        lines = ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())
        objects = ((number, _parsed(line, path, f"line {number}")) for number, line in lines)
        where = "line"
    for number, value in objects:
        if not isinstance(value, dict):
            raise ValueError(f"{where} {number} of {path.name} is not a JSON object.")
        yield number, value


def _parsed(text: str, path: Path, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} of {path.name} is not valid JSON ({error}).") from None


def _read_file(path: Path, wanted: Sequence[Wanted]) -> Table:
    kind = kind_of(path)
    if kind == ".parquet":
        files, package = {TRAIN: [str(path)]}, _datasets()
        try:
            loaded = package.load_dataset("parquet", data_files=files)
        except Exception as error:  # of many kinds, pyarrow's and its own
            raise ValueError(
                f"{path.name} cannot be read as a Parquet file ({type(error).__name__}); write it "
                "again, or give a .csv or .jsonl file."
            ) from error
        return _parts_of(loaded, path.name)[TRAIN]
    if kind in (".jsonl", ".json"):
        found = list(read_objects(path))
        # In the order in which they come first, and those of all rows.
        columns = list(dict.fromkeys(key for _, row in found for key in row))
        return Table(path.name, columns, [row for _, row in found], [n for n, _ in found])
    if kind not in (".csv", ".tsv"):
        raise ValueError(
            f"{path.name} has an unknown format; give a file ending in {', '.join(FILE_TYPES)}."
        )
    columns, rows = headed_rows(path, wanted)
    if len(set(columns)) < len(columns):
        double = next(column for column in columns if columns.count(column) > 1)
        raise ValueError(f"{path.name} has two columns called '{double}'; give each a heading.")
    return _as_table(path.name, columns, rows)


def _as_table(name: str, columns: list[str], rows: Sequence[Row]) -> Table:
    for line, row in rows:
        if len(row) != len(columns):
            raise ValueError(
                f"line {line} of {name} has {len(row)} fields, but the first line has "
                f"{len(columns)}; put quotation marks around fields that contain a comma."
            )
    dictionaries = [dict(zip(columns, row, strict=True)) for _, row in rows]
    return Table(name, columns, dictionaries, [line for line, _ in rows])


def tables_in(folder: Path) -> list[Path]:
    """Files of tables in a folder and in the folders there; what systems hide is none."""
    files = sorted(f for f in folder.rglob("*") if f.is_file() and is_table_file(f))
    return [file for file in files if not file.name.startswith((".", "_"))]


def _read_folder(path: Path, wanted: Sequence[Wanted]) -> dict[str, Table]:
    files = list(tables_in(path))
    if not files:
        raise FileNotFoundError(
            f"The folder {path} has no known data; give a folder with one sub-folder per "
            f"class, one saved by save_to_disk, or files ending in {', '.join(FILE_TYPES)}."
        )
    kinds = {kind_of(file) for file in files}
    if len(kinds) > 1:
        raise ValueError(
            f"The folder {path} has files of several types, {', '.join(sorted(kinds))}; give "
            "one of them."
        )
    parts: dict[str, list[Path]] = {}
    for file in files:
        # "train-00000-of-00003.parquet" and "train/0000.parquet" are both of a part.
        words = [file.parent.name, *file.name.replace("_", "-").replace(".", "-").split("-")]
        part = next((found for word in words if (found := part_named(word))), TRAIN)
        parts.setdefault(part, []).append(file)
    if kinds == {".parquet"}:
        listed = {part: [str(file) for file in files] for part, files in parts.items()}
        return _parts_of(_datasets().load_dataset("parquet", data_files=listed), path.name)
    if any(len(files) > 1 for files in parts.values()):
        double = next(files for files in parts.values() if len(files) > 1)
        raise ValueError(
            f"The folder {path} has {', '.join(file.name for file in double[:3])} for one "
            "part; join them into one file, or give one of them."
        )
    return {part: _read_file(files[0], wanted) for part, files in parts.items()}


def _load_named(name: str, config_name: str | None) -> Any:
    from huggingface_hub.constants import ENDPOINT

    datasets = _datasets()
    was_offline = datasets.config.HF_HUB_OFFLINE
    is_cut_off = not was_offline and not is_reachable(name, kind="dataset")
    # The client would ask several times, with seconds in between; the cache is looked at anyway.
    datasets.config.HF_HUB_OFFLINE = was_offline or is_cut_off
    try:
        return datasets.load_dataset(name, config_name)
    except Exception as error:
        if is_cut_off:
            raise FileNotFoundError(
                f"'{name}' is not a file or folder, not a data set in the cache, and {ENDPOINT} "
                "could not be reached; check the path, the name, or the connection."
            ) from error
        # Of many kinds: no connection, no such repository, no such configuration.
        reason = " ".join(str(error).split())[:300]
        raise FileNotFoundError(
            f"'{name}' is not a file or folder, and no data set with that name could be "
            f"loaded: {reason}"
        ) from None
    finally:
        datasets.config.HF_HUB_OFFLINE = was_offline


def _parts_of(loaded: Any, name: str) -> dict[str, Table]:
    title = Path(name).name
    if not hasattr(loaded, "column_names") or isinstance(loaded.column_names, list):
        loaded = {TRAIN: loaded}
    found: dict[str, Table] = {}
    for split, rows in loaded.items():
        part = part_named(split)
        if part is None:
            if len(loaded) > 1:
                logger.warning("The split '%s' of %s is ignored.", split, title)
                continue
            part = TRAIN
        found[part] = Table(title, rows.column_names, rows, features=rows.features)
    if not found:
        raise ValueError(f"{title} has the splits {', '.join(loaded)}; one called train is needed.")
    return found


def _datasets() -> Any:
    return require_extra("datasets", "data")
