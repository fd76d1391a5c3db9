"""Which of the found groups are named: a greedy cover under a budget, or the paper's summary."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from salhub.models.verbalizer.candidates import Candidates
from salhub.models.verbalizer.configuration_verbalizer import VerbalizerConfig

_TINY = np.finfo(np.float64).tiny
# Words of a gap that is filled, and of a phrase that is joined.
_GAP, _LONGEST = 2, 7


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


@dataclass(frozen=True)
class GreedySelections:
    """What is named of many texts, as arrays; one text's is made when it is asked for.

    Args:
        candidates: What was chosen from.
        starts: First word of each phrase, int64 (P, B).
        rows: Its filter, int64 (P, B).
        gains: Its coverage, 0 where there is none, float64 (P, B).
        words: Words by falling score, int64 (B, K).
        word_shares: Their coverage, (B, K).
        num_words: How many of them are named, int64 (B,).
    """

    candidates: Candidates
    starts: np.ndarray
    rows: np.ndarray
    gains: np.ndarray
    words: np.ndarray
    word_shares: np.ndarray
    num_words: np.ndarray

    def __len__(self) -> int:
        return len(self.num_words)

    def __iter__(self) -> Iterator[Selection]:
        return (self[text] for text in range(len(self)))

    def __getitem__(self, text: int) -> Selection:
        if not 0 <= text < len(self):
            raise IndexError(text)
        picks = [pick for pick in range(len(self.gains)) if self.gains[pick, text] > 0]
        groups = [
            self.candidates.group(self.starts[pick, text], int(self.rows[pick, text]))
            for pick in picks
        ]
        shares = [float(self.gains[pick, text]) for pick in picks]
        count = int(self.num_words[text])
        groups += [(word,) for word in self.words[text, :count].tolist()]
        return Selection(groups, shares + self.word_shares[text, :count].tolist(), len(picks))


def select_greedily(
    candidates: Candidates,
    config: VerbalizerConfig,
    is_weak: np.ndarray | None = None,
    *,
    max_phrases: int | None = None,
) -> GreedySelections:
    """Name the phrase that covers most, then the one that adds most to it, and so on.

    Phrases share no word. A further phrase that adds less than `min_gain` ends the search; what is
    left of the budget of words goes to the single words of largest score. Ties go to the earliest.

    Args:
        candidates: Of some texts.
        config: `max_phrases`, `max_words`, `min_gain` and `min_word_gain`.
        is_weak: Words that are not named alone, bool (B, N).
        max_phrases: Most phrases; those of the configuration where None.

    Returns:
        One selection a text.

    Source: the greedy rule for maximum coverage, Nemhauser et al. 1978, section 4. Its choice is at
        most a factor 1 - 1/e below the best set of phrases; how near it came to the best set of as
        many single words is in the audit of each text.
    """
    size = len(candidates.lengths)
    pool = _Pool(candidates)
    left = np.full(size, config.max_words)
    max_phrases = max_phrases or config.max_phrases
    # However evenly the evidence is spread, something is named.
    smallest, min_gain = _TINY, max(config.min_gain, _TINY)
    starts, rows = (np.zeros((max_phrases, size), dtype=np.int64) for _ in range(2))
    gains = np.zeros((max_phrases, size))
    taken = np.zeros(candidates.scores.shape, dtype=bool)
    for pick in range(max_phrases):
        best = pool.best(left, smallest)
        if not len(best):
            break
        smallest = min_gain
        texts, start, row = pool.texts[best], pool.starts[best], pool.rows[best]
        starts[pick, texts], rows[pick, texts] = start, row
        gains[pick, texts] = pool.gains[best]
        left[texts] -= candidates.filters.sizes[row].astype(np.int64)
        named, offsets = candidates.filters.places[row].nonzero()
        taken[texts[named], start[named] + offsets] = True
        pool.keep_apart_from(best, size)
    words, shares, count = _single_words(candidates, config, taken, left, is_weak)
    return GreedySelections(candidates, starts, rows, gains, words, shares, count)


class _Pool:
    """The accepted groups of all texts in one list, in the order of texts, words and filters."""

    def __init__(self, candidates: Candidates) -> None:
        self.filters = candidates.filters
        self.texts, self.starts, self.rows = candidates.is_accepted.nonzero()
        sums = candidates.sums[self.texts, self.starts, self.rows]
        self.gains = sums / candidates.mass[self.texts]

    def best(self, left: np.ndarray, smallest: float) -> np.ndarray:
        """Places of the group that adds most of each text, where that is enough and it fits."""
        keep = (self.gains >= smallest) & (self.filters.sizes[self.rows] <= left[self.texts])
        if not keep.all():
            self._keep(keep)
        if not len(self.texts):
            return np.zeros(0, dtype=np.int64)
        is_first = _first_of_each(self.texts)
        largest = np.maximum.reduceat(self.gains, is_first.nonzero()[0])
        places = (self.gains == largest[is_first.cumsum() - 1]).nonzero()[0]
        return places[_first_of_each(self.texts[places])]

    def keep_apart_from(self, chosen: np.ndarray, size: int) -> None:
        """Drop groups that share a word with the chosen one of their text, and finished texts."""
        length = self.filters.places.shape[1]
        start, bits = np.full(size, -1), np.zeros(size, dtype=np.int64)
        start[self.texts[chosen]] = self.starts[chosen]
        bits[self.texts[chosen]] = self.filters.bits[self.rows[chosen]]
        distance = self.starts - start[self.texts]
        is_near = np.abs(distance) < length
        shift = np.where(is_near, distance + length, 0)
        own = self.filters.bits[self.rows] << shift
        overlaps = is_near & ((own & (bits[self.texts] << length)) != 0)
        self._keep(~overlaps & (start[self.texts] >= 0))

    def _keep(self, keep: np.ndarray) -> None:
        self.texts, self.starts, self.rows, self.gains = (
            values[keep] for values in (self.texts, self.starts, self.rows, self.gains)
        )


def _first_of_each(texts: np.ndarray) -> np.ndarray:
    """Where the number of another text begins in an ascending list of them, bool."""
    is_first = np.ones(len(texts), dtype=bool)
    np.not_equal(texts[1:], texts[:-1], out=is_first[1:])
    return is_first


def _single_words(
    candidates: Candidates,
    config: VerbalizerConfig,
    taken: np.ndarray,
    left: np.ndarray,
    is_weak: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Words by falling score (B, K), their shares, and how many of them are named (B,)."""
    shares = candidates.scores / candidates.mass[:, None]
    has_phrase = taken.any(axis=1, keepdims=True)
    is_closed = taken | (shares < np.where(has_phrase, max(config.min_word_gain, _TINY), _TINY))
    if is_weak is not None:
        is_closed |= is_weak
    open_shares = np.where(is_closed, -1.0, shares)
    order = np.argsort(-open_shares, axis=1, kind="stable")[:, : max(1, int(left.max()))]
    ranked = np.take_along_axis(open_shares, order, axis=1)
    return order, ranked, np.minimum((ranked > 0).sum(axis=1), left)


