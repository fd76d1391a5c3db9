"""A CT volume with what says where it lies: spacing, affine, and how its file stored it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
from numpy.typing import ArrayLike

# Millimetres; what lies outside is centimetres, metres or micrometres.
LEAST_SPACING, MOST_SPACING = 0.05, 20.0
# Below this width a whole volume is more likely given in centimetres.
_SMALL_EXTENT = 20.0
# Degrees by which axes may be off being perpendicular: distances are then right to half a percent.
MOST_TILT = 0.5
# Bytes a voxel that reading, resampling and segmenting hold at their peak.
_BYTES_A_VOXEL = 24


@dataclass(frozen=True, eq=False)
class SourceGrid:
    """How a file stores a volume, so that a mask can go back voxel by voxel.

    Args:
        format: Kind of file.
        path: The file, or the folder of a DICOM series.
        affine: (4, 4) float64, from stored indices (i, j, k, 1) to patient mm, RAS.
        axes: Stored axis of each of x, y and z.
        flips: Whether x, y and z run against the stored axis.
        header: Of NIfTI the header; of DICOM the data sets without pixels, ordered along k.
    """

    format: Literal["nifti", "dicom"]
    path: Path
    affine: np.ndarray
    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    header: Any = None

    @property
    def is_turned(self) -> bool:
        """Whether a file's (k, j, i) are other voxels than (z, y, x)."""
        return self.axes != (0, 1, 2) or any(self.flips)

    def to_stored(self, array: np.ndarray) -> np.ndarray:
        """Return an array of (Z, Y, X) as the file stores it, (I, J, K)."""
        flipped = np.flip(array.T, tuple(np.flatnonzero(self.flips)))
        return flipped.transpose(np.argsort(self.axes))

    def from_stored(self, stored: np.ndarray) -> np.ndarray:
        """Return an array of the file, (I, J, K), as (Z, Y, X)."""
        turned = np.flip(stored.transpose(self.axes), tuple(np.flatnonzero(self.flips)))
        return np.ascontiguousarray(turned.T)

    def canonical_affine(self, shape: Sequence[int]) -> np.ndarray:
        """Return the affine of (x, y, z) of `from_stored`; `shape` is (I, J, K)."""
        turn = np.zeros((4, 4))
        turn[3, 3] = 1
        for axis, (stored, flip) in enumerate(zip(self.axes, self.flips, strict=True)):
            turn[stored, axis] = -1 if flip else 1
            turn[stored, 3] = shape[stored] - 1 if flip else 0
        return self.affine @ turn


