"""A scanner of arithmetic: DICOM series of any direction, and ways to damage them."""

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

# Direction of rows and of columns in patient coordinates (LPS).
_OBLIQUE = (np.cos(0.3), np.sin(0.3), 0.0, -0.2 * np.sin(0.3), 0.2 * np.cos(0.3), -np.sqrt(0.96))
DIRECTIONS = {
    "axial": (1, 0, 0, 0, 1, 0),
    "prone": (-1, 0, 0, 0, -1, 0),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "oblique": _OBLIQUE,
}
SPACING = (2.5, 1.25, 0.8)  # between slices, rows and columns
SHAPE = (10, 24, 30)


def directions(name: str) -> np.ndarray:
    """(3, 3): what one slice, one row and one column further is, in LPS."""
    along_row, along_column = np.asarray(DIRECTIONS[name], dtype=float).reshape(2, 3)
    return np.stack([np.cross(along_row, along_column), along_column, along_row])


def blob(shape=SHAPE, spacing=SPACING, radius=7.0) -> tuple[np.ndarray, np.ndarray]:
    """A lopsided blob of 40 HU in noisy fat, (slices, rows, columns), and its mask."""
    place = (np.indices(shape).T * spacing).T
    middle = np.asarray(shape)[:, None, None, None] * np.reshape(spacing, (3, 1, 1, 1)) * 0.4
    off = (place - middle) / np.reshape((1.0, 0.8, 1.2), (3, 1, 1, 1))
    mask = (off**2).sum(axis=0) < radius**2
    noise = np.random.default_rng(0).normal(0, 8, size=shape)
    return np.where(mask, 40, -100) + noise.round(), mask


def positions(count: int, direction: str, spacing=SPACING) -> np.ndarray:
    """(N, 3) LPS of the first voxel of each slice."""
    return np.array([-40.0, 25.0, 110.0]) + np.outer(
        np.arange(count) * spacing[0], directions(direction)[0]
    )


def write_series(
    folder: Path,
    hu: np.ndarray,
    direction: str = "axial",
    *,
    descending: bool = False,
    slope: float = 1.0,
    shuffled: bool = True,
    at: np.ndarray | None = None,
    description: str = "planning",
    prefix: str = "",
    **changes,
) -> list[Dataset]:
    """Write a series, a file a slice, their names in no order; return the data sets by position.

    Args:
        folder: Where to.
        hu: (slices, rows, columns).
        direction: One of `DIRECTIONS`.
        descending: Instance numbers count against the normal.
        slope: Of the stored numbers; the intercept is -1024.
        shuffled: Whether names say nothing of the order.
        at: (N, 3) LPS of the first voxels; those of `positions` by default.
        description: Of the series.
        prefix: Of the names.
        **changes: Attributes of every file; None takes one away.
    """
    folder.mkdir(exist_ok=True)
    at = positions(len(hu), direction) if at is None else at
    common = {
        "StudyInstanceUID": generate_uid(entropy_srcs=["study"]),
        "SeriesInstanceUID": generate_uid(entropy_srcs=["series", description]),
        "FrameOfReferenceUID": generate_uid(entropy_srcs=["frame"]),
        "PatientName": "Phantom^", "PatientID": "1", "PatientBirthDate": "", "PatientSex": "",
        "StudyDate": "20200101", "StudyTime": "", "StudyID": "", "AccessionNumber": "",
        "Modality": "CT", "SeriesDescription": description, "SeriesNumber": 3,
        "ImageOrientationPatient": [f"{value:.10f}" for value in np.ravel(DIRECTIONS[direction])],
        "PixelSpacing": list(SPACING[1:]), "SliceThickness": SPACING[0],
        "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 0,
        "RescaleSlope": slope, "RescaleIntercept": -1024, "RescaleType": "HU",
    }  # fmt: skip
    names = np.random.default_rng(1).permutation(len(hu)) if shuffled else np.arange(len(hu))
    written = []
    for number, (plane, place) in enumerate(zip(hu, at, strict=True)):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[description, str(number)])
        data = Dataset()
        data.file_meta = meta
        data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        data.InstanceNumber = len(hu) - number if descending else number + 1
        data.Rows, data.Columns = plane.shape
        data.ImagePositionPatient = [f"{value:.8f}" for value in place]
        for name, value in {**common, **changes}.items():
            setattr(data, name, value)
            if value is None:
                delattr(data, name)
        stored = np.rint((plane + 1024) / slope).astype(np.uint16)
        data.PixelData = stored.tobytes()
        path = folder / f"{prefix}IM{names[number]:04d}"
        data.save_as(path, enforce_file_format=True)
        written.append(pydicom.dcmread(path))
    return written
