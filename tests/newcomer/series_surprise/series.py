"""Reading series of numbers."""

from pathlib import Path
from typing import Any


def read_series(source: Any) -> list[float]:
    """Return the numbers of a file, of a text or of a list.

    Args:
        source: The path of a file with a number a line; such a text; or numbers.

    Raises:
        ValueError: Something is no number, or there is none.

    Example:
        >>> read_series([1, 2.5])
        [1.0, 2.5]
    """
    if isinstance(source, Path) or (isinstance(source, str) and source.endswith((".csv", ".txt"))):
        source = Path(source).read_text(encoding="utf-8")
    if isinstance(source, bytes):
        source = source.decode()
    if isinstance(source, str):
        source = source.split()
    try:
        numbers = [float(one) for one in source]
    except ValueError as error:
        raise ValueError(f"A series has a number a line: {error}.") from error
    if not numbers:
        raise ValueError("The series is empty; give at least one number.")
    return numbers
