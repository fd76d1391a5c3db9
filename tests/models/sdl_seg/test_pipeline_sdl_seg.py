"""The pipeline: what goes in, what comes out, and that a mask lies where it was found."""

import json

import numpy as np
import pytest
import torch

from salhub.models.sdl_seg.configuration_sdl_seg import SDLSegConfig
from salhub.models.sdl_seg.contours import area
from salhub.models.sdl_seg.marker_detection import MarkerNotFoundError
from salhub.models.sdl_seg.modeling_sdl_seg import SDLSegForVolumeSegmentation, SDLSegOutput
from salhub.models.sdl_seg.phantom import make_breast_phantom
from salhub.models.sdl_seg.pipeline_sdl_seg import VolumeSegmentationPipeline
from salhub.models.sdl_seg.processing_sdl_seg import SDLSegImageProcessor
from salhub.models.sdl_seg.result_sdl_seg import VolumeSegmentationResult
from salhub.models.sdl_seg.volume import Volume
from salhub.models.sdl_seg.volume_files import sample_phantom

SPACING = (2.0, 1.25, 0.9)


def small_model(**settings):
    torch.manual_seed(0)
    config = SDLSegConfig(channels=[4, 8], anisotropic_levels=1, foreground_prior=0.5, **settings)
    return SDLSegForVolumeSegmentation(config).eval()


@pytest.fixture(scope="module")
def segment():
    return VolumeSegmentationPipeline.from_model(small_model())


@pytest.fixture(scope="module")
def result(segment):
    return segment("sample:phantom")


class Echo(SDLSegForVolumeSegmentation):
    """Finds what is bright: its probability is the CT in [0, 1]."""

    def predict(self, pixel_values):
        return SDLSegOutput(logits=pixel_values[:, :1].clamp(1e-6, 1 - 1e-6).logit())


def echoing(**settings):
    config = SDLSegConfig(channels=[4, 8], **settings)
    return VolumeSegmentationPipeline.from_model(Echo(config).eval())


def balls(shape, spacing, radius, centre_mm):
    """A ball of the brightest HU of the window in the darkest, and its mask."""
    place = (np.indices(shape).T * spacing).T
    off = place - np.reshape(centre_mm, (3, 1, 1, 1))
    mask = (off**2).sum(axis=0) <= radius**2
    return np.where(mask, 240.0, -160.0), mask


def test_it_is_processor_network_and_processor(segment, result):
    phantom, model = sample_phantom(0), segment.model
    processor = SDLSegImageProcessor(model.config)
    batch = processor(phantom.volume, phantom.spacing)
    expected = processor.post_process_segmentation(
        model.predict(batch["pixel_values"]), batch["meta"]
    )[0]
    np.testing.assert_array_equal(result.mask, expected["mask"])
    np.testing.assert_array_equal(result.probability, expected["probability"])
    np.testing.assert_array_equal(result.markers, expected["marker_coords"])
    assert 100 < result.mask.sum() < result.mask.size / 2
    assert result.volume_cc == pytest.approx(expected["volume_cc"])
    np.testing.assert_allclose(result.centroid_mm[::-1], expected["centroid_mm"])
    assert result.warnings == tuple(expected["warnings"])
    np.testing.assert_array_equal(result.truth, phantom.mask)
    # The phantom's grid is the network's, so that the map is that of the network.
    np.testing.assert_array_equal(result.saliency, batch["meta"][0].saliency)


def test_a_list_gives_what_its_items_give_and_settings_do_not_stay(segment, result):
    other = make_breast_phantom(3)
    places = [[10.0, 40.0, 40.0], [12.0, 44.0, 50.0]]
    found = segment(["sample:phantom", Volume(other.volume, other.spacing)], markers=[None, places])
    np.testing.assert_array_equal(found[0].mask, result.mask)
    alone = segment(other.volume, markers=places, spacing=other.spacing)
    np.testing.assert_array_equal(found[1].mask, alone.mask)
    np.testing.assert_array_equal(alone.markers, places)
    assert alone.truth is None and alone.scores is None
    changed = segment("sample:phantom", threshold=0.3, sigma_d_mm=4)
    assert changed.threshold == 0.3
    assert (changed.saliency <= result.saliency + 1e-6).all()
    again = segment("sample:phantom")
    np.testing.assert_array_equal(again.mask, result.mask)


def test_without_resampling_a_mask_is_exact_to_the_voxel():
    segment = echoing(target_spacing=list(SPACING), saliency_kind="none", min_component_cc=0)
    volume, mask = balls((21, 30, 40), SPACING, 8, (20, 18, 17))
    found = segment(volume, spacing=SPACING)
    np.testing.assert_array_equal(found.mask, mask)


