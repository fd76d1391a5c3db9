"""Short labelled texts: tables with a column of each, and the layouts of well-known data sets."""

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal
from unicodedata import normalize

import torch
from torch import Tensor

from salhub.data.delimited import kind_of, read_delimited, read_text
from salhub.data.tables import (
    LABEL_NAMES,
    TEST,
    TEXT_NAMES,
    TRAIN,
    VALIDATION,
    Table,
    check_learnable,
    choose_column,
    class_order,
    column_of,
    joined_order,
    labels_of,
    read_tables,
)
from salhub.data.text_collection import read_texts

logger = logging.getLogger(__name__)

Layout = Literal["ag_news", "sst2"]
AG_NEWS_CLASSES = ("World", "Sports", "Business", "Sci/Tech")
SENTIMENT_CLASSES = ("negative", "positive")
_NUM_SHOWN = 5


@dataclass(frozen=True)
class LabelledTexts:
    """Texts and their classes.

    Args:
        name: Name of the data, without the path.
        texts: The texts.
        labels: Class of each, in [0, len(class_names)).
        class_names: One name a class.
        parts: "train", "validation" or "test" for each; empty where all are "train".
        title: What messages call the data, with its ending; "" for the name.
        label_column: Where the labels stand; None where that is no column.

    Example:
        >>> texts = LabelledTexts("two", ["good", "bad"], [1, 0], ["negative", "positive"])
        >>> len(texts.part([0]))
        1
    """

    name: str
    texts: list[str]
    labels: list[int]
    class_names: list[str]
    parts: Sequence[str] = ()
    title: str = ""
    label_column: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "title", self.title or self.name)

    def __len__(self) -> int:
        return len(self.texts)

    def places_of(self, part: str) -> list[int]:
        """Places of the texts of "train", "validation" or "test", ascending."""
        parts = self.parts or [TRAIN] * len(self)
        return [place for place, one in enumerate(parts) if one == part]

    @property
    def test_places(self) -> Tensor:
        """Places of the part to measure on, int64 (n,): for testing, or else for validation."""
        places = self.places_of(TEST) or self.places_of(VALIDATION)
        return torch.tensor(places, dtype=torch.long)

    def check_learnable(self) -> None:
        """Refuse texts of fewer than two classes, or of one that is in no training part.

        Raises:
            ValueError: They are such.
        """
        labels = [self.class_names[label] for label in self.labels]
        parts = self.parts or [TRAIN] * len(self)
        check_learnable(self.title, labels, parts, self.label_column)

    def part(self, places: list[int]) -> "LabelledTexts":
        """The texts at some places, in that order."""
        return replace(
            self,
            texts=[self.texts[place] for place in places],
            labels=[self.labels[place] for place in places],
            parts=(),
        )

    def in_order_of(self, class_names: Sequence[str]) -> "LabelledTexts":
        """The same with the classes in another order, or themselves where they are others."""
        names = list(class_names)
        own = [normalize("NFC", name) for name in self.class_names]
        others = [normalize("NFC", name) for name in names]
        if names == self.class_names or not set(own) <= set(others):
            return self
        labels = [others.index(own[label]) for label in self.labels]
        return replace(self, labels=labels, class_names=names)

    def describe(self) -> dict[str, Any]:
        """Name, size and fingerprint for a results file; holds no path of this machine."""
        digest = hashlib.sha256("\n".join(self.texts).encode())
        digest.update(bytes(str(self.labels), "ascii"))
        return {
            "name": self.name,
            "num_texts": len(self),
            "class_names": self.class_names,
            "fingerprint": digest.hexdigest()[:16],
        }


def read_labelled_texts(
    data: str | PathLike[str],
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    layout: Layout | None = None,
    class_names: Sequence[str] = (),
    dataset_config_name: str | None = None,
) -> LabelledTexts:
    """Read labelled texts.

    Labels keep their names as they are written: the label 10 is a class called "10".

    Args:
        data: A file ending in .csv, .tsv, .jsonl, .json or .parquet (texts perhaps with .gz behind
            it), a folder of such files or one that `save_to_disk` wrote, or the name of a data set
            on the Hub. A .tsv without headings holds a text, a tab and a label. Of a .neg or .pos
            file of Pang and Lee's, the other one beside it is read too.
        text_column: Heading of the column with the texts, or its number, counted from 1, in a file
            without headings; None to find it by its heading.
        label_column: The same of the labels.
        layout: A data set whose published files have no headings: "ag_news" (class from 1 to 4,
            title, description) or "sst2" (text, tab, 0 or 1). A file called like one of them, as
            ag_news_test.csv is, has its layout.
        class_names: What the classes are called, in the order of their labels; the labels
            themselves by default.
        dataset_config_name: The configuration of a data set on the Hub.

    Raises:
        FileNotFoundError: There is no such file, or its other half is missing.
        MissingExtraError: It needs the package `datasets`.
        ValueError: It is not clear where texts and labels are, some are missing, or the file
            cannot be read.

    Example:
        >>> read_labelled_texts("sst2_train.tsv").class_names  # doctest: +SKIP
        ['negative', 'positive']
    """
    path = Path(data)
    published = layout or _layout_of(path, text_column, label_column)
    if published is not None:
        known, read = _LAYOUTS[published]
        rows = list(read(path))
        _refuse_nothing(path.name, rows)
        return _texts(path.name, {TRAIN: rows}, class_names or known, list(known))
    parts, orders, column = {}, [], label_column
    wanted = ((text_column, TEXT_NAMES), (label_column, LABEL_NAMES))
    for part, table in read_tables(str(data), dataset_config_name, wanted).items():
        parts[part], order, column = _rows_of(table, text_column, label_column)
        orders.append(order)
    return _texts(path.name, parts, class_names, joined_order(orders), column)


