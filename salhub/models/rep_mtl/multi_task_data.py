"""Pictures with labels of several tasks: rendered rooms, archives, and several domains."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

from salhub.files import require_file
from salhub.models.rep_mtl.configuration_rep_mtl import ROOM_TASKS, Task
from salhub.models.rep_mtl.joint_geometry import resized
from salhub.models.rep_mtl.rooms import render_rooms

ROOMS = "rooms"
PARTS = ("train", "validation", "test")
# Words in archives for the same part.
_WORDS = {"train": ("train",), "validation": ("validation", "val"), "test": ("test",)}
# Far from each other, so that no part holds rooms of another, however many there are.
_FIRST_ROOM = {"train": 0, "validation": 10**6, "test": 2 * 10**6}
_ROOM_SIZE = 64
_ROOMS_OF = {"train": 800, "validation": 100, "test": 200}

logger = logging.getLogger(__name__)


@dataclass
class MultiTaskPart:
    """Pictures and labels.

    Args:
        images: uint8 (N, 3, H, W) of all tasks; or task -> its own, perhaps of other numbers.
        labels: Task -> its labels, as `sample_losses` takes them.
    """

    images: Tensor | dict[str, Tensor]
    labels: dict[str, Tensor]

    def __len__(self) -> int:
        """Rows: pictures, or as many as the task with the most of them has."""
        if isinstance(self.images, Tensor):
            return len(self.images)
        return max(len(one) for one in self.images.values())

    def only(self, names: Sequence[str]) -> "MultiTaskPart":
        """The same of some tasks."""
        images = self.images
        if isinstance(images, Mapping):
            images = {name: images[name] for name in names}
        return MultiTaskPart(images, {name: self.labels[name] for name in names})


@dataclass
class MultiTaskData:
    """Data of several tasks.

    Args:
        name: What they are called.
        tasks: A mapping for each task, see `Task`.
        parts: "train", "validation" and "test", those that there are.
        notes: What was derived or left out, a sentence each.
    """

    name: str
    tasks: list[dict[str, Any]]
    parts: dict[str, MultiTaskPart]
    notes: list[str] = field(default_factory=list)

    @property
    def has_own_pictures(self) -> bool:
        """Whether each task has pictures of its own."""
        return any(isinstance(part.images, Mapping) for part in self.parts.values())

    def only(self, names: Sequence[str]) -> "MultiTaskData":
        """The same of some tasks.

        Raises:
            ValueError: There is no such task.
        """
        known = [task["name"] for task in self.tasks]
        for name in names:
            if name not in known:
                raise ValueError(f"{self.name} has no task '{name}'; it has {', '.join(known)}.")
        parts = {key: part.only(names) for key, part in self.parts.items()}
        return MultiTaskData(
            self.name, [one for one in self.tasks if one["name"] in names], parts, self.notes
        )

    def describe(self) -> dict[str, Any]:
        """Name, sizes and fingerprint for a results file."""
        digest = hashlib.sha256()
        for key in sorted(self.parts):
            part = self.parts[key]
            images = part.images if isinstance(part.images, Mapping) else {"": part.images}
            for values in (*images.values(), *part.labels.values()):
                digest.update(values[:: max(1, len(values) // 16)].contiguous().numpy().tobytes())
        sizes = {f"num_{key}": len(part) for key, part in self.parts.items()}
        return {"name": self.name, **sizes, "fingerprint": digest.hexdigest()[:16]}


def read_multi_task(
    source: str,
    *,
    tasks: Sequence[str] = (),
    image_size: int | None = None,
    derive_boundaries: bool = False,
    counts: Mapping[str, int | None] | None = None,
    seed: int = 0,
    parts: Sequence[str] = PARTS,
) -> MultiTaskData:
    """Read or render data of several tasks.

    Args:
        source: "rooms" for rendered rooms; or an .npz archive. One with `images` (N, H, W, 3),
            `labels`, `domains` and `split` (0 train, 1 validation, 2 test) has a classification for
            each domain, with pictures of its own. Any other has `PART_images` uint8 (N, H, W, 3)
            and `PART_TASK` for each part (train, val or validation, test) and task, and perhaps
            `TASK_class_names`; the domains share `class_names`.
        tasks: Of an archive of parts, words such as "seg:segmentation:11": name, kind, classes or
            numbers, and perhaps the label that does not count ("seg:segmentation:11:11"); a number
            for each pixel is a "dense_regression".
        image_size: Height of the pictures, which are resized with all their labels; None to leave
            them as they are, and for rooms of 64 pixels.
        derive_boundaries: Add two tasks made of the first segmentation: "edge", the boundaries of
            its classes, dilated by a pixel, and "distance" to the nearest boundary, in half
            shorter sides and at most 1.
        counts: Part -> how many pictures, the first ones; None for all. Of rooms 800, 100 and 200
            unless given.
        seed: Of the rooms.
        parts: Which parts are needed.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Tasks that the archive does not hold, or words that name none.

    Example:
        >>> data = read_multi_task("rooms", counts={"train": 2, "validation": 1, "test": 1})
        >>> data.parts["train"].images.shape, list(data.parts["train"].labels)
        (torch.Size([2, 3, 64, 64]), ['segmentation', 'depth', 'normals'])
    """
    counts = counts or {}
    if source == ROOMS:
        if tasks:
            raise ValueError(
                "Rooms come with segmentation, depth and normals; leave tasks out, or "
                "select some of them with only."
            )
        data = _rooms(counts, seed, image_size or _ROOM_SIZE, parts)
    else:
        path = Path(source)
        require_file(path, "archive of pictures and labels")
        if not is_zipfile(path):
            raise ValueError(
                f"{path} is not an archive of pictures and labels; give a file that numpy.savez "
                f"wrote (.npz), or '{ROOMS}' for rendered rooms."
            )
        with np.load(path, allow_pickle=False) as content:
            read = _domains if "domains" in content else _archive
            data = read(path.stem, content, tasks, image_size, counts, parts)
    return _with_boundaries(data) if derive_boundaries else data


def parse_task(word: str) -> dict[str, Any]:
    """A task of a word such as "seg:segmentation:11:11".

    Raises:
        ValueError: It is no such word.

    Example:
        >>> parse_task("seg:segmentation:11")
        {'name': 'seg', 'type': 'segmentation', 'num_labels': 11}
    """
    names = ("name", "type", "num_labels", "ignore_index")
    values = word.split(":")
    if not 2 <= len(values) <= 4 or not all(one.strip().isdigit() for one in values[2:]):
        raise ValueError(
            "A task must be written as name:type, name:type:classes or "
            f"name:type:classes:ignored, got {word!r}; write several in brackets, such as "
            "tasks=[seg:segmentation:11,depth:depth]."
        )
    fields = dict(zip(names, [*values[:2], *map(int, values[2:])], strict=False))
    if fields["type"] == "dense_regression":
        fields |= {"type": "regression", "dense": True}
    Task.of(fields)
    return fields


def boundary_labels(segmentation: np.ndarray, ignore_index: int) -> tuple[np.ndarray, np.ndarray]:
    """Boundaries of classes, and the distance to the nearest one.

    Args:
        segmentation: Whole numbers (H, W).
        ignore_index: Class that does not count, and has no boundary.

    Returns:
        Edges uint8 (H, W): 1 beside another class, dilated by a pixel, 255 where nothing counts.
        Distances float32 (H, W): in half shorter sides, at most 1; NaN where nothing counts.

    Example:
        >>> edges, distances = boundary_labels(np.array([[0, 0, 0, 0, 0, 1, 1, 1, 1, 1]]), 255)
        >>> edges.tolist()
        [[0, 0, 0, 1, 1, 1, 1, 0, 0, 0]]
    """
    counts = segmentation != ignore_index
    edges = np.zeros(segmentation.shape, dtype=bool)
    for axis in (0, 1):
        first = [slice(None)] * 2
        second = list(first)
        first[axis], second[axis] = slice(None, -1), slice(1, None)
        one, other = tuple(first), tuple(second)
        differs = (segmentation[one] != segmentation[other]) & counts[one] & counts[other]
        edges[one] |= differs
        edges[other] |= differs
    if edges.any():
        half = min(segmentation.shape) / 2
        distances = np.minimum(ndimage.distance_transform_edt(~edges) / half, 1)
    else:
        distances = np.ones(edges.shape)
    dilated = ndimage.binary_dilation(edges, np.ones((3, 3), dtype=bool))
    return (
        np.where(counts, dilated, 255).astype(np.uint8),
        np.where(counts, distances, np.nan).astype(np.float32),
    )


def _rooms(
    counts: Mapping[str, int | None], seed: int, size: int, parts: Sequence[str]
) -> MultiTaskData:
    found = {}
    for part in parts:
        count = counts.get(part)
        count = _ROOMS_OF[part] if count is None else count
        if not count:
            continue
        pictures, labels = render_rooms(count, seed, size=size, start=_FIRST_ROOM[part])
        found[part] = MultiTaskPart(
            _channels_first(pictures),
            {name: torch.from_numpy(values) for name, values in labels.items()},
        )
    name = ROOMS if seed == 0 else f"{ROOMS}, seed {seed}"
    return MultiTaskData(name, [dict(one) for one in ROOM_TASKS], found)


def _archive(
    name: str,
    content: Mapping[str, np.ndarray],
    words: Sequence[str],
    image_size: int | None,
    counts: Mapping[str, int | None],
    parts: Sequence[str],
) -> MultiTaskData:
    if not words:
        raise ValueError(
            f"{name} does not describe its tasks; give tasks, such as "
            "tasks=[seg:segmentation:11,depth:depth] for arrays train_seg and train_depth. It has "
            f"{', '.join(sorted(content))}."
        )
    tasks = [
        _named(fields, content, f"{fields['name']}_class_names")
        for fields in map(parse_task, words)
    ]
    found = {}
    for part in parts:
        word = next((one for one in _WORDS[part] if f"{one}_images" in content), None)
        if word is None or counts.get(part) == 0:
            continue
        pictures = content[f"{word}_images"]
        rows = slice(counts.get(part))
        images = _images(pictures[rows], image_size, f"{word}_images")
        labels = {}
        for fields in tasks:
            key, task = f"{word}_{fields['name']}", Task.of(fields)
            if key not in content:
                there = ", ".join(sorted(content))
                raise ValueError(f"{name} has no '{key}' for task '{task.name}'; it has {there}.")
            labels[task.name] = _labels(task, content[key][rows], pictures, images, key)
        found[part] = MultiTaskPart(images, labels)
    if "train" in parts and "train" not in found:
        raise ValueError(f"{name} has no 'train_images'; it has {', '.join(sorted(content))}.")
    return MultiTaskData(name, tasks, found)


def _named(fields: dict[str, Any], content: Mapping[str, np.ndarray], key: str) -> dict[str, Any]:
    """A task with the names of its classes, where the archive has them."""
    return fields | ({"class_names": [*map(str, content[key])]} if key in content else {})


def _domains(
    name: str,
    content: Mapping[str, np.ndarray],
    words: Sequence[str],
    image_size: int | None,
    counts: Mapping[str, int | None],
    parts: Sequence[str],
) -> MultiTaskData:
    for key in ("images", "labels", "split"):
        if key not in content:
            raise ValueError(f"{name} has 'domains' but no '{key}'.")
    classes = int(content["labels"].max()) + 1
    domains = content["domains"]
    names = [str(one) for one in content.get("domain_names", np.unique(domains))]
    names = [one if one.isidentifier() else f"domain_{one}" for one in names]
    if words and {parse_task(word)["name"] for word in words} != set(names):
        raise ValueError(
            f"{name} has a task for each of its domains ({', '.join(names)}); leave out tasks."
        )
    found = {}
    for part in parts:
        images, labels = {}, {}
        for place, domain in enumerate(names):
            is_meant = (domains == place) & (content["split"] == PARTS.index(part))
            rows = np.flatnonzero(is_meant)[: counts.get(part)]
            if len(rows):
                images[domain] = _images(content["images"][rows], image_size, "images")
                labels[domain] = torch.from_numpy(content["labels"][rows].astype(np.int64))
        if len(images) == len(names):
            found[part] = MultiTaskPart(images, labels)
    shared = {"type": "classification", "num_labels": classes}
    tasks = [_named({"name": one, **shared}, content, "class_names") for one in names]
    return MultiTaskData(name, tasks, found)


def _with_boundaries(data: MultiTaskData) -> MultiTaskData:
    base = next((Task.of(one) for one in data.tasks if one["type"] == "segmentation"), None)
    if base is None:
        raise ValueError("derive_boundaries needs a segmentation task, but there is none.")
    for name in ("edge", "distance"):
        if any(one["name"] == name for one in data.tasks):
            raise ValueError(f"derive_boundaries adds a task '{name}', but it already exists.")
    for part in data.parts.values():
        both = [boundary_labels(one, base.ignore_index) for one in part.labels[base.name].numpy()]
        part.labels["edge"] = torch.from_numpy(np.stack([one for one, _ in both])).long()
        part.labels["distance"] = torch.from_numpy(np.stack([other for _, other in both]))
    data.tasks += [
        {"name": "edge", "type": "edge"},
        {"name": "distance", "type": "regression", "dense": True},
    ]
    data.notes.append(f"The tasks edge and distance are derived from the labels of {base.name}.")
    return data


def _images(pictures: np.ndarray, size: int | None, key: str) -> Tensor:
    if pictures.ndim != 4 or pictures.shape[-1] != 3 or pictures.dtype != np.uint8:
        raise ValueError(
            f"'{key}' must hold uint8 pictures (N, H, W, 3), got {pictures.dtype} {pictures.shape}."
        )
    if size is not None and size != pictures.shape[1]:
        width = round(size * pictures.shape[2] / pictures.shape[1])
        pictures = np.stack([
            np.asarray(Image.fromarray(one).resize((width, size), Image.Resampling.BICUBIC))
            for one in pictures
        ])  # fmt: skip
    return _channels_first(pictures)


def _labels(task: Task, values: np.ndarray, pictures: np.ndarray, images: Any, key: str) -> Tensor:
    is_whole = task.type in ("segmentation", "classification", "edge")
    labels = torch.from_numpy(values.astype(np.int64 if is_whole else np.float32))
    if task.type == "normals" and labels.shape[-1] == 3 and labels.shape[1] != 3:
        labels = labels.movedim(-1, 1)
    if len(labels) != len(images) or (task.dense and labels.shape[-2:] != pictures.shape[1:3]):
        raise ValueError(
            f"'{key}' must have a label for each of {len(images)} pictures of "
            f"{pictures.shape[1]} x {pictures.shape[2]} pixels, got shape {values.shape}."
        )
    return resized(labels, tuple(images.shape[-2:])) if task.dense else labels


def _channels_first(pictures: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)))
