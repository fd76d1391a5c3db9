"""How well a student guesses a classifier's decision from what is said of it."""

import re
from collections import Counter
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from salhub.metrics.bootstrap import bootstrap_mean

_WORD = re.compile(r"\w+")
_MIN_TEXTS = 2


def student_accuracy(
    texts: Sequence[str], labels: Sequence[int], num_classes: int, *, seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """Let a bag-of-words student learn decisions from one half of texts, and guess the others.

    Args:
        texts: What the student reads of each decision.
        labels: The classifier's decisions.
        num_classes: Of the classifier.
        seed: Of the halves, which are both learned once, and of the bootstrap.

    Returns:
        Share guessed right, and its 95 % bootstrap interval.

    Raises:
        ValueError: Fewer than two texts.

    Source: Feldhus et al. 2023 (arXiv 2210.07222), section 5, for guessing decisions from
        explanations; that the student is a logistic regression on words is ours.

    Example:
        >>> student_accuracy(["good", "bad"] * 8, [1, 0] * 8, 2)[0]
        1.0
    """
    if len(texts) < _MIN_TEXTS:
        raise ValueError(f"A student needs {_MIN_TEXTS} texts or more, got {len(texts)}.")
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed)).tolist()
    halves = (order[: len(order) // 2], order[len(order) // 2 :])
    right = torch.zeros(len(texts))
    for learned, guessed in (halves, halves[::-1]):
        guesses = _guess(
            [texts[place] for place in learned],
            torch.tensor([labels[place] for place in learned]),
            [texts[place] for place in guessed],
            num_classes,
        )
        right[guessed] = (guesses == torch.tensor([labels[place] for place in guessed])).float()
    found = bootstrap_mean(right.double().numpy(), seed=seed)
    return found.mean, (found.low, found.high)


def _guess(learned: list[str], labels: Tensor, guessed: list[str], num_classes: int) -> Tensor:
    counts = Counter(word for text in learned for word in set(_words(text)))
    index = {word: place for place, word in enumerate(sorted(counts))}
    features, wanted = _bag(learned, index), _bag(guessed, index)
    weight = torch.zeros(len(index) + 1, num_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(features @ weight, labels, reduction="sum")
        loss = loss + 0.5 * weight[:-1].square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return (wanted @ weight.detach()).argmax(dim=-1)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _bag(texts: list[str], index: dict[str, int]) -> Tensor:
    """Which words a text holds, and a column of ones, float32 (n, words + 1)."""
    bag = torch.zeros(len(texts), len(index) + 1)
    bag[:, -1] = 1
    for row, text in enumerate(texts):
        known = [index[word] for word in set(_words(text)) if word in index]
        bag[row, known] = 1
    return bag
