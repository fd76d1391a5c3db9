"""Photos that come with the package, so that every example works without a file or a network."""

from pathlib import Path

from salhub.errors import UnknownNameError, did_you_mean

PHOTOS = Path(__file__).resolve().parent / "photos"


def sample_names() -> tuple[str, ...]:
    """Return the names of the bundled photos, in alphabetical order.

    Example:
        >>> sample_names()
        ('astronaut', 'cat', 'coffee', 'rocket')
    """
    return tuple(sorted(path.stem for path in PHOTOS.glob("*.jpg")))


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
    names = sample_names()
    if name not in names:
        raise UnknownNameError(
            f"There is no sample photo {name!r}; choose one of {', '.join(names)}."
            f"{did_you_mean(name, names)}"
        )
    return PHOTOS / f"{name}.jpg"
