"""Which class is meant by what a person wrote: its name, or its index."""

import operator
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, SupportsIndex
from unicodedata import normalize

from salhub.errors import did_you_mean

# An index written as text; no model has more classes than nine digits tell.
_INDEX = re.compile(r"[0-9]{1,9}")


class ClassNames:
    """The classes of a model or of data, found by what people call them.

    An exact name comes first, as a class may be called "3"; then the name in other letters, with
    "_" for spaces; then the first of several synonyms; and then the index.

    Args:
        names: Name by index, such as `model.config.id2label`, or a list of names.

    Example:
        >>> ratings = ClassNames({0: "1", 1: "2", 2: "3"})
        >>> ratings.index_of("2"), ratings.index_of(2), ratings.index_of("0")
        (1, 2, 0)
    """

    def __init__(self, names: Mapping[int, str] | Sequence[str]) -> None:
        pairs = names.items() if isinstance(names, Mapping) else enumerate(names)
        self.names = {int(index): str(name) for index, name in pairs}

    @cached_property
    def _ways(self) -> tuple[dict[str, list[int]], ...]:
        exact, plain, first = {}, {}, {}
        for index, name in self.names.items():
            exact.setdefault(name, []).append(index)
            plain.setdefault(_plain(name), []).append(index)
            # Labels such as "tench, Tinca tinca" list synonyms; the first is the usual name.
            first.setdefault(_plain(name.partition(",")[0]), []).append(index)
        return exact, plain, first

    def find(self, asked: str) -> list[int]:
        """Classes that a text may mean, ascending; none where it means nothing."""
        exact, plain, first = self._ways
        found = exact.get(asked) or plain.get(_plain(asked)) or first.get(_plain(asked))
        if found:
            return found
        is_index = _INDEX.fullmatch(asked) is not None
        return [int(asked)] if is_index and (not self.names or int(asked) in self.names) else []

    def index_of(self, asked: Any) -> int:
        """Return the index of the class that is meant.

        Args:
            asked: A name, an index, or an index written as text.

        Raises:
            ValueError: There is no such class, or there are several of that name.
            TypeError: Neither a text nor a whole number.
        """
        if not isinstance(asked, str):
            return _whole(asked)
        found = self.find(asked)
        if not found:
            raise ValueError(self._unknown(asked))
        if len(found) > 1:
            raise ValueError(
                f"{len(found)} classes are called '{asked}'; give an index, one of "
                f"{', '.join(map(str, found))}."
            )
        return found[0]

    def _unknown(self, asked: str) -> str:
        hint = did_you_mean(asked.lower(), [name.lower() for name in self.names.values()])
        most = f" of 0 to {max(self.names)}" if self.names else ""
        return f"There is no class '{asked}'.{hint} Give a name, or an index{most}."


def synonyms_of(name: str) -> list[str]:
    """The names of a class that lists several, the usual one first, with spaces for "_".

    Example:
        >>> synonyms_of("goldfish, Carassius auratus")
        ['goldfish', 'Carassius auratus']
    """
    return [one for part in name.split(",") if (one := part.replace("_", " ").strip())]


def first_name(name: str) -> str:
    """The usual name of a class, the first of its synonyms; as it is where there is none.

    Example:
        >>> first_name("goldfish, Carassius auratus")
        'goldfish'
    """
    return next(iter(synonyms_of(name)), name)


def _whole(asked: Any) -> int:
    try:
        if isinstance(asked, SupportsIndex) and not isinstance(asked, bool):
            return operator.index(asked)
    except TypeError:
        pass  # An array of one number says it can be an index, and then is a fraction.
    raise TypeError(f"A class must be an index or a name, got {asked!r}.")


def _plain(name: str) -> str:
    # Macs take letters with dots and accents apart.
    return normalize("NFC", name).strip().lower().replace("_", " ")
