"""How long a summary may be: in words, sentences, characters or as a share of the text."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

UNITS = ("words", "sentences", "characters", "ratio")
_WRITTEN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z%]*)\s*", re.IGNORECASE)
_NAMES = {
    "": "sentences", "s": "sentences", "sentence": "sentences", "sentences": "sentences",
    "w": "words", "word": "words", "words": "words",
    "c": "characters", "character": "characters", "characters": "characters",
    "%": "ratio",
}  # fmt: skip


@dataclass(frozen=True)
class Budget:
    """A length.

    Args:
        amount: How much, above 0; of "ratio" a share, at most 1.
        unit: "words" (between white space), "sentences", "characters" (without what joins
            sentences) or "ratio" (of the words of the text).

    Example:
        >>> Budget.read("100w"), Budget.read(3), Budget.read("20%")
        (Budget(amount=100, unit='words'), Budget(amount=3, unit='sentences'), \
Budget(amount=0.2, unit='ratio'))
    """

    amount: float
    unit: str

    @classmethod
    def read(cls, written: Any) -> "Budget":
        """Read what a person wrote.

        Args:
            written: A number of sentences, a share below 1, or a text such as "100w", "3
                sentences", "665c" or "20%".

        Raises:
            TypeError: Neither a number nor a text.
            ValueError: No length, or one of 0 or less.
        """
        if isinstance(written, Budget):
            return written
        if isinstance(written, bool) or not isinstance(written, Real | str):
            raise TypeError(f"budget must be a number or a text, got {written!r}.")
        match = _WRITTEN.fullmatch(str(written))
        unit = None if match is None else _NAMES.get(match[2].lower())
        if match is None or unit is None:
            raise ValueError(
                f"budget {written!r} is no length; write 100w (words), 3s (sentences), 665c "
                "(characters) or 20% (of the words)."
            )
        amount = float(match[1])
        if unit == "sentences" and 0 < amount < 1:
            unit = "ratio"
        elif unit == "ratio":
            amount /= 100
        return cls(_checked(amount, unit, written), unit)

    def costs(self, sentences: Sequence[str]) -> list[int]:
        """What each sentence takes of it."""
        if self.unit == "sentences":
            return [1] * len(sentences)
        if self.unit == "characters":
            return [len(sentence) for sentence in sentences]
        return [len(sentence.split()) for sentence in sentences]

    def limit(self, costs: Sequence[int]) -> int:
        """How much the sentences of a text may take together."""
        if self.unit == "ratio":
            return max(1, math.floor(self.amount * sum(costs)))
        return int(self.amount)


def _checked(amount: float, unit: str, written: Any) -> float:
    if unit == "ratio":
        if not 0 < amount <= 1:
            raise ValueError(f"budget must be above 0 and at most the whole text, got {written!r}.")
        return amount
    if amount < 1 or amount != int(amount):
        raise ValueError(f"budget must be a whole number, 1 or more, got {written!r}.")
    return int(amount)
