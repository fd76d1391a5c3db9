"""DICOM series in, DICOM SEG out: compared in millimetres and by instance, never by order."""

import itertools

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="DICOM needs the extra 'medical'")
hd = pytest.importorskip("highdicom", reason="DICOM SEG needs the extra 'medical'")

import pydicom  # noqa: E402

from salhub.models.sdl_seg.dicom_segmentation import write_dicom_segmentation  # noqa: E402
from salhub.models.sdl_seg.volume_files import load_volume  # noqa: E402
from tests.conftest import DATA  # noqa: E402
from tests.models.sdl_seg import scanner  # noqa: E402

CASES = {
    "axial": {"direction": "axial"},
    "prone": {"direction": "prone"},
    "sagittal": {"direction": "sagittal"},
    "oblique": {"direction": "oblique"},
    "descending": {"direction": "axial", "descending": True},
}


def to_ras(points):
    return np.asarray(points) * (-1, -1, 1)


def places_of(mask, direction):
    """Patient mm, RAS, of the voxels of a mask (slices, rows, columns), one by one."""
    first = scanner.positions(len(mask), direction)
    _, down, right = scanner.directions(direction)
    _, between_rows, between_columns = scanner.SPACING
    found = [
        first[number] + row * between_rows * down + column * between_columns * right
        for number, row, column in np.argwhere(mask)
    ]
    return to_ras(found)


def same_places(ours, theirs):
    ours, theirs = (np.asarray(sorted(map(tuple, np.round(one, 3)))) for one in (ours, theirs))
    assert len(ours) == len(theirs)
    np.testing.assert_allclose(ours, theirs, atol=5e-3)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_shuffled_files_are_read_where_they_lie(tmp_path, case):
    hu, mask = scanner.blob()
    scanner.write_series(tmp_path / "series", hu, slope=0.5, **case)
    volume = load_volume(tmp_path / "series")
    assert sorted(volume.shape) == sorted(hu.shape)
    assert volume.warnings == ()
    bright = volume.array > -30
    same_places(volume.to_mm(np.argwhere(bright)), places_of(mask, case["direction"]))
    # Turned to the patient: x to the right, y to the front, z to the head.
    assert (np.diag(volume.affine)[:3] > 0.5).all()
    back = volume.to_voxels(volume.to_mm([[1, 2, 3]]))
    np.testing.assert_allclose(back, [[1, 2, 3]], atol=1e-9)
    found = sorted(volume.array.ravel().tolist())
    assert found == sorted(hu.ravel().tolist())


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_segmentation_lies_on_the_slices_it_was_made_from(tmp_path, case):
    hu, mask = scanner.blob()
    slices = scanner.write_series(tmp_path / "series", hu, **case)
    volume = load_volume(tmp_path / "series")
    write_dicom_segmentation(tmp_path / "mask.dcm", volume.array > -30, volume, "test")
    made = hd.seg.segread(tmp_path / "mask.dcm")
    found = made.get_pixels_by_source_instance(
        [one.SOPInstanceUID for one in slices],
        combine_segments=True,
        assert_missing_frames_are_empty=True,
    )
    np.testing.assert_array_equal(found, mask)
    # The frames say in mm where their instance says it lies.
    by_instance = {one.SOPInstanceUID: one for one in slices}
    frames = made.PerFrameFunctionalGroupsSequence
    assert len(frames) == int(mask.any(axis=(1, 2)).sum())
    for frame in frames:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        own = frame.PlanePositionSequence[0].ImagePositionPatient
        theirs = by_instance[source.ReferencedSOPInstanceUID].ImagePositionPatient
        np.testing.assert_allclose(np.float64(own), np.float64(theirs), atol=1e-6)
    measures = made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert tuple(map(float, measures.PixelSpacing)) == scanner.SPACING[1:]
    # And by the geometry of the file alone.
    whole = made.get_volume(combine_segments=True)
    points = whole.map_indices_to_reference(np.argwhere(whole.array > 0))
    same_places(to_ras(points), places_of(mask, case["direction"]))
    assert made.SegmentSequence[0].SegmentLabel == "Tumor bed"


