"""The model-free searches: which groups of words carry much of the evidence.

Every filter of a window is written once, starting at its first word, so that no group is found
twice. All groups of all texts are scored by one product of the windows and the filters.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations

import numpy as np

from salhub.models.verbalizer.configuration_verbalizer import VerbalizerConfig

# More than any sum of scores, which are at most 1 each.
_FORBIDDEN = -1e9
SEARCHES = ("convolution", "span", "word")


@dataclass(frozen=True)
class Filters:
    """The groups of words that can start at a word.

    Args:
        places: 1 for the words of a group, counted from its first, float64 (F, L).
        sizes: Words of each group, float64 (F,).
        lengths: From the first word of each to the last, int64 (F,).
        edges: 1 for words of a group that lack a neighbour in it, float64 (F, L).
        members: The same places as numbers.
        bits: And as the bits of one number, int64 (F,).
        of: Search -> which groups it tries, bool (F,).
        centres: Words of a window before each group, where it stands in the middle, int64 (F,).
    """

    places: np.ndarray
    sizes: np.ndarray
    lengths: np.ndarray
    edges: np.ndarray
    members: tuple[tuple[int, ...], ...]
    bits: np.ndarray
    of: dict[str, np.ndarray]
    centres: np.ndarray


@lru_cache(maxsize=16)
def filters_of(length: int) -> Filters:
    """Filters of a window of so many words.

    The convolution search takes k of the words, k from 2 to length - 2; the span search an odd
    number of neighbours, from 3; the last one single words.

    Source: Feldhus et al. 2023 (arXiv 2210.07222), section 4.
    """
    groups: dict[tuple[int, ...], set[str]] = {(0,): {"word"}}
    for count in range(2, length - 1):
        for rest in combinations(range(1, length), count - 1):
            groups.setdefault((0, *rest), set()).add("convolution")
    for count in range(3, length + 1, 2):
        groups.setdefault(tuple(range(count)), set()).add("span")
    ordered = sorted(groups)
    places = np.zeros((len(ordered), length))
    for row, group in enumerate(ordered):
        places[row, list(group)] = 1
    left = np.pad(places, ((0, 0), (1, 0)))[:, :-1]
    right = np.pad(places, ((0, 0), (0, 1)))[:, 1:]
    lengths = np.array([group[-1] + 1 for group in ordered])
    return Filters(
        places,
        places.sum(axis=1),
        lengths,
        places * (1 - left * right),
        tuple(ordered),
        (places * 2.0 ** np.arange(length)).sum(axis=1).astype(np.int64),
        {name: np.array([name in groups[group] for group in ordered]) for name in SEARCHES},
        (length - lengths + 1) // 2,
    )


@dataclass(frozen=True)
class Candidates:
    """The groups of words of some texts that a search accepts.

    Args:
        filters: What the last dimension counts.
        scores: Of the words, divided by the largest size, float64 (B, N).
        lengths: Words of each text, int64 (B,).
        mass: What a coverage of 1 is, in the units of `scores`, (B,).
        sums: Sum of the scores of each group, by its first word, float64 (B, N, F); of groups that
            are not accepted it may be anything.
        is_accepted: Groups that lie in the text, pass the test of signs, and whose mean is above
            the threshold, bool (B, N, F).
        looks: Search -> which groups it comes upon, bool (B, N, F), where not upon all of its own.
    """

    filters: Filters
    scores: np.ndarray
    lengths: np.ndarray
    mass: np.ndarray
    sums: np.ndarray
    is_accepted: np.ndarray
    looks: Mapping[str, np.ndarray] = field(default_factory=dict)

    def found(self, *searches: str, text: int = 0) -> list[tuple[tuple[int, ...], float]]:
        """What a search, or all of several, accept in a text.

        Returns:
            Words and coverage of each group, the most covering first, then the earliest.
        """
        chosen = self.is_accepted[text]
        for search in searches:
            chosen = chosen & self.filters.of[search]
            if search in self.looks:
                chosen = chosen & self.looks[search][text]
        return self._listed(chosen, text)

    def _listed(self, chosen: np.ndarray, text: int) -> list[tuple[tuple[int, ...], float]]:
        starts, rows = chosen.nonzero()
        shares = self.sums[text][starts, rows] / self.mass[text]
        order = np.argsort(-shares, kind="stable")
        return [
            (self.group(starts[place], rows[place]), max(0.0, float(shares[place])))
            for place in order.tolist()
        ]

    def group(self, start: int, row: int) -> tuple[int, ...]:
        """The words of a group."""
        return tuple(int(start) + place for place in self.filters.members[row])


def normalized(scores: np.ndarray, compat: str | None = None) -> np.ndarray:
    """Divide scores (B, N) by the largest size of each row; rows of zeros stay.

    Args:
        scores: Padded with 0.
        compat: "smv" divides by the size of the largest score, as the code of the paper.
    """
    largest = np.abs(scores.max(axis=1) if compat == "smv" else np.abs(scores).max(axis=1))
    return scores / np.where(largest > 0, largest, 1)[:, None]


def positive_mass(scores: np.ndarray) -> np.ndarray:
    """The sum of the positive scores of each row, at least the smallest number above 0, (B,)."""
    return np.maximum(np.maximum(scores, 0).sum(axis=1), np.finfo(np.float64).tiny)


def thresholds(scores: np.ndarray, lengths: np.ndarray, metric: str, value: float) -> np.ndarray:
    """What the mean of a group must exceed in each text.

    Args:
        scores: Normalised, padded, (B, N).
        lengths: Words of each text, (B,).
        metric: "top_mean", the mean of the largest share `value` of the scores; "std" and
            "variance", `value` times them; "quantile", the scores' quantile `value`.
        value: See there.

    Returns:
        (B,).

    Source: Feldhus et al. 2023 (arXiv 2210.07222) for the first three; the code of the paper calls
        the second a quantile. The real quantile is ours.
    """
    inside = np.arange(scores.shape[1]) < lengths[:, None]
    if metric in ("std", "variance"):
        mean = scores.sum(axis=1) / lengths
        variance = (np.where(inside, scores - mean[:, None], 0) ** 2).sum(axis=1) / lengths
        return value * (np.sqrt(variance) if metric == "std" else variance)
    rows = np.arange(len(scores))
    if metric == "quantile":
        ascending = np.sort(np.where(inside, scores, np.inf), axis=1)
        place = value * (lengths - 1)
        low = np.floor(place).astype(np.int64)
        high = np.minimum(low + 1, lengths - 1)
        below, above = ascending[rows, low], ascending[rows, high]
        return below + (place - low) * (above - below)
    descending = -np.sort(np.where(inside, -scores, np.inf), axis=1)
    count = np.maximum(1, np.floor(lengths * value + 1e-9).astype(np.int64))
    sums = np.where(inside, descending, 0).cumsum(axis=1)
    return sums[rows, count - 1] / count


def find_candidates(
    scores: np.ndarray,
    lengths: np.ndarray,
    config: VerbalizerConfig,
    is_weak: np.ndarray | None = None,
    is_edge: np.ndarray | None = None,
    seconds: np.ndarray | None = None,
) -> Candidates:
    """Score every group of words of some texts.

    With the sign "-" the groups that weigh most against the class are found, as those for it with
    all signs turned; with `compat="smv"` the threshold stays above 0, as in the code of the paper,
    and nothing is found.

    Args:
        scores: Of the words, padded with 0, float64 (B, N).
        lengths: Words of each text, int64 (B,), at least 1 each.
        config: Filters, metric, sign and `compat`.
        is_weak: Words that are not named alone, bool (B, N).
        is_edge: Words that no group of several may begin or end with, bool (B, N); by default
            those that are not named alone.
        seconds: First word of the second text of a pair, which no group reaches over, 0 for none,
            int64 (B,).

    Example:
        >>> scores, config = np.array([[0.1, 0.9, 0.8, 0.0]]), VerbalizerConfig(metric_value=0.8)
        >>> find_candidates(scores, np.array([4]), config).found("convolution")[0][0]
        (1, 2)
    """
    # Each look into a configuration takes a microsecond.
    length, compat, sign = config.filter_length, config.compat, config.sign
    filters, is_smv = filters_of(length), compat == "smv"
    scaled = normalized(-scores if sign == "-" and not is_smv else scores, compat)
    theta = thresholds(scaled, lengths, config.metric, config.metric_value)
    is_outside = np.arange(scores.shape[1]) >= lengths[:, None]
    if sign != "any":
        is_outside |= scaled >= 0 if sign == "-" and is_smv else scaled < 0
    hindered = np.where(is_outside, _FORBIDDEN, scaled)
    sums = windows_of(hindered, length, _FORBIDDEN) @ filters.places.T
    if is_weak is not None and not is_smv:
        is_edge, is_single = is_weak if is_edge is None else is_edge, filters.sizes == 1
        marks = windows_of(is_edge.astype(np.float64), length)
        sums += marks @ (_FORBIDDEN * np.where(is_single[:, None], 0, filters.edges).T)
        sums[:, is_single] += _FORBIDDEN * is_weak.reshape(-1, 1)
    sums = sums.reshape(*scores.shape, -1)
    is_accepted = sums > theta[:, None, None] * filters.sizes
    # A threshold below 0 must not let in what is forbidden.
    is_accepted &= sums > _FORBIDDEN / 2
    if seconds is not None and seconds.any():
        distance = seconds[:, None, None] - np.arange(scores.shape[1])[:, None]
        is_accepted &= (distance <= 0) | (filters.lengths <= distance)
    looks = _where_smv_looks(filters, config, scores.shape[1], lengths) if is_smv else {}
    if is_smv:
        is_accepted &= np.any([tried & filters.of[one] for one, tried in looks.items()], axis=0)
    return Candidates(filters, scaled, lengths, positive_mass(scaled), sums, is_accepted, looks)


def windows_of(values: np.ndarray, length: int, fill: float = 0.0) -> np.ndarray:
    """The words from each word on, (B * N, L), filled up after the last."""
    rows, words = values.shape
    padded = np.full((rows, words + length - 1), fill)
    padded[:, :words] = values
    strides = padded.strides
    view = np.lib.stride_tricks.as_strided(
        padded, (rows, words, length), (strides[0], strides[1], strides[1]), writeable=False
    )
    return view.reshape(rows * words, length)


def _where_smv_looks(
    filters: Filters, config: VerbalizerConfig, num_words: int, lengths: np.ndarray
) -> dict[str, np.ndarray]:
    """Where the code of the paper looks, (B, N, F): never in the last window, spans in its middle.

    Its test of the sign "-" also counts the zeros of a filter, so only a full window passes.
    """
    starts = np.arange(num_words)[:, None]
    num_windows = (lengths - config.filter_length)[:, None, None]
    reaches = starts < num_windows + config.filter_length - filters.lengths
    is_middle = (starts >= filters.centres) & (starts < num_windows + filters.centres)
    looks = {"convolution": reaches, "span": is_middle, "word": starts < lengths[:, None, None]}
    if config.sign == "-":
        is_full = filters.sizes == config.filter_length
        looks = {search: tried & is_full for search, tried in looks.items()}
    return {search: tried & (num_windows > 0) for search, tried in looks.items()}
