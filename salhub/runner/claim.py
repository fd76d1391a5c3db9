"""One run at a time in a folder: it is claimed by a lock of the operating system.

The lock goes with its process, however that ends, so that nothing has to be tidied up by hand. From
version 3.21 on, filelock refuses a lock whose file was removed after it was opened.
"""

import json
import logging
import os
import platform
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from salhub.errors import SalhubError
from salhub.files import write_text

logger = logging.getLogger(__name__)

_LOCK, _OWNER = ".run.lock", ".run.json"


class FolderInUseError(SalhubError, OSError):
    """Another run is writing to a folder."""


@contextmanager
def claimed(folder: Path) -> Generator[None]:
    """Claim a folder for a run as long as the block lasts; it is made when it does not exist.

    Raises:
        FolderInUseError: Another run has claimed it.
        FileExistsError: It is a file.

    Example:
        >>> with claimed(Path("out")):  # doctest: +SKIP
        ...     run(recipe)
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise FileExistsError(f"output_dir={folder} is a file; give a folder.") from None
    lock, owner = FileLock(folder / _LOCK), folder / _OWNER
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise FolderInUseError(_refusal(folder, _read(owner))) from None
    try:
        _say_of_another_machine(folder, _read(owner))
        write_text(owner, json.dumps({"process": os.getpid(), **_here(), "began": time.time()}))
        yield
    finally:
        # While it is still locked: who comes later makes files of its own.
        for path in (owner, folder / _LOCK):
            with suppress(OSError):  # Windows removes no file that is open
                path.unlink()
        lock.release()
        for path in made:
            with suppress(OSError):  # it holds something by now
                path.rmdir()


def _here() -> dict[str, str]:
    return {"machine": platform.node()}


def _read(owner: Path) -> dict:
    try:
        content = json.loads(owner.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _refusal(folder: Path, owner: dict) -> str:
    who = f"process {owner['process']}" if "process" in owner else "another process"
    where = _elsewhere(owner)
    return (
        f"another run is writing to {folder} ({who}{f' on {where}' if where else ''}); wait for "
        "it, stop it, or choose another output_dir."
    )


def _say_of_another_machine(folder: Path, owner: dict) -> None:
    # Not every shared disk shares its locks.
    if _elsewhere(owner):
        logger.warning(
            "A run on the machine %s (process %s) started in %s and has not reported its "
            "end. It may still be writing there: make sure that it is not.",
            _elsewhere(owner), owner.get("process"), folder,
        )  # fmt: skip


def _elsewhere(owner: dict) -> str:
    machine = str(owner.get("machine", ""))
    return "" if machine == platform.node() else machine
