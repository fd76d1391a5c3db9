"""Names of the 1,000 ImageNet classes."""

from functools import lru_cache
from pathlib import Path

# One line a class: WordNet id and name, in the order of the sorted ids.
_LABELS = Path(__file__).parent / "imagenet_labels.txt"


@lru_cache(maxsize=1)
def imagenet_labels() -> tuple[str, ...]:
    """Return the class names by class index.

    Example:
        >>> imagenet_labels()[281]
        'tabby'
    """
    lines = _LABELS.read_text(encoding="utf-8").splitlines()
    return tuple(line.split(" ", 1)[1] for line in lines)
