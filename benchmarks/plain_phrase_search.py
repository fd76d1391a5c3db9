"""The searches restated slowly: every window, every filter, every word, one after the other."""

from itertools import combinations

import numpy as np


def normalised(scores: list[float], compat: bool = False) -> list[float]:
    """Scores divided by the largest size."""
    largest = abs(max(scores)) if compat else max(abs(score) for score in scores)
    return [score / largest if largest else score for score in scores]


def threshold(scores: list[float], metric: str, value: float) -> float:
    """What the mean of a group must exceed."""
    if metric == "top_mean":
        best = sorted(scores, reverse=True)[: max(1, int(len(scores) * value + 1e-9))]
        return sum(best) / len(best)
    if metric == "std":
        return value * float(np.std(scores))
    if metric == "variance":
        return value * float(np.var(scores))
    return float(np.quantile(scores, value))


def filters(search: str, length: int) -> list[list[int]]:
    """The filters of a window, each a list of 0 and 1."""
    if search == "convolution":
        counts = range(2, length - 1)
        return [
            [int(place in ones) for place in range(length)]
            for count in counts
            for ones in combinations(range(length), count)
        ]
    found = []
    for size in range(3, length + 1, 2):
        gap = (length - size + 1) // 2
        found.append([int(gap <= place < gap + size) for place in range(length)])
    return found


def passes(values: list[float], sign: str) -> bool:
    """Whether all values have a sign."""
    if sign == "+":
        return all(value >= 0 for value in values)
    return all(value < 0 for value in values) if sign == "-" else True


def search(
    scores: list[float],
    kind: str,
    *,
    length: int = 5,
    metric: str = "top_mean",
    value: float = 0.4,
    sign: str = "+",
    compat: bool = False,
    marks: list[bool] | None = None,
) -> dict[tuple[int, ...], float]:
    """Groups of words that are accepted, and the share of the positive evidence of each."""
    if sign == "-" and not compat:
        scores, sign = [-score for score in scores], "+"
    scaled = normalised(scores, compat)
    theta = threshold(scaled, metric, value)
    mass = sum(max(score, 0) for score in scaled) or np.finfo(float).tiny
    count = len(scaled)
    # Zeros at both ends let windows begin before the text and end after it.
    windows = range(count - length) if compat else range(-length, count + 1)
    found = {}
    for start in windows:
        for one in filters(kind, length):
            group = tuple(start + place for place in range(length) if one[place])
            if group[0] < 0 or group[-1] >= count:
                continue
            values = [scaled[place] for place in group]
            tested = values
            if compat and sign == "-":
                tested = [one[place] * scaled[start + place] for place in range(length)]
            if marks and not compat and _has_open_mark(group, marks):
                continue
            if passes(tested, sign) and sum(values) / len(values) > theta + 1e-12:
                found[group] = max(0.0, sum(values) / mass)
    return found


def _has_open_mark(group: tuple[int, ...], marks: list[bool]) -> bool:
    inside = set(group)
    return any(
        marks[place] and not (place - 1 in inside and place + 1 in inside) for place in group
    )


def smv_summary(scores: list[float], top_k: int = 5) -> list[tuple[tuple[int, ...], float]]:
    """The summary of the paper without the errors of its code."""
    words: set[int] = set()
    for kind in ("convolution", "span"):
        found = search(scores, kind)
        ordered = sorted(found, key=lambda group: (-found[group], group[0], group))
        for group in ordered[:top_k]:
            words.update(group)
    order = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
    words.update(place for place in order[:top_k] if scores[place] > 0)
    runs: list[list[int]] = []
    for word in sorted(words):
        if runs and word == runs[-1][-1] + 1:
            runs[-1].append(word)
        else:
            runs.append([word])
    mass = sum(max(score, 0) for score in scores)
    covered = [max(0.0, sum(scores[word] for word in run) / mass) for run in runs]
    limit = np.quantile(covered, 0.75)
    kept = [(tuple(run), share) for run, share in zip(runs, covered, strict=True) if share >= limit]
    return sorted(kept, key=lambda pair: -pair[1])


def greedy(
    scores: list[float], *, max_phrases: int, max_words: int, min_gain: float, min_word_gain: float
) -> list[tuple[tuple[int, ...], float]]:
    """Phrase after phrase, the one that adds most; then single words."""
    accepted = {**search(scores, "convolution"), **search(scores, "span")}
    scaled = normalised(scores)
    theta = threshold(scaled, "top_mean", 0.4)
    mass = sum(max(score, 0) for score in scores) or 1
    accepted |= {
        (place,): score / mass
        for place, score in enumerate(scores)
        if score >= 0 and scaled[place] > theta + 1e-12
    }
    named, taken = [], set()
    for _ in range(max_phrases):
        left = max_words - len(taken)
        free = [one for one in accepted if not taken & set(one) and len(one) <= left]
        if not free:
            break
        best = min(free, key=lambda one: (-round(accepted[one], 12), one[0], _shape(one)))
        if accepted[best] < (min_gain if named else 0) or accepted[best] <= 0:
            break
        named.append((best, accepted[best]))
        taken |= set(best)
    order = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
    smallest = min_word_gain if named else 0
    for place in order:
        share = scores[place] / mass
        if place not in taken and share >= smallest and share > 0 and len(taken) < max_words:
            named.append(((place,), share))
            taken.add(place)
    return named


def _shape(group: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(place - group[0] for place in group)
