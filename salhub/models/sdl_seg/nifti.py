"""NIfTI files: volumes in, masks out on the same grid with the affine untouched."""

from pathlib import Path
from typing import Any

import numpy as np

from salhub.errors import require_extra
from salhub.models.sdl_seg.volume import SourceGrid, Volume, check_memory, spacing_of

# What a file may say its unit of length is.
_MILLIMETRES = ("mm", "unknown")
# Millimetres by which two affines of one place may differ.
_SAME_PLACE = 1e-2


def read_nifti(path: Path) -> Volume:
    """Read a CT volume from a NIfTI file.

    Args:
        path: Of a .nii or .nii.gz file.

    Returns:
        The volume, turned to the nearest anatomical axes; `source` leads back to the file's grid.

    Raises:
        MissingExtraError: nibabel is not installed.
        ValueError: The file is damaged, holds no single volume in HU, or does not say its spacing.
    """
    image = _open(path)
    source, warnings = _source_grid(image, path)
    check_memory(image.shape, path.name)
    stored = _voxels(image, path)
    affine = source.canonical_affine(stored.shape)
    return Volume(source.from_stored(stored), spacing_of(affine), affine, source, warnings)


def read_nifti_mask(path: Path, volume: Volume) -> np.ndarray:
    """Read a mask that belongs to a volume.

    Returns:
        bool, of the volume's shape (Z, Y, X).

    Raises:
        ValueError: Values other than 0 and one more, or another grid than the volume's.
    """
    image = _open(path)
    source, _ = _source_grid(image, path)
    stored = _voxels(image, path)
    values = np.unique(stored)
    if len(values) > 2 or (len(values) == 2 and values[0] != 0):
        raise ValueError(
            f"A mask holds 0 and one other value, and {path.name} holds {len(values)} values such "
            f"as {', '.join(f'{value:g}' for value in values[:3])}; give one structure."
        )
    mask = source.from_stored(stored) != 0
    affine = source.canonical_affine(stored.shape)
    if mask.shape != volume.shape:
        raise ValueError(
            f"The mask {path.name} has {mask.shape} voxels and the volume {volume.shape}; give a "
            "mask on the grid of the volume."
        )
    if volume.affine is not None and not np.allclose(affine, volume.affine, atol=_SAME_PLACE):
        raise ValueError(
            f"The mask {path.name} lies elsewhere in the patient than the volume, by its affine; "
            "give the mask that was drawn on this volume."
        )
    return mask


def write_nifti(path: Path, array: np.ndarray, volume: Volume) -> None:
    """Write a mask or a map of a volume.

    Where the volume came from a NIfTI file, the grid and the affine are those of the file, bit for
    bit. Otherwise the grid is the volume's, and of an array nobody knows where it lies: its affine
    says the spacing alone.

    Args:
        path: Where to write; .nii or .nii.gz.
        array: (Z, Y, X), bool or numbers; bool is written as 0 and 1.
        volume: The volume it belongs to.
    """
    nibabel = require_extra("nibabel", "medical")
    values = array.astype(np.uint8) if array.dtype == bool else array.astype(np.float32)
    source = volume.source
    if source is not None and source.format == "nifti":
        stored, affine, header = source.to_stored(values), source.affine, source.header.copy()
    else:
        stored, header = values.T, None
        affine = np.diag([*volume.spacing[::-1], 1.0]) if volume.affine is None else volume.affine
    image = nibabel.Nifti1Image(np.ascontiguousarray(stored), affine, header)
    # The header of the CT would write its integers, slope and intercept.
    image.set_data_dtype(values.dtype)
    image.header["scl_slope"], image.header["scl_inter"] = np.nan, np.nan
    image.header["cal_min"] = image.header["cal_max"] = 0
    if header is None:
        image.header.set_xyzt_units("mm")
        image.set_sform(affine, code="unknown" if volume.affine is None else "scanner")
        image.set_qform(affine, code="unknown" if volume.affine is None else "scanner")
    nibabel.save(image, path)


def closest_axes(affine: np.ndarray) -> dict[str, Any]:
    """Return `axes` and `flips` of a `SourceGrid` whose stored axes have this affine."""
    nibabel = require_extra("nibabel", "medical")
    turns = nibabel.io_orientation(affine)  # of each stored axis: its place among x, y, z, and sign
    axes = np.argsort(turns[:, 0])
    return {
        "axes": tuple(axes.tolist()),
        "flips": tuple((turns[axes, 1] < 0).tolist()),
    }


def _open(path: Path) -> Any:
    nibabel = require_extra("nibabel", "medical")
    try:
        image = nibabel.load(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no file {path}.") from None
    # Headers with impossible numbers raise errors of their own.
    except (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError,
            EOFError, OSError, ValueError) as error:  # fmt: skip
        raise _damaged(path) from error
    if not isinstance(image, nibabel.Nifti1Image):
        raise ValueError(f"{path.name} is no NIfTI file; convert it to .nii.gz.")
    return image


def _damaged(path: Path) -> ValueError:
    return ValueError(f"{path.name} is damaged or no NIfTI file; export it again.")


def _source_grid(image: Any, path: Path) -> tuple[SourceGrid, tuple[str, ...]]:
    """Return how a file stores its volume, and what had to be guessed; nothing large is read."""
    if image.get_data_dtype().fields is not None:
        raise ValueError(f"{path.name} holds colours; a CT has one number in HU a voxel.")
    # A fourth axis of one is how some programs write a single volume.
    shape = image.shape[:3] + tuple(n for n in image.shape[3:] if n != 1)
    if len(shape) != 3:
        raise ValueError(
            f"{path.name} has shape {image.shape}, and one volume has 3 axes; export a single "
            "volume."
        )
    header = image.header
    unit = header.get_xyzt_units()[0]
    if unit not in _MILLIMETRES:
        raise ValueError(
            f"{path.name} gives its spacing in {unit}, and mm are needed; convert it first."
        )
    warnings = []
    if header["qform_code"] == 0 and header["sform_code"] == 0:
        if set(header.get_zooms()[:3]) == {1.0}:
            raise ValueError(
                f"{path.name} does not say its spacing (no qform, no sform, steps of 1); write it "
                "into the header, or give the array with spacing=(z, y, x) in mm."
            )
        warnings.append(
            f"{path.name} does not say how the patient lies in it (no qform, no sform); x is taken "
            "to grow to the left as stored, and positions in mm have no known origin."
        )
    forms = [form for form in (image.get_sform(coded=True)[0], image.get_qform(coded=True)[0])
             if form is not None]  # fmt: skip
    if len(forms) == 2 and not np.allclose(*forms, atol=_SAME_PLACE):
        warnings.append(
            f"{path.name} says twice where the patient lies, by its sform and its qform, and they "
            "differ; the sform is taken."
        )
    if unit == "unknown":
        warnings.append(f"{path.name} does not name the unit of its spacing; mm is assumed.")
    affine = np.array(image.affine, dtype=np.float64)
    if not np.isfinite(affine).all() or not np.linalg.norm(affine[:3, :3], axis=0).all():
        raise ValueError(f"{path.name} has a spacing of 0 or no number; repair its header.")
    grid = SourceGrid("nifti", path, affine, **closest_axes(affine), header=header)
    return grid, tuple(warnings)


def _voxels(image: Any, path: Path) -> np.ndarray:
    try:
        values = np.asarray(image.dataobj, dtype=np.float32)
    # A file that was cut off ends in any of these.
    except (EOFError, OSError, ValueError) as error:
        raise _damaged(path) from error
    return values.reshape(values.shape[:3])
