"""The files that a run reads, and what is in them."""

import fnmatch
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from salhub.data.folder_listing import is_companion
from salhub.errors import ModelNotFoundError
from salhub.files import to_bytes
from salhub.hub import read_config
from salhub.manifest import file_sha256

# How a digest is called beside the option whose files it is of.
SUFFIX = " sha256"
_DIGITS = 16
# The pattern of everything below a folder, such as pictures in folders of classes.
ALL = "**"
# And that of a model.
MODEL = "model*.safetensors"
# What `datasets` computes from a saved folder, and writes into it.
_CACHES = "cache-*.arrow"
# Of more files than this, names and sizes count, and what is in some of them.
_MOST_READ, _NUM_SAMPLED = 1000, 64


def source_digests(arguments: Any, sources: Mapping[str, str]) -> dict[str, str]:
    """Digests of what is in the files that options name; those that name no file have none.

    Args:
        arguments: The options.
        sources: Option -> which files of a folder count, as a pattern; "**" for all below it, but
            those in `output_dir` and what `datasets` keeps beside its own.

    Returns:
        "OPTION sha256" -> 16 hexadecimal digits: of what is in all files, or, of more than 1,000,
        of their names and sizes and of what is in 64 of them.
    """
    found = {}
    target = Path(getattr(arguments, "output_dir", None) or os.devnull).resolve()
    for name, pattern in sources.items():
        value = getattr(arguments, name, None)
        values = value if isinstance(value, list) else [value]
        files = {}
        for place, one in enumerate(values):
            if one is not None:
                files |= {(place, said): f for said, f in _files(Path(one), pattern, target)}
        if files:
            found[f"{name}{SUFFIX}"] = _digest(files)
    return found


def check_models(arguments: Any, sources: Mapping[str, str]) -> None:
    """Refuse names of models that are nowhere, before any data are read.

    Args:
        arguments: The options; OPTION_revision is the revision of a model.
        sources: As of `source_digests`.

    Raises:
        ModelNotFoundError: Nothing of that name was found.
    """
    for option in (name for name, pattern in sources.items() if pattern == MODEL):
        value = getattr(arguments, option, None)
        revision = getattr(arguments, f"{option}_revision", None)
        for name in value if isinstance(value, list) else [value]:
            if name is None or Path(name).exists():
                continue
            try:
                read_config(name, **({"revision": revision} if revision else {}))
            except ModelNotFoundError:
                raise
            except (OSError, ValueError):  # who loads it says more
                continue


def _files(path: Path, pattern: str, target: Path) -> Iterator[tuple[str, Path]]:
    """Names as seen from a folder, and files."""
    if pattern == ALL and path.is_dir():
        # By folders, as paths are sorted.
        for name in sorted(_all_below(path, target), key=lambda name: name.split("/")):
            yield name, path / name
        return
    for file in sorted(path.glob(pattern)) if path.is_dir() else [path]:
        if file.is_file() and not is_companion(file.name):
            yield file.relative_to(path).as_posix() if file != path else path.name, file


def _all_below(folder: Path, target: Path) -> Iterator[str]:
    # Links are followed, as readers of pictures do, unless they lead back.
    for place, folders, names in os.walk(folder, followlinks=True):
        here = Path(place)
        own = here.resolve()
        around = {target, own, *own.parents}
        folders[:] = [
            name
            for name in folders
            if not is_companion(name) and (here / name).resolve() not in around
        ]
        inside = here.relative_to(folder).as_posix()
        for name in names:
            is_meant = not (is_companion(name) or fnmatch.fnmatch(name, _CACHES))
            if is_meant and os.path.isfile(os.path.join(place, name)):  # noqa: PTH113, PTH118
                yield name if inside == "." else f"{inside}/{name}"


def _digest(files: Mapping[tuple[int, str], Path]) -> str:
    read = list(files.items())
    listed = ""
    if len(read) > _MOST_READ:
        # Reading a large data set takes minutes; pictures that are others differ in size.
        listed = "".join(f"{os.stat(f).st_size}  {name}\n" for (_, name), f in read)  # noqa: PTH116
        read = read[:: len(read) // _NUM_SAMPLED]
    digests = [file_sha256(file) for _, file in read]
    if len(digests) > 1 or any("/" in name for _, name in files):
        listed += "".join(f"{d}  {name}\n" for d, ((_, name), _) in zip(digests, read, strict=True))
        digests = [hashlib.sha256(to_bytes(listed)).hexdigest()]
    return digests[0][:_DIGITS]