def test_an_empty_mask_is_written_and_names_its_series(tmp_path):
    hu, _ = scanner.blob()
    slices = scanner.write_series(tmp_path / "series", hu)
    volume = load_volume(tmp_path / "series")
    write_dicom_segmentation(tmp_path / "mask.dcm", np.zeros(volume.shape, bool), volume, "test")
    made = pydicom.dcmread(tmp_path / "mask.dcm")
    assert made.ReferencedSeriesSequence[0].SeriesInstanceUID == slices[0].SeriesInstanceUID


def test_a_series_without_patient_data_is_taken(tmp_path, caplog):
    hu, _ = scanner.blob()
    gone = dict.fromkeys(("PatientName", "PatientBirthDate", "AccessionNumber"))
    scanner.write_series(tmp_path / "series", hu, **gone)
    volume = load_volume(tmp_path / "series")
    write_dicom_segmentation(tmp_path / "mask.dcm", volume.array > -30, volume, "test")
    assert "no AccessionNumber, PatientName, PatientBirthDate" in caplog.text
    assert pydicom.dcmread(tmp_path / "mask.dcm").PatientName == ""


def test_what_a_segmentation_cannot_refer_to_is_refused(tmp_path):
    hu, _ = scanner.blob()
    scanner.write_series(tmp_path / "series", hu, FrameOfReferenceUID=None)
    volume = load_volume(tmp_path / "series")
    with pytest.raises(ValueError, match=r"no FrameOfReferenceUID.*\.nii\.gz"):
        write_dicom_segmentation(tmp_path / "a.dcm", volume.array > 0, volume, "test")
    volume = load_volume(hu, scanner.SPACING)
    with pytest.raises(ValueError, match="not read from DICOM"):
        write_dicom_segmentation(tmp_path / "a.dcm", volume.array > 0, volume, "test")


def test_what_lies_outside_of_the_field_of_view_is_air(tmp_path):
    hu, _ = scanner.blob()
    hu[:, 0] = 30_000
    scanner.write_series(tmp_path / "series", hu, PixelPaddingValue=31_024)
    volume = load_volume(tmp_path / "series")
    assert volume.array.max() < 200
    assert (volume.array == -1000).sum() == hu[:, 0].size
    hu[:, 1] = 30_010
    limits = {"PixelPaddingValue": 31_024, "PixelPaddingRangeLimit": 31_100}
    scanner.write_series(tmp_path / "range", hu, RescaleType="", **limits)
    assert (load_volume(tmp_path / "range").array == -1000).sum() == 2 * hu[:, 0].size


def test_files_of_another_kind_are_named(tmp_path):
    hu, _ = scanner.blob()
    scanner.write_series(tmp_path / "series", hu)
    (tmp_path / "series" / "notes.txt").write_text("prone")
    volume = load_volume(tmp_path / "series")
    assert volume.warnings == ("Left out 1 file of another kind (notes.txt).",)


# --- what is refused ------------------------------------------------------------------------------


def truncate(folder):
    path = sorted(folder.iterdir())[3]
    path.write_bytes(path.read_bytes()[:-200])


def empty(folder):
    path = sorted(folder.iterdir())[3]
    path.write_bytes(b"")
    path.rename(path.with_suffix(".dcm"))


def twice(folder):
    path = sorted(folder.iterdir())[3]
    data = pydicom.dcmread(path)
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    data.save_as(folder / "copy")


def remove_two(folder):
    paths = {float(pydicom.dcmread(path).ImagePositionPatient[2]): path
             for path in folder.iterdir()}  # fmt: skip
    for height in sorted(paths)[4:6]:
        paths[height].unlink()


def other_series(folder):
    hu, _ = scanner.blob()
    scanner.write_series(folder, hu[:4], description="scout", prefix="x")


def other_size(folder):
    path = sorted(folder.iterdir())[3]
    data = pydicom.dcmread(path)
    data.PixelSpacing = [1.0, 1.0]
    data.save_as(path)


def cut_in_header(folder):
    at = {float(pydicom.dcmread(path).ImagePositionPatient[2]): path for path in folder.iterdir()}
    path = at[max(at)]  # the end, which no gap gives away
    path.write_bytes(path.read_bytes()[:400])


def cut_to_nothing(folder):
    path = sorted(folder.iterdir())[-1]
    path.write_bytes(path.read_bytes()[:60])


