"""Short labelled texts in the files that text classification is commonly published in."""

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

AG_NEWS_CLASSES = ("World", "Sports", "Business", "Sci/Tech")
SENTIMENT_CLASSES = ("negative", "positive")
# Pang and Lee's sentences are latin-1, one class a file.
_SENTENCE_POLARITY = {".neg": 0, ".pos": 1}
_LAYOUTS = (
    ".tsv with text and label, .csv with class, title and description (AG News), .jsonl or "
    ".jsonl.gz with text and label, or a pair of .neg and .pos"
)


@dataclass(frozen=True)
class LabelledTexts:
    """Texts and their classes.

    Args:
        name: Name of the data, without the path.
        texts: The texts.
        labels: Class of each, in [0, len(class_names)).
        class_names: One name a class.

    Example:
        >>> texts = LabelledTexts("two", ["good", "bad"], [1, 0], ["negative", "positive"])
        >>> len(texts.part([0]))
        1
    """

    name: str
    texts: list[str]
    labels: list[int]
    class_names: list[str]

    def __len__(self) -> int:
        return len(self.texts)

    def part(self, places: list[int]) -> "LabelledTexts":
        """The texts at some places, in that order."""
        return LabelledTexts(
            self.name,
            [self.texts[place] for place in places],
            [self.labels[place] for place in places],
            self.class_names,
        )

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


def read_labelled_texts(path: str | PathLike[str]) -> LabelledTexts:
    """Read labelled texts.

    Args:
        path: A file, whose ending says how it is laid out: .tsv holds a text, a tab and a label;
            .csv a class counted from 1, a title and a description, as AG News; .jsonl and .jsonl.gz
            an object with `text` and `label` a line. Of a .neg or .pos file, the other one beside
            it is read too.

    Raises:
        FileNotFoundError: There is no such file, or its other half is missing.
        ValueError: Another ending, a line that is laid out otherwise, or no text at all.

    Example:
        >>> read_labelled_texts("sst2_train.tsv").class_names  # doctest: +SKIP
        ['negative', 'positive']
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path} of labelled texts.")
    read = _READERS.get("".join(path.suffixes[-2:]).lower()) or _READERS.get(path.suffix.lower())
    if read is None:
        raise ValueError(f"{path.name} is laid out in no known way; give {_LAYOUTS}.")
    rows = list(read(path))
    if not rows:
        raise ValueError(f"{path.name} holds no text.")
    texts, names = [text for text, _ in rows], [name for _, name in rows]
    classes = _class_names(names)
    index = {name: place for place, name in enumerate(classes)}
    return LabelledTexts(
        path.name.split(".")[0], texts, [index[name] for name in names], list(classes)
    )


def read_unlabelled_texts(path: str | PathLike[str]) -> list[str]:
    """Read texts without their labels.

    Args:
        path: What `read_labelled_texts` reads; .txt(.gz), one a line; or .jsonl(.gz) of objects
            with `text`, `article` or a list of `sentences`.

    Raises:
        FileNotFoundError, ValueError: As of `read_labelled_texts`.
    """
    path = Path(path)
    is_lines = ".txt" in path.suffixes
    if not is_lines and ".jsonl" not in path.suffixes:
        return read_labelled_texts(path).texts
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path} of texts.")
    with _opened(path) as file:
        lines = [line.strip() for line in file if line.strip()]
    return lines if is_lines else [_text_of(line, path) for line in lines]


def _text_of(line: str, path: Path) -> str:
    try:
        row = json.loads(line)
        if "sentences" in row:
            return " ".join(row["sentences"])
        return str(row["text"] if "text" in row else row["article"])
    except (json.JSONDecodeError, KeyError, TypeError):
        raise ValueError(
            f"{path.name} has a line that is no JSON object with text, article or sentences."
        ) from None


def _class_names(names: list[str]) -> tuple[str, ...] | list[str]:
    found = set(names)
    for known, short in ((SENTIMENT_CLASSES, ("neg", "pos")), (SENTIMENT_CLASSES, ("0", "1"))):
        if found <= set(short):
            names[:] = [known[short.index(name)] for name in names]
            return known
    if found <= set(AG_NEWS_CLASSES):
        return AG_NEWS_CLASSES
    return SENTIMENT_CLASSES if found <= set(SENTIMENT_CLASSES) else sorted(found)


def _tab_separated(path: Path) -> Iterator[tuple[str, str]]:
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            text, tab, label = line.rstrip("\r\n").rpartition("\t")
            if not tab or not label.strip():
                raise ValueError(f"line {number} of {path.name} is not a text, a tab and a label.")
            # The GLUE release of SST-2 has a line of column names.
            if (number, label) != (1, "label"):
                yield text, label.strip()


def _news(path: Path) -> Iterator[tuple[str, str]]:
    with _opened(path) as file:
        for number, row in enumerate(csv.reader(file), 1):
            if len(row) != 3 or row[0] not in ("1", "2", "3", "4"):
                raise ValueError(
                    f"row {number} of {path.name} is not a class from 1 to 4, a title and a "
                    "description."
                )
            # In the published file a backslash stands for the end of a line.
            yield f"{row[1]} {row[2]}".replace("\\", " "), AG_NEWS_CLASSES[int(row[0]) - 1]


def _json_lines(path: Path) -> Iterator[tuple[str, str]]:
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                yield str(row["text"]), str(row["label"])
            except (json.JSONDecodeError, KeyError, TypeError):
                raise ValueError(
                    f"line {number} of {path.name} is no JSON object with text and label."
                ) from None


def _sentence_polarity(path: Path) -> Iterator[tuple[str, str]]:
    for suffix, label in _SENTENCE_POLARITY.items():
        part = path.with_suffix(suffix)
        if not part.is_file():
            raise FileNotFoundError(f"{part.name} is missing beside {path.name}.")
        for line in part.read_text(encoding="latin-1").split("\n"):
            if line.strip():
                yield line.strip(), SENTIMENT_CLASSES[label]


def _opened(path: Path) -> io.TextIOBase:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8", newline="")


_READERS = {
    ".tsv": _tab_separated,
    ".csv": _news,
    ".jsonl": _json_lines,
    ".jsonl.gz": _json_lines,
    ".neg": _sentence_polarity,
    ".pos": _sentence_polarity,
}
