"""Progress of an edit, and what its stages have found, kept so that they need not be done again."""

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from salhub.files import write_bytes

# (stage, done, total); total is None where it is not known.
Progress = Callable[[str, int, int | None], None]
STAGES = ("tracks", "saliency", "rushes", "dialogue", "edit")
_NOTES = "__notes__"


class StageStore:
    """What stages have found, one whole file a stage.

    Args:
        folder: Where to keep it; None keeps nothing.

    Example:
        >>> store = StageStore(None)
        >>> store.put("tracks", "a digest", {"boxes": np.zeros(3)})
        >>> store.get("tracks", "a digest") is None
        True
    """

    def __init__(self, folder: Path | str | None) -> None:
        self.folder = None if folder is None else Path(folder)

    def get(self, stage: str, key: str) -> dict[str, Any] | None:
        """Return what a stage found, or None where it is not there, damaged or of another key.

        Args:
            stage: One of `STAGES`.
            key: Digest of all that it depends on.
        """
        if self.folder is None:
            return None
        try:
            with np.load(self.folder / f"{stage}.npz", allow_pickle=False) as file:
                notes = json.loads(str(file[_NOTES]))
                arrays = {name: file[name] for name in file.files if name != _NOTES}
        except (OSError, ValueError, KeyError, EOFError):
            return None
        if notes["key"] != key:
            return None
        return {**arrays, **notes["values"]}

    def put(self, stage: str, key: str, content: Mapping[str, Any]) -> None:
        """Keep what a stage found.

        Args:
            stage: One of `STAGES`.
            key: Digest of all that it depends on.
            content: Arrays, and values that JSON holds.
        """
        if self.folder is None:
            return
        arrays = {name: one for name, one in content.items() if isinstance(one, np.ndarray)}
        values = {name: one for name, one in content.items() if name not in arrays}
        notes = np.array(json.dumps({"key": key, "values": values}))
        file = io.BytesIO()
        np.savez_compressed(file, **{_NOTES: notes}, **arrays)
        write_bytes(self.folder / f"{stage}.npz", file.getvalue())
