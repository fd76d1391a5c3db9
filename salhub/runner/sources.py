"""The files that a run reads, and what is in them."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from salhub.data.folder_listing import is_companion
from salhub.files import to_bytes
from salhub.manifest import file_sha256

# How a digest is called beside the option whose files it is of.
SUFFIX = " sha256"
_DIGITS = 16


def source_digests(arguments: Any, sources: Mapping[str, str]) -> dict[str, str]:
    """Digests of what is in the files that options name; those that name no file have none.

    Args:
        arguments: The options.
        sources: Option -> which files of a folder count, as a pattern.

    Returns:
        "OPTION sha256" -> 16 hexadecimal digits.
    """
    found = {}
    for name, pattern in sources.items():
        value = getattr(arguments, name, None)
        values = value if isinstance(value, list) else [value]
        files = [file for one in values if one is not None for file in _files(Path(one), pattern)]
        if files:
            found[f"{name}{SUFFIX}"] = _digest(files)
    return found


def _files(path: Path, pattern: str) -> list[Path]:
    found = sorted(path.glob(pattern)) if path.is_dir() else [path]
    return [file for file in found if file.is_file() and not is_companion(file.name)]


def _digest(files: list[Path]) -> str:
    digests = [file_sha256(file) for file in files]
    if len(digests) > 1:
        listed = "".join(f"{d}  {f.name}\n" for d, f in zip(digests, files, strict=True))
        digests = [hashlib.sha256(to_bytes(listed)).hexdigest()]
    return digests[0][:_DIGITS]