def edited(number, **changes):
    def edit(folder):
        paths = sorted(folder.iterdir())
        for path in paths if number is None else [paths[number]]:
            data = pydicom.dcmread(path)
            for name, value in changes.items():
                setattr(data, name, value)
            data.save_as(path)

    return edit


DAMAGES = {
    "an end cut in its header": (
        cut_in_header,
        r"is damaged: it ends before its pixels; copy it again, or",
    ),
    "an end of nothing": (cut_to_nothing, r"IM0009 is named like the slices but"),
    "no number": (
        edited(4, ImagePositionPatient=["0", "0", "nan"]),
        "ImagePositionPatient must be 3 numbers",
    ),
    "two numbers": (
        edited(4, ImagePositionPatient=[0, 0]),
        "ImagePositionPatient must be 3 numbers",
    ),
    "long directions": (edited(None, ImageOrientationPatient=[2, 0, 0, 0, 2, 0]), "of length 1"),
    "two frames": (edited(4, FrameOfReferenceUID="1.2.3"), "2 frames of reference"),
    "one name": (edited(None, SOPInstanceUID="1.2.3"), "have the same SOPInstanceUID"),
    "an empty intercept": (edited(4, RescaleIntercept=None), "has no conversion to HU"),
    "no slope": (edited(4, RescaleSlope=0), "has no conversion to HU"),
    "truncated": (truncate, r"pixels of IM0003 cannot be read.*copy the file again"),
    "empty": (empty, r"IM0003\.dcm is damaged or not a DICOM"),
    "a doubled slice": (twice, r"IM0003 and copy|copy and IM0003"),
    "missing slices": (remove_two, r"2 slices are missing: between 117\.5 and 125\.0 mm"),
    "two series": (other_series, r"has 2 series: 'planning' \(10 slices\), 'scout' \(4 slices\)"),
    "another spacing": (other_size, r"differ in PixelSpacing"),
}