@pytest.mark.parametrize(
    "spacing",
    [
        SPACING, (5.0, 0.8, 0.8), (1.0, 1.0, 1.0), (3.0, 1.5, 1.5),
        (0.8, 2.0, 3.0), (0.5, 3.0, 3.0), (1.0, 0.6, 4.0),
    ],
)  # fmt: skip
@pytest.mark.parametrize("radius", [8.0, 12.0, 20.0])
def test_through_the_spacing_of_the_model_and_back_balls_stay(spacing, radius):
    segment = echoing(saliency_kind="none", min_component_cc=0)
    shape = tuple(int(np.ceil(64 / step)) for step in spacing)
    centre = (31.3, 32.1, 30.6)
    volume, mask = balls(shape, spacing, radius, centre)
    found = segment(volume, spacing=spacing, truth=mask)
    assert found.scores["dice"] >= 0.95
    assert found.scores["centroid_shift"] <= 0.25


def test_files_beside_a_volume_say_markers_region_and_truth(segment, tmp_path):
    nib = pytest.importorskip("nibabel", reason="NIfTI needs the extra 'medical'")
    phantom = make_breast_phantom(2)
    affine = np.diag([*phantom.spacing[::-1], 1.0])
    paths = {name: tmp_path / f"{name}.nii.gz" for name in ("scan", "scan-truth", "scan-roi")}
    roi = np.zeros(phantom.mask.shape, dtype=bool)
    roi[:, 40:] = True
    for path, array in zip(paths.values(), (phantom.volume, phantom.mask, roi), strict=True):
        kind = np.float32 if array.dtype != bool else np.uint8
        nib.save(nib.Nifti1Image(array.T.astype(kind), affine), path)
    (tmp_path / "scan.csv").write_text("z,y,x\n10,40,40\n12,44.5,50\n")
    found = segment(paths["scan"], markers=tmp_path / "scan.csv", truth=paths["scan-truth"])
    np.testing.assert_array_equal(found.markers, [[10, 40, 40], [12, 44.5, 50]])
    np.testing.assert_array_equal(found.truth, phantom.mask)
    # What was found goes in again as markers.
    found.save(tmp_path / "found.json")
    again = segment(paths["scan"], markers=tmp_path / "found.json")
    np.testing.assert_array_equal(again.mask, found.mask)
    limited = segment(paths["scan"], roi=paths["scan-roi"])
    assert (limited.markers[:, 1] >= 39).all()


