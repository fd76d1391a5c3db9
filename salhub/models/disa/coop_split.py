"""Data sets as CoOp splits them: a folder of pictures and the file split_zhou_NAME.json."""

import json
from os import PathLike
from pathlib import Path

from salhub.data.labelled_pictures import PictureCollection
from salhub.data.tables import TEST, TRAIN, VALIDATION
from salhub.files import require_file

_PARTS = {"train": TRAIN, "val": VALIDATION, "test": TEST}
_LAYOUT = '{"train": [[path, label, name], ...], "val": [...], "test": [...]}'


def read_coop_split(
    images: str | PathLike[str], split_file: str | PathLike[str]
) -> PictureCollection:
    """Read pictures by a published split, so that numbers are comparable.

    Args:
        images: Folder that the paths of the split start from.
        split_file: JSON of lists of path, number and name of the class, for train, val and test.

    Returns:
        The pictures, classes in the order of their numbers.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: The split is laid out otherwise.

    Source: Zhou et al. 2022 (arXiv 2109.01134), whose files are called split_zhou_NAME.json.

    Example:
        >>> read_coop_split("caltech-101", "split_zhou_Caltech101.json")  # doctest: +SKIP
    """
    path, folder = Path(split_file), Path(images)
    require_file(path, "split file")
    if not folder.is_dir():
        raise FileNotFoundError(f"The folder of pictures {folder} does not exist.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = [
            (str(file), int(label), str(name), _PARTS[part])
            for part in _PARTS
            for file, label, name in content[part]
        ]
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ValueError(
            f"{path} is not a split file of CoOp, which has the form {_LAYOUT}."
        ) from None
    if not rows:
        raise ValueError(f"{path} names no pictures.")
    names: dict[int, str] = {}
    for file, label, name, _ in rows:
        if names.setdefault(label, name) != name:
            raise ValueError(
                f"{path} gives class {label} two names, '{names[label]}' and '{name}' "
                f"({file}); give it one name."
            )
    missing = [file for file, *_ in rows if not (folder / file).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of the {len(rows)} pictures of {path.name} are not in {folder}, the "
            f"first being {missing[0]}; give the folder that its paths start from."
        )
    files = [file for file, *_ in rows]
    return PictureCollection(
        folder.resolve().name,
        lambda place: (folder / files[place]).read_bytes(),
        files,
        [names[label] for _, label, *_ in rows],
        [part for *_, part in rows],
        [names[label] for label in sorted(names)],
    )