@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")
@pytest.mark.parametrize(("damage", "sentence"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_series_is_refused(tmp_path, damage, sentence):
    hu, _ = scanner.blob()
    scanner.write_series(tmp_path / "series", hu)
    damage(tmp_path / "series")
    with pytest.raises(ValueError, match=sentence) as refused:
        load_volume(tmp_path / "series")
    assert len(str(refused.value)) < 320


CHANGES = {
    "colours": ({"SamplesPerPixel": 3}, "colours"),
    "another modality": (
        {"Modality": "MR"},
        "has modality 'MR', whose values are not HU; give a CT",
    ),
    "no HU": ({"RescaleIntercept": None}, "has no conversion to HU"),
    "another unit": (
        {"RescaleType": "Z"},
        "instead of HU; export the series from the scanner again",
    ),
    "no spacing": ({"PixelSpacing": None}, "PixelSpacing is missing"),
    "spacing in cm": ({"PixelSpacing": [0.01, 0.01]}, "is it in cm"),
    "no position": ({"ImagePositionPatient": None}, "ImagePositionPatient is missing"),
}


@pytest.mark.parametrize(("changes", "sentence"), CHANGES.values(), ids=CHANGES)
def test_a_series_that_is_no_ct_in_mm_is_refused(tmp_path, changes, sentence):
    hu, _ = scanner.blob()
    scanner.write_series(tmp_path / "series", hu[:4], **changes)
    with pytest.raises(ValueError, match=sentence):
        load_volume(tmp_path / "series")


def test_numbers_of_an_unspecified_unit_are_taken_for_hu_which_is_said(tmp_path):
    hu, _ = scanner.blob()
    for kind in ("HU", "US"):
        scanner.write_series(tmp_path / kind, hu[:4], RescaleType=kind)
    known, unsaid = (load_volume(tmp_path / kind) for kind in ("HU", "US"))
    np.testing.assert_array_equal(unsaid.array, known.array)
    assert known.warnings == ()
    assert unsaid.warnings == ("US does not specify the unit of its numbers; HU are assumed.",)


def test_a_tilted_gantry_is_refused_and_a_crooked_one(tmp_path):
    hu, _ = scanner.blob()
    at = scanner.positions(len(hu), "axial")
    tilted = at + np.outer(np.arange(len(hu)) * scanner.SPACING[0] * np.tan(np.radians(15)),
                           (0, 1, 0))  # fmt: skip
    scanner.write_series(tmp_path / "tilted", hu, at=tilted)
    with pytest.raises(ValueError, match=r"tilted by 15\.0 degrees"):
        load_volume(tmp_path / "tilted")
    crooked = at.copy()
    crooked[4] += (0, 0.3, 0)
    scanner.write_series(tmp_path / "crooked", hu, at=crooked)
    with pytest.raises(ValueError, match=r"up to 0\.30 mm off a straight line"):
        load_volume(tmp_path / "crooked")
    # What a scanner's arithmetic leaves is no fault.
    for number, step in zip(range(len(hu)), itertools.cycle((0.02, -0.02)), strict=False):
        at[number] += (step, 0, step)
    scanner.write_series(tmp_path / "jitter", hu, at=at)
    assert load_volume(tmp_path / "jitter").shape == hu.shape


def test_a_series_too_large_for_memory_is_refused_with_its_size(tmp_path, monkeypatch):
    hu, _ = scanner.blob()
    scanner.write_series(tmp_path / "series", hu)

    class Memory:
        available = 2**17

    monkeypatch.setattr("psutil.virtual_memory", Memory)
    # Pixels are not touched.
    monkeypatch.setattr(pydicom.Dataset, "pixel_array", property(lambda self: 1 / 0))
    with pytest.raises(ValueError, match=r"30 x 24 x 10 voxels and needs about 0\.0 GiB"):
        load_volume(tmp_path / "series")


def test_a_slice_and_a_folder_without_one_are_refused(tmp_path):
    hu, _ = scanner.blob()
    scanner.write_series(tmp_path / "series", hu[:1])
    with pytest.raises(ValueError, match="a single slice"):
        load_volume(tmp_path / "series")
    with pytest.raises(
        ValueError, match="is a single slice, but a volume is needed; give the folder"
    ):
        load_volume(tmp_path / "series" / "IM0000")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match="has no DICOM slices; give the folder of one series"):
        load_volume(tmp_path / "nothing")


def _shared(name):
    path = DATA / "ct" / name
    if not path.is_file():
        pytest.skip(f"the CT files are not in {path.parent}; set SALHUB_DATA to their parent")
    return path


def test_a_multi_frame_file_is_one_volume(tmp_path):
    path = _shared("eCT_Supplemental.dcm")
    volume = load_volume(path)
    data = pydicom.dcmread(path)
    mask = np.zeros(volume.shape, dtype=bool)
    mask[volume.array > 100] = True
    write_dicom_segmentation(tmp_path / "mask.dcm", mask, volume, "test")
    made = hd.seg.segread(tmp_path / "mask.dcm")
    found = made.get_pixels_by_source_frame(
        data.SOPInstanceUID,
        range(1, int(data.NumberOfFrames) + 1),
        combine_segments=True,
        assert_missing_frames_are_empty=True,
    )
    transform = data.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence[0]
    expected = data.pixel_array * float(transform.RescaleSlope) + float(transform.RescaleIntercept)
    np.testing.assert_array_equal(found.astype(bool), expected > 100)


def test_a_multi_frame_file_says_what_is_no_measurement_and_no_hu(tmp_path):
    data = pydicom.dcmread(_shared("eCT_Supplemental.dcm"))
    raw, before = data.pixel_array, load_volume(_shared("eCT_Supplemental.dcm"))
    data.add_new("PixelPaddingValue", "US", int(raw.max()))
    data.save_as(tmp_path / "padded.dcm")
    volume = load_volume(tmp_path / "padded.dcm")
    is_padding = before.array == before.array.max()
    assert is_padding.sum() == (raw == raw.max()).sum()
    np.testing.assert_array_equal(volume.array, np.where(is_padding, -1000, before.array))
    assert volume.warnings == (
        "padded.dcm does not specify the unit of its numbers; HU are assumed.",
    )
    data.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence[0].RescaleType = "Z"
    data.save_as(tmp_path / "z.dcm")
    with pytest.raises(ValueError, match="instead of HU; export the series from the scanner again"):
        load_volume(tmp_path / "z.dcm")


@pytest.mark.parametrize("name", ["693_UNCI.dcm", "CT_small.dcm"])
def test_one_slice_of_a_real_scanner_is_no_volume(name):
    with pytest.raises(ValueError, match="single slice"):
        load_volume(_shared(name))
