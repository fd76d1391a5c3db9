"""The shots that an edit chooses from, and what a person demands of it."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Self

from salhub.errors import did_you_mean, plain_letters

Size = Literal["WIDE", "MS", "FS"]
SIZES: tuple[Size, ...] = ("WIDE", "MS", "FS")
_LOCK = re.compile(r"\s*([\d.:]+)\s*-\s*([\d.:]+)\s*=\s*(\S.*?)\s*")


@dataclass(frozen=True)
class Shot:
    """What a virtual camera shows.

    Args:
        size: "WIDE", the whole frame; "MS", medium shot, from head to waist; "FS", full shot.
        actors: Whom it is framed for, from left to right; nobody for "WIDE".

    Example:
        >>> Shot("MS", ("anna", "ben")).name
        'MS:anna+ben'
    """

    size: Size
    actors: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.size not in SIZES or (self.size == "WIDE") != (not self.actors):
            raise ValueError(
                f"There is no shot of size {self.size!r} with the actors {self.actors}; it is "
                "'WIDE' without actors, or 'MS' or 'FS' with some."
            )

    @property
    def name(self) -> str:
        """Such as "MS:anna+ben", or "WIDE"."""
        return f"{self.size}:{'+'.join(self.actors)}" if self.actors else self.size

    @classmethod
    def parse(cls, name: str) -> Self:
        """Read the name of a shot.

        Raises:
            ValueError: It is none.
        """
        size, _, actors = name.strip().partition(":")
        parts = tuple(one.strip() for one in actors.split("+")) if actors else ()
        upper = size.strip().upper()
        if upper not in SIZES or (upper == "WIDE") != (not parts) or not all(parts):
            raise ValueError(
                f"'{name}' is not a shot; expected 'WIDE', or a size and actors such as "
                "'MS:anna+ben'."
            )
        return cls(upper, parts)


@dataclass(frozen=True)
class Lock:
    """A shot that a person wants at some time.

    Args:
        start: From when, in seconds.
        end: Until when.
        shot: Name of the shot.

    Raises:
        ValueError: Times in the wrong order, or no name of a shot.

    Example:
        >>> Lock.parse("12.0-15.0=MS:ben")
        Lock(start=12.0, end=15.0, shot='MS:ben')
    """

    start: float
    end: float
    shot: str

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end < math.inf:
            raise ValueError(
                f"The lock of '{self.shot}' goes from {self.start:g} s to {self.end:g} s; it "
                "must begin at 0 or later, and end after it begins."
            )
        Shot.parse(self.shot)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "12.0-15.0=MS:ben"; times may be written 1:02.5 too.

        Raises:
            ValueError: It is not written so.
        """
        found = _LOCK.fullmatch(text)
        try:
            if found is None:
                raise ValueError
            start, end = _seconds(found[1]), _seconds(found[2])
        except ValueError:
            raise ValueError(f"'{text}' is not a lock; write it as '12.0-15.0=MS:ben'.") from None
        return cls(start, end, found[3])

    def places(self, rate: float, length: int) -> slice:
        """Frames or decisions that it is for, at least one.

        Args:
            rate: Of them a second.
            length: Of the film in them.
        """
        first = min(round(self.start * rate), length - 1)
        return slice(first, max(first + 1, round(self.end * rate)))


def check_locks(locks: Sequence[Lock], duration: float, cast: Sequence[str] | None) -> None:
    """Refuse locks that nothing in the film could make possible.

    Args:
        locks: What a person demands.
        duration: Of the film in seconds.
        cast: Names of the people, where they are known.

    Raises:
        ValueError: Two shots at once, a time after the film's end, or somebody who is not there.
    """
    ordered = sorted(locks, key=lambda one: one.start)
    for one, after in pairwise(ordered):
        if after.start < one.end and _letters(one.shot) != _letters(after.shot):
            raise ValueError(
                f"The locks of {one.shot} and {after.shot} overlap at {after.start:g} s; end "
                "the first one earlier."
            )
    known = None if cast is None else {plain_letters(name) for name in cast}
    for lock in ordered:
        if lock.start >= duration:
            raise ValueError(
                f"The lock of {lock.shot} begins at {lock.start:g} s, after the end of the film at "
                f"{duration:.1f} s."
            )
        for name in Shot.parse(lock.shot).actors:
            if known is not None and plain_letters(name) not in known:
                raise ValueError(
                    f"The lock of {lock.shot} names {name}, who is not in the cast: "
                    f"{', '.join(cast or ())}.{did_you_mean(name, cast or ())}"
                )


def find_shot(name: str, shots: Iterable[Shot]) -> int:
    """Return the place of a shot by its name, whatever the order and the case of its actors.

    Raises:
        ValueError: It is not among them.
    """
    known = list(shots)
    for place, one in enumerate(known):
        if _letters(one.name) == _letters(name):
            return place
    names = [one.name for one in known]
    raise ValueError(
        f"There is no shot '{name}'; the shots are {', '.join(names)}.{did_you_mean(name, names)}"
    )


def _letters(name: str) -> tuple[str, frozenset[str]]:
    shot = Shot.parse(name)
    return shot.size, frozenset(plain_letters(one) for one in shot.actors)


def _seconds(text: str) -> float:
    total = 0.0
    for part in text.split(":"):
        total = total * 60 + float(part)
    return total
