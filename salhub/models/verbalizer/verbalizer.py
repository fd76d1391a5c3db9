"""From words and scores to sentences; needs no model."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from salhub.models.verbalizer.audit import Evidence, audit, has_words
from salhub.models.verbalizer.candidates import Candidates, find_candidates
from salhub.models.verbalizer.configuration_verbalizer import VerbalizerConfig
from salhub.models.verbalizer.realization import Phrase, Realizer, make_phrase
from salhub.models.verbalizer.selection import (
    GreedySelections,
    Selection,
    select_as_smv,
    select_greedily,
)
from salhub.models.verbalizer.words import Words


@dataclass
class Verbalization:
    """What is said of one text, and what it rests on.

    Args:
        text: The explanation.
        words: The words of the text.
        scores: Of the words, float64 (n,).
        phrases: What is named, the most important first, then what speaks against.
        searches: Search -> what it found, [(words, coverage)], the most covering first.
        audit: See `audit`.
        label: Name of the class, or None.
        other: Class that it is compared with, or None.
        prompt: What a chat model was asked, or None.
        llm_text: What it answered, before any repair, or None.
    """

    text: str
    words: Words
    scores: np.ndarray
    phrases: list[Phrase]
    searches: dict[str, list] = field(default_factory=dict)
    audit: dict[str, Any] = field(default_factory=dict)
    label: str | None = None
    other: str | None = None
    prompt: str | None = None
    llm_text: str | None = None

    @property
    def coverage(self) -> float:
        """Share of the positive evidence that the text names, in [0, 1]."""
        return float(self.audit["coverage"])


# Searched together: more would not stay in the cache of a processor.
TEXTS_AT_ONCE = 250


class Verbalizer:
    """Says in words which words of a text carry the scores that it is given.

    Args:
        config: Mode, budget and language; the default where None.

    Example:
        >>> tokens, scores = ["a", "wonderful", "film"], [0.0, 0.9, 0.1]
        >>> Verbalizer().verbalize(tokens, scores, label="positive").phrases[0].text
        'wonderful'

    Source: Feldhus et al. 2023 (arXiv 2210.07222).
    """

    def __init__(self, config: VerbalizerConfig | None = None) -> None:
        self.config = config or VerbalizerConfig()

    def verbalize(
        self,
        tokens: Sequence[str] | Words,
        scores: Any,
        label: str | None = None,
        other: str | None = None,
    ) -> Verbalization:
        """Explain one text.

        Args:
            tokens: Its words, or `Words` with their places.
            scores: One number a word; above 0 speaks for the class.
            label: Name of the class.
            other: Name of a class that it is compared with.

        Raises:
            ValueError: No word, another number of scores, or scores that are not finite.
        """
        return self.verbalize_batch([tokens], [scores], [label], [other])[0]

    def verbalize_batch(
        self,
        tokens: Sequence[Sequence[str] | Words],
        scores: Sequence[Any],
        labels: Sequence[str | None] | None = None,
        others: Sequence[str | None] | None = None,
    ) -> list[Verbalization]:
        """Explain several texts, whose searches run together.

        Args:
            tokens: Words of each.
            scores: Scores of each.
            labels: Name of the class of each.
            others: Name of a class that each is compared with.

        Raises:
            ValueError: As of `verbalize`; or not as many of everything.
        """
        words = [one if isinstance(one, Words) else Words.of_tokens(one) for one in tokens]
        if len(scores) != len(words):
            raise ValueError(f"There are {len(words)} texts and {len(scores)} lists of scores.")
        rows = [checked_scores(one, values) for one, values in zip(words, scores, strict=True)]
        names = _as_many("labels", labels, len(words))
        rivals = _as_many("others", others, len(words))
        told: list[Verbalization] = []
        for begin in range(0, len(words), TEXTS_AT_ONCE):
            part = slice(begin, begin + TEXTS_AT_ONCE)
            told += self._tell(words[part], rows[part], names[part], rivals[part])
        return told

    def _tell(
        self,
        words: list[Words],
        rows: list[np.ndarray],
        labels: list[str | None],
        others: list[str | None],
    ) -> list[Verbalization]:
        found, candidates, marks = self._searched(words, rows)
        against = self._against(words, rows, marks) if self.config.show_against else None
        return [
            self._told(one, rows[text], found[text], candidates, text, against, labels, others)
            for text, one in enumerate(words)
        ]

    def _searched(
        self, words: list[Words], rows: list[np.ndarray]
    ) -> tuple[list[Selection] | GreedySelections, Candidates, np.ndarray]:
        scores, lengths, marks = padded_rows(words, rows)
        candidates = find_candidates(scores, lengths, self.config, marks)
        if self.config.mode == "smv":
            found = [select_as_smv(candidates, self.config, text) for text in range(len(rows))]
        else:
            found = select_greedily(candidates, self.config, marks)
        return found, candidates, marks

    def _against(
        self, words: list[Words], rows: list[np.ndarray], marks: np.ndarray
    ) -> GreedySelections | None:
        if self.config.sign != "+" or self.config.compat is not None:
            return None
        scores, lengths, _ = padded_rows(words, [-row for row in rows])
        found = find_candidates(scores, lengths, self.config, marks)
        return select_greedily(found, self.config, marks, max_phrases=1)

    def _told(
        self,
        words: Words,
        scores: np.ndarray,
        selection: Selection,
        candidates: Candidates,
        text: int,
        against: GreedySelections | None,
        labels: list[str | None],
        others: list[str | None],
    ) -> Verbalization:
        label, other = labels[text], others[text]
        evidence = Evidence(words, scores, self.config, [one for one in (label, other) if one])
        phrases = self._phrases(words, scores, selection, evidence)
        if against is not None:
            phrases += self._opposing(words, scores, against[text], evidence)
        is_there = has_words(words, scores, self.config.sign)
        realizer = Realizer(words, self.config, label, other, is_there)
        sentence = realizer.write(phrases, is_empty=not np.any(scores))
        return Verbalization(
            sentence,
            words,
            scores,
            phrases,
            searches_of(candidates, self.config, text),
            audit(sentence, evidence, phrases),
            label,
            other,
        )

    def _phrases(
        self, words: Words, scores: np.ndarray, selection: Selection, evidence: Evidence
    ) -> list[Phrase]:
        sign = "-" if self.config.sign == "-" else "+"
        groups = self._true_groups(selection, scores)
        return [
            make_phrase(
                words,
                group,
                scores,
                coverage=evidence.share(group),
                sign=sign,
                rank=min(place, selection.num_phrases) + 1,
                is_listed=place >= selection.num_phrases,
            )
            for place, group in groups
        ]

    def _true_groups(
        self, selection: Selection, scores: np.ndarray
    ) -> list[tuple[int, tuple[int, ...]]]:
        """The groups whose words have the wanted sign, which the paper's code does not ask for."""
        numbered = list(enumerate(selection.groups))
        if self.config.sign == "any":
            return numbered
        own = -scores if self.config.sign == "-" else scores
        return [
            (place, group)
            for place, group in numbered
            if own[list(group)].min() >= 0 and own[list(group)].max() > 0
        ]

    def _opposing(
        self, words: Words, scores: np.ndarray, selection: Selection, evidence: Evidence
    ) -> list[Phrase]:
        """The phrase most against, where it weighs as much as one that would be named."""
        for group in selection.groups[:1]:
            share = evidence.share(group)
            if -share >= max(self.config.min_gain, 1e-12):
                return [make_phrase(words, group, scores, coverage=share, sign="-", rank=0)]
        return []


