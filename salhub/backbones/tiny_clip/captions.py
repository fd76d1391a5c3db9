"""Captions of classes of pictures: their names and coarser words, in short sentences."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from salhub.data.class_names import first_name, synonyms_of
from salhub.data.imagenet import imagenet_labels

logger = logging.getLogger(__name__)

TEMPLATES = (
    "a photo of a {}.",
    "a photo of the {}.",
    "a picture of a {}.",
    "a small photo of a {}.",
    "a close-up of a {}.",
    "a blurry photo of a {}.",
    "a cropped photo of a {}.",
    "an image of one {}.",
    "this is a {}.",
    "there is a {} in the photo.",
    "{}",
)
# How often a class is called by its usual name, and otherwise by any of its names.
_USUAL = 0.5


@cache
def hypernyms() -> dict[str, tuple[str, ...]]:
    """Usual name of a class in small letters -> words for what kind of thing it is.

    Example:
        >>> hypernyms()["sports car"]
        ('car', 'automobile')
    """
    found = {}
    lines = Path(__file__).with_name("hypernyms.txt").read_text(encoding="utf-8").splitlines()
    for line in lines:
        words, _, names = line.partition(":")
        found |= dict.fromkeys(
            (name.lower() for name in synonyms_of(names)), tuple(synonyms_of(words))
        )
    return found


@dataclass(frozen=True)
class StepCaptions:
    """The captions of one step.

    Args:
        input_ids: Their tokens, int64 (K + C + W, L): of K classes, C coarser words, W other words.
        names: Which name each is of, int64 (K + C + W,).
        sizes: (K, C, W).
    """

    input_ids: Tensor
    names: Tensor
    sizes: tuple[int, int, int]


class Captions:
    """All captions of some classes, and of words without pictures, as tokens.

    Args:
        class_names: One name a class, perhaps of several synonyms with commas between.
        words: Further names, whose meaning is learned without pictures.

    Attributes:
        names: All names, those of the classes first, then coarser words, then the further ones.
        hypernym_of: Place of the coarser word of every class among those, -1 for none, int64 (K,).

    Example:
        >>> captions = Captions(["sports car", "goldfish, Carassius auratus"], ["zebra"])
        >>> captions.names
        ['sports car', 'goldfish', 'Carassius auratus', 'car', 'automobile', 'zebra']
    """

    def __init__(self, class_names: Sequence[str], words: Iterable[str] = ()) -> None:
        kinds = [hypernyms().get(first_name(name).lower(), ()) for name in class_names]
        distinct = list(dict.fromkeys(filter(None, kinds)))
        self.hypernym_of = torch.tensor([distinct.index(k) if k else -1 for k in kinds])
        self.names: list[str] = []
        self._of_classes = [self._add(synonyms_of(name) or [name]) for name in class_names]
        self._of_hypernyms = [self._add(kind) for kind in distinct]
        known = set(self.names)
        self._of_words = self._add(dict.fromkeys(word for word in words if word not in known))

    def _add(self, names: Iterable[str]) -> Tensor:
        first = len(self.names)
        self.names += names
        return torch.arange(first, len(self.names))

    def texts(self) -> list[str]:
        """Every caption, those of a name one after another."""
        return [template.format(name) for name in self.names for template in TEMPLATES]

    def encode(self, tokenizer: Any) -> None:
        """Turn all captions into tokens; those that are too long are cut, and it is said.

        Args:
            tokenizer: Of the model, with the most tokens that it takes.
        """
        texts, most = self.texts(), tokenizer.model_max_length
        lengths = [len(ids) for ids in tokenizer(texts, verbose=False)["input_ids"]]
        too_long = [text for text, length in zip(texts, lengths, strict=True) if length > most]
        if too_long:
            logger.warning(
                "%d of %d captions were cut to %d tokens, such as '%s'; give a larger "
                "max_position_embeddings, or shorter names.",
                len(too_long), len(texts), most, too_long[0],
            )  # fmt: skip
        found = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        rows = (len(self.names), len(TEMPLATES), -1)
        self._ids = found["input_ids"].view(rows)
        self._lengths = found["attention_mask"].sum(-1).view(rows[:2])

    def draw(self, generator: torch.Generator, num_words: int) -> StepCaptions:
        """One caption of every class and of every coarser word, and some of further words.

        Args:
            generator: Draws names and sentences.
            num_words: Of the further words, at most.
        """
        names = [_draw_name(own, generator) for own in self._of_classes]
        coarse = [_draw_name(own, generator) for own in self._of_hypernyms]
        order = torch.randperm(len(self._of_words), generator=generator)[:num_words]
        words = self._of_words[order].tolist()
        chosen = torch.tensor([*names, *coarse, *words])
        templates = torch.randint(len(TEMPLATES), (len(chosen),), generator=generator)
        longest = int(self._lengths[chosen, templates].max())
        sizes = (len(names), len(coarse), len(words))
        return StepCaptions(self._ids[chosen, templates, :longest], chosen, sizes)


def imagenet_names() -> list[str]:
    """The names of the 1,000 classes of ImageNet, with all their synonyms."""
    return [name for label in imagenet_labels() for name in synonyms_of(label)]


def _draw_name(names: Tensor, generator: torch.Generator) -> int:
    is_usual = len(names) == 1 or float(torch.rand((), generator=generator)) < _USUAL
    place = 0 if is_usual else int(torch.randint(len(names), (), generator=generator))
    return int(names[place])
