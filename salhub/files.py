"""The one writer of files and folders: whoever looks sees the old one or the whole new one."""

import os
import shutil
import tempfile
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path

_DRAFTS = ".salhub-"  # and the number of the process
_LONGEST_DRAFT = 3600  # seconds


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
    prefix = f"{_DRAFTS}{os.getpid()}-"
    with tempfile.TemporaryDirectory(dir=folder, prefix=prefix) as scratch:
        yield Path(scratch)


def put_in_place(path: Path, target: Path) -> None:
    """Give a finished file or folder the name of another one, which it replaces.

    Args:
        path: What was written, on the same disk; it is on the disk before it gets its new name.
        target: Its new name.
    """
    for file in [path] if path.is_file() else filter(Path.is_file, path.rglob("*")):
        with file.open("rb+") as written:
            os.fsync(written)
    if target.is_dir():
        # A folder with content is not replaced in one step, so that it is moved out of the way.
        with scratch_folder(target.parent) as scratch:
            os.replace(target, scratch / target.name)
            os.replace(path, target)
    else:
        os.replace(path, target)


def ending_of(name: str, endings: Iterable[str]) -> str:
    """Return the longest of some endings that a file name has, in any case, or "" for none.

    Example:
        >>> ending_of("Chest.NII.GZ", (".gz", ".nii.gz", ".nii"))
        '.nii.gz'
    """
    found = [ending for ending in endings if name.lower().endswith(ending)]
    return max(found, key=len, default="")


def write_bytes(target: Path, content: bytes) -> None:
    """Write a file as a whole."""
    with draft(target) as path:
        path.write_bytes(content)


def write_text(target: Path, text: str) -> None:
    """Write a text file as a whole."""
    write_bytes(target, text.encode())


def remove_stale_drafts(folder: Path) -> None:
    """Remove what a process that was killed had begun to write in a folder.

    Args:
        folder: The folder; it need not exist.
    """
    for scratch in folder.glob(f"{_DRAFTS}*-*"):
        with suppress(FileNotFoundError):  # another run may have just finished it
            if scratch.is_dir() and not _may_be_written(scratch):
                shutil.rmtree(scratch, ignore_errors=True)


def _may_be_written(scratch: Path) -> bool:
    process = scratch.name.removeprefix(_DRAFTS).partition("-")[0]
    if not process.isdecimal():
        return True  # not named by us
    if os.name == "posix" and not _is_running(int(process)):
        return False
    # A number is given to another process in time, and no file takes this long to write.
    return time.time() - scratch.stat().st_mtime < _LONGEST_DRAFT


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