def _as_many(name: str, values: Sequence[str | None] | None, count: int) -> list[str | None]:
    given = [None] * count if values is None else list(values)
    if len(given) != count:
        raise ValueError(f"There are {count} texts and {len(given)} {name}; give one a text.")
    return given


def checked_scores(words: Words, scores: Any) -> np.ndarray:
    """Return the scores of the words of a text as float64 (n,).

    Raises:
        ValueError: No word; scores of two dimensions, of another number, or not finite.
    """
    if not len(words):
        raise ValueError(
            "The text is empty, or holds only special tokens; there is nothing to say."
        )
    if isinstance(scores, torch.Tensor):
        scores = scores.detach().cpu().double().numpy()
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(
            f"scores must be one number a word, got an array of shape {values.shape}; sum over its "
            "last dimension first."
        )
    if len(values) != len(words):
        raise ValueError(
            f"There are {len(words)} tokens and {len(values)} scores; scores of another tokenizer, "
            "or with special tokens left in, do not fit."
        )
    if not np.isfinite(values).all():
        place = int((~np.isfinite(values)).argmax())
        raise ValueError(f"scores[{place}] is {values[place]}; scores must be finite numbers.")
    return values


def padded_rows(
    words: list[Words], rows: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores (B, N), numbers of words (B,) and which words are punctuation (B, N)."""
    lengths = np.array([len(row) for row in rows])
    scores = np.zeros((len(rows), int(lengths.max(initial=1))))
    marks = np.zeros(scores.shape, dtype=bool)
    for place, (one, row) in enumerate(zip(words, rows, strict=True)):
        scores[place, : len(row)] = row
        marks[place, : len(row)] = one.is_punctuation
    return scores, lengths, marks


def searches_of(candidates: Candidates, config: VerbalizerConfig, text: int) -> dict[str, list]:
    """What each search found, as the paper lists it: the `top_k` of each."""
    shares = candidates.scores[text, : int(candidates.lengths[text])] / candidates.mass[text]
    order = np.argsort(-shares, kind="stable")[: config.top_k].tolist()
    return {
        "convolution": candidates.found("convolution", text=text)[: config.top_k],
        "span": candidates.found("span", text=text)[: config.top_k],
        "total_order": [((word,), max(0.0, float(shares[word]))) for word in order],
        "compare": candidates.found("convolution", "span", text=text)[: config.top_k],
    }
