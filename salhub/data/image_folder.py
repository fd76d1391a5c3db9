"""Pictures on disk with the class each one shows."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from salhub.errors import did_you_mean

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif")
_ENTRY_KEYS = ("file", "index", "name")


class LabelledImage(NamedTuple):
    """One picture: its path, its class index and its class name."""

    path: Path
    class_index: int
    name: str


@dataclass(frozen=True, init=False)
class LabelledImageFolder:
    """A folder of labelled pictures, read lazily: only names are touched here.

    Two layouts are understood. With an `index.json`, a list of `{"file", "index", "name"}`
    objects, files are looked up beside it or in `images/`. Without one, every sub-folder is a
    class; folders are numbered in sorted order (for ImageNet's WordNet ids that is the usual class
    index, if all 1000 folders are there) or by `label2id`.

    Args:
        path: The folder.
        label2id: Class index of each sub-folder's name, e.g. `model.config.label2id`; only for the
            layout without an index.

    Raises:
        FileNotFoundError: If the folder or an indexed picture does not exist.
        ValueError: If there is no labelled picture, an index entry is malformed, or a sub-folder
            is not in `label2id`.

    Example:
        >>> folder = LabelledImageFolder("pictures")  # doctest: +SKIP
        >>> for path, class_index, name in folder: ...  # doctest: +SKIP
    """

    path: Path
    images: tuple[LabelledImage, ...]

    def __init__(
        self, path: str | os.PathLike[str], *, label2id: Mapping[str, int] | None = None
    ) -> None:
        folder = Path(path)
        if not folder.is_dir():
            raise FileNotFoundError(
                f"no folder {str(folder)!r}; expected pictures with an index.json, or one "
                "sub-folder of pictures a class."
            )
        index = folder / "index.json"
        images = _read_index(index) if index.is_file() else _read_class_folders(folder, label2id)
        if not images:
            raise ValueError(
                f"no labelled picture in {str(folder)!r}; expected an index.json, or one "
                f"sub-folder a class holding files that end in {', '.join(PICTURE_SUFFIXES)}."
            )
        object.__setattr__(self, "path", folder)
        object.__setattr__(self, "images", tuple(images))

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
            digest.update(f"{image.path.name}\0{image.class_index}\0".encode())
            digest.update(f"{image.path.stat().st_size}\n".encode())
        return {
            "name": self.path.resolve().name,
            "num_images": len(self.images),
            "num_classes": len({image.class_index for image in self.images}),
            "fingerprint": digest.hexdigest()[:16],
        }


def _read_index(index: Path) -> list[LabelledImage]:
    try:
        entries = json.loads(index.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
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
        f"entry {position} of {str(index)!r} names {entry['file']!r}, which is neither beside the "
        "index nor in its images folder."
    )


def _read_class_folders(folder: Path, label2id: Mapping[str, int] | None) -> list[LabelledImage]:
    names = sorted(child.name for child in folder.iterdir() if child.is_dir())
    names = [name for name in names if not name.startswith(".")]
    if label2id is None:
        label2id = {name: index for index, name in enumerate(names)}
    images = []
    for name in names:
        if name not in label2id:
            raise ValueError(
                f"sub-folder {name!r} of {str(folder)!r} is not a known class; rename it to one of "
                f"the {len(label2id)} labels.{did_you_mean(name, label2id)}"
            )
        files = sorted((folder / name).iterdir())
        images += [
            LabelledImage(file, int(label2id[name]), name)
            for file in files
            if file.suffix.lower() in PICTURE_SUFFIXES
        ]
    return images
