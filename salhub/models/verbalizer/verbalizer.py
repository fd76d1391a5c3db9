"""From words and scores to sentences; needs no model."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from salhub.models.verbalizer.audit import Evidence, audit, has_words
from salhub.models.verbalizer.candidates import Candidates, find_candidates
from salhub.models.verbalizer.configuration_verbalizer import VerbalizerConfig
from salhub.models.verbalizer.realization import Names, Phrase, Realizer, make_phrase
from salhub.models.verbalizer.selection import (
    GreedySelections,
    Selection,
    joined,
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
        is_asked: Whether the class was asked for, and is not the classifier's own answer.
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
    is_asked: bool = False
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
        asked: Sequence[bool] | None = None,
    ) -> list[Verbalization]:
        """Explain several texts, whose searches run together.

        Args:
            tokens: Words of each.
            scores: Scores of each.
            labels: Name of the class of each.
            others: Name of a class that each is compared with.
            asked: Whether the class of each was asked for, and is not the classifier's own answer.

        Raises:
            ValueError: As of `verbalize`; or not as many of everything.
        """
        words = [one if isinstance(one, Words) else Words.of_tokens(one) for one in tokens]
        if len(scores) != len(words):
            raise ValueError(f"Got {len(words)} texts and {len(scores)} lists of scores.")
        rows = [checked_scores(one, values) for one, values in zip(words, scores, strict=True)]
        own = zip(
            _as_many("labels", labels, len(words)),
            _as_many("others", others, len(words)),
            [self.config.mask_label] * len(words),
            _as_many("asked", asked, len(words)),
            strict=True,
        )
        names = [Names(label, other, mask, bool(asks)) for label, other, mask, asks in own]
        told: list[Verbalization] = []
        for begin in range(0, len(words), TEXTS_AT_ONCE):
            part = slice(begin, begin + TEXTS_AT_ONCE)
            told += self._tell(words[part], rows[part], names[part])
        return told

    def _tell(
        self,
        words: list[Words],
        rows: list[np.ndarray],
        names: list[Names],
    ) -> list[Verbalization]:
        found, candidates = self._searched(words, rows)
        against = self._against(words, rows) if self.config.show_against else None
        return [
            self._told(one, rows[text], found[text], candidates, text, against, names[text])
            for text, one in enumerate(words)
        ]

    def _searched(
        self, words: list[Words], rows: list[np.ndarray]
    ) -> tuple[list[Selection] | GreedySelections, Candidates]:
        if self.config.mode == "smv":
            scores, lengths, marks = padded_rows(words, rows)
            found = find_candidates(scores, lengths, self.config, marks)
            return [select_as_smv(found, self.config, text) for text in range(len(rows))], found
        return self._greedy(words, rows, self.config.sign)

    def _greedy(
        self, words: list[Words], rows: list[np.ndarray], sign: str, max_phrases: int | None = None
    ) -> tuple[GreedySelections, Candidates]:
        scores, lengths, marks = padded_rows(words, rows)
        own = -scores if sign == "-" else scores
        is_weak, is_edge = weak_words(words, own, self.config, marks)
        seconds = np.array([one.second for one in words])
        found = find_candidates(scores, lengths, self.config, is_weak, is_edge, seconds)
        return select_greedily(found, self.config, is_weak, max_phrases=max_phrases), found

    def _against(self, words: list[Words], rows: list[np.ndarray]) -> GreedySelections | None:
        if self.config.sign != "+" or self.config.compat is not None:
            return None
        return self._greedy(words, [-row for row in rows], "+", max_phrases=1)[0]

    def _told(
        self,
        words: Words,
        scores: np.ndarray,
        selection: Selection,
        candidates: Candidates,
        text: int,
        against: GreedySelections | None,
        names: Names,
    ) -> Verbalization:
        evidence = Evidence(words, scores, self.config, names)
        phrases = self._phrases(words, scores, selection, evidence)
        if against is not None:
            phrases += self._opposing(words, scores, against[text], evidence)
        is_there = has_words(words, scores, self.config.sign)
        realizer = Realizer(words, self.config, evidence.names, is_there)
        sentence = realizer.write(phrases, is_empty=not np.any(scores))
        return Verbalization(
            sentence,
            words,
            scores,
            phrases,
            searches_of(candidates, self.config, text),
            audit(sentence, evidence, phrases),
            names.label,
            names.other,
            names.is_asked,
        )

    def _phrases(
        self, words: Words, scores: np.ndarray, selection: Selection, evidence: Evidence
    ) -> list[Phrase]:
        sign = self.config.sign
        own = -scores if sign == "-" else scores
        if sign != "any" and self.config.mode != "smv" and self.config.compat is None:
            selection = joined(selection, own, self.config.max_words, words.is_edge, words.second)
            selection = _without_repeats(selection, words)
        return [
            make_phrase(
                words,
                group,
                scores,
                coverage=evidence.share(group),
                sign="-" if sign == "-" else "+",
                rank=min(place, selection.num_phrases) + 1,
                is_listed=place >= selection.num_phrases,
            )
            for place, group in enumerate(selection.groups)
            # The paper's code does not ask that all words have the wanted sign.
            if sign == "any" or own[list(group)].min() >= 0 < own[list(group)].max()
        ]

    def _opposing(
        self, words: Words, scores: np.ndarray, selection: Selection, evidence: Evidence
    ) -> list[Phrase]:
        """The phrase most against, where it weighs as much as one that would be named."""
        most, second = self.config.max_words, words.second
        for group in joined(selection, -scores, most, words.is_edge, second).groups[:1]:
            share = evidence.share(group)
            if -share >= max(self.config.min_gain, 1e-12):
                return [make_phrase(words, group, scores, coverage=share, sign="-", rank=0)]
        return []


def _as_many(name: str, values: Sequence[Any] | None, count: int) -> list[Any]:
    given = [None] * count if values is None else list(values)
    if len(given) != count:
        raise ValueError(f"Got {count} texts and {len(given)} {name}; give one per text.")
    return given


def checked_scores(words: Words, scores: Any) -> np.ndarray:
    """Return the scores of the words of a text as float64 (n,).

    Raises:
        ValueError: No word; scores of two dimensions, of another number, or not finite.
    """
    if not len(words):
        raise ValueError(
            "The text is empty, or has only special tokens; there is nothing to explain."
        )
    if isinstance(scores, torch.Tensor):
        scores = scores.detach().cpu().double().numpy()
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(
            f"scores must be one number per word, got an array of shape {values.shape}; sum "
            "over its last dimension first."
        )
    if len(values) != len(words):
        raise ValueError(
            f"Got {len(words)} tokens and {len(values)} scores; use scores from the same "
            "tokenizer, without special tokens."
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


def weak_words(
    words: list[Words], scores: np.ndarray, config: VerbalizerConfig, marks: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Words that are not named alone, and that no phrase begins or ends with, bool (B, N) each.

    Args:
        words: Of each text.
        scores: Padded with 0, above 0 for what is searched, (B, N).
        config: With `compat` only punctuation is weak.
        marks: Words that are punctuation, (B, N).
    """
    if config.compat is not None:
        return marks, marks
    is_edge, is_weak = marks.copy(), marks.copy()
    for row, one in enumerate(words):
        is_edge[row, : len(one)] = one.is_edge
        is_weak[row, : len(one)] = one.are_weak(scores[row, : len(one)])
    # Where a text holds nothing else, something is named all the same.
    is_weak &= ((scores > 0) & ~is_weak).any(axis=1, keepdims=True)
    return is_weak | marks, is_edge


def _without_repeats(selection: Selection, words: Words) -> Selection:
    """Join single words of the list that are the same word, where the first phrase weighs more."""
    count, shown = selection.num_phrases, words.strings
    limit = max(selection.shares[:count], default=0.0)
    kept: dict[str, tuple[tuple[int, ...], float]] = {}
    for group, share in zip(selection.groups[count:], selection.shares[count:], strict=True):
        name = shown[group[0]].lower()
        before, sum_before = kept.get(name, ((), 0.0))
        if before and sum_before + share > limit:
            name = f"{name} {group[0]}"
            before, sum_before = (), 0.0
        kept[name] = (tuple(sorted((*before, *group))), sum_before + share)
    ordered = sorted(kept.values(), key=lambda one: -one[1])
    groups = [*selection.groups[:count], *(group for group, _ in ordered)]
    shares = [*selection.shares[:count], *(share for _, share in ordered)]
    return Selection(groups, shares, count)


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
