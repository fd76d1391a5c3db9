"""Pictures on disk with the class each one shows."""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from salhub.data.class_names import ClassNames
from salhub.data.folder_listing import describe_left_out, list_folder
from salhub.data.picture_decoding import picture_endings
from salhub.errors import did_you_mean

logger = logging.getLogger(__name__)

INDEX_NAME = "index.json"
_NUM_SHOWN = 5
_ENTRY_KEYS = ("file", "index", "name")


class LabelledImage(NamedTuple):
    """One picture: its path, its class index and its class name."""

    path: Path
    class_index: int
    name: str


@dataclass(frozen=True, init=False)
class LabelledImageFolder:
    """A folder of labelled pictures, read lazily: only names are touched here.

    Two layouts are understood. With an `index.json` of ours, a list of `{"file", "index", "name"}`
    objects, files are looked up beside it or in `images/`. Without one, every sub-folder is a
    class of `id2label`, called by its name or its index. Folders called otherwise, such as
    ImageNet's WordNet ids, are numbered in sorted order if there is one for every class, or if
    `id2label` is not given.

    Args:
        path: The folder.
        id2label: Name of each class by its index, e.g. `model.config.id2label`; only for the
            layout without an index.

    Attributes:
        images: The pictures.
        left_out: What else lies there, which is counted and named in a warning; companions that
            systems make, see `list_folder`, are not.

    Raises:
        FileNotFoundError: If the folder or an indexed picture does not exist.
        ValueError: If there is no labelled picture, an index entry is malformed, or a sub-folder
            is no class of `id2label`, or could be several.

    Example:
        >>> folder = LabelledImageFolder("pictures")  # doctest: +SKIP
        >>> for path, class_index, name in folder: ...  # doctest: +SKIP
    """

    path: Path
    images: tuple[LabelledImage, ...]
    left_out: tuple[Path, ...]

    def __init__(
        self, path: str | os.PathLike[str], *, id2label: Mapping[int, str] | None = None
    ) -> None:
        folder = Path(path)
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{str(folder)!r} does not exist; expected a folder of pictures with an "
                "index.json, or with one sub-folder per class."
            )
        if has_index(folder):
            images, files, folders = _read_index(folder / INDEX_NAME), [], []
        else:
            images, files, folders = _read_class_folders(folder, id2label)
        if not images:
            raise ValueError(
                f"{str(folder)!r} has no labelled pictures; expected an index.json, or one "
                "sub-folder per class with pictures such as .jpg or .png."
            )
        object.__setattr__(self, "path", folder)
        object.__setattr__(self, "images", tuple(images))
        object.__setattr__(self, "left_out", (*files, *folders))
        if self.left_out:
            logger.warning("%s: %s", folder, describe_left_out(files, folders))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, position: int) -> LabelledImage:
        return self.images[position]

    def __iter__(self) -> Iterator[LabelledImage]:
        return iter(self.images)

    def describe(self) -> dict[str, Any]:
        """Name, size and fingerprint for a results file; holds no path of this machine."""
        digest = hashlib.sha256()
        for image in self.images:
            digest.update(os.fsencode(image.path.name) + f"\0{image.class_index}\0".encode())
            digest.update(f"{image.path.stat().st_size}\n".encode())
        left_out = {"num_left_out": len(self.left_out)} if self.left_out else {}
        return {
            "name": self.path.resolve().name,
            "num_images": len(self.images),
            "num_classes": len({image.class_index for image in self.images}),
            **left_out,
            "fingerprint": digest.hexdigest()[:16],
        }


def has_index(folder: Path) -> bool:
    """Whether a folder has an index of pictures; that of another program beside folders is none.

    Args:
        folder: One that exists.
    """
    path = folder / INDEX_NAME
    if not path.is_file():
        return False
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # said when it is read
        return True
    lists_files = isinstance(entries, list) and any(
        isinstance(entry, dict) and "file" in entry for entry in entries
    )
    return lists_files or not list_folder(folder, ()).folders


def _read_index(index: Path) -> list[LabelledImage]:
    try:
        entries = json.loads(index.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(index)!r} is not JSON ({error}).") from None
    if not isinstance(entries, list):
        raise ValueError(
            f"{str(index)!r} must hold a list of objects with the keys {', '.join(_ENTRY_KEYS)}, "
            f"got {type(entries).__name__}."
        )
    return [_read_entry(index, position, entry) for position, entry in enumerate(entries)]


def _read_entry(index: Path, position: int, entry: Any) -> LabelledImage:
    if not isinstance(entry, dict) or not all(key in entry for key in _ENTRY_KEYS):
        raise ValueError(
            f"entry {position} of {str(index)!r} must have the keys {', '.join(_ENTRY_KEYS)}, "
            f"got {entry!r}."
        )
    class_index = entry["index"]
    if not isinstance(class_index, int) or isinstance(class_index, bool) or class_index < 0:
        raise ValueError(
            f"entry {position} of {str(index)!r}: index must be a class number from 0, got "
            f"{class_index!r}."
        )
    for folder in (index.parent, index.parent / "images"):
        if (folder / entry["file"]).is_file():
            return LabelledImage(folder / entry["file"], class_index, str(entry["name"]))
    raise FileNotFoundError(
        f"entry {position} of {str(index)!r} names {entry['file']!r}, which is neither next "
        "to the index nor in its images folder."
    )


def _read_class_folders(
    folder: Path, id2label: Mapping[int, str] | None
) -> tuple[list[LabelledImage], list[Path], list[Path]]:
    """Return the pictures, and files and folders among them that are none."""
    endings = picture_endings()
    whole = list_folder(folder, endings)
    classes = {one.name: list_folder(one, endings) for one in whole.folders}
    indices = _class_indices(folder, list(classes), id2label or {})
    images = [
        LabelledImage(file, indices[name], name)
        for name, listing in classes.items()
        for file in listing.files
    ]
    files = [path for one in classes.values() for path in one.left_out]
    folders = [path for one in classes.values() for path in one.folders]
    return images, [*whole.files, *whole.left_out, *files], folders


def _class_indices(
    folder: Path, names: Sequence[str], id2label: Mapping[int, str]
) -> dict[str, int]:
    classes = ClassNames(id2label)
    found = {name: classes.find(name) if id2label else [] for name in names}
    unknown = [name for name in names if not found[name]]
    if len(unknown) == len(names) and len(names) == (len(id2label) or len(names)):
        return {name: index for index, name in enumerate(names)}
    if unknown:
        raise ValueError(_unknown_classes(folder, unknown, id2label))
    for name, indices in found.items():
        if len(indices) > 1:
            raise ValueError(
                f"{len(indices)} classes of the classifier are called {name!r}; name the "
                f"sub-folder of {str(folder)!r} by its index, one of "
                f"{', '.join(map(str, indices))}."
            )
    return {name: indices[0] for name, indices in found.items()}


def _unknown_classes(folder: Path, unknown: Sequence[str], id2label: Mapping[int, str]) -> str:
    shown = ", ".join(map(repr, unknown[:_NUM_SHOWN]))
    if len(unknown) > _NUM_SHOWN:
        shown += f" and {len(unknown) - _NUM_SHOWN} more sub-folders"
    verb = "is not a class" if len(unknown) == 1 else "are not classes"
    hint = did_you_mean(unknown[0].lower(), list(id2label.values()))
    return (
        f"{shown} {verb} of the classifier.{hint} Name each sub-folder of {str(folder)!r} "
        f"after a class or its index, or have one for each of the {len(id2label)} classes in "
        "sorted order (as with ImageNet's WordNet ids), or write an index.json."
    )
