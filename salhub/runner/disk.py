"""A disk that is full, said as such whoever was writing."""

import errno
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from salhub.errors import SalhubError

_NUMBERS = {errno.ENOSPC, errno.EDQUOT}
# Libraries in other languages hand on only the words of the system.
_WORDS = ("no space left on device", "disk quota exceeded", "not enough space on the disk")


class DiskFullError(SalhubError, OSError):
    """There is no room left for what a run writes."""


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that there is no room left.

    Example:
        >>> is_disk_full(OSError(errno.ENOSPC, "No space left on device"))
        True
    """
    if isinstance(error, OSError) and error.errno in _NUMBERS:
        return True
    return any(words in str(error).lower() for words in _WORDS)


@contextmanager
def full_disk_said(folder: Path) -> Generator[None]:
    """Turn the many ways in which a full disk shows itself into one sentence.

    Args:
        folder: Of the run.

    Raises:
        DiskFullError: In place of an error that a full disk has caused.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, DiskFullError) or not is_disk_full(error):
            raise
        place = getattr(error, "filename", None)
        also = f" ({place} could not be written)" if place else ""
        raise DiskFullError(
            f"disk full: there is no space left in {folder}{also}. Everything saved so far "
            "is intact: free some space, and resume with resume_from_checkpoint=latest."
        ) from error
