"""Files with a delimiter: what divides their fields, and whether a line of headings comes first."""

import csv
import gzip
import io
import logging
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path

from salhub.data.text_sources import decode_text

logger = logging.getLogger(__name__)

# A row, and the line in which it begins.
Row = tuple[int, list[str]]
# What a column is called: as a person named it, or None; and the usual names, the plainest first.
Wanted = tuple[str | None, Sequence[str]]
# What divides fields beside the comma, as spreadsheets of many countries write it.
_DELIMITERS = (";", "\t", "|")
# Rows of each other class that make a first line whose label is nowhere else one of headings.
_MANY = 5


def kind_of(path: Path) -> str:
    """The ending of a file that says how it is laid out, without ".gz".

    Example:
        >>> kind_of(Path("reviews.jsonl.gz"))
        '.jsonl'
    """
    return Path(path.name.removesuffix(".gz")).suffix.lower()


def read_delimited(path: Path, delimiter: str, *, quoted: bool = True) -> list[Row]:
    """Rows of a file with a delimiter, each with the line in which it begins; blank ones left out.

    Args:
        path: The file, perhaps with .gz behind its name.
        delimiter: What stands between two fields.
        quoted: Whether a field may stand in quotation marks.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no text in UTF-8, or a quotation mark is not closed.
    """
    return _rows_of(read_text(path), path.name, delimiter, quoted=quoted)


def _rows_of(text: str, name: str, delimiter: str, *, quoted: bool = True) -> list[Row]:
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    rows, begins = [], 1
    with long_fields():
        lines = io.StringIO(text, newline="")
        reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=quoted)
        try:
            for row in reader:
                if any(field.strip() for field in row):
                    rows.append((begins, row))
                begins = reader.line_num + 1
        except csv.Error as error:
            raise ValueError(
                f"{name} cannot be read from line {begins} onwards ({error}); check its "
                "quotation marks."
            ) from None
    return rows


def read_text(path: Path) -> str:
    """All of a text file, perhaps compressed.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no text in UTF-8, nor in what a byte order mark says.
    """
    if not path.is_file():
        raise FileNotFoundError(f"The text file {path} does not exist.")
    data = path.read_bytes()
    if path.suffix.lower() == ".gz":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError):
            raise ValueError(f"{path.name} is not a gzip file, or is damaged.") from None
    return decode_text(data, path.name)


def headed_rows(path: Path, wanted: Sequence[Wanted]) -> tuple[list[str], list[Row]]:
    """Columns and rows of a .csv or .tsv file; what was found out of it is said.

    Args:
        path: The file, perhaps with .gz behind its name.
        wanted: The columns that are looked for, that of the labels last. Where all are named by
            numbers, or a .tsv has a text, a tab and a label, no headings are needed; those that
            are there are no row.

    Returns:
        The headings, or the numbers of the columns, or the usual names; and the rows below.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no text, holds nothing, or it is not clear what divides its fields.
    """
    rows = _divided(path, wanted)
    if not rows:
        raise ValueError(f"{path.name} contains no text.")
    headings = [field.strip() for field in rows[0][1]]
    given = [name for name, _ in wanted if name is not None]
    is_numbered = len(given) == len(wanted) > 0 and all(name.isdecimal() for name in given)
    if is_numbered and not set(given) <= set(headings):
        width = len(headings)
        places = [int(name) - 1 for name in given if 0 < int(name) <= width]
        is_row = len(places) < len(given) or not _are_headings(path, rows, places, wanted)
        return [str(number + 1) for number in range(width)], rows[not is_row :]
    widths = {len(row) for _, row in rows}
    is_pair = (
        kind_of(path) == ".tsv" and len(wanted) == 2 and not given and widths - {*range(3, 99)}
    )
    if not is_pair or all(_has(headings, names) for _, names in wanted):
        return headings, rows[1:]
    logger.warning(
        "%s has no usual headings; it is read as one text, a tab and a label per line.", path.name
    )
    pairs = [(line, ["\t".join(row[:-1]), row[-1]]) for line, row in rows]
    for line, (text, label) in pairs:
        if not text or not label.strip():
            raise ValueError(f"line {line} of {path.name} is not a text, a tab and a label.")
    return [names[0] for _, names in wanted], pairs[_are_headings(path, pairs, [0, 1], wanted) :]


