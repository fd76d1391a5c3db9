"""From a CT to the network and back: grids, markers, what is kept, said and refused."""

import numpy as np
import pytest
import torch

from salhub.models.sdl_seg.configuration_sdl_seg import SDLSegConfig
from salhub.models.sdl_seg.marker_detection import MarkerNotFoundError
from salhub.models.sdl_seg.phantom import make_breast_phantom
from salhub.models.sdl_seg.processing_sdl_seg import SDLSegImageProcessor
from salhub.models.sdl_seg.saliency_map import saliency_map

SPACING = (3.0, 1.5, 1.5)


def processor(**settings) -> SDLSegImageProcessor:
    return SDLSegImageProcessor(SDLSegConfig(**settings))


@pytest.fixture(scope="module")
def phantom():
    return make_breast_phantom(1)


def ct(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(-50, 80, shape).astype(np.float32)


def test_a_volume_on_the_networks_own_grid(phantom):
    config = SDLSegConfig()
    batch = SDLSegImageProcessor(config)(phantom.volume, SPACING, masks=phantom.mask)
    image, saliency = batch["pixel_values"][0]
    expected = (phantom.volume.clip(-160, 240) + 160) / 400
    np.testing.assert_allclose(image.numpy(), expected, atol=1e-6)
    markers = batch["marker_coords"][0]
    torch.testing.assert_close(saliency, saliency_map(markers, (24, 96, 96), SPACING, config))
    np.testing.assert_array_equal(batch["labels"][0, 0].numpy() > 0, phantom.mask)
    np.testing.assert_allclose(batch["meta"][0].markers, markers.numpy(), atol=1e-5)
    plain = processor(saliency_kind="none")(phantom.volume, SPACING)
    assert plain["pixel_values"].shape == (1, 1, 24, 96, 96) and not len(plain["marker_coords"][0])


def test_a_batch_is_its_volumes_one_by_one(phantom):
    other = make_breast_phantom(2)
    ours = processor()
    together = ours([phantom.volume, other.volume], SPACING, markers=[None, other.markers])
    for index, (one, markers) in enumerate(((phantom, None), (other, other.markers))):
        alone = ours(one.volume, one.spacing, markers=markers)
        assert together["pixel_values"][index].equal(alone["pixel_values"][0])
        assert together["marker_coords"][index].equal(alone["marker_coords"][0])


def test_other_spacings_keep_places_in_mm():
    """A slope of a HU a mm shows by how many mm a voxel is off: by parts, and not on average.

    Coarser voxels are means of whole ones and of parts of those at their ends.
    """
    spacing, shape = np.array([2.0, 0.9, 1.2]), (21, 50, 45)
    place = np.stack(np.indices(shape), -1) * spacing
    image = (place @ [1.0, 0.5, -0.7] - 60).astype(np.float32)
    batch = processor(saliency_kind="points", hu_window=[-300, 300])(
        image, spacing, markers=[[10, 20, 30]]
    )
    grid = batch["meta"][0].grid
    assert grid.inner == (14, 30, 36) and grid.padded == (16, 32, 40)
    values = batch["pixel_values"][0, 0].numpy() * 600 - 300
    middle_mm = (np.array(shape) - 1) / 2 * spacing
    inner = np.stack(np.indices(grid.inner), -1)
    mm = middle_mm + (inner - (np.array(grid.inner) - 1) / 2) * SPACING
    half = np.array(SPACING) / 2
    inside = ((mm >= half) & (mm <= (np.array(shape) - 1) * spacing - half)).all(-1)
    found = values[: grid.inner[0], : grid.inner[1], : grid.inner[2]]
    expected = mm @ [1.0, 0.5, -0.7] - 60
    off = (found - expected)[inside]
    assert len(off) > 5000 and np.abs(off).max() < 0.3 and abs(off.mean()) < 0.005
    # What is added at the ends is air.
    np.testing.assert_allclose(values[14:], -300, atol=1e-3)
    marker = batch["marker_coords"][0][0].numpy()
    at = middle_mm + (marker - (np.array(grid.inner) - 1) / 2) * SPACING
    np.testing.assert_allclose(at, [20, 18, 36], atol=1e-4)


@pytest.mark.parametrize("spacing", [SPACING, (2.0, 0.9, 1.2), (4.0, 1.0, 2.5)])
def test_a_ball_comes_back_where_it_was(spacing):
    shape = tuple(int(80 / step) for step in spacing)
    ours = processor()
    batch = ours(ct(*shape), spacing, markers=[[shape[0] // 2, shape[1] // 2, shape[2] // 2]])
    meta = batch["meta"][0]
    centre, radius = np.array([41.0, 38.5, 37.0]), 12.0
    corner = (np.array(shape) - 1) / 2 * spacing - (np.array(meta.grid.inner) - 1) / 2 * SPACING
    mm = corner + np.stack(np.indices(meta.grid.padded), -1) * SPACING
    logits = torch.as_tensor(radius - np.linalg.norm(mm - centre, axis=-1))[None, None].float()
    [found] = ours.post_process_segmentation(logits, batch["meta"])
    assert found["mask"].shape == shape and found["mask"].dtype == bool
    assert found["probability"].shape == shape and found["probability"].dtype == np.float16
    truth_mm = np.stack(np.indices(shape), -1) * spacing
    truth = np.linalg.norm(truth_mm - centre, axis=-1) < radius
    dice = 2 * (truth & found["mask"]).sum() / (truth.sum() + found["mask"].sum())
    assert dice > 0.95
    assert np.abs(np.array(found["centroid_mm"]) - centre).max() < 0.25
    assert found["volume_cc"] == pytest.approx(4 / 3 * np.pi * 1.2**3, rel=0.05)
    assert any("one marker" in text for text in found["warnings"])


def parts_of(*boxes, shape=(12, 40, 40)) -> torch.Tensor:
    logits = torch.full((1, 1, *shape), -9.0)
    for z, y, x, size in boxes:
        logits[0, 0, z : z + size, y : y + size, x : x + size] = 9
    return logits


def test_parts_away_from_the_markers_and_small_ones_are_dropped_and_said():
    # In a plain field of view: 12 x 40 x 40 voxels of 6.75 mm^3.
    ours = processor(sigma_d_mm=4)
    batch = ours(ct(12, 40, 40), SPACING, markers=[[3, 8, 8], [5, 10, 10]])
    near, tiny, far = (2, 6, 6, 5), (2, 12, 9, 2), (2, 28, 28, 6)
    logits = parts_of(near, tiny, far)
    logits[0, 0, 4, 8, 8] = -9  # a hole
    [found] = ours.post_process_segmentation(logits, batch["meta"])
    expected = parts_of(near)[0, 0].numpy() > 0
    np.testing.assert_array_equal(found["mask"], expected)
    assert found["volume_cc"] == pytest.approx(125 * 6.75 / 1000)
    said = " ".join(found["warnings"])
    assert "edge of the scan" not in said
    assert "1 part near no marker was dropped, 1.46 cm^3 in total" in said
    assert "1 part below 0.2 cm^3 was dropped, 0.05 cm^3 in total." in said


def test_without_a_part_near_a_marker_the_largest_is_kept_and_doubted():
    ours = processor(sigma_d_mm=4)
    batch = ours(ct(12, 40, 40), SPACING, markers=[[3, 6, 6], [5, 5, 8]])
    [found] = ours.post_process_segmentation(
        parts_of((2, 30, 30, 6), (2, 30, 18, 4)), batch["meta"]
    )
    assert found["mask"].sum() == 216
    assert any("largest part was kept, so check it" in text for text in found["warnings"])


def test_nothing_found_is_said_and_has_no_middle():
    ours = processor()
    batch = ours(ct(12, 40, 40), SPACING, markers=[[3, 6, 6], [5, 5, 8]])
    [found] = ours.post_process_segmentation(parts_of(), batch["meta"])
    assert not found["mask"].any() and found["centroid_mm"] is None and found["volume_cc"] == 0
    assert "Nothing was found" in found["warnings"][-1]


def test_a_plain_network_keeps_every_part():
    ours = processor(saliency_kind="none")
    batch = ours(ct(12, 40, 40), SPACING)
    [found] = ours.post_process_segmentation(
        parts_of((2, 6, 6, 5), (2, 28, 28, 6)), batch["meta"], threshold=0.4
    )
    assert found["mask"].sum() == 125 + 216 and not found["warnings"]


def test_markers_that_say_little_are_pointed_out():
    def said(markers, **settings):
        batch = processor(**settings)(ct(12, 40, 40), SPACING, markers=markers)
        return " ".join(batch["meta"][0].warnings)

    assert "one marker" in said([[3, 6, 6]])
    assert "All 2 markers lie in slice 3" in said([[3, 6, 6], [3.2, 9, 9]])
    flat = [[3, 6, 6], [5, 9, 9], [8, 20, 9]]
    assert "enclose no space" in said(flat, saliency_kind="hull")
    assert not said(flat)
    nothing = processor(allow_no_markers=True)(ct(12, 40, 40), SPACING)
    assert not nothing["pixel_values"][0, 1].any()
    assert "map is 0 everywhere" in nothing["meta"][0].warnings[-1]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({}, MarkerNotFoundError, r"above 500 HU.*marker_threshold"),
        ({"markers": np.zeros((0, 3))}, MarkerNotFoundError, "markers is empty"),
        ({"images": ct(2, 12, 40, 40)}, ValueError, r"\(2, 12, 40, 40\)"),
        ({"images": ct(40, 40)}, ValueError, r"\(40, 40\)"),
        ({"images": np.abs(ct(12, 40, 40)).clip(0, 255)}, ValueError, "looks like 8-bit"),
        ({"images": np.where(ct(12, 40, 40) > 0, np.nan, 5)}, ValueError, r"\d+ of 19200 voxels"),
        ({"images": []}, ValueError, "no volumes in the list"),
        ({"spacing": None}, ValueError, "spacing is missing"),
        ({"spacing": (0.03, 0.015, 0.015)}, ValueError, "cm"),
        ({"spacing": (3.0, float("nan"), 1.5)}, ValueError, "spacing must"),
        ({"spacing": (3.0, 1.5)}, ValueError, "three numbers"),
        ({"markers": [[30.0, 60.0, 60.0]]}, ValueError, "divide millimetres by the spacing"),
        ({"markers": [[3.0, 6.0]]}, ValueError, r"shape \(K, 3\)"),
        ({"markers": [[3.0, 6.0, float("inf")]]}, ValueError, "all finite"),
        (
            {"masks": np.full((12, 40, 40), 2)},
            ValueError,
            r"must contain only 0 and 1, got \[2\] too; choose one label first\.",
        ),
        ({"masks": np.zeros((12, 40, 41))}, ValueError, r"shape of the volume, \(12, 40, 40\)"),
        ({"rois": np.ones((3, 3, 3))}, ValueError, "rois must have the shape"),
        (
            {"images": [ct(12, 40, 40)] * 2, "markers": [[1, 2, 3]]},
            ValueError,
            "must be a list with one entry per volume",
        ),
        (
            {"images": [ct(12, 40, 40), ct(12, 48, 40)], "markers": [[[3, 6, 6]], [[3, 6, 6]]]},
            ValueError,
            "Volumes of a batch must have the same size on the network's",
        ),
    ],
)
def test_bad_input_is_refused_in_one_sentence(change, error, message):
    inputs = {"images": ct(12, 40, 40), "spacing": SPACING, **change}
    with pytest.raises(error, match=message) as caught:
        processor()(**inputs)
    text = str(caught.value)
    assert "\n" not in text and text.count(". ") == 0


def test_bad_answers_are_refused():
    ours = processor()
    batch = ours(ct(12, 40, 40), SPACING, markers=[[3, 6, 6], [5, 5, 8]])
    with pytest.raises(ValueError, match="threshold must be above 0"):
        ours.post_process_segmentation(parts_of(), batch["meta"], threshold=1.0)
    with pytest.raises(ValueError, match="and one meta per volume, got"):
        ours.post_process_segmentation(parts_of()[0], batch["meta"])
