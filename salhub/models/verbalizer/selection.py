"""Which of the found groups are named: a greedy cover under a budget, or the paper's summary."""

from dataclasses import dataclass

import numpy as np

from salhub.models.verbalizer.candidates import Candidates, windows_of
from salhub.models.verbalizer.configuration_verbalizer import VerbalizerConfig


@dataclass(frozen=True)
class Selection:
    """What is named of a text.

    Args:
        groups: Words of each phrase, the most covering first.
        shares: Coverage of each.
        num_phrases: How many of them were found by the search; the others are single words that use
            up the budget.
    """

    groups: list[tuple[int, ...]]
    shares: list[float]
    num_phrases: int

    @property
    def coverage(self) -> float:
        """Share of the positive evidence of all named words; the groups have no word in common."""
        return max(0.0, float(sum(self.shares)))


def select_greedily(
    candidates: Candidates, config: VerbalizerConfig, is_punctuation: np.ndarray | None = None
) -> list[Selection]:
    """Name the phrase that covers most, then the one that adds most to it, and so on.

    Phrases share no word. A phrase that adds less than `min_gain` ends the search; what is left of
    the budget of words goes to the single words of largest score. Ties go to the earliest.

    Args:
        candidates: Of some texts.
        config: `max_phrases`, `max_words`, `min_gain` and `min_word_gain`.
        is_punctuation: Words that are not named alone, bool (B, N).

    Returns:
        One selection a text.

    Source: the greedy rule for maximum coverage, Nemhauser et al. 1978, section 4. Its choice is at
        most a factor 1 - 1/e below the best set of phrases; how near it came to the best set of as
        many single words is in the audit of each text.
    """
    size, num_words, num_filters = candidates.coverage.shape
    texts = np.arange(size)
    gains = np.where(candidates.is_accepted, candidates.coverage, -1.0)
    left = np.full(size, config.max_words)
    taken = np.zeros((size, num_words))
    picks, places = [], candidates.filters.places
    for _ in range(config.max_phrases):
        fits = candidates.filters.sizes <= left[:, None, None]
        open_gains = np.where(fits, gains, -1.0).reshape(size, -1)
        best = open_gains.argmax(axis=1)
        gain = open_gains[texts, best]
        is_new = (gain >= config.min_gain) & (gain > 0)
        if not is_new.any():
            break
        start, row = np.divmod(best, num_filters)
        picks.append((is_new, start, row, gain))
        _take(taken, places, start, row, is_new)
        left -= np.where(is_new, candidates.filters.sizes[row], 0).astype(np.int64)
        overlaps = (windows_of(taken, places.shape[1]) @ places.T) > 0
        gains[overlaps] = -1.0
        gains[~is_new] = -1.0
    singles = _single_words(candidates, config, taken, left, is_punctuation)
    return [_selection(candidates, picks, singles, text) for text in range(size)]


def _take(
    taken: np.ndarray, places: np.ndarray, start: np.ndarray, row: np.ndarray, is_new: np.ndarray
) -> None:
    texts, offsets = places[row].nonzero()
    keep = is_new[texts]
    taken[texts[keep], start[texts[keep]] + offsets[keep]] = 1


def _single_words(
    candidates: Candidates,
    config: VerbalizerConfig,
    taken: np.ndarray,
    left: np.ndarray,
    is_punctuation: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Words by falling score (B, K), their shares, and how many of them are named (B,)."""
    shares = candidates.coverage[:, :, 0]
    is_closed = (taken > 0) | (shares < max(config.min_word_gain, np.finfo(float).tiny))
    if is_punctuation is not None:
        is_closed |= is_punctuation
    open_shares = np.where(is_closed, -1.0, shares)
    order = np.argsort(-open_shares, axis=1, kind="stable")[:, : max(1, int(left.max()))]
    ranked = np.take_along_axis(open_shares, order, axis=1)
    count = np.minimum((ranked > 0).sum(axis=1), left)
    if config.sign == "-":
        count = np.zeros_like(count)
    return order, ranked, count


def _selection(candidates: Candidates, picks: list, singles: tuple, text: int) -> Selection:
    groups, shares = [], []
    for is_new, start, row, gain in picks:
        if is_new[text]:
            groups.append(candidates.group(int(start[text]), int(row[text])))
            shares.append(float(gain[text]))
    num_phrases = len(groups)
    order, ranked, count = (part[text] for part in singles)
    groups += [(word,) for word in order[:count].tolist()]
    shares += ranked[:count].tolist()
    return Selection(groups, shares, num_phrases)


def select_as_smv(candidates: Candidates, config: VerbalizerConfig, text: int = 0) -> Selection:
    """The summary of the paper: join the best of every search, and keep the best quarter.

    The `top_k` groups of the convolution search, of the span search and of the single words are
    joined; neighbouring words form runs; the runs at or above the upper quartile of coverage are
    named. Coverage counts every word of a group, and ties keep both runs.

    Source: Feldhus et al. 2023 (arXiv 2210.07222), section 4, without the errors of its code.
    """
    words: set[int] = set()
    for search in ("convolution", "span"):
        for group, _ in candidates.found(search, text)[: config.top_k]:
            words.update(group)
    length = int(candidates.lengths[text])
    shares = candidates.coverage[text, :length, 0]
    for word in np.argsort(-shares, kind="stable")[: config.top_k].tolist():
        if shares[word] > 0:
            words.add(word)
    if not words:
        return Selection([], [], 0)
    runs = runs_of(sorted(words))
    covered = np.array([max(0.0, float(shares[list(run)].sum())) for run in runs])
    kept = (covered >= np.quantile(covered, 0.75)).nonzero()[0]
    kept = kept[np.argsort(-covered[kept], kind="stable")]
    return Selection([runs[run] for run in kept], covered[kept].tolist(), len(kept))


def runs_of(words: list[int]) -> list[tuple[int, ...]]:
    """Cut ascending words into runs of neighbours.

    Example:
        >>> runs_of([1, 2, 5])
        [(1, 2), (5,)]
    """
    breaks = np.flatnonzero(np.diff(words) != 1) + 1
    return [tuple(part.tolist()) for part in np.split(np.asarray(words), breaks)]