def _has(row: Iterable[str], names: Iterable[str]) -> bool:
    return bool({field.strip().lower() for field in row} & set(names))


def _are_headings(
    path: Path, rows: Sequence[Row], places: Sequence[int], wanted: Sequence[Wanted]
) -> bool:
    """Whether the first line, of a file that may do without, names the columns at some places.

    Its label stands nowhere else then, and either it or a text is a usual name, or it is the only
    one that is no number, or all others stand often.
    """
    first = [rows[0][1][place].strip() for place in places]
    labels = Counter(row[places[-1]].strip() for _, row in rows[1:] if len(row) > places[-1])
    if not labels or first[-1] in labels:
        return False
    is_usual = any(_has([one], names) for one, (_, names) in zip(first, wanted, strict=True))
    is_word = not _is_number(first[-1]) and all(map(_is_number, labels))
    if not (is_usual or is_word or min(labels.values()) >= _MANY):
        return False
    shown = " and ".join(repr(one[:40]) for one in first)
    logger.warning("Line %d of %s is read as headings: %s.", rows[0][0], path.name, shown)
    return True


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True


def _divided(path: Path, wanted: Sequence[Wanted]) -> list[Row]:
    """Rows of a file, whose fields may be divided or quoted otherwise than its name says."""
    text, name = read_text(path), path.name
    if kind_of(path) == ".tsv":
        return _with_tabs(text, name)
    rows, fault = _tried(text, name, ",")
    if _is_even(rows) and _names_any(rows[0][1], wanted):
        return rows
    tried = {one: _tried(text, name, one)[0] for one in _DELIMITERS}
    others = {one: found for one, found in tried.items() if _is_even(found)}
    named = [one for one, found in others.items() if _names_any(found[0][1], wanted)]
    likely = named or [*[","] * _is_even(rows), *others]
    if len(likely) > 1:
        raise ValueError(
            f"it is not clear which of {', '.join(map(repr, likely))} separates the fields "
            f"of {name}; add a heading line such as text and label, or put quotation marks "
            "around fields that contain one of these."
        )
    if likely and likely[0] in others:
        logger.warning("The fields of %s are separated by %r.", name, likely[0])
        return others[likely[0]]
    if fault is not None:
        raise fault
    return rows


def _tried(text: str, name: str, delimiter: str) -> tuple[list[Row], ValueError | None]:
    try:
        return _rows_of(text, name, delimiter), None
    except ValueError as error:
        return [], error


def _names_any(row: Sequence[str], wanted: Sequence[Wanted]) -> bool:
    return any(_has(row, names) or (given or "").strip() in row for given, names in wanted)


def _is_even(rows: Sequence[Row]) -> bool:
    """Whether all rows have as many fields, two at least."""
    return len({len(row) for _, row in rows}) == 1 and len(rows[0][1]) > 1


def _with_tabs(text: str, name: str) -> list[Row]:
    """Rows divided by tabs, where quotation marks may be letters as any, or those of a table."""
    plain = _rows_of(text, name, "\t", quoted=False)
    quoted, _ = _tried(text, name, "\t") if '"' in text else (plain, None)
    # Quotations that run over lines that are whole without them are none.
    is_table = _is_even(quoted) and (len(quoted) == len(plain) or not _is_even(plain))
    if quoted == plain or not is_table:
        return plain
    logger.warning("Quotation marks around fields of %s are removed.", name)
    return quoted


@contextmanager
def long_fields() -> Generator[None]:
    """Let the reader of CSV take fields of any length."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)