def joined(
    selection: Selection, scores: np.ndarray, max_words: int, is_edge: np.ndarray, second: int = 0
) -> Selection:
    """Make whole phrases of phrases, and of the words and phrases that stand beside them.

    Gaps of up to two words that do not speak for the other side are filled while the budget lasts.
    What would be longer than a reader takes in at once stays apart.

    Args:
        selection: Of one text.
        scores: Of its words, above 0 for what is searched, (n,).
        max_words: The budget.
        is_edge: Words that no phrase of several begins or ends with, bool (n,).
        second: First word of the second text of a pair, 0 for none.
    """
    owner = {word: place for place, group in enumerate(selection.groups) for word in group}
    members, count = [set(group) for group in selection.groups], selection.num_phrases
    left = max_words - len(owner)
    inner = [word for word, place in sorted(owner.items()) if place < count or not is_edge[word]]
    for before, after in pairwise(inner):
        low, high = sorted((owner[before], owner[after]))
        between = range(before + 1, after)
        gap = [word for word in between if word not in owner]
        whole = {*members[low], *members[high], *between}
        ends = [min(whole), max(whole)]
        if ends[0] < second <= ends[1]:
            continue
        if (low == high and not between) or low >= count or ends[1] - ends[0] >= _LONGEST:
            continue
        if len(between) > _GAP or len(gap) > left or (scores[gap] < 0).any() or is_edge[ends].any():
            continue
        for place in {owner[word] for word in whole if word in owner}:
            members[place] = set()
        members[low] = whole
        owner |= dict.fromkeys(whole, low)
        left -= len(gap)
    mass = max(float(np.maximum(scores, 0).sum()), _TINY)
    groups = [tuple(sorted(one)) for one in members]
    shares = [float(scores[list(one)].sum()) / mass for one in groups]
    phrases = sorted(filter(groups.__getitem__, range(count)), key=lambda one: -shares[one])
    order = [*phrases, *filter(groups.__getitem__, range(count, len(groups)))]
    return Selection([groups[one] for one in order], [shares[one] for one in order], len(phrases))


def select_as_smv(candidates: Candidates, config: VerbalizerConfig, text: int = 0) -> Selection:
    """The summary of the paper: join the best of every search, and keep the best quarter.

    The `top_k` groups of the convolution search, of the span search and of the single words are
    joined; neighbouring words form runs; the runs at or above the upper quartile of coverage are
    named. Coverage counts every word of a group, and ties keep both runs.

    Source: Feldhus et al. 2023 (arXiv 2210.07222), section 4, without the errors of its code.
    """
    words: set[int] = set()
    for search in ("convolution", "span"):
        for group, _ in candidates.found(search, text=text)[: config.top_k]:
            words.update(group)
    length = int(candidates.lengths[text])
    shares = candidates.scores[text, :length] / candidates.mass[text]
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
