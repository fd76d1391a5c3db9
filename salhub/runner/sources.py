"""The files that a run reads, and what is in them."""

import fnmatch
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from salhub.data.folder_listing import is_companion
from salhub.files import to_bytes
from salhub.manifest import file_sha256

# How a digest is called beside the option whose files it is of.
SUFFIX = " sha256"
_DIGITS = 16
# The pattern of everything below a folder, such as pictures in folders of classes.
ALL = "**"
# What `datasets` computes from a saved folder, and writes into it.
_CACHES = "cache-*.arrow"


def source_digests(arguments: Any, sources: Mapping[str, str]) -> dict[str, str]:
    """Digests of what is in the files that options name; those that name no file have none.

    Args:
        arguments: The options.
        sources: Option -> which files of a folder count, as a pattern; "**" for all below it, but
            those in `output_dir` and what `datasets` keeps beside its own.

    Returns:
        "OPTION sha256" -> 16 hexadecimal digits.
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


def _files(path: Path, pattern: str, target: Path) -> Iterator[tuple[str, Path]]:
    """Names as seen from a folder, and files."""
    if pattern == ALL and path.is_dir():
        found = sorted(_all_below(path, target))
    else:
        found = sorted(path.glob(pattern)) if path.is_dir() else [path]
    for file in found:
        if file.is_file() and not is_companion(file.name):
            yield file.relative_to(path).as_posix() if file != path else path.name, file


def _all_below(folder: Path, target: Path) -> Iterator[Path]:
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
        yield from (here / name for name in names if not fnmatch.fnmatch(name, _CACHES))


def _digest(files: Mapping[tuple[int, str], Path]) -> str:
    digests = [file_sha256(file) for file in files.values()]
    if len(digests) > 1 or any("/" in name for _, name in files):
        names = (name for _, name in files)
        listed = "".join(f"{d}  {name}\n" for d, name in zip(digests, names, strict=True))
        digests = [hashlib.sha256(to_bytes(listed)).hexdigest()]
    return digests[0][:_DIGITS]
