"""Files with the places of markers: JSON and CSV, in millimetres or in voxels."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from salhub.files import require_file
from salhub.models.sdl_seg.volume import Volume

MARKER_ENDINGS = (".json", ".csv")
# Key of a JSON file, and first line of a CSV file -> what the numbers are. Where a file says both,
# millimetres are taken, as they hold on every grid.
_KEYS = {"markers_mm": "mm", "markers_ijk": "ijk", "markers_voxel": "zyx"}
_COLUMNS = {("x_mm", "y_mm", "z_mm"): "mm", ("i", "j", "k"): "ijk", ("z", "y", "x"): "zyx"}
# Voxels by which places that are said twice may differ.
_SAME_PLACE = 0.05


def read_markers(path: str | Path, volume: Volume) -> np.ndarray:
    """Read the places of markers in a volume.

    Args:
        path: A JSON file with `markers_mm`, a list of [x, y, z] in patient mm (RAS),
            `markers_ijk`, a list of the indices [i, j, k] that a NIfTI file stores them at, from 0,
            or `markers_voxel`, a list of [z, y, x]; or a CSV file whose first line is
            "x_mm,y_mm,z_mm", "i,j,k" or "z,y,x". Of an array, mm are counted from the centre of
            the first voxel.
        volume: The volume, whose affine turns mm into voxels.

    Returns:
        (K, 3) voxel coordinates (z, y, x), float64.

    Raises:
        ValueError: The file says neither, says it twice and differently, a place is no three
            numbers, or (z, y, x) of a file that is stored turned, whose voxels are others.
    """
    path = Path(path)
    require_file(path, "file of markers")
    is_json = path.suffix.lower() == ".json"
    said = _from_json(path) if is_json else _from_csv(path)
    # What a result holds of the volume as it was turned is checked against its millimetres.
    is_checked = "mm" in said
    places = [
        _to_voxels(_points(found, path), kind, volume, path, is_checked)
        for kind, found in said.items()
    ]
    for other in places[1:]:
        if other.shape != places[0].shape:
            what = f"{len(places[0])} markers and {len(other)}"
        elif len(other) and (off := np.abs(other - places[0]).max(axis=1)).max() > _SAME_PLACE:
            what = f"places {off.max():.1f} voxels apart for marker {int(off.argmax()) + 1}"
        else:
            continue
        raise ValueError(
            f"{path.name} has its markers in mm and in voxels, but they differ ({what}); "
            "remove the list that you did not edit, or the voxels if they belong to another "
            "scan."
        )
    return places[0]


def is_file_of_markers(path: Path) -> bool:
    """Return whether a file is meant to hold markers, as many a JSON file beside a scan is not.

    Scanners' settings beside a converted scan are none, and a saved result is asked for by name.
    """
    if path.suffix.lower() != ".json":
        return True
    content = _json(path)
    if not isinstance(content, dict) or "contours" in content:
        return False
    return any(key.lower().startswith("marker") for key in content)


def _points(found: Any, path: Path) -> np.ndarray:
    try:
        points = np.array(found, dtype=np.float64) if found else np.empty((0, 3))
    except (ValueError, TypeError):
        points = np.empty(0)
    if points.shape[1:] != (3,) or not np.isfinite(points).all():
        raise ValueError(f"A marker in {path.name} is not three numbers; repair the file.")
    return points


def _to_voxels(
    points: np.ndarray, kind: str, volume: Volume, path: Path, is_checked: bool
) -> np.ndarray:
    source = volume.source
    if kind == "mm":
        # Without an affine `to_voxels` takes (z, y, x) mm from the first voxel.
        places = volume.to_voxels(points if volume.affine is not None else points[:, ::-1])
        outside = ((places < -0.5) | (places > np.array(volume.shape) - 0.5)).any(axis=1)
        if outside.any():
            first = ", ".join(f"{one:g}" for one in points[outside][0])
            raise ValueError(
                f"{path.name} has a marker at ({first}) mm, outside the volume; does it "
                "belong to another scan, or do x and y point to the left and the back, as "
                "in DICOM?"
            )
        return places
    if kind == "zyx":
        if source is not None and source.is_turned and not is_checked:
            better = "i,j,k as stored or " if source.format == "nifti" else ""
            raise ValueError(
                f"{path.name} gives voxels (z, y, x), but {source.path.name} is stored in "
                f"another orientation, so they may be mirrored; give {better}x_mm,y_mm,z_mm "
                "in patient mm (RAS)."
            )
        return points
    if source is None or source.format != "nifti":
        raise ValueError(
            f"{path.name} gives indices (i, j, k) of a NIfTI file, but the volume does not "
            "come from one; give x_mm,y_mm,z_mm in patient mm (RAS)."
        )
    there = source.affine[:3, :3] @ points.T + source.affine[:3, 3:]
    return volume.to_voxels(there.T)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name} is not a JSON file; save it again.") from error


def _from_json(path: Path) -> dict[str, Any]:
    content = _json(path)
    if isinstance(content, dict):
        said = {
            kind: content[key] for key, kind in _KEYS.items() if isinstance(content.get(key), list)
        }
        if said:
            return said
    raise ValueError(
        f"{path.name} has no list of markers; add markers_mm with [x, y, z] in patient mm, "
        "or markers_ijk with the stored [i, j, k] of a NIfTI file."
    )


def _from_csv(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8 text; save it as CSV UTF-8.") from error
    rows = [row for row in csv.reader(text.splitlines()) if any(cell.strip() for cell in row)]
    head = tuple(cell.strip().lower() for cell in rows[0]) if rows else ()
    if head not in _COLUMNS:
        raise ValueError(
            f"{path.name} begins with '{','.join(head)}'; its first line must be x_mm,y_mm,z_mm "
            "for patient mm, i,j,k for indices of a NIfTI file, or z,y,x for voxels."
        )
    return {_COLUMNS[head]: rows[1:]}
