"""A folder of DICOM slices as one CT volume, refused where the slices make no regular grid."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from salhub.data.folder_listing import describe_left_out, list_folder
from salhub.errors import require_extra
from salhub.models.sdl_seg.nifti import closest_axes
from salhub.models.sdl_seg.volume import MOST_TILT, SourceGrid, Volume, check_memory, spacing_of

# DICOM counts x to the left and y to the back, NIfTI to the right and to the front.
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_DOUBLED = 1e-3  # mm between slices that are the same
_MOST_GAP = 0.05  # by which a gap may differ from the others, as a share
_MOST_JITTER = 0.1  # mm off the line through the slices
_SAME_DIRECTION = 1e-4
_UNIT = 5e-3  # by which directions may be off length 1 and off perpendicular
# What says where a slice lies, and how many numbers that takes.
_PLACE = {"ImageOrientationPatient": 6, "ImagePositionPatient": 3, "PixelSpacing": 2}
_SHOWN = 3
_AIR_HU = -1000.0
_UNSPECIFIED = "US"  # of RescaleType
# What kinds of files are CT: single slices, and slices in one file, of scanners and converted.
_CT_CLASSES = tuple(f"1.2.840.10008.5.1.4.1.1.2{kind}" for kind in ("", ".1", ".2"))
_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True)
class _Slice:
    """One file: its data set without pixels, and where it lies along the normal."""

    path: Path
    header: Any
    position: np.ndarray
    place: float


def read_dicom(path: Path) -> Volume:
    """Read a CT volume from a folder with one DICOM series, or from one multi-frame file.

    Slices are put in order by where they lie, whatever the files are called.

    Args:
        path: The folder, or the file.

    Returns:
        The volume in HU, turned to the nearest anatomical axes; `source.header` holds the data sets
        in the order of the slices.

    Raises:
        MissingExtraError: pydicom is not installed.
        ValueError: A file that is damaged, more than one series, a slice that is missing or there
            twice, a tilted gantry, or values that are no HU.
    """
    if path.is_dir():
        return _read_folder(path)
    header = _read_header(path)
    if header is None:
        raise ValueError(
            f"{path.name} is not a DICOM file; give a DICOM file or the folder of a series."
        )
    _refuse_cut_off(path, header)
    if "NumberOfFrames" in header and int(header.NumberOfFrames) > 1:
        return _read_frames(path, header)
    raise ValueError(
        f"{path.name} is a single slice, but a volume is needed; give the folder of the series."
    )


def _read_folder(folder: Path) -> Volume:
    listing = list_folder(folder, ())  # DICOM files need no ending
    headers = {path: _read_header(path) for path in listing.left_out}
    images = {}
    for path, header in headers.items():
        if header is not None:
            _refuse_cut_off(path, header)
            if "Rows" in header and _modality(header) != "SEG":
                images[path] = header
    others = [path for path in headers if path not in images]
    patterns = {_DIGITS.sub("0", path.name) for path in images}
    for path in others:
        if headers[path] is None and _DIGITS.sub("0", path.name) in patterns:
            raise ValueError(
                f"{path.name} is named like the slices but is not a DICOM file, so a slice "
                "may be damaged; copy it again, or remove it."
            )
    if not images:
        raise ValueError(f"The folder {folder} has no DICOM slices; give the folder of one series.")
    _refuse_several_series(folder, images)
    _refuse_mixed(folder, images)
    if len(images) == 1:
        [(path, header)] = images.items()
        if int(header.get("NumberOfFrames", 1)) == 1:
            raise ValueError(
                f"{folder.name} has a single slice, {path.name}, but a volume needs several; "
                "export the whole series."
            )
        return _read_frames(path, header)
    for path, header in images.items():
        _refuse_what_is_no_ct(path, header)
    slices = _in_order(images)
    first = slices[0].header
    shape = (int(first.Columns), int(first.Rows), len(slices))
    check_memory(shape, folder.name)
    affine = _affine_of(slices)
    grid = SourceGrid("dicom", folder, affine, **closest_axes(affine),
                      header=[one.header for one in slices])  # fmt: skip
    stored = np.empty(shape, dtype=np.float32)
    for place, one in enumerate(slices):
        stored[:, :, place] = _pixels(one).T
    left_out = describe_left_out(others, listing.folders)
    warnings = _unspecified_units(folder, [one.header for one in slices])
    return _volume(grid, stored, (*warnings, left_out) if left_out else tuple(warnings))


def _unspecified_units(path: Path, headers: Iterable[Any]) -> list[str]:
    if not any(header.get("RescaleType") == _UNSPECIFIED for header in headers):
        return []
    return [f"{path.name} does not specify the unit of its numbers; HU are assumed."]


def _volume(grid: SourceGrid, stored: np.ndarray, warnings: tuple[str, ...]) -> Volume:
    affine = grid.canonical_affine(stored.shape)
    return Volume(grid.from_stored(stored), spacing_of(affine), affine, grid, warnings)


def _read_header(path: Path) -> Any:
    """Return the data set of a file without its pixels; None where it is no DICOM file."""
    pydicom = require_extra("pydicom", "medical")
    try:
        return pydicom.dcmread(path, stop_before_pixels=True)
    except pydicom.errors.InvalidDicomError:
        if path.suffix.lower() == ".dcm":
            raise ValueError(
                f"{path.name} is damaged or not a DICOM file; copy it again, or remove it."
            ) from None
        return None
    except Exception as error:  # whatever a damaged header makes of its reader
        raise ValueError(f"{path.name} is damaged ({error}); copy it again.") from error


def _refuse_cut_off(path: Path, header: Any) -> None:
    """Refuse a CT of which even the size is missing: a file that ends within its header."""
    meta = getattr(header, "file_meta", None)
    kind = header.get("SOPClassUID") or getattr(meta, "MediaStorageSOPClassUID", "")
    if "Rows" not in header and (not kind or kind in _CT_CLASSES):
        raise ValueError(
            f"{path.name} is damaged: it ends before its pixels; copy it again, or remove it."
        )


def _modality(header: Any) -> str:
    return str(header.get("Modality", ""))


def _refuse_several_series(folder: Path, images: dict[Path, Any]) -> None:
    series: dict[str, list[Any]] = {}
    for header in images.values():
        series.setdefault(str(header.get("SeriesInstanceUID", "")), []).append(header)
    if len(series) > 1:
        found = ", ".join(
            f"'{found[0].get('SeriesDescription', '') or 'without a description'}' "
            f"({len(found)} slices)"
            for found in list(series.values())[:_SHOWN]
        )
        more = f" and {len(series) - _SHOWN} more" if len(series) > _SHOWN else ""
        raise ValueError(
            f"{folder.name} has {len(series)} series: {found}{more}; put the one to segment "
            "into its own folder."
        )


def _refuse_mixed(folder: Path, images: dict[Path, Any]) -> None:
    """Refuse slices that are measured from different places, or that have one name."""
    frames = {str(one.get("FrameOfReferenceUID") or "") for one in images.values()}
    if len(frames) > 1:
        raise ValueError(
            f"The slices in {folder.name} have {len(frames)} frames of reference "
            "(FrameOfReferenceUID), so their positions do not belong together; export one "
            "series."
        )
    names = [str(one.get("SOPInstanceUID") or "") for one in images.values()]
    named = [name for name in names if name]
    # Copies of one slice are told by their place, with their names.
    places = {str(one.get("ImagePositionPatient")) for one in images.values()}
    if len(set(named)) < len(named) and len(places) == len(images):
        raise ValueError(
            f"Several slices in {folder.name} have the same SOPInstanceUID, so a mask cannot "
            "refer to them; export the series again."
        )


def _refuse_what_is_no_ct(path: Path, header: Any) -> None:
    if int(header.get("SamplesPerPixel", 1)) != 1:
        raise ValueError(f"{path.name} has colours; a CT has one number in HU per voxel.")
    if _modality(header) != "CT":
        raise ValueError(
            f"{path.name} has modality '{_modality(header)}', whose values are not HU; give a CT."
        )
    if "NumberOfFrames" not in header:  # of frames, further groups say it
        _refuse_what_is_no_hu(path, header)


def _refuse_what_is_no_hu(path: Path, header: Any) -> None:
    # Programs that take out names often leave it empty; scanners write US, unspecified, where the
    # numbers are HU.
    kind = header.get("RescaleType") or "HU"
    if kind not in ("HU", _UNSPECIFIED):
        raise ValueError(
            f"{path.name} has values of type '{kind}' (RescaleType) instead of HU; export "
            "the series from the scanner again."
        )
    intercept, slope = header.get("RescaleIntercept"), header.get("RescaleSlope", 1)
    if not _are_numbers(intercept, 1) or not _are_numbers(slope, 1) or float(slope) == 0:
        raise ValueError(
            f"{path.name} has no conversion to HU (RescaleIntercept, RescaleSlope); export "
            "the series from the scanner again."
        )


def _are_numbers(value: Any, count: int) -> bool:
    """Return whether a field of a header holds so many finite numbers."""
    try:
        numbers = np.asarray(value, dtype=float).ravel()
    except (TypeError, ValueError):
        return False
    return len(numbers) == count and bool(np.isfinite(numbers).all())


def _refuse_unknown_place(path: Path, header: Any) -> None:
    for name, count in _PLACE.items():
        if not header.get(name):
            raise ValueError(
                f"{path.name} has no position ({name} is missing), so distances would be "
                "wrong; export the series again."
            )
        if not _are_numbers(header.get(name), count):
            raise ValueError(
                f"{path.name} has no valid position ({name} must be {count} numbers), so "
                "distances would be wrong; export the series again."
            )
    directions = np.asarray(header.ImageOrientationPatient, dtype=float).reshape(2, 3)
    if np.abs(directions @ directions.T - np.eye(2)).max() > _UNIT:
        raise ValueError(
            f"{path.name} has an ImageOrientationPatient that is not two perpendicular "
            "directions of length 1, so distances would be wrong; export the series again."
        )


def _in_order(images: dict[Path, Any]) -> list[_Slice]:
    """Return the slices along the normal, or refuse those that make no regular grid."""
    (first_path, first), *rest = images.items()
    for path, header in images.items():
        _refuse_unknown_place(path, header)
    for path, header in rest:
        for name in ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient"):
            ours, theirs = (np.asarray(one.get(name), dtype=float) for one in (first, header))
            if ours.shape != theirs.shape or np.abs(ours - theirs).max() > _SAME_DIRECTION:
                raise ValueError(
                    f"{path.name} and {first_path.name} differ in {name}; a volume needs "
                    "slices of the same size, spacing and direction."
                )
    along_row, along_column = np.asarray(first.ImageOrientationPatient, dtype=float).reshape(2, 3)
    normal = np.cross(along_row, along_column)
    positions = {
        path: np.asarray(header.ImagePositionPatient, dtype=float)
        for path, header in images.items()
    }
    slices = [_Slice(path, images[path], at, float(at @ normal)) for path, at in positions.items()]
    slices.sort(key=lambda one: one.place)
    _refuse_gaps(slices)
    _refuse_tilt([one.position for one in slices], normal)
    return slices


def _refuse_gaps(slices: Sequence[_Slice]) -> None:
    gaps = np.diff([one.place for one in slices])
    if gaps.min() < _DOUBLED:
        place = int(gaps.argmin())
        twins = " and ".join(one.path.name for one in slices[place : place + 2])
        raise ValueError(
            f"{twins} are slices at the same position; remove one of them, or put each of "
            "the two scans into its own folder."
        )
    usual = float(np.median(gaps))
    odd = np.flatnonzero(np.abs(gaps - usual) > _MOST_GAP * usual)
    if len(odd):
        where = slices[odd[0]].place, slices[odd[0] + 1].place
        num_missing = sum(max(round(float(gap) / usual) - 1, 0) for gap in gaps[odd])
        what = f"{num_missing or 'No'} slice{'s are' if num_missing != 1 else ' is'} missing"
        raise ValueError(
            f"{what}: between {where[0]:.1f} and {where[1]:.1f} mm the gap is "
            f"{where[1] - where[0]:.2f} mm, but elsewhere it is {usual:.2f} mm; copy the "
            "whole series, or resample it to equal steps."
        )


def _refuse_tilt(positions: Sequence[np.ndarray], normal: np.ndarray) -> None:
    steps = positions[-1] - positions[0]
    cosine = abs(steps @ normal) / np.linalg.norm(steps)
    tilt = float(np.degrees(np.arccos(min(cosine, 1.0))))
    if tilt > MOST_TILT:
        raise ValueError(
            f"The gantry was tilted by {tilt:.1f} degrees, so the slices are not an upright "
            "stack; resample the series to a rectangular grid first."
        )
    line = np.linspace(0, 1, len(positions))[:, None] * steps + positions[0]
    jitter = float(np.linalg.norm(np.asarray(positions) - line, axis=1).max())
    if jitter > _MOST_JITTER:
        raise ValueError(
            f"The slices lie up to {jitter:.2f} mm off a straight line; resample the series to a "
            "rectangular grid first."
        )


def _affine_of(slices: Sequence[_Slice]) -> np.ndarray:
    """Return the affine of (column, row, slice) to patient mm, RAS."""
    first = slices[0].header
    along_row, along_column = np.asarray(first.ImageOrientationPatient, dtype=float).reshape(2, 3)
    between_rows, between_columns = map(float, first.PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0] = along_row * between_columns
    affine[:3, 1] = along_column * between_rows
    affine[:3, 2] = (slices[-1].position - slices[0].position) / (len(slices) - 1)
    affine[:3, 3] = slices[0].position
    return _LPS_TO_RAS @ affine


def _pixels(one: _Slice) -> np.ndarray:
    """Return the HU of a slice, (rows, columns), float32."""
    pydicom = require_extra("pydicom", "medical")
    try:
        # A file that was cut off reads well until its pixels are touched.
        raw = pydicom.dcmread(one.path).pixel_array
    except Exception as error:
        raise ValueError(
            f"The pixels of {one.path.name} cannot be read ({str(error).splitlines()[0]}); copy "
            "the file again."
        ) from error
    slope = float(one.header.get("RescaleSlope", 1))
    found = raw.astype(np.float32) * slope + float(one.header.RescaleIntercept)
    padding = _padding(one.header)
    if padding is not None:
        # Outside of the round field of view, and no measurement.
        found[(raw >= padding[0]) & (raw <= padding[1])] = _AIR_HU
    return found


def _padding(header: Any) -> tuple[int, int] | None:
    """Return the least and the largest stored number of what was not measured; None without."""
    ends = [header.get(name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if ends[0] is None:
        return None
    ends = [int(end) for end in ends if end is not None]
    return min(ends), max(ends)


def _read_frames(path: Path, header: Any) -> Volume:
    """Read a file that holds all slices."""
    highdicom = require_extra("highdicom", "medical")
    _refuse_what_is_no_ct(path, header)
    shape = (int(header.Columns), int(header.Rows), int(header.NumberOfFrames))
    check_memory(shape, path.name)
    if "SharedFunctionalGroupsSequence" not in header:
        raise ValueError(f"{path.name} has no positions for its frames; export the series again.")
    groups = [*header.SharedFunctionalGroupsSequence,
              *(header.get("PerFrameFunctionalGroupsSequence") or ())]  # fmt: skip
    transforms = [one for group in groups
                  for one in group.get("PixelValueTransformationSequence") or ()]  # fmt: skip
    for one in transforms or [header]:
        _refuse_what_is_no_hu(path, one)
    try:
        found = highdicom.imread(path).get_volume()
    except Exception as error:
        raise ValueError(
            f"{path.name} is not a regular volume ({str(error).splitlines()[0]}); export it "
            "as a series of slices."
        ) from error
    affine = found.get_affine("RAS")[:, [2, 1, 0, 3]]
    grid = SourceGrid("dicom", path, affine, **closest_axes(affine), header=[header])
    values = found.array.astype(np.float32)
    warnings = _unspecified_units(path, transforms or [header])
    padding = _padding(header)
    scales = {(float(one.get("RescaleSlope", 1)), float(one.RescaleIntercept))
              for one in transforms}  # fmt: skip
    if padding is not None and len(scales) == 1:
        [(slope, intercept)] = scales
        low, high = sorted(end * slope + intercept for end in padding)
        values[(values >= low - 1e-3) & (values <= high + 1e-3)] = _AIR_HU
    elif padding is not None:
        warnings.append(
            f"{path.name} marks some voxels as not measured; their values are used unchanged."
        )
    return _volume(grid, values.transpose(2, 1, 0), tuple(warnings))
