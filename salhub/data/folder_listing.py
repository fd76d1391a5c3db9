"""The one reader of folders: which files in them are meant, and which are left out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from salhub.files import ending_of

# What systems and programs put beside people's files, in lower case.
_COMPANIONS = frozenset(
    {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "$recycle.bin"}
)
_NUM_SHOWN = 3


@dataclass(frozen=True)
class FolderListing:
    """What lies in a folder; nothing of it is opened, and sub-folders are not entered.

    Args:
        folder: The folder.
        files: Files with one of the wanted endings, in the order of their names.
        folders: Sub-folders, likewise.
        left_out: Everything else, likewise; not what systems put there by themselves.
    """

    folder: Path
    files: tuple[Path, ...]
    folders: tuple[Path, ...]
    left_out: tuple[Path, ...]


def list_folder(folder: str | Path, endings: Iterable[str]) -> FolderListing:
    """List a folder.

    Files and folders that systems put beside those of people are passed over: hidden ones
    (`.DS_Store`, `._photo.jpg` of a Mac), `__MACOSX`, `Thumbs.db`, `desktop.ini` and the like.

    Args:
        folder: The folder.
        endings: Wanted endings in lower case, with the dot; files have them in any case.

    Raises:
        OSError: It is no folder, or may not be read.

    Example:
        >>> from salhub.data.samples import PHOTOS
        >>> [path.name for path in list_folder(PHOTOS, (".jpg",)).files][:2]
        ['astronaut.jpg', 'cat.jpg']
        >>> [path.name for path in list_folder(PHOTOS, (".jpg",)).left_out]
        ['NOTICE.md']
    """
    wanted = tuple(endings)
    files, folders, left_out = [], [], []
    for path in sorted(Path(folder).iterdir()):
        if is_companion(path.name):
            continue
        if path.is_dir():
            folders.append(path)
        else:
            is_meant = path.is_file() and ending_of(path.name, wanted)
            (files if is_meant else left_out).append(path)
    return FolderListing(Path(folder), tuple(files), tuple(folders), tuple(left_out))


def is_companion(name: str) -> bool:
    """Return whether a system or a program puts files of this name beside those of people.

    Example:
        >>> [is_companion(name) for name in ("._cat.jpg", "Thumbs.db", "cat.jpg")]
        [True, True, False]
    """
    return name.startswith(".") or name.lower() in _COMPANIONS


def describe_left_out(files: Sequence[Path], folders: Sequence[Path] = ()) -> str:
    """Say in one sentence what is left out; "" where nothing is.

    Args:
        files: Files of other kinds.
        folders: Folders that are not entered.

    Example:
        >>> describe_left_out([Path("set/notes.txt")], [Path("set/raw"), Path("set/old")])
        'Left out 1 file of another kind (notes.txt) and 2 sub-folders (raw, old).'
    """
    parts = [_counted("file", files, " of another kind"), _counted("sub-folder", folders)]
    found = " and ".join(filter(None, parts))
    return found and f"Left out {found}."


def _counted(what: str, paths: Sequence[Path], of: str = "") -> str:
    if not paths:
        return ""
    more = f" and {len(paths) - _NUM_SHOWN} more" if len(paths) > _NUM_SHOWN else ""
    names = ", ".join(path.name for path in paths[:_NUM_SHOWN])
    return f"{len(paths)} {what}{'s' * (len(paths) > 1)}{of} ({names}{more})"
