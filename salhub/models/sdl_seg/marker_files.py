"""Files with the places of markers: JSON and CSV, in voxels or in millimetres."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from salhub.files import require_file
from salhub.models.sdl_seg.volume import Volume

MARKER_ENDINGS = (".json", ".csv")
# Key of a JSON file, and first line of a CSV file -> whether the numbers are voxels.
_KEYS = {"markers_voxel": True, "markers_mm": False}
_COLUMNS = {("z", "y", "x"): True, ("x_mm", "y_mm", "z_mm"): False}


def read_markers(path: str | Path, volume: Volume) -> np.ndarray:
    """Read the places of markers in a volume.

    Args:
        path: A JSON file with `markers_voxel`, a list of [z, y, x] as results write it, or with
            `markers_mm`, a list of [x, y, z] in patient mm (RAS); or a CSV file whose first line is
            "z,y,x" for voxels or "x_mm,y_mm,z_mm".
        volume: The volume, whose affine turns mm into voxels.

    Returns:
        (K, 3) voxel coordinates (z, y, x), float64.

    Raises:
        ValueError: The file says neither, or a place is no three numbers.
    """
    path = Path(path)
    require_file(path, "file of markers")
    is_json = path.suffix.lower() == ".json"
    found, in_voxels = _from_json(path) if is_json else _from_csv(path)
    try:
        points = np.array(found, dtype=np.float64) if found else np.empty((0, 3))
    except (ValueError, TypeError):
        points = np.empty(0)
    if points.shape[1:] != (3,) or not np.isfinite(points).all():
        raise ValueError(f"A marker in {path.name} is no three numbers; repair the file.")
    if in_voxels:
        return points
    # Without an affine `to_voxels` takes (z, y, x) mm from the first voxel.
    return volume.to_voxels(points if volume.affine is not None else points[:, ::-1])


def _from_json(path: Path) -> tuple[Any, bool]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name} is no JSON file; write it again.") from error
    for key, in_voxels in _KEYS.items():
        if isinstance(content, dict) and isinstance(content.get(key), list):
            return content[key], in_voxels
    raise ValueError(
        f"{path.name} has no list of markers; call it markers_voxel, of [z, y, x], or markers_mm, "
        "of [x, y, z] in patient mm."
    )


def _from_csv(path: Path) -> tuple[Any, bool]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = [row for row in csv.reader(file) if any(cell.strip() for cell in row)]
    head = tuple(cell.strip().lower() for cell in rows[0]) if rows else ()
    if head not in _COLUMNS:
        raise ValueError(
            f"{path.name} begins with '{','.join(head)}'; its first line must be z,y,x for voxels "
            "or x_mm,y_mm,z_mm for patient mm."
        )
    return rows[1:], _COLUMNS[head]
