"""Measured rows on disk: of a run that was stopped, and of jobs that share an evaluation."""

import base64
import hashlib
import io
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from salhub.files import is_in_draft
from salhub.results import package_versions

_PLAIN = (Tensor, str, int, float, bool, type(None))
_PACKAGE = Path(__file__).parents[1]
# Where something lies does not change what is measured.
_PLACES = ("_name_or_path", "name_or_path")


class RowStore:
    """Rows in a folder; whoever measures appends to a file of its own and reads those of all.

    A line that was not finished when its process was killed is passed over.

    Args:
        folder: The folder, which is made with the first row.
        fingerprint: Tells what is measured, see `fingerprint_of`; rows of anything else are not
            found.

    Example:
        >>> store = RowStore(Path("rows"), "0a1b")  # doctest: +SKIP
        >>> store.add("grid game", 0, [0.5])  # doctest: +SKIP
        >>> store.get("grid game", 0)  # doctest: +SKIP
        [0.5]
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder, self.fingerprint = folder, fingerprint
        self._own = folder / f"{uuid.uuid4().hex}.jsonl"
        self._rows: dict[tuple[str, int], str] = {}
        self._read: dict[Path, int] = {}

    def has(self, step: str, row: int) -> bool:
        """Whether a row is known; `refresh` makes those of others known."""
        return (self._key(step), row) in self._rows

    def get(self, step: str, row: int) -> Any:
        """A row that is known."""
        content = base64.b64decode(self._rows[self._key(step), row])
        return torch.load(io.BytesIO(content), weights_only=True)

    def add(self, step: str, row: int, value: Any) -> None:
        """Keep a row.

        Args:
            step: What the row is of, such as "grid game".
            row: Its number.
            value: Numbers, texts and tensors, and lists, tuples and dictionaries of them.

        Raises:
            TypeError: It holds something else.
        """
        _check_plain(value)
        content = io.BytesIO()
        torch.save(value, content)
        key, text = self._key(step), base64.b64encode(content.getvalue()).decode()
        self._rows[key, row] = text
        self.folder.mkdir(parents=True, exist_ok=True)
        # Another job, which needs no rows any more, may remove the folder at any moment.
        with suppress(FileNotFoundError), self._own.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": key, "row": row, "value": text}) + "\n")

    def refresh(self) -> None:
        """Read what others have added since."""
        for path in self.folder.glob("*.jsonl"):
            if path == self._own:
                continue
            try:
                with path.open("rb") as file:
                    file.seek(self._read.get(path, 0))
                    content = file.read()
            except FileNotFoundError:  # another job has all rows, and removes the folder
                continue
            whole = content[: content.rfind(b"\n") + 1]
            self._read[path] = self._read.get(path, 0) + len(whole)
            for line in whole.splitlines():
                entry = json.loads(line)
                self._rows[entry["step"], entry["row"]] = entry["value"]

    @property
    def is_cleared(self) -> bool:
        """Whether rows that were there are gone: another job had all of them, and used them."""
        return bool(self._rows) and not self.folder.exists()

    def clear(self) -> None:
        """Remove the folder, when it is no longer needed."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _key(self, step: str) -> str:
        return hashlib.sha256(f"{self.fingerprint}\0{step}".encode()).hexdigest()[:32]


def _check_plain(value: Any) -> None:
    if isinstance(value, dict):
        for name, one in value.items():
            _check_plain(name)
            _check_plain(one)
    elif isinstance(value, list | tuple):
        for one in value:
            _check_plain(one)
    elif type(value) not in _PLAIN:
        raise TypeError(f"A row holds numbers, texts and tensors, got {type(value).__name__}.")


def fingerprint_of(
    inputs: Mapping[str, Any], settings: Mapping[str, Any], results: Path | None = None
) -> str:
    """Tell an evaluation from all others: by weights, data, settings, packages and our own code.

    Args:
        inputs: What is measured: models, processors, tokenizers; and data by path.
        settings: How it is measured.
        results: What will be written, which may lie among the data, as may rows and notes.
    """
    digest = hashlib.sha256(_as_json([package_versions(), settings]))
    # Somebody who changes the code between two sittings must not mix what it measured.
    for source in sorted(_PACKAGE.rglob("*.py")):
        digest.update(source.read_bytes())
    for name in sorted(inputs):
        digest.update(f"\0{name}\0".encode())
        part = inputs[name]
        if isinstance(part, Path):
            _add_files(digest, part, results)
            continue
        for title, tensor in getattr(part, "state_dict", dict)().items():
            digest.update(title.encode())
            is_tensor = isinstance(tensor, Tensor)
            digest.update(_bytes_of(tensor) if is_tensor else _as_json(tensor))
        for described in (part, getattr(part, "config", None)):
            if hasattr(described, "to_dict"):
                digest.update(_as_json(described.to_dict()))
        if hasattr(part, "get_vocab"):
            digest.update(_as_json(part.get_vocab()))
    return digest.hexdigest()


def _add_files(digest: Any, path: Path, results: Path | None) -> None:
    """What files hold, and how they are called from the folder on; a name that is no path."""
    if not path.exists():
        digest.update(str(path).encode())
    files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    own = None if results is None else str(results.resolve())
    for one in filter(Path.is_file, files):
        # Another job may write its results there at this moment.
        if (own is not None and str(one.resolve()).startswith(own)) or is_in_draft(one):
            continue
        digest.update(os.fsencode(one.relative_to(path) if one != path else one.name))
        with one.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())


def _bytes_of(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def _as_json(value: Any) -> bytes:
    return json.dumps(_without_places(value), sort_keys=True, default=_described).encode()


def _without_places(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _without_places(v) for k, v in value.items() if k not in _PLACES}
    if isinstance(value, list | tuple):
        return [_without_places(one) for one in value]
    return value


def _described(value: Any) -> str:
    # The text of most objects tells where they are in memory.
    return str(value) if isinstance(value, Path | torch.dtype) else type(value).__name__