@dataclass(frozen=True, eq=False)
class Volume:
    """A CT volume in Hounsfield units.

    Files are turned to the nearest anatomical axes: x grows to the patient's right, y to the front,
    z to the head (RAS+).

    Args:
        array: (Z, Y, X) numbers in HU; kept as float32.
        spacing: Millimetres from voxel to voxel along z, y and x.
        affine: (4, 4), from voxel (x, y, z, 1) to patient mm, RAS, as in NIfTI; None for an array
            of which nobody knows where in the patient it lies.
        source: How its file stored it; None for an array.
        warnings: What reading it had to guess or leave out.

    Raises:
        ValueError: Other than 3 dimensions, NaN or infinite voxels, values that are no HU, a
            spacing that is missing or no millimetres, or an affine that contradicts it.

    Example:
        >>> volume = Volume(np.full((4, 8, 8), -1000.0), (3.0, 1.5, 1.5))
        >>> volume.to_mm([[1, 2, 2]])
        array([[3., 3., 3.]])
    """

    array: np.ndarray
    spacing: tuple[float, float, float]
    affine: np.ndarray | None = None
    source: SourceGrid | None = None
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        put = object.__setattr__  # frozen
        put(self, "array", checked_hounsfield(self.array))
        put(self, "spacing", checked_spacing(self.spacing))
        if self.affine is not None:
            put(self, "affine", _checked_affine(self.affine, self.spacing))
        extent = max(n * s for n, s in zip(self.array.shape, self.spacing, strict=True))
        if extent < _SMALL_EXTENT:
            put(self, "warnings", (*self.warnings, (
                f"The volume is only {extent:.3g} mm across; check that its spacing is in mm."
            )))  # fmt: skip

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z, Y, X)."""
        return self.array.shape

    def to_mm(self, points: ArrayLike) -> np.ndarray:
        """Return where voxels lie.

        Args:
            points: (K, 3) voxel coordinates (z, y, x), fractions allowed.

        Returns:
            (K, 3) mm: patient (x, y, z), RAS, by the affine; without one (z, y, x) times spacing.
        """
        points = np.asarray(points, dtype=np.float64).reshape(-1, 3)
        if self.affine is None:
            return points * self.spacing
        return points[:, ::-1] @ self.affine[:3, :3].T + self.affine[:3, 3]

    def to_voxels(self, points: ArrayLike) -> np.ndarray:
        """Return voxel coordinates (K, 3), (z, y, x), of points in mm; the reverse of `to_mm`."""
        points = np.asarray(points, dtype=np.float64).reshape(-1, 3)
        if self.affine is None:
            return points / self.spacing
        found = np.linalg.solve(self.affine[:3, :3], (points - self.affine[:3, 3]).T).T
        return found[:, ::-1]


def checked_hounsfield(array: ArrayLike) -> np.ndarray:
    """Return voxels as contiguous float32, or refuse what cannot be a CT in Hounsfield units."""
    array = np.asarray(array)
    if array.ndim != 3 or 0 in array.shape:
        kind = {4: "a series of volumes or a colour volume", 2: "one slice"}.get(array.ndim, "")
        raise ValueError(
            f"A CT volume has shape (Z, Y, X) with at least one voxel, got {array.shape}"
            f"{f', {kind}' if kind else ''}; give one volume in HU."
        )
    if array.dtype.kind not in "fiu":
        raise ValueError(
            f"A CT volume must contain numbers in HU, got {array.dtype}; convert it first."
        )
    # Values that float32 cannot hold become infinite, and are refused below.
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, dtype=np.float32)
    num_broken = array.size - int(np.isfinite(array).sum())
    if num_broken:
        raise ValueError(
            f"{num_broken} of {array.size} voxels are NaN or infinite; fill them first, for "
            "example with -1000 HU outside the scan."
        )
    low, high = float(array.min()), float(array.max())
    if low >= 0 and high <= 255:
        raise ValueError(
            f"The values lie between {low:g} and {high:g}, which looks like 8-bit data "
            "instead of HU, where air is -1000; give the original CT."
        )
    if low >= 0:
        raise ValueError(
            f"The values lie between {low:g} and {high:g}, but none is below 0, as air "
            "(-1000 HU) and fat (-100 HU) would be; apply the slope and intercept of the "
            "file first."
        )
    return array


def checked_spacing(spacing: Any) -> tuple[float, float, float]:
    """Return a spacing as three floats, or refuse one that is missing or no millimetres."""
    if spacing is None:
        raise ValueError(
            "The spacing is missing, so distances would be wrong; give the mm between "
            "voxels along z, y and x, such as spacing=(3.0, 1.5, 1.5)."
        )
    if isinstance(spacing, str):  # of a command line
        spacing = spacing.strip("()[] ").split(",")
    try:
        values = tuple(np.asarray(spacing, dtype=np.float64).ravel().tolist())
    except (TypeError, ValueError):
        values = ()
    if len(values) != 3:
        raise ValueError(f"spacing must be three numbers (z, y, x) in mm, got {spacing}.")
    if not all(np.isfinite(values)) or min(values) < LEAST_SPACING or max(values) > MOST_SPACING:
        raise ValueError(
            f"spacing must lie between {LEAST_SPACING:g} and {MOST_SPACING:g} mm, got "
            f"{', '.join(f'{value:g}' for value in values)}; is it in cm, or missing in the file?"
        )
    return values


def spacing_of(affine: np.ndarray) -> tuple[float, float, float]:
    """Return the steps (z, y, x) of an affine, without the rounding of a file's 32 bits."""
    z, y, x = np.linalg.norm(affine[:3, :3], axis=0)[::-1].round(5).tolist()
    return z, y, x


def check_memory(shape: Sequence[int], what: str) -> None:
    """Refuse, before it is read, a volume that the free memory cannot hold while it is segmented.

    Args:
        shape: Of the volume.
        what: Its name, for the message.

    Raises:
        ValueError: It is too large, with both sizes.
    """
    needed = float(np.prod(np.asarray(shape, dtype=np.float64))) * _BYTES_A_VOXEL
    free = psutil.virtual_memory().available
    if needed > free:
        size = " x ".join(map(str, shape))
        raise ValueError(
            f"{what} has {size} voxels and needs about {needed / 2**30:,.1f} GiB of memory, "
            f"but only {free / 2**30:,.1f} GiB are free; crop it to the breast, or use a "
            "larger machine."
        )


def axis_angles(affine: np.ndarray) -> float:
    """Return by how many degrees the axes of an affine are off being perpendicular, at most."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    cosines = np.abs(directions.T @ directions - np.eye(3)).clip(max=1)
    return float(np.degrees(np.arcsin(cosines)).max())


def _checked_affine(affine: ArrayLike, spacing: tuple[float, float, float]) -> np.ndarray:
    affine = np.array(affine, dtype=np.float64)
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise ValueError(f"affine must be 4 x 4 finite numbers, got shape {affine.shape}.")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)[::-1]
    if not np.allclose(lengths, spacing, rtol=1e-3):
        raise ValueError(
            f"The affine has steps of {', '.join(f'{step:.4g}' for step in lengths)} mm, but "
            f"the spacing is {', '.join(f'{step:.4g}' for step in spacing)} mm along z, y "
            "and x; give matching values."
        )
    tilt = axis_angles(affine)
    if tilt > MOST_TILT:
        raise ValueError(
            f"The axes of the volume deviate by {tilt:.1f} degrees from being perpendicular, "
            "as with a tilted gantry; resample it to a rectangular grid first."
        )
    return affine
