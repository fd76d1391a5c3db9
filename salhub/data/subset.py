"""Naming a part of a data set in a few words, such as all pictures of a class."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from salhub.data.class_names import ClassNames
from salhub.files import require_file

KINDS = ("class", "random", "indices", "file")
_FORMS = (
    "class:NAME (or a number, or several with commas), random:0.1 (a share), random:500 (a "
    "number), indices:3,8,9, or file:PATH (numbers in a .txt, .json or .npy file)"
)


@dataclass(frozen=True)
class Subset:
    """A part of a data set.

    Args:
        places: Places in the data set, int64 (n,), ascending, none twice.
        classes: The classes, where it is all pictures of some; empty otherwise.
        spec: The words that name it.
    """

    places: Tensor
    classes: tuple[int, ...]
    spec: str


def choose_subset(
    spec: str,
    labels: Tensor,
    among: Tensor,
    class_names: Sequence[str],
    generator: torch.Generator,
) -> Subset:
    """Find the part of a data set that some words name.

    Args:
        spec: "class:cat", "class:3,5", "random:0.1", "random:500", "indices:3,8,9" or "file:PATH".
        labels: Class of every picture of the data set, int64 (N,).
        among: Places that "class" and "random" choose from, int64 (n,). The others name places
            themselves, which may lie elsewhere: the caller decides what that means.
        class_names: One name a class.
        generator: For "random".

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Words that are not understood, an unknown class, or places that do not exist.

    Example:
        >>> labels = torch.tensor([0, 1, 1])
        >>> choose_subset("class:dog", labels, torch.arange(3), ["cat", "dog"], None).places.tolist()
        [1, 2]
    """  # noqa: E501
    kind, _, value = str(spec).partition(":")
    if kind not in KINDS or not value:
        raise ValueError(f"'{spec}' is not a valid subset; expected {_FORMS}.")
    classes: tuple[int, ...] = ()
    if kind == "class":
        classes = _classes(value, class_names)
        places = among[torch.isin(labels[among], torch.tensor(classes))]
    elif kind == "random":
        places = among[torch.randperm(len(among), generator=generator)[: _count(value, len(among))]]
    else:
        numbers = _read_numbers(Path(value)) if kind == "file" else _numbers(value, spec)
        places = _existing(numbers, len(labels), spec)
    return Subset(places.unique(), classes, str(spec))


def _classes(value: str, class_names: Sequence[str]) -> tuple[int, ...]:
    names = ClassNames(class_names)
    # A name may have commas in it.
    words = [value] if value in class_names else [word.strip() for word in value.split(",")]
    return tuple(sorted({names.index_of(word) for word in words}))


def _count(value: str, available: int) -> int:
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    is_share = not value.isdecimal()
    if is_share and not 0 < number <= 1:
        raise ValueError(f"random:{value} must be a share above 0 and at most 1, or a number.")
    count = int(number * available) if is_share else int(number)
    if not 1 <= count <= available:
        raise ValueError(
            f"random:{value} selects {count} of {available} pictures; select 1 or more."
        )
    return count


def _numbers(text: str, source: object) -> list[int]:
    words = [word for word in re.split(r"[\s,]+", text.strip()) if word]
    if not words or not all(word.isdecimal() for word in words):
        raise ValueError(f"{source} must list whole numbers, 0 or more.")
    return [int(word) for word in words]


def _read_numbers(path: Path) -> list[int]:
    require_file(path, "file of places")
    try:
        if path.suffix == ".npy":
            content = np.load(path, allow_pickle=False)
            return _numbers(" ".join(map(str, content.reshape(-1).tolist())), path)
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            content = json.loads(text)
            if not isinstance(content, list):  # a text or an object can be gone through too
                raise TypeError
            return _numbers(" ".join(map(str, content)), path)
    except (OSError, EOFError, TypeError, ValueError):
        raise ValueError(f"{path} must hold a list of whole numbers, 0 or more.") from None
    return _numbers(text, path)


def _existing(numbers: list[int], size: int, spec: str) -> Tensor:
    beyond = [number for number in numbers if number >= size]
    if beyond:
        raise ValueError(
            f"{spec} has {len(beyond)} indices beyond the {size} pictures, the first being "
            f"{beyond[0]}."
        )
    return torch.tensor(numbers, dtype=torch.long)


def describe_spec(spec: str) -> str:
    """The words that name a subset, as others may read them.

    Single places may tell who is meant, so only their number and a digest are left; of a file, its
    name and a digest of what is in it.

    Args:
        spec: As of `choose_subset`.

    Example:
        >>> describe_spec("class:cat"), describe_spec("indices:3,8,9")
        ('class:cat', 'indices:3 places, sha256 bc2be3c6')
    """
    kind, _, value = spec.partition(":")
    if kind == "indices":
        count = len([place for place in value.split(",") if place.strip()])
        return f"indices:{count} places, sha256 {_short_digest(value.encode())}"
    if kind == "file":
        path = Path(value)
        content = f", sha256 {_short_digest(path.read_bytes())}" if path.is_file() else ""
        return f"file:{path.name}{content}"
    return spec


def _short_digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:8]