def read_unlabelled_texts(path: str | PathLike[str]) -> list[str]:
    """Read texts without their labels.

    Args:
        path: What `read_labelled_texts` reads; .txt(.gz), one a line; or .jsonl(.gz) of objects
            with `text`, `article` or a list of `sentences`.

    Raises:
        FileNotFoundError, ValueError: As of `read_labelled_texts`.
    """
    path = Path(path)
    if kind_of(path) == ".txt":
        lines = (line.strip() for line in read_text(path).split("\n"))
        return [line for line in lines if line]
    return list(read_texts(path)) if kind_of(path) == ".jsonl" else read_labelled_texts(path).texts


def _layout_of(path: Path, *columns: str | None) -> str | None:
    """The layout that a file is called after, which is said."""
    if path.suffix.lower() in _POLARITY:
        return "rt-polarity"
    if any(columns) or not path.is_file():
        return None
    suffixes = {"ag_news": ".csv", "sst2": ".tsv"}
    for layout, suffix in suffixes.items():
        if path.name.lower().startswith(layout) and kind_of(path) == suffix:
            logger.warning("%s is read as the published file of %s.", path.name, layout)
            return layout
    return None


def _texts(
    title: str,
    parts: Mapping[str, list[tuple[str, str]]],
    class_names: Sequence[str],
    order: list[str] | None = None,
    label_column: str | None = None,
) -> LabelledTexts:
    rows = [row for part in parts.values() for row in part]
    found = order or class_order([label for _, label in rows])
    if class_names and len(class_names) != len(found):
        raise ValueError(
            f"{title} has {len(found)} classes, {', '.join(found[:_NUM_SHOWN])}, but "
            f"class_names has {len(class_names)}; give one name for each class."
        )
    index = {label: place for place, label in enumerate(found)}
    return LabelledTexts(
        title.split(".")[0],
        [text for text, _ in rows],
        [index[label] for _, label in rows],
        [normalize("NFC", str(one)) for one in class_names or found],
        [part for part, of_part in parts.items() for _ in of_part] if len(parts) > 1 else (),
        title,
        label_column,
    )


def _rows_of(
    table: Table, text_column: str | None, label_column: str | None
) -> tuple[list[tuple[str, str]], list[str] | None, str]:
    """Texts with labels as written, the order of the classes where it is said, their column."""
    text = choose_column(table, text_column, TEXT_NAMES, "text_column")
    label = choose_column(table, label_column, LABEL_NAMES, "label_column")
    _refuse_nothing(table.name, table.rows)
    labels, names = labels_of(table, label)
    rows, without = [], []
    for number, written in enumerate(column_of(table, text)):
        if not (written is None or isinstance(written, str)):
            raise ValueError(
                f"{table.place(number)} of {table.name} has {written!r} where a text should be, in "
                f"'{text}'."
            )
        found = labels[number]
        if found is None or not (written or "").strip():
            without.append(table.place(number))
        else:
            rows.append((written, found))
    if without:
        more = f" and {len(without) - _NUM_SHOWN} more" if len(without) > _NUM_SHOWN else ""
        raise ValueError(
            f"{table.name} has no text in '{text}' or no label in '{label}' at "
            f"{', '.join(without[:_NUM_SHOWN])}{more}; fill them in, or remove these rows."
        )
    return rows, names, label


def _refuse_nothing(name: str, rows: Sequence[Any]) -> None:
    if not len(rows):
        raise ValueError(f"{name} contains no text.")


def _sentiment(path: Path) -> Iterator[tuple[str, str]]:
    for line, row in read_delimited(path, "\t", quoted=False):
        text, label = "\t".join(row[:-1]), row[-1].strip()
        # The GLUE release has a line of column names.
        if (line, label) == (1, "label"):
            continue
        if not text or label not in ("0", "1"):
            raise ValueError(f"line {line} of {path.name} is not a text, a tab and 0 or 1.")
        yield text, SENTIMENT_CLASSES[int(label)]


def _news(path: Path) -> Iterator[tuple[str, str]]:
    for line, row in read_delimited(path, ","):
        if len(row) != 3 or row[0] not in ("1", "2", "3", "4"):
            raise ValueError(
                f"line {line} of {path.name} is not a class from 1 to 4, a title and a description."
            )
        # In the published file a backslash stands for the end of a line.
        yield f"{row[1]} {row[2]}".replace("\\", " "), AG_NEWS_CLASSES[int(row[0]) - 1]


# Pang and Lee's sentences are latin-1, one class a file.
_POLARITY = {".neg": "negative", ".pos": "positive"}


def _sentence_polarity(path: Path) -> Iterator[tuple[str, str]]:
    for suffix, label in _POLARITY.items():
        part = path.with_suffix(suffix)
        if not part.is_file():
            raise FileNotFoundError(f"{part.name} is missing next to {path.name}.")
        for line in part.read_text(encoding="latin-1").split("\n"):
            if line.strip():
                yield line.strip(), label


_LAYOUTS: dict[str, tuple[tuple[str, ...], Callable[[Path], Iterator[tuple[str, str]]]]] = {
    "ag_news": (AG_NEWS_CLASSES, _news),
    "sst2": (SENTIMENT_CLASSES, _sentiment),
    "rt-polarity": (SENTIMENT_CLASSES, _sentence_polarity),
}
