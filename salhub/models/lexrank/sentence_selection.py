"""Which sentences make the summary: the best that fit its length and do not repeat each other."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np

from salhub.models.lexrank.similarity_graph import SentenceFeatures
from salhub.models.lexrank.words import UNSPACED, has_unspaced

_WRITTEN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z%]*)\s*", re.IGNORECASE)
_WORD, _LETTER, _CUT = re.compile(r"\S+"), re.compile(r"\w"), "…"
_LETTER_OR_WORD = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")
_CLAUSE_ENDS = ",;:—–、，；："  # noqa: RUF001 - other scripts have marks of their own
# From here on sentences say the same; those below are held back, and fill what room is left.
_THE_SAME = 0.85
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
        unit: "words" (between white space; of scripts without it, characters), "sentences",
            "characters" or "ratio" (of the words of the text).

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
                f"budget {written!r} is not a length; write 100w (words), 3s (sentences), "
                "665c (characters) or 20% (of the words)."
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
            return [len(" ".join(sentence.split())) for sentence in sentences]
        return [len(_word_ends(sentence)) for sentence in sentences]

    @property
    def joint(self) -> int:
        """What it takes to join two sentences."""
        return int(self.unit == "characters")

    def note(self, sentences: Sequence[str]) -> str | None:
        """What a reader should know of how words were counted."""
        if self.unit != "words" or not any(map(has_unspaced, sentences)):
            return None
        return (
            "Part of the text is in a script without spaces between words; each of its "
            "characters was counted as a word."
        )

    def cut(self, sentence: str, limit: int) -> str:
        """The beginning of a sentence, and a mark, that together take no more than a limit.

        It ends at a clause where one ends in the later half, else at a word.

        Example:
            >>> Budget.read("5w").cut("It rains, and all the streets are wet.", 5)
            'It rains, and all the…'
        """
        ends = _word_ends(sentence)
        if self.unit == "characters":
            most = limit - len(_CUT)
            ends = [end for end in ends if end <= most] or [most]
        else:
            ends = ends[:limit]
        later = ends[len(ends) // 2 :]
        clauses = [end for end in later if set(sentence[end - 1 : end + 1]) & set(_CLAUSE_ENDS)]
        return sentence[: (clauses or ends)[-1]].rstrip(_CLAUSE_ENDS) + _CUT

    def limit(self, costs: Sequence[int]) -> int:
        """How much the sentences of a text may take together."""
        if self.unit == "ratio":
            return max(1, math.floor(self.amount * sum(costs)))
        return int(self.amount)


def _word_ends(sentence: str) -> list[int]:
    """Where the words of a sentence end, or the letters of a script without spaces."""
    if not has_unspaced(sentence):
        return [match.end() for match in _WORD.finditer(sentence)]
    return [match.end() for match in _LETTER_OR_WORD.finditer(sentence) if _LETTER.search(match[0])]


def _checked(amount: float, unit: str, written: Any) -> float:
    if unit == "ratio":
        if not 0 < amount <= 1:
            raise ValueError(f"budget must be above 0 and at most the whole text, got {written!r}.")
        return amount
    if amount < 1 or amount != int(amount):
        raise ValueError(f"budget must be a whole number, 1 or more, got {written!r}.")
    return int(amount)


@dataclass(frozen=True)
class Repetition:
    """A sentence that was left out because a chosen one says the same.

    Args:
        place: The sentence.
        of: The chosen one.
        similarity: How much they resemble each other.
    """

    place: int
    of: int
    similarity: float


@dataclass
class Selection:
    """What was chosen.

    Args:
        places: Chosen sentences, best first.
        repetitions: Those left out for what they repeat, in the order in which they came up.
        too_long: The best sentence, where it is longer than the budget.
        is_cut: Whether no sentence fits, and the one that was chosen must be cut.
        left: What is left of the budget.
    """

    places: list[int] = field(default_factory=list)
    repetitions: list[Repetition] = field(default_factory=list)
    too_long: int | None = None
    is_cut: bool = False
    left: int = 0


def select_sentences(
    scores: np.ndarray,
    costs: Sequence[int],
    limit: int,
    features: SentenceFeatures,
    words: Sequence[Sequence[str]],
    *,
    redundancy: str | None,
    redundancy_limit: float,
) -> Selection:
    """Choose sentences, best first, as long as they fit.

    A sentence that is too long for what is left is passed over; where none fits, the best one is
    taken, to be cut. What room is left goes to sentences that were held back for what they repeat,
    unless they say the same.

    Args:
        scores: (N,).
        costs: What each sentence takes of the budget, (N,).
        limit: The budget.
        features: For the similarities of chosen ones.
        words: Words of each sentence, for "csis".
        redundancy: As of the configuration.
        redundancy_limit: As of the configuration.

    Source: Erkan and Radev 2004 (JAIR 22), section 4.2, for "cosine"; Radev et al. 2004 (IPM 40)
    for "csis"; Carbonell and Goldstein 1998 (SIGIR) for "mmr".
    """
    walker = _WALKERS[redundancy](scores, features, words, redundancy_limit)
    chosen, first = Selection(left=limit), None
    while chosen.left > 0 and (place := walker.best()) is not None:
        first = place if first is None else first
        repetition = walker.repetition(place)
        if repetition is not None:
            chosen.repetitions.append(repetition)
        elif _took(chosen, place, costs[place]):
            walker.choose(place)
        walker.remove(place)
    if first is not None and costs[first] > limit:
        chosen.too_long = first
    if not chosen.places and first is not None:
        chosen.places, chosen.is_cut = [first], True
        return chosen
    chosen.repetitions = [
        one
        for one in chosen.repetitions
        if one.similarity > _THE_SAME or not _took(chosen, one.place, costs[one.place])
    ]
    return chosen


def _took(chosen: Selection, place: int, cost: int) -> bool:
    """Choose a sentence if there is room for it."""
    if cost > chosen.left:
        return False
    chosen.places.append(place)
    chosen.left -= cost
    return True


class _Plain:
    """Walks down the ranking; of equal scores the first sentence comes first."""

    def __init__(self, scores, features, words, limit) -> None:
        self.features, self.words, self.limit = features, words, limit
        self.order = iter(np.argsort(-scores, kind="stable").tolist())

    def best(self) -> int | None:
        return next(self.order, None)

    def repetition(self, place: int) -> Repetition | None:
        return None

    def choose(self, place: int) -> None:
        pass

    def remove(self, place: int) -> None:
        pass


class _Cosine(_Plain):
    """Skips what resembles a chosen sentence by more than the limit."""

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        count = len(self.features)
        self.nearest, self.similarity = np.zeros(count, dtype=np.int64), np.full(count, -1.0)

    def repetition(self, place: int) -> Repetition | None:
        similarity = float(self.similarity[place])
        if similarity <= self.limit:
            return None
        return Repetition(place, int(self.nearest[place]), similarity)

    def choose(self, place: int) -> None:
        similar = self.features.similarity_to([place])[:, 0]
        is_nearer = similar > self.similarity
        self.nearest[is_nearer] = place
        self.similarity = np.maximum(self.similarity, similar)


class _Penalised(_Plain):
    """Lowers the scores of what resembles a chosen sentence; scores are scaled to [0, 1]."""

    def __init__(self, scores, features, words, limit) -> None:
        super().__init__(scores, features, words, limit)
        self.scores = scores / max(float(scores.max()), np.finfo(float).tiny)
        self.penalties = np.zeros(len(scores))
        self.is_there = np.ones(len(scores), dtype=bool)

    def best(self) -> int | None:
        if not self.is_there.any():
            return None
        return int(np.where(self.is_there, self.current(), -np.inf).argmax())

    def current(self) -> np.ndarray:
        return self.scores - self.penalties

    def remove(self, place: int) -> None:
        self.is_there[place] = False


class _Csis(_Penalised):
    """Takes off 2 common words / (words of both), the largest over the chosen ones."""

    def choose(self, place: int) -> None:
        chosen = set(self.words[place])
        overlap = np.array([len(chosen.intersection(words)) for words in self.words])
        sizes = np.array([len(set(words)) for words in self.words]) + len(chosen)
        self.penalties = np.maximum(self.penalties, 2 * overlap / np.maximum(sizes, 1))


class _Mmr(_Penalised):
    """Weighs the score against the similarity to the nearest chosen sentence."""

    def current(self) -> np.ndarray:
        return (1 - self.limit) * self.scores - self.limit * self.penalties

    def choose(self, place: int) -> None:
        similar = self.features.similarity_to([place])[:, 0]
        self.penalties = np.maximum(self.penalties, similar)


_WALKERS = {None: _Plain, "cosine": _Cosine, "csis": _Csis, "mmr": _Mmr}
