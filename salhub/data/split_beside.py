"""What lies beside a model: what it has learned, and other files of the run that made it."""

from pathlib import Path

from transformers.utils import cached_file

from salhub.data.labelled_split import FILE_NAME, LabelledSplit
from salhub.hub import resolve


def find_split(name: str) -> LabelledSplit | None:
    """The `split.json` of a model, or None where it has none.

    Args:
        name: A folder, a shipped name or a Hub repository.

    Raises:
        ValueError: It is damaged.
    """
    path = find_file(name, FILE_NAME)
    return None if path is None else LabelledSplit.load(path.parent)


def find_file(name: str, file_name: str) -> Path | None:
    """A file that lies beside a model, or None where there is none.

    Args:
        name: The model: a folder, a shipped name or a Hub repository.
        file_name: What the file is called.
    """
    folder = resolve(name).config_folder
    path = cached_file(folder, file_name, _raise_exceptions_for_missing_entries=False)
    return None if path is None else Path(path)
