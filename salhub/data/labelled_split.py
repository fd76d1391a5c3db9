"""Which pictures of a data set a model has learned: drawn by a seed, kept with the model."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

FILE_NAME = "split.json"
_PARTS = ("train", "test", "forgotten", "validation")


@dataclass(frozen=True)
class LabelledSplit:
    """Places in a data set for training and for testing.

    Args:
        data: What the data set says of itself: name, size and fingerprint.
        train: Places of the training pictures, int64 (n,), ascending.
        test: Places of the test pictures, int64 (m,), ascending.
        forgotten: Places that were once to be learned and are no longer: left out when the model
            was trained, or unlearned since; int64 (k,), ascending.
        validation: Places that the model was chosen by, which are in no other part; int64 (l,),
            ascending, empty where the test pictures were.

    Example:
        >>> split = LabelledSplit({"name": "d"}, torch.tensor([0, 2]), torch.tensor([1]))
        >>> split.digest[:8]
        'c2f79d1e'
    """

    data: Mapping[str, Any]
    train: Tensor
    test: Tensor
    forgotten: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    validation: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))

    @property
    def held_out(self) -> Tensor:
        """Places to measure a model on that is still trained."""
        return self.validation if len(self.validation) else self.test

    def without(self, places: Tensor) -> Self:
        """The split after some of its training pictures are forgotten.

        Args:
            places: int64 (k,).

        Raises:
            ValueError: Some are no training pictures of it.

        Example:
            >>> split = LabelledSplit({}, torch.tensor([0, 2]), torch.tensor([1]))
            >>> split.without(torch.tensor([2])).train.tolist()
            [0]
        """
        foreign = places[~torch.isin(places, self.train)]
        if len(foreign):
            raise ValueError(
                f"{len(foreign)} of the {len(places)} pictures to forget are not among the "
                f"{len(self.train)} that the model was trained on, the first being "
                f"{', '.join(map(str, foreign[:5].tolist()))}; only trained pictures can be "
                "unlearned."
            )
        kept = self.train[~torch.isin(self.train, places)]
        forgotten = torch.cat([self.forgotten, places]).unique()
        return type(self)(self.data, kept, self.test, forgotten, self.validation)

    @property
    def digest(self) -> str:
        """SHA-256 of the data set's fingerprint and of the training places."""
        digest = hashlib.sha256(str(self.data.get("fingerprint", "")).encode())
        digest.update(self.train.numpy().astype("<i8").tobytes())
        return digest.hexdigest()

    def save(self, folder: str | Path) -> Path:
        """Write `split.json`."""
        path = Path(folder) / FILE_NAME
        content = {
            "data": dict(self.data),
            "digest": self.digest,
            "train": _as_ranges(self.train),
            "test": _as_ranges(self.test),
            "forgotten": _as_ranges(self.forgotten),
        }
        if len(self.validation):
            content["validation"] = _as_ranges(self.validation)
        path.write_text(json.dumps(content) + "\n", encoding="utf-8")
        return path

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read `split.json`.

        Raises:
            FileNotFoundError: There is none.
            ValueError: It is damaged.
        """
        path = Path(folder) / FILE_NAME
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder} has no {FILE_NAME}, so the training data of its model are unknown."
            )
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            content.setdefault("validation", [])
            places = (_from_ranges(content[name]) for name in _PARTS)
            split = cls(dict(content["data"]), *places)
            expected = content["digest"]
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError):
            raise ValueError(f"{path} is damaged, or was not written by salhub.") from None
        if split.digest != expected:
            raise ValueError(f"{path} is damaged: its indices do not match its digest.")
        return split


def noting_repetitions(split: LabelledSplit, digests: Sequence[int], unit: str) -> LabelledSplit:
    """The split, whose data tell how many rows are both learned and held out, which is said.

    Args:
        split: As it was drawn.
        digests: Of each row of the data, equal where rows are.
        unit: What a row is, such as "pictures".

    Example:
        >>> split = LabelledSplit({"name": "d"}, torch.tensor([0, 1]), torch.tensor([2]))
        >>> noting_repetitions(split, [7, 8, 7], "texts").data["num_held_out_that_are_learned"]
        1
    """
    learned = {digests[place] for place in split.train.tolist()}
    held_out = torch.cat([split.test, split.validation]).tolist()
    count = sum(digests[place] in learned for place in held_out)
    if not count:
        return split
    logger.warning(
        "%d of the %d held-out %s of %s also occur in the training data, so results on them "
        "are too good; remove the duplicates.",
        count, len(held_out), unit, split.data.get("name"),
    )  # fmt: skip
    return replace(split, data={**split.data, "num_held_out_that_are_learned": count})


def balanced_places(labels: Tensor, count: int | None, generator: torch.Generator) -> Tensor:
    """Draw as many places of every class.

    Args:
        labels: Class of each place, int64 (n,).
        count: How many in all; None for every place.
        generator: For the draw.

    Returns:
        Places, int64 (count,), ascending. Where the classes do not divide the count, the first
        ones have one more.

    Raises:
        ValueError: A class has too few.

    Example:
        >>> places = balanced_places(torch.tensor([0, 0, 1, 1]), 2, torch.Generator())
        >>> len(places)
        2
    """
    if count is None:
        return torch.arange(len(labels))
    classes = labels.unique().tolist()
    chosen = []
    for place, label in enumerate(classes):
        wanted = count // len(classes) + (place < count % len(classes))
        members = (labels == label).nonzero()[:, 0]
        if wanted > len(members):
            raise ValueError(
                f"{count} pictures of {len(classes)} classes need {wanted} of class {label}, "
                f"but there are only {len(members)}; ask for fewer."
            )
        chosen.append(members[torch.randperm(len(members), generator=generator)[:wanted]])
    return torch.cat(chosen).sort().values


def stratified_places(labels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Draw the same share of every class, one place at least and never all.

    Args:
        labels: Class of each place, int64 (n,).
        share: In [0, 1).
        generator: For the draw.

    Returns:
        Places, int64 (m,), ascending.

    Example:
        >>> labels = torch.tensor([0] * 10 + [1] * 20)
        >>> labels[stratified_places(labels, 0.2, torch.Generator())].tolist()
        [0, 0, 1, 1, 1, 1]
    """
    chosen = [torch.zeros(0, dtype=torch.long)]
    for label in labels.unique().tolist():
        members = (labels == label).nonzero()[:, 0]
        count = min(max(1, round(share * len(members))), len(members) - 1)
        chosen.append(members[torch.randperm(len(members), generator=generator)[:count]])
    return torch.cat(chosen).sort().values


def spread_places(count: int, most: int) -> Tensor:
    """Places spread evenly over a data set, as the first ones of a sorted one are of one class.

    Args:
        count: Size of the data set.
        most: Most places that are wanted.

    Returns:
        Places, int64 (min(count, most),), ascending, none twice.

    Example:
        >>> spread_places(10, 3).tolist()
        [0, 3, 6]
    """
    wanted = min(count, most)
    return torch.arange(wanted) * count // max(1, wanted)


def _as_ranges(places: Tensor) -> list[list[int]]:
    """Ascending places as [first, last] pairs, which whole data sets make short."""
    if not len(places):
        return []
    breaks = (places.diff() != 1).nonzero()[:, 0] + 1
    parts = places.tensor_split(breaks.tolist())
    return [[int(part[0]), int(part[-1])] for part in parts]


def _from_ranges(ranges: list[list[int]]) -> Tensor:
    parts = [torch.arange(first, last + 1) for first, last in ranges]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)
