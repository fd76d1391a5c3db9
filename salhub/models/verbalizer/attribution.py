"""How much each token mattered to a text classifier: gradients, integrated gradients, occlusion.

All of them work on the word vectors that go into the network, so the positions and types that a
transformer adds later stay as they are.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from salhub.models.verbalizer.memory import usual_rows

# Takes word vectors (R, T, D) and their frame (R, T), and gives logits (R, C).
Classify = Callable[[Tensor, Any], Tensor]


@dataclass(frozen=True)
class Frame:
    """What a classifier is told of the tokens of some rows beside their vectors.

    Args:
        mask: 1 for tokens, 0 for padding, int64 (R, T).
        ids: The tokens, int64 (R, T).
        types: Which of two texts each token is of, int64 (R, T), or None.
    """

    mask: Tensor
    ids: Tensor
    types: Tensor | None = None

    def __getitem__(self, place: Any) -> "Frame":
        types = None if self.types is None else self.types[place]
        return Frame(self.mask[place], self.ids[place], types)


@dataclass(frozen=True)
class Target:
    """What is explained: the logit of a class, or by how much it exceeds that of another.

    Args:
        classes: Class of each text, int64 (B,).
        others: The class that it is compared with, int64 (B,), or None.
    """

    classes: Tensor
    others: Tensor | None = None

    def of(self, logits: Tensor, rows: Tensor) -> Tensor:
        """The explained number of some rows.

        Args:
            logits: (R, C).
            rows: Text of each row, int64 (R,).

        Returns:
            (R,).
        """
        chosen = logits.gather(1, self.classes[rows, None])
        if self.others is not None:
            chosen = chosen - logits.gather(1, self.others[rows, None])
        return chosen[:, 0]


@dataclass(frozen=True)
class Explained:
    """Texts as an attribution sees them.

    Args:
        classify: The classifier.
        vectors: Word vectors, (B, T, D).
        baseline: What they are compared with, (B, T, D); special tokens and padding are their own
            baseline, so that they get no score.
        frame: What else the classifier is told of them, (B, T).
        target: What is explained.
        logits: Of the texts, (B, C).
        largest: Most rows that pass the classifier at once; None for as many as are usual.
    """

    classify: Classify
    vectors: Tensor
    baseline: Tensor
    frame: Any
    target: Target
    logits: Tensor
    largest: int | None = None

    @property
    def here(self) -> Tensor:
        """The explained number of the texts, (B,)."""
        return self.target.of(
            self.logits, torch.arange(len(self.logits), device=self.vectors.device)
        )

    def chunks(self, count: int, together: int = 1) -> Iterator[slice]:
        """Cut a number of things into what passes at once, where each has so many rows."""
        usual = usual_rows(self.vectors.shape[1], self.vectors.device)
        size = max(1, (self.largest or usual) // together)
        return (slice(begin, begin + size) for begin in range(0, count, size))

    def values(self, vectors: Tensor) -> Tensor:
        """The explained number of other vectors for the texts, (B,), without gradients."""
        rows = torch.arange(len(vectors), device=vectors.device)
        with torch.no_grad():
            parts = [
                self.target.of(self.classify(vectors[chunk], self.frame[chunk]), rows[chunk])
                for chunk in self.chunks(len(vectors))
            ]
        return torch.cat(parts)


@lru_cache(maxsize=64)
def _gauss_legendre(count: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return tuple(((1 + nodes) / 2).tolist()), tuple((weights / 2).tolist())


def integrated_gradients(explained: Explained, n_steps: int) -> tuple[Tensor, Tensor]:
    """Integrate the gradient along the straight line from the baseline to the text.

    The points of all texts pass the classifier together.

    Args:
        explained: The texts.
        n_steps: Points on the line, at the nodes of Gauss and Legendre.

    Returns:
        Scores (B, T), and how far their sums are from the change of the explained number (B,).

    Source: Sundararajan et al., "Axiomatic Attribution for Deep Networks", 2017 (arXiv 1703.01365),
        equations 1 and 3, and proposition 1 for the sum.
    """
    nodes, weights = (
        torch.tensor(values, device=explained.vectors.device, dtype=torch.float32)
        for values in _gauss_legendre(n_steps)
    )
    difference = explained.vectors - explained.baseline
    mean_gradient = torch.zeros_like(difference, dtype=torch.float32)
    for texts in explained.chunks(len(difference)):
        rows = torch.arange(len(difference), device=difference.device)[texts]
        start, direction = explained.baseline[texts], difference[texts]
        for steps in explained.chunks(n_steps, len(rows)):
            shares = nodes[steps].to(difference.dtype)[:, None, None, None]
            points = torch.addcmul(start, direction, shares).flatten(0, 1)  # (steps * texts, T, D)
            count = len(shares)
            own = weights[steps].repeat_interleave(len(rows))
            gradient = _gradient(explained, points, rows.repeat(count), own)
            mean_gradient[texts] += gradient.float().unflatten(0, (count, len(rows))).sum(dim=0)
    scores = (difference.float() * mean_gradient).sum(dim=-1)
    change = explained.here - explained.values(explained.baseline)
    return scores, (scores.sum(dim=1) - change.float()).abs()


def gradient_x_input(explained: Explained) -> Tensor:
    """Multiply the gradient at the text with how far the text is from the baseline, (B, T).

    Source: Shrikumar et al., 2016 (arXiv 1605.01713), section 2; with a baseline other than zero it
        is the first-order Taylor expansion around the text.
    """
    rows = torch.arange(len(explained.vectors), device=explained.vectors.device)
    parts = []
    for chunk in explained.chunks(len(rows)):
        own = rows[chunk]
        weights = torch.ones(len(own), device=own.device)
        parts.append(_gradient(explained, explained.vectors[own].clone(), own, weights).float())
    difference = explained.vectors - explained.baseline
    return (difference.float() * torch.cat(parts)).sum(dim=-1)


def occlusion(explained: Explained, word_ids: Tensor) -> Tensor:
    """Replace one word after the other by the baseline; its score is what that takes away.

    Args:
        explained: The texts.
        word_ids: Word of each token, -1 for tokens of no word, int64 (B, T).

    Returns:
        (B, T); the pieces of a word share its score.

    Source: Zeiler and Fergus 2014 (arXiv 1311.2901), section 2.1, for pictures.
    """
    num_words = int(word_ids.max()) + 1
    is_part = word_ids >= 0
    places_of = word_ids.clamp(min=0)
    sizes = torch.zeros(len(word_ids), num_words, device=word_ids.device, dtype=torch.long)
    sizes.scatter_add_(1, places_of, is_part.long())
    rows, places = sizes.nonzero(as_tuple=True)
    complete = explained.here
    drops = torch.zeros(sizes.shape, device=word_ids.device, dtype=torch.float32)
    with torch.no_grad():
        for chunk in explained.chunks(len(rows)):
            own = rows[chunk]
            hidden = (word_ids[own] == places[chunk, None])[..., None]
            vectors = torch.where(hidden, explained.baseline[own], explained.vectors[own])
            logits = explained.classify(vectors, explained.frame[own])
            drop = complete[own] - explained.target.of(logits, own)
            drops[own, places[chunk]] = drop.float()
    shares = drops / sizes.clamp(min=1)
    return shares.gather(1, places_of) * is_part


def random_scores(input_ids: Tensor, seed: int) -> Tensor:
    """Scores without meaning, the control of every comparison; a text always gets the same.

    Args:
        input_ids: Tokens (B, T), padding at the end counted as 0.
        seed: Other seeds give other scores.

    Returns:
        Uniform float32 in [-1, 1), (B, T), on the device of the tokens.
    """
    rows = []
    for ids in input_ids.tolist():
        mixed = math.fsum((place + 1) * token for place, token in enumerate(ids))
        generator = torch.Generator().manual_seed((seed * 1_000_003 + int(mixed)) % 2**63)
        # Drawn one after the other, so that padding changes nothing.
        rows.append(2 * torch.rand(len(ids), generator=generator) - 1)
    return torch.stack(rows).to(input_ids.device)


def _gradient(explained: Explained, points: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Gradient of the weighted sum of the explained numbers by the points, (R, T, D)."""
    points = points.detach().requires_grad_()
    logits = explained.classify(points, explained.frame[rows])
    values = explained.target.of(logits, rows)
    return torch.autograd.grad((values * weights.to(values.dtype)).sum(), points)[0]
