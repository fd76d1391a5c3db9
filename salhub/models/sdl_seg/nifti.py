"""NIfTI files: volumes in, masks out on the same grid with the affine untouched."""

import gzip
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from salhub.errors import require_extra
from salhub.models.sdl_seg.volume import SourceGrid, Volume, check_memory, spacing_of

# What a file may say its unit of length is.
_MILLIMETRES = ("mm", "unknown")
# Millimetres by which two affines of one place may differ.
_SAME_PLACE = 1e-2
# Share by which a spacing that is said twice may differ.
_SAME_SPACING = 5e-3


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
        ValueError: Values other than 0 and one whole number more, another grid than the volume's,
            or a file that is stored turned while nobody knows how the volume lies.
    """
    image = _open(path)
    source, _ = _source_grid(image, path)
    stored = _voxels(image, path)
    if volume.affine is None:
        return _mask_of_array(_binary(stored, path), source, volume, path)
    mask = source.from_stored(_binary(stored, path))
    affine = source.canonical_affine(stored.shape)
    _refuse_another_shape(mask, volume, path)
    if not np.allclose(affine, volume.affine, atol=_SAME_PLACE):
        raise ValueError(
            f"According to its affine, the mask {path.name} is not at the same place as the "
            "volume; give the mask that was drawn on this volume."
        )
    return mask


def _mask_of_array(
    stored: np.ndarray, source: SourceGrid, volume: Volume, path: Path
) -> np.ndarray:
    """Return a mask (Z, Y, X) of an array, whose voxels are known by their order alone."""
    header = source.header
    says_nothing = header["qform_code"] == 0 and header["sform_code"] == 0
    if not says_nothing and source.is_turned:
        raise ValueError(
            f"The mask {path.name} is stored in another orientation, but the orientation of "
            "the volume is unknown because it has no affine; give the volume as a file or "
            "with its affine, or the mask as an array."
        )
    mask = np.ascontiguousarray(stored.T)
    _refuse_another_shape(mask, volume, path)
    steps = spacing_of(source.affine)
    if not np.allclose(steps, volume.spacing, rtol=_SAME_SPACING):
        raise ValueError(
            f"The mask {path.name} has a spacing of {_listed(steps)} mm, but the volume has "
            f"{_listed(volume.spacing)} mm along z, y and x; give a mask on the grid of the "
            "volume."
        )
    return mask


def _refuse_another_shape(mask: np.ndarray, volume: Volume, path: Path) -> None:
    if mask.shape != volume.shape:
        raise ValueError(
            f"The mask {path.name} has {mask.shape} voxels, but the volume has "
            f"{volume.shape}; give a mask on the grid of the volume."
        )


def _binary(stored: np.ndarray, path: Path) -> np.ndarray:
    values = np.unique(stored)
    if len(values) > 2 or (len(values) == 2 and values[0] != 0):
        raise ValueError(
            f"A mask must contain 0 and one other value, but {path.name} has {len(values)} "
            f"values such as {', '.join(f'{value:g}' for value in values[:3])}; give one "
            "structure."
        )
    if (values % 1 != 0).any():
        raise ValueError(
            f"The mask {path.name} contains {values[values % 1 != 0][0]:g}, so it looks like "
            "probabilities; apply a threshold first."
        )
    return stored != 0


def _listed(numbers: Iterable[float]) -> str:
    return ", ".join(f"{number:.4g}" for number in numbers)


def write_nifti(path: Path, array: np.ndarray, volume: Volume) -> None:
    """Write a mask or a map of a volume.

    Where the volume came from a NIfTI file, the grid and the affine are those of the file, bit for
    bit. Otherwise the grid is the volume's. An array, of which nobody knows where it lies, is
    written as if x, y and z grew to the right, the front and the head from the origin, so that
    every program reads its voxels in one order.

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
        # Without a code, programs disagree on which way x and y run.
        code = "aligned" if volume.affine is None else "scanner"
        image.set_sform(affine, code)
        image.set_qform(affine, code)
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
        raise FileNotFoundError(f"The file {path} does not exist.") from None
    # Headers with impossible numbers raise errors of their own.
    except (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError,
            EOFError, OSError, ValueError, zlib.error) as error:  # fmt: skip
        raise _damaged(path) from error
    if not isinstance(image, nibabel.Nifti1Image):
        raise ValueError(f"{path.name} is not a NIfTI file; convert it to .nii.gz.")
    return image


def _damaged(path: Path) -> ValueError:
    return ValueError(f"{path.name} is damaged or not a NIfTI file; export it again.")


def _source_grid(image: Any, path: Path) -> tuple[SourceGrid, tuple[str, ...]]:
    """Return how a file stores its volume, and what had to be guessed; nothing large is read."""
    if image.get_data_dtype().fields is not None:
        raise ValueError(f"{path.name} has colours; a CT has one number in HU per voxel.")
    # A fourth axis of one is how some programs write a single volume.
    shape = image.shape[:3] + tuple(n for n in image.shape[3:] if n != 1)
    if len(shape) != 3:
        raise ValueError(
            f"{path.name} has shape {image.shape}, but a volume has 3 axes; export a single volume."
        )
    header = image.header
    unit = header.get_xyzt_units()[0]
    if unit not in _MILLIMETRES:
        raise ValueError(
            f"{path.name} gives its spacing in {unit} instead of mm; convert it first."
        )
    warnings = []
    if header["qform_code"] == 0 and header["sform_code"] == 0:
        if set(header.get_zooms()[:3]) == {1.0}:
            raise ValueError(
                f"{path.name} has no spacing (no qform, no sform, steps of 1); add it to the "
                "header, or give the array with spacing=(z, y, x) in mm."
            )
        warnings.append(
            f"{path.name} does not contain the orientation of the patient (no qform, no "
            "sform); salhub assumes that x grows to the left as stored, and positions in mm "
            "have no known origin."
        )
    forms = [form for form in (image.get_sform(coded=True)[0], image.get_qform(coded=True)[0])
             if form is not None]  # fmt: skip
    if len(forms) == 2 and not np.allclose(*forms, atol=_SAME_PLACE):
        warnings.append(f"The sform and the qform of {path.name} differ; the sform is used.")
    if unit == "unknown":
        warnings.append(f"{path.name} does not give the unit of its spacing; mm is assumed.")
    affine = np.array(image.affine, dtype=np.float64)
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or not steps.all():
        raise ValueError(
            f"{path.name} has a spacing of 0 or an invalid spacing; repair its header."
        )
    zooms = np.abs(np.array(header.get_zooms()[:3], dtype=np.float64))
    if not np.allclose(zooms, steps, rtol=_SAME_SPACING, atol=0):
        raise ValueError(
            f"{path.name} has two different spacings, {_listed(zooms)} mm in pixdim and "
            f"{_listed(steps)} mm in its affine; repair its header."
        )
    if (affine == np.eye(4)).all():
        warnings.append(
            f"{path.name} has steps of exactly 1 mm and its origin at 0, which often means "
            "that the spacing was lost; check it."
        )
    grid = SourceGrid("nifti", path, affine, **closest_axes(affine), header=header)
    return grid, tuple(warnings)


def _voxels(image: Any, path: Path) -> np.ndarray:
    try:
        if path.suffix.lower() == ".gz":
            # Read to its end, where its checksum is.
            image = type(image).from_bytes(gzip.decompress(path.read_bytes()))
        values = np.asarray(image.dataobj, dtype=np.float32)
    # A file that was cut off ends in any of these.
    except (EOFError, OSError, ValueError, zlib.error) as error:
        raise _damaged(path) from error
    return values.reshape(values.shape[:3])
