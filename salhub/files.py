"""The one writer of files and folders: whoever looks sees the old one or the whole new one."""

import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path

_HOST = re.sub(r"\W", "_", platform.node())
# The number of the process and its machine; the latter was left out once.
_DRAFT = re.compile(r"\.salhub-(\d+)(?:@(\w*))?-[^-]*", re.ASCII)
# How a stream or a file of text takes names that are no text; see `to_bytes`.
NAME_ERRORS = "backslashreplace"
_REPLACED = ".replaced"
_LONGEST_DRAFT = 3600  # seconds without a change
# It can only be read by setting it.
_UMASK = os.umask(0o077)
os.umask(_UMASK)


@contextmanager
def draft(target: Path) -> Generator[Path]:
    """Give a path to write to; it becomes `target` when the block ends, and vanishes on failure.

    Args:
        target: The file or folder wanted in the end. The folder it lies in is made when it does
            not exist.

    Yields:
        A path with the same name, on the same disk, where a file or a folder is to be made.

    Example:
        >>> with draft(Path("map.png")) as path:  # doctest: +SKIP
        ...     result.save(path)
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(target.parent) as scratch:
        path = scratch / target.name
        yield path
        put_in_place(path, target)


@contextmanager
def scratch_folder(folder: Path) -> Generator[Path]:
    """Give an empty folder in `folder`, on the same disk, that vanishes when the block ends."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=_prefix()) as scratch:
        yield Path(scratch)


def put_in_place(path: Path, target: Path, *, replace: bool = True) -> None:
    """Give a finished file or folder the name of another one, which it replaces.

    A folder is replaced in two steps. On a failure the old one is back; after a kill between them
    `remove_stale_drafts` puts it back.

    Args:
        path: What was written, on the same disk; it is on the disk before it gets its new name.
        target: Its new name.
        replace: Whether it takes the place of a folder that is there, which stays otherwise.

    Raises:
        IsADirectoryError: A file would take the place of a folder.
    """
    if target.is_dir() and not path.is_dir():
        raise IsADirectoryError(f"{target} is a folder; give a file in it.")
    for file in [path] if path.is_file() else filter(Path.is_file, path.rglob("*")):
        with file.open("rb+") as written:
            os.fsync(written)
        # Some libraries write files that nobody else may read.
        file.chmod(file.stat().st_mode | (0o666 & ~_UMASK))
    while not _renamed(path, target):
        if not replace:
            return
        scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=_prefix()))
        try:
            (scratch / _REPLACED).mkdir()
            with suppress(FileNotFoundError):  # another process may have just replaced it too
                os.replace(target, scratch / _REPLACED / target.name)
            if _renamed(path, target):
                return
        finally:
            _put_back(scratch)


def _renamed(path: Path, target: Path) -> bool:
    """Rename something unless it is a folder, and there is one of that name already."""
    try:
        if not (path.is_dir() and target.is_dir()):
            os.replace(path, target)
            return True
    except OSError:  # another process may have just made it
        if not (path.is_dir() and target.is_dir()):
            raise
    return False


def ending_of(name: str, endings: Iterable[str]) -> str:
    """Return the longest of some endings that a file name has, in any case, or "" for none.

    Example:
        >>> ending_of("Chest.NII.GZ", (".gz", ".nii.gz", ".nii"))
        '.nii.gz'
    """
    found = [ending for ending in endings if name.lower().endswith(ending)]
    return max(found, key=len, default="")


def require_file(path: Path, what: str) -> None:
    """Refuse a place where there is no file.

    Args:
        path: The place.
        what: What it should be, such as "archive of pictures".

    Raises:
        FileNotFoundError: There is nothing.
        IsADirectoryError: There is a folder.

    Example:
        >>> require_file(Path(), "file of options")
        Traceback (most recent call last):
        IsADirectoryError: . is a folder, and a file of options is wanted; name the file.
    """
    if path.is_dir():
        article = "an" if what[0] in "aeio" else "a"
        raise IsADirectoryError(
            f"{path} is a folder, but {article} {what} is needed; give the file."
        )
    if not path.is_file():
        raise FileNotFoundError(f"There is no {what} at {path}.")


def write_bytes(target: Path, content: bytes) -> None:
    """Write a file as a whole."""
    with draft(target) as path:
        path.write_bytes(content)


def write_text(target: Path, text: str) -> None:
    """Write a text file as a whole, by `to_bytes`."""
    write_bytes(target, to_bytes(text))


def to_bytes(text: str) -> bytes:
    r"""Return a text in UTF-8, where names of files need not be text.

    Python holds their other bytes as lone surrogates, which are written \udce9, as in JSON: there,
    whoever reads it gets the name back.

    Example:
        >>> to_bytes("caf\udce9.jpg")
        b'caf\\udce9.jpg'
    """
    return text.encode(errors=NAME_ERRORS)


def is_in_draft(path: Path) -> bool:
    """Whether a file is one that is being written, or was when its process was killed."""
    return any(map(_DRAFT.fullmatch, path.parts))


def remove_stale_drafts(folder: Path) -> None:
    """Remove what a process that was killed had begun to write in a folder.

    Args:
        folder: The folder; it need not exist.
    """
    for scratch in folder.glob(".salhub-*"):
        with suppress(FileNotFoundError):  # another run may have just finished it
            if scratch.is_dir() and not _may_be_written(scratch):
                _put_back(scratch)


def _prefix() -> str:
    return f".salhub-{os.getpid()}@{_HOST}-"


def _put_back(scratch: Path) -> None:
    """Remove a scratch folder; a folder that was to be replaced, and was not, gets its name back.

    Where it cannot get it, it stays in the scratch folder.
    """
    for old in scratch.glob(f"{_REPLACED}/*"):
        if not os.path.lexists(scratch.parent / old.name):
            os.replace(old, scratch.parent / old.name)
    shutil.rmtree(scratch, ignore_errors=True)


def _may_be_written(scratch: Path) -> bool:
    name = _DRAFT.fullmatch(scratch.name)
    if name is None:
        return True  # not named by us
    process, host = int(name[1]), name[2]
    if os.name == "posix" and host in (None, _HOST):
        if not _is_running(process):
            return False
        # In a container, the next process may well have the number of the one that was killed.
        if host is not None and process != os.getpid():
            return True
    # Of another machine only the time is known; a file that grows leaves its folder's time alone.
    changed = max(path.lstat().st_mtime for path in (scratch, *scratch.rglob("*")))
    return time.time() - changed < _LONGEST_DRAFT


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
