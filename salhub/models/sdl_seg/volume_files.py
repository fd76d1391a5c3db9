"""The one reader of CT volumes: NIfTI, DICOM, NumPy archives, arrays and phantoms."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from salhub.data.samples import PREFIX
from salhub.files import ending_of
from salhub.models.sdl_seg.annotations import checked_mask
from salhub.models.sdl_seg.dicom_series import read_dicom
from salhub.models.sdl_seg.nifti import read_nifti, read_nifti_mask
from salhub.models.sdl_seg.phantom import BreastPhantom, make_breast_phantom
from salhub.models.sdl_seg.volume import Volume, check_memory, checked_spacing

NIFTI_ENDINGS = (".nii", ".nii.gz")
ARRAY_ENDINGS = (".npz", ".npy")
VOLUME_ENDINGS = (*NIFTI_ENDINGS, *ARRAY_ENDINGS)
# Patients from here on are of samples and pages: no training draws them.
_FIRST_SAMPLE = 950_000
_PHANTOM = re.compile(rf"{PREFIX}phantom(?:-(\d+))?")


def load_volume(source: Any, spacing: Sequence[float] | None = None) -> Volume:
    """Read a CT volume.

    Args:
        source: A `Volume`; an array (Z, Y, X) in HU; a file ending in .nii, .nii.gz, .npy or .npz
            (arrays called volume and spacing, and affine where it is known); a folder with one
            DICOM series, or a multi-frame DICOM file; or "sample:phantom", also "sample:phantom-7"
            for another patient; no model was trained on them.
        spacing: Millimetres between voxels along z, y and x; for arrays without one.

    Returns:
        The volume.

    Raises:
        MissingExtraError: A package is missing that reads such files.
        FileNotFoundError: There is no such file.
        ValueError: What is there is no single CT volume in HU on a regular grid.

    Example:
        >>> load_volume("sample:phantom").shape
        (24, 96, 96)
    """
    if isinstance(source, BreastPhantom):
        return volume_of_phantom(source)
    if isinstance(source, Volume):
        volume, given = source, spacing
    elif isinstance(source, str | Path):
        phantom = phantom_sample(source)
        if phantom is not None:
            return volume_of_phantom(phantom)
        path = Path(source)
        if ending_of(path.name, ARRAY_ENDINGS):
            return _read_arrays(path, spacing)
        volume, given = _read_file(path), spacing
    else:
        return Volume(np.asarray(source), spacing)
    given = None if given is None else checked_spacing(given)
    if given is not None and not np.allclose(given, volume.spacing, rtol=1e-3):
        raise ValueError(
            f"The file has a spacing of {_steps(volume.spacing)} mm, but spacing= gives "
            f"{_steps(given)} mm; leave out spacing=, or repair the file."
        )
    return volume


def load_mask(source: Any, volume: Volume, what: str = "mask") -> np.ndarray:
    """Read a mask that belongs to a volume.

    Args:
        source: An array (Z, Y, X) of booleans, or 0 and 1; or a file: NIfTI, .npy, or .npz with an
            array called mask.
        volume: The volume.
        what: What it is for, for messages.

    Returns:
        bool, of the shape of the volume.

    Raises:
        ValueError: Another shape, other values, or a file that cannot be read.
    """
    if isinstance(source, str | Path):
        path = Path(source)
        if ending_of(path.name, NIFTI_ENDINGS):
            return read_nifti_mask(path, volume)
        source = _load_array(path, "mask")
        if path.suffix.lower() == ".npz":
            _refuse_another_grid(path, volume)
    return checked_mask(source, volume.shape, f"The {what}")


def _refuse_another_grid(path: Path, volume: Volume) -> None:
    """Refuse an archive that says another spacing, or another place, than the volume has."""
    for name in ("spacing", "affine"):
        theirs, ours = _load_array(path, name, needed=False), getattr(volume, name)
        if theirs is None or ours is None:
            continue
        if np.shape(theirs) != np.shape(ours) or not np.allclose(theirs, ours, atol=1e-2):
            raise ValueError(
                f"The mask {path.name} has another {name} than the volume; give the mask that was "
                "drawn on this volume."
            )


def phantom_sample(source: Any) -> BreastPhantom | None:
    """Return the phantom that a sample's name asks for; None for what names no sample.

    Raises:
        ValueError: A sample that is no phantom.
    """
    if not isinstance(source, str) or not source.startswith(PREFIX):
        return None
    found = _PHANTOM.fullmatch(source)
    if found is None:
        raise ValueError(
            f"There is no sample volume '{source}'; give sample:phantom, or sample:phantom-7 for "
            "another patient."
        )
    return sample_phantom(int(found[1] or 0))


def sample_phantom(number: int) -> BreastPhantom:
    """Return the phantom "sample:phantom-NUMBER", of a patient whom no training draws."""
    return make_breast_phantom(_FIRST_SAMPLE + number)


def volume_of_phantom(phantom: BreastPhantom) -> Volume:
    """Return a phantom as a volume that lies at the origin."""
    affine = np.diag([*phantom.spacing[::-1], 1.0])
    return Volume(phantom.volume, phantom.spacing, affine)


def _read_file(path: Path) -> Volume:
    if path.is_dir():
        return read_dicom(path)
    if not path.is_file():
        raise FileNotFoundError(f"The file {path} does not exist.")
    return read_nifti(path) if ending_of(path.name, NIFTI_ENDINGS) else read_dicom(path)


def _read_arrays(path: Path, spacing: Sequence[float] | None) -> Volume:
    if path.suffix.lower() == ".npy":
        return Volume(_load_array(path, "volume"), spacing)
    array = _load_array(path, "volume")
    parts = {name: _load_array(path, name, needed=False) for name in ("spacing", "affine")}
    own, affine = parts["spacing"], parts["affine"]
    return load_volume(Volume(array, spacing if own is None else tuple(own), affine), spacing)


def _load_array(path: Path, name: str, *, needed: bool = True) -> Any:
    """Return an array of a file, without reading what does not fit into memory."""
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        names = [name] if isinstance(loaded, np.ndarray) else loaded.files
    except FileNotFoundError:
        raise FileNotFoundError(f"The file {path} does not exist.") from None
    except Exception as error:  # a damaged archive fails in many ways
        raise _damaged(path) from error
    if name not in names:
        if not needed:
            return None
        known = ", ".join(names) or "none"
        raise ValueError(f"{path.name} has no array called {name}, only {known}; rename one.")
    if isinstance(loaded, np.ndarray):
        check_memory(loaded.shape, path.name)
        return np.array(loaded)  # a copy, as the file cannot be written to
    with loaded:
        check_memory(_shape_in(loaded, name), path.name)
        try:
            return loaded[name]
        except Exception as error:
            raise _damaged(path) from error


def _shape_in(archive: Any, name: str) -> tuple[int, ...]:
    with archive.zip.open(f"{name}.npy") as file:
        is_first = np.lib.format.read_magic(file) == (1, 0)
        read = (
            np.lib.format.read_array_header_1_0 if is_first else np.lib.format.read_array_header_2_0
        )
        return read(file)[0]


def _damaged(path: Path) -> ValueError:
    return ValueError(f"{path.name} is damaged or not a NumPy file of numbers; save it again.")


def _steps(spacing: Sequence[float]) -> str:
    return ", ".join(f"{step:.4g}" for step in spacing)