def test_a_nifti_mask_has_the_grid_of_its_volume(segment, tmp_path):
    nib = pytest.importorskip("nibabel", reason="NIfTI needs the extra 'medical'")
    phantom = make_breast_phantom(1)
    # Stored from left to right and from the head to the feet, at an angle.
    turn = np.array([[0.98, -0.199, 0], [0.199, 0.98, 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-1.5, 1.5, -3.0])
    affine[:3, 3] = 71.1, -33.3, 12.7
    stored = phantom.volume.T[::-1, :, ::-1]
    nib.save(nib.Nifti1Image(stored, affine), tmp_path / "ct.nii.gz")
    found = segment(tmp_path / "ct.nii.gz")
    found.save(tmp_path / "mask.nii.gz")
    source, written = (nib.load(tmp_path / f"{name}.nii.gz") for name in ("ct", "mask"))
    assert written.shape == source.shape
    assert written.affine.tobytes() == source.affine.tobytes()
    straight = segment(phantom.volume, spacing=phantom.spacing)
    assert straight.mask.any()
    np.testing.assert_array_equal(
        np.asarray(written.dataobj).astype(bool), straight.mask.T[::-1, :, ::-1]
    )
    # Whoever gives voxels hears which.
    again = segment(tmp_path / "ct.nii.gz", markers=found.markers)
    assert "not as stored" in again.warnings[1]
    assert "as it is read" in again.to_dict()["voxels"]


def test_a_saved_mask_of_an_array_scores_1_against_it(segment, tmp_path):
    pytest.importorskip("nibabel", reason="NIfTI needs the extra 'medical'")
    phantom = make_breast_phantom(5)
    found = segment(phantom.volume, spacing=phantom.spacing)
    found.save(tmp_path / "mask.nii.gz")
    np.savez(tmp_path / "scan.npz", volume=phantom.volume, spacing=phantom.spacing)
    again = segment(tmp_path / "scan.npz", truth=tmp_path / "mask.nii.gz")
    assert found.mask.any() and again.scores["dice"] == 1


def test_a_dicom_series_goes_in_and_a_dicom_seg_comes_out(segment, tmp_path):
    hd = pytest.importorskip("highdicom", reason="DICOM SEG needs the extra 'medical'")
    from tests.models.sdl_seg import scanner

    phantom = make_breast_phantom(3)
    # Rows run to the left and columns to the back, as on a supine patient.
    hu = np.rint(phantom.volume[:, ::-1, ::-1].clip(-1024, 3000))
    at = np.array([-70.0, -60.0, 0.0]) + np.outer(np.arange(len(hu)) * 3.0, (0, 0, 1))
    slices = scanner.write_series(
        tmp_path / "series", hu, at=at, PixelSpacing=[1.5, 1.5], SliceThickness=3.0
    )
    found = segment(tmp_path / "series")
    straight = segment(hu[:, ::-1, ::-1], spacing=(3, 1.5, 1.5))
    assert found.mask.any()
    np.testing.assert_array_equal(found.mask, straight.mask)
    found.save(tmp_path / "everything")
    assert {path.name for path in (tmp_path / "everything").iterdir()} == {
        "plot.png", "result.json", "result.nii.gz", "result.dcm", "result.npz",
    }  # fmt: skip
    written = hd.seg.segread(tmp_path / "everything" / "result.dcm")
    frames = written.get_pixels_by_source_instance(
        [one.SOPInstanceUID for one in slices],
        combine_segments=True,
        assert_missing_frames_are_empty=True,
    )
    np.testing.assert_array_equal(frames.astype(bool), found.mask[:, ::-1, ::-1])


def test_the_result_in_numbers_polygons_and_pictures(result, tmp_path):
    content = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert next(iter(content)) == "warnings"
    assert content["warnings"] == list(result.warnings)
    total = 0.0
    for polygon in content["contours"]:
        x, y, z = np.array(polygon["points_mm"]).T
        assert np.ptp(z) == 0
        assert z[0] == polygon["slice"] * 3.0
        size = area(np.stack([y, x], axis=1))
        assert (size < 0) == polygon["is_hole"]
        total += size * 3.0 / 1000
    assert total == pytest.approx(result.volume_cc, rel=1e-6)
    mm = np.array(content["markers_mm"])[:, ::-1] / result.volume.spacing
    np.testing.assert_allclose(mm, content["markers_voxel"])
    assert content["scores"]["dice"] == pytest.approx(result.scores["dice"])
    assert result.summary().startswith(" ".join(result.warnings))
    assert "cm³" in result.summary() and "Dice" in result.summary()
    result.save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as arrays:
        np.testing.assert_array_equal(arrays["mask"], result.mask)
        np.testing.assert_array_equal(arrays["probability"], result.probability)
        assert arrays["spacing"].tolist() == [3.0, 1.5, 1.5]
    picture = np.asarray(result.plot())
    assert ((picture == (255, 159, 28)).all(axis=-1)).sum() > 50  # the outline
    both = VolumeSegmentationPipeline.compare({"one": result, "two": result})
    assert both.height > result._slice(5).height


def test_bands_hold_each_other_and_know_their_mask():
    probability = np.zeros((1, 5, 9), dtype=np.float16)
    probability[0, 1:4, 1:5] = 0.1
    probability[0, 2, 2:4] = 0.6
    probability[0, 2, 2] = 0.99
    probability[0, 2, 7] = 0.97  # far from what was kept
    mask = np.zeros(probability.shape, dtype=bool)
    mask[0, 2, 2:4] = True
    volume = Volume(np.full(mask.shape, -1000.0), (10.0, 10.0, 10.0))
    one = VolumeSegmentationResult(volume, mask, probability, np.zeros((0, 3)), None, 0.5)
    assert np.argwhere(one.band(0.95)).tolist() == [[0, 2, 2]]
    np.testing.assert_array_equal(one.band(0.5), mask)
    assert one.band(0.05).sum() == 12 and not one.band(0.05)[0, 2, 7]
    assert one.band_cc == (1.0, 12.0)
    with pytest.raises(ValueError, match="level must be above 0"):
        one.band(1.0)


def test_nothing_found_is_said_and_drawn(segment, tmp_path):
    nothing = segment("sample:phantom", threshold=0.999)
    assert not nothing.mask.any()
    assert nothing.warnings[-1].startswith("Nothing was found")
    assert nothing.centroid_mm is None
    assert nothing.summary().startswith(nothing.warnings[0])
    content = json.loads(json.dumps(nothing.to_dict(), allow_nan=False))
    assert content["scores"]["hd95"] is None and content["contours"] == []
    assert nothing.plot().size[0] > 200
    assert "inf" in nothing.summary()


def test_an_array_knows_no_patient(segment, tmp_path):
    phantom = make_breast_phantom(0)
    found = segment(phantom.volume, spacing=phantom.spacing)
    assert (
        "from the centre of the first voxel; the position in the" in found.to_dict()["coordinates"]
    )
    with pytest.raises(
        ValueError, match=r"A DICOM SEG refers to the slices it was made from, but this"
    ):
        found.save(tmp_path / "mask.dcm")
    assert not (tmp_path / "mask.dcm").exists()
    found.save(tmp_path / "all")
    assert "result.dcm" not in {path.name for path in (tmp_path / "all").iterdir()}


MISTAKES = {
    "no spacing": (lambda v: ((v,), {}), "The spacing is missing"),
    "colours": (lambda v: ((np.stack([v] * 3, axis=-1),), {"spacing": (3, 1.5, 1.5)}),
                r"got \(24, 96, 96, 3\)"),
    "a sample": (lambda v: (("sample:cat",), {}), "There is no sample volume 'sample:cat'"),
    "a setting": (lambda v: (("sample:phantom",), {"treshold": 0.3}), "has no setting 'treshold'"),
    "its value": (lambda v: (("sample:phantom",), {"threshold": 2.0}), "threshold"),
    "markers": (lambda v: ((v,), {"spacing": (3, 1.5, 1.5), "markers": [[60.0, 60, 60]]}),
                "divide millimetres by the spacing"),
    "the truth": (lambda v: ((v,), {"spacing": (3, 1.5, 1.5), "truth": v > 0, "roi": v[:3] > 0}),
                  "The roi must have the shape of the volume"),
}  # fmt: skip


@pytest.mark.parametrize(("give", "sentence"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_get_one_sentence_before_any_work(segment, monkeypatch, give, sentence):
    monkeypatch.setattr(SDLSegForVolumeSegmentation, "predict", lambda *_: pytest.fail("worked"))
    given, keywords = give(make_breast_phantom(0).volume)
    with pytest.raises(ValueError, match=sentence):
        segment(*given, **keywords)


def test_no_markers_is_an_error_unless_it_is_allowed(segment):
    plain = make_breast_phantom(0, clips_visible=False)
    with pytest.raises(MarkerNotFoundError, match="No markers were found above 500 HU"):
        segment(plain.volume, spacing=plain.spacing)
    found = segment(plain.volume, spacing=plain.spacing, allow_no_markers=True)
    assert any("no markers" in one for one in found.warnings)
    assert not found.saliency.any()


def test_results_of_other_volumes_are_not_compared(result):
    other = VolumeSegmentationResult(
        Volume(np.full((4, 5, 6), -1000.0), (3, 1.5, 1.5)),
        np.zeros((4, 5, 6), bool), np.zeros((4, 5, 6), np.float16), np.zeros((0, 3)), None, 0.5,
    )  # fmt: skip
    with pytest.raises(ValueError, match="different shapes"):
        VolumeSegmentationPipeline.compare({"a": result, "b": other})


def test_what_is_given_and_not_used_is_said(segment):
    phantom = make_breast_phantom(0)
    plain = VolumeSegmentationPipeline.from_model(small_model(saliency_kind="none"))
    places, roi = [[10.0, 40.0, 40.0], [12.0, 44.0, 50.0]], np.ones(phantom.mask.shape, bool)
    given = {"spacing": "3,1.5,1.5"}
    assert (
        "Your markers are not used, because this model only sees the CT"
        in plain(phantom.volume, markers=places, **given).warnings[0]
    )
    assert (
        "The roi is not used, because this model does not use markers"
        in plain(phantom.volume, roi=roi, **given).warnings[0]
    )
    both = segment(phantom.volume, markers=places, roi=roi, **given)
    assert both.warnings[0] == "The roi is not used, because you gave markers."


def test_smaller_windows_than_the_models_are_said():
    segment = VolumeSegmentationPipeline.from_model(small_model(window_size=[24, 96, 96]))
    assert not any("Windows" in one for one in segment("sample:phantom").warnings)
    smaller = segment("sample:phantom", window_size=[16, 64, 64])
    assert any("Windows of 16 x 64 x 64" in one for one in smaller.warnings)


def test_a_mask_in_the_order_of_a_turned_file_is_said(segment, tmp_path):
    nib = pytest.importorskip("nibabel", reason="NIfTI needs the extra 'medical'")
    phantom = make_breast_phantom(1)
    affine = np.diag([-1.5, -1.5, 3.0, 1.0])
    nib.save(nib.Nifti1Image(phantom.volume.T, affine), tmp_path / "ct.nii")
    np.save(tmp_path / "truth.npy", phantom.mask)
    found = segment(tmp_path / "ct.nii", truth=tmp_path / "truth.npy")
    assert any("A mask is read as voxels (z, y, x)" in one for one in found.warnings)


def test_what_reaches_the_edge_of_the_scan_is_said():
    segment = echoing(target_spacing=list(SPACING), saliency_kind="none", min_component_cc=0)
    for centre, is_cut in (((20, 18, 17), False), ((20, 18, 4), True)):
        volume, _ = balls((21, 30, 40), SPACING, 8, centre)
        said = segment(volume, spacing=SPACING).warnings
        assert any("reaches the edge of the scan" in one for one in said) == is_cut
