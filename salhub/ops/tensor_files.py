"""Files of tensors that are the same bytes whenever they hold the same."""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from salhub.files import draft

_METADATA = "__metadata__"


def write_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None
) -> Path:
    """Write a safetensors file as a whole, the same bytes for the same content.

    Args:
        tensors: By name, contiguous and without common memory.
        path: The file; its folder is made when it does not exist.
        metadata: Text by name.

    Returns:
        The path.

    Example:
        >>> write_tensors({"x": torch.ones(2)}, Path("x.safetensors"))  # doctest: +SKIP
    """
    with draft(path) as target:
        save_file(dict(tensors), target, metadata=metadata)
        sort_metadata(target)
    return path


def sort_metadata(path: Path) -> None:
    """Put the metadata of a safetensors file in order, in place.

    safetensors keeps metadata in a table whose order differs from write to write; that of the
    tensors does not.

    Args:
        path: A file that has just been written.
    """
    with path.open("rb+") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        if _METADATA not in header:
            return
        header[_METADATA] = dict(sorted(header[_METADATA].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= size:  # as both are compact
            file.seek(8)
            file.write(text.ljust(size))
