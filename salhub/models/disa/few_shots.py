"""Which pictures are the shots, which classes are base and novel, and what is left to test on."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from salhub.data.labelled_split import LabelledSplit
from salhub.runner.batches import generator_of

logger = logging.getLogger(__name__)

_SHOTS = 0


def base_classes(count: int) -> int:
    """How many of so many classes, in the order of their labels, are base: half, or one more.

    Source: Zhou et al. 2022 (arXiv 2203.05557), section 4.1.

    Example:
        >>> base_classes(4), base_classes(5)
        (2, 3)
    """
    return math.ceil(count / 2)


@dataclass(frozen=True)
class Shots:
    """Places of pictures by their use.

    Args:
        split: What is learned and what is tested on.
        learned: Classes that are learned, the first so many.
        notes: Sentences about classes with fewer pictures, and about what is not measured.
    """

    split: LabelledSplit
    learned: int
    notes: list[str]


def draw_shots(data: Any, shots: int | None, *, only_base: bool, seed: int) -> Shots:
    """Draw the shots of each class that is learned; the rest is tested on.

    Pictures for testing are those of the data's own part, or where there is none all that are no
    shots; those of novel classes are never learned.

    Args:
        data: Labelled pictures.
        shots: Pictures of each class; None for all, of which nothing is left without such a part.
        only_base: Whether only base classes are learned.
        seed: Of the draw.

    Raises:
        ValueError: Fewer than two classes are learned, or one of them has no picture.
    """
    names: Sequence[str] = data.class_names
    learned = base_classes(len(names)) if only_base else len(names)
    if learned < 2:
        raise ValueError(
            f"{data.name} has {len(names)} classes, so only {learned} would be learned; give "
            "at least two."
        )
    labels, is_train = data.labels, ~(data.is_test | data.is_validation)
    generator = generator_of(seed, _SHOTS)
    chosen, few, notes = [], [], []
    for label in range(learned):
        members = (is_train & (labels == label)).nonzero()[:, 0]
        if not len(members):
            raise ValueError(
                f"{data.name} has no training picture of '{names[label]}'; give at least one."
            )
        if shots is not None and len(members) < shots:
            few.append(f"{names[label]} ({len(members)})")
        order = torch.randperm(len(members), generator=generator)
        chosen.append(members[order[:shots]])
    if few:
        more = f" and {len(few) - 5} more" if len(few) > 5 else ""
        notes.append(
            f"There are fewer than {shots} pictures of {', '.join(few[:5])}{more}, so all of them "
            "are learned."
        )
    train = torch.cat(chosen).sort().values
    if bool(data.is_test.any()):
        test = data.is_test.nonzero()[:, 0]
    else:
        is_left = is_train.clone()
        is_left[train] = False
        test = is_left.nonzero()[:, 0]
        notes.append(
            f"{data.name} has no test part, so the {len(test)} pictures not used as shots "
            "are used for testing."
            if len(test)
            else f"{data.name} has no test part and all its pictures are learned, so nothing is "
            "measured; give fewer shots to keep some of them for testing."
        )
    untested = [names[c] for c in range(len(names)) if not bool((labels[test] == c).any())]
    if untested and len(test):
        notes.append(
            f"No pictures are left for testing {len(untested)} of the {len(names)} classes, "
            f"such as '{untested[0]}', so they are not measured."
        )
    for note in notes:
        logger.warning("%s", note)
    validation = data.is_validation.nonzero()[:, 0]
    return Shots(LabelledSplit(data.describe(), train, test, validation=validation), learned, notes)


def rows_of(labels: Tensor, classes: range) -> Tensor:
    """Rows whose label is one of some classes, int64 (n,)."""
    return ((labels >= classes.start) & (labels < classes.stop)).nonzero()[:, 0]
