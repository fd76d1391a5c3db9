"""A mask as a DICOM SEG that points to the slices it was made from."""

import copy
import logging
from pathlib import Path
from typing import Any

import numpy as np

from salhub.errors import require_extra
from salhub.models.sdl_seg.volume import Volume
from salhub.results import package_versions

# A SEG repeats them; they may be empty, and anonymised series often lack them.
_REPEATED = (
    "AccessionNumber", "StudyDate", "StudyTime", "StudyID", "PatientName", "PatientID",
    "PatientBirthDate", "PatientSex",
)  # fmt: skip
LABEL = "Tumor bed"


def write_dicom_segmentation(path: Path, mask: np.ndarray, volume: Volume, model_name: str) -> None:
    """Write a mask as DICOM SEG.

    Frames carry the geometry of the source's slices and their SOPInstanceUID; empty ones are left
    out. DICOM has no code of its own for a tumour bed: the segment is coded as a neoplasm and
    labelled "Tumor bed".

    Args:
        path: Where to write.
        mask: bool (Z, Y, X).
        volume: The volume it was made of, read from DICOM.
        model_name: Written as the name of the algorithm.

    Raises:
        MissingExtraError: highdicom is not installed.
        ValueError: The volume came from elsewhere, or its series lacks what a SEG must refer to.
    """
    source = volume.source
    if source is None or source.format != "dicom":
        raise ValueError(
            "A DICOM SEG refers to the slices it was made from, but this volume was not "
            "read from DICOM; save it as .nii.gz."
        )
    highdicom = require_extra("highdicom", "medical")
    codes = require_extra("pydicom.sr.codedict", "medical").codes
    version = package_versions().get("salhub", "unknown")
    headers = [_completed(header) for header in source.header]
    frames = np.ascontiguousarray(source.to_stored(mask).transpose(2, 1, 0))
    if len(headers) == 1:
        frames = frames[_places_of_frames(headers[0], source.affine)]
    segment = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label=LABEL,
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Neoplasm,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=model_name or "SDL-Seg",
            version=version,
            family=codes.DCM.ArtificialIntelligence,
        ),
    )
    made = highdicom.seg.Segmentation(
        source_images=headers,
        pixel_array=frames,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[segment],
        series_instance_uid=highdicom.UID(),
        series_number=1000,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="salhub",
        manufacturer_model_name=model_name or "SDL-Seg",
        software_versions=version,
        device_serial_number="0",
        content_description="For research, not for clinical use",
    )
    made.save_as(path)


def _completed(header: Any) -> Any:
    """Return a data set with what a SEG repeats; what is not known of the patient stays empty."""
    if not header.get("FrameOfReferenceUID"):
        raise ValueError(
            "The series has no FrameOfReferenceUID, which a DICOM SEG needs to lie in the "
            "same place; save it as .nii.gz."
        )
    header = copy.copy(header)
    missing = [name for name in _REPEATED if name not in header]
    for name in missing:
        setattr(header, name, "")
    if missing:
        logging.getLogger(__name__).warning(
            "The series has no %s; the DICOM SEG leaves them empty.", ", ".join(missing)
        )
    return header


def _places_of_frames(header: Any, affine: np.ndarray) -> np.ndarray:
    """Return which slice of the stored volume each frame of a multi-frame file is."""
    shared = header.SharedFunctionalGroupsSequence[0]
    places = []
    for group in header.PerFrameFunctionalGroupsSequence:
        holder = group if "PlanePositionSequence" in group else shared
        left, back, up = map(float, holder.PlanePositionSequence[0].ImagePositionPatient)
        places.append(np.linalg.solve(affine, (-left, -back, up, 1))[2])
    return np.rint(places).astype(int)
