"""Photos and texts that come with the package, so that every example works by itself."""

from pathlib import Path

from salhub.errors import UnknownNameError, did_you_mean

PREFIX = "sample:"
PHOTOS = Path(__file__).resolve().parent / "photos"
TEXTS = Path(__file__).resolve().parent / "texts"


def sample_names() -> tuple[str, ...]:
    """Return the names of the bundled photos, in alphabetical order.

    Example:
        >>> sample_names()
        ('astronaut', 'cat', 'cells', 'coffee', 'rocket')
    """
    return _names(PHOTOS, ".jpg")


def sample_path(name: str) -> Path:
    """Return the file of a bundled photo.

    Args:
        name: One of `sample_names()`.

    Returns:
        Path of a JPEG file. Sources and terms are in `NOTICE.md` beside it.

    Raises:
        UnknownNameError: There is no such photo.

    Example:
        >>> sample_path("cat").name
        'cat.jpg'
    """
    return _path(PHOTOS, ".jpg", name, "photo")


def sample_text_names() -> tuple[str, ...]:
    """Return the names of the bundled texts, in alphabetical order.

    Example:
        >>> sample_text_names()
        ('article', 'news', 'review')
    """
    return _names(TEXTS, ".txt")


def sample_text_path(name: str) -> Path:
    """Return the file of a bundled text.

    Args:
        name: One of `sample_text_names()`.

    Returns:
        Path of a UTF-8 file.

    Raises:
        UnknownNameError: There is no such text.

    Example:
        >>> sample_text_path("article").name
        'article.txt'
    """
    return _path(TEXTS, ".txt", name, "text")


def _names(folder: Path, suffix: str) -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in folder.glob(f"*{suffix}")))


def _path(folder: Path, suffix: str, name: str, kind: str) -> Path:
    names = _names(folder, suffix)
    if name not in names:
        raise UnknownNameError(
            f"There is no sample {kind} {name!r}; choose one of {', '.join(names)}."
            f"{did_you_mean(name, names)}"
        )
    return folder / f"{name}{suffix}"
