"""Phantoms: the same for the same seed, exact truth, and clips that are found again."""

import time

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from salhub.models.sdl_seg.configuration_sdl_seg import SDLSegConfig
from salhub.models.sdl_seg.marker_detection import (
    MarkerNotFoundError,
    TooManyMarkersError,
    detect_markers,
    doubtful_markers,
    find_markers,
)
from salhub.models.sdl_seg.phantom import make_breast_phantom

SPACING = np.array((3.0, 1.5, 1.5))


def test_the_seed_decides_everything():
    one, again, other = (make_breast_phantom(seed) for seed in (3, 3, 4))
    assert one.volume.dtype == np.float32 and one.volume.shape == (24, 96, 96)
    np.testing.assert_array_equal(one.volume, again.volume)
    np.testing.assert_array_equal(one.markers, again.markers)
    assert not np.array_equal(one.mask, other.mask)


def test_painting_the_clips_out_changes_nothing_else():
    seen, painted = make_breast_phantom(3), make_breast_phantom(3, clips_visible=False)
    np.testing.assert_array_equal(seen.mask, painted.mask)
    np.testing.assert_array_equal(seen.markers, painted.markers)
    assert seen.volume.max() > 1000 and painted.volume.max() < 500
    gaps = np.stack(np.indices(seen.volume.shape), -1)[..., None, :] - seen.markers
    far = np.linalg.norm(gaps * SPACING, axis=-1).min(-1) > 60
    assert far.any() and np.abs(seen.volume - painted.volume)[far].max() < 3


def test_decoys_come_and_go_without_moving_the_bed():
    few, many = (make_breast_phantom(5, num_decoys=n) for n in (0, 8))
    np.testing.assert_array_equal(few.mask, many.mask)
    assert not few.decoys.any() and many.decoys.any()
    assert not (many.decoys & many.mask).any()


def test_calcifications_are_bright_spots_that_change_nothing_else():
    plain, spotted = (make_breast_phantom(5, num_calcifications=n) for n in (0, 3))
    np.testing.assert_array_equal(plain.mask, spotted.mask)
    np.testing.assert_array_equal(plain.markers, spotted.markers)
    added = spotted.volume - plain.volume
    assert 150 < added.max() < 1600
    # Each is a few voxels wide, streaks aside.
    assert 3 <= (added > 150).sum() <= 90


def test_scans_of_a_patient_differ_by_little():
    first, second = (make_breast_phantom(6, fraction=n) for n in (0, 1))
    assert (first.patient, second.fraction) == (6, 1)
    assert not np.array_equal(first.volume, second.volume)
    assert 0.6 < second.mask.sum() / first.mask.sum() < 1.6
    shift = np.argwhere(second.mask).mean(0) - np.argwhere(first.mask).mean(0)
    assert 0 < np.linalg.norm(shift * SPACING) < 8
    assert (first.mask & second.mask).any()


def test_beds_and_decoys_are_of_one_size_and_one_brightness():
    phantoms = [make_breast_phantom(seed, num_decoys=1, clips_visible=False) for seed in range(10)]
    sizes = [(p.mask.sum(), p.decoys.sum()) for p in phantoms if p.decoys.any()]
    values = [
        (p.volume[p.mask].mean(), p.volume[p.decoys].mean()) for p in phantoms if p.decoys.any()
    ]
    for pairs in (sizes, values):
        bed, decoy = np.array(pairs, dtype=float).T
        apart = (bed - decoy).mean() / ((bed - decoy).std(ddof=1) / len(bed) ** 0.5)
        assert abs(apart) < 2.8


def test_clips_are_found_within_a_voxel_and_nothing_else():
    found, there, wrong = 0, 0, 0
    for seed in range(6):
        phantom = make_breast_phantom(700 + seed)
        markers = detect_markers(phantom.volume, phantom.spacing)
        gaps = np.linalg.norm((phantom.markers[:, None] - markers) * SPACING, axis=2)
        pairs = linear_sum_assignment(gaps)
        hits = int((gaps[pairs] < 3).sum())
        found, there, wrong = found + hits, there + len(gaps), wrong + len(markers) - hits
    assert found >= 0.95 * there and wrong <= 1


def ball(volume: np.ndarray, place: tuple, value: float = 2500.0, size: int = 1) -> None:
    z, y, x = place
    volume[z : z + size, y : y + 2 * size, x : x + 2 * size] = value


@pytest.fixture
def water() -> np.ndarray:
    volume = np.full((24, 80, 80), -1000.0, dtype=np.float32)
    volume[2:22, 5:75, 5:75] = 20
    return volume


def test_touching_clips_are_told_apart(water):
    for place in ((8, 20, 20), (8, 40, 40), (12, 30, 30)):
        ball(water, place)
    water[12, 30:32, 32:37] = 900  # a bridge of streaks
    ball(water, (12, 30, 36))
    found = detect_markers(water, SPACING)
    assert len(found) == 4
    assert np.abs(found - [12, 30.5, 30.5]).max(axis=1).min() < 0.7


def test_bones_and_what_is_at_them_and_far_spots_are_left_out(water):
    for place in ((8, 20, 20), (9, 30, 26), (12, 25, 30)):
        ball(water, place)
    water[5:20, 60:66, 10:70] = 800  # a bone
    ball(water, (18, 58, 20))  # at the bone
    ball(water, (20, 66, 70))
    ball(water, (3, 8, 70), 900)  # far from all
    markers, warnings = find_markers(water, SPACING)
    assert len(markers) == 3
    assert len(warnings) == 1 and "1 of 4 bright spots were left out" in warnings[0]


def test_calcifications_are_doubted_and_clips_are_not():
    doubted = {True: [], False: []}
    for seed in range(4):
        phantom = make_breast_phantom(40 + seed, num_calcifications=3)
        markers, warnings = find_markers(phantom.volume, phantom.spacing)
        doubts = doubtful_markers(phantom.volume, phantom.spacing, markers)
        gaps = np.linalg.norm((phantom.markers[:, None] - markers) * SPACING, axis=2)
        for is_clip, doubt in zip(gaps.min(axis=0) < 3, doubts, strict=True):
            doubted[bool(is_clip)].append(bool(doubt))
        said = [text for text in warnings if "may be calcifications" in text]
        assert len(said) == doubts.any()
        if doubts.any():
            assert f"{doubts.sum()} of {len(markers)} markers" in said[0]
    assert np.mean(doubted[False]) > 0.7 and np.mean(doubted[True]) < 0.1


def test_a_spot_outside_of_the_body_is_no_marker_and_a_region_is_kept_to(water):
    ball(water, (8, 20, 20))
    ball(water, (12, 30, 30))
    ball(water, (12, 1, 40))  # on the table
    assert len(detect_markers(water, SPACING)) == 2
    roi = np.zeros(water.shape, dtype=bool)
    roi[:, :25] = True
    assert len(detect_markers(water, SPACING, roi=roi)) == 1


def test_none_and_too_many_are_said(water):
    with pytest.raises(MarkerNotFoundError, match=r"above 500 HU.*brightest voxel has 20 HU"):
        detect_markers(water, SPACING)
    for index in range(12):
        ball(water, (4 + index, 20 + 3 * index, 20))
    with pytest.raises(TooManyMarkersError, match=r"12 candidates.*more than 9.*rois="):
        detect_markers(water, SPACING, SDLSegConfig(max_markers=9))


def test_why_there_is_none_is_said(water):
    ball(water, (12, 30, 30))
    for roi, why in (
        (np.s_[:0], "the roi is empty"),
        (np.s_[:, 50:], "brighter spots lie outside the roi; draw it around the clips"),
    ):
        region = np.zeros(water.shape, dtype=bool)
        region[roi] = True
        with pytest.raises(MarkerNotFoundError, match=why):
            detect_markers(water, SPACING, roi=region)
    water[5:20, 34:50, 20:60] = 900
    with pytest.raises(
        MarkerNotFoundError, match="the small spots lie within 6 mm of a large one, such as a"
    ):
        detect_markers(water, SPACING)
    water[12, 30:34, 30:34] = 900
    with pytest.raises(
        MarkerNotFoundError, match=r"mm, like bones; raise marker_threshold or marker_max_mm3"
    ):
        detect_markers(water, SPACING)


def test_a_draw_between_two_groups_is_not_decided(water):
    for place in ((8, 20, 12), (9, 24, 18), (8, 20, 62), (9, 24, 68)):
        ball(water, place)
    with pytest.raises(TooManyMarkersError, match=r"2 groups of 2 bright spots.*\(8\.5, 22\.5, 15"):
        detect_markers(water, SPACING)
    ball(water, (12, 30, 16))
    markers, [said] = find_markers(water, SPACING)
    assert len(markers) == 3 and "at (z, y, x) (8.0, 20.5, 62.5), (9.0, 24.5, 68.5)." in said


def test_clips_in_slices_further_apart_than_clips_are_two():
    volume = np.full((12, 40, 40), -1000.0, dtype=np.float32)
    volume[1:11, 2:38, 2:38] = 20
    for place in ((3, 10, 10), (4, 10, 10), (7, 16, 14), (7, 12, 20)):
        volume[place] = 2500
    assert len(detect_markers(volume, (6.0, 3.0, 3.0), SDLSegConfig(marker_max_mm3=250))) == 4


def test_clips_that_are_alike_are_not_doubted_for_being_near(water):
    steps = (1.5, 1, 1)
    places = np.array([[8, 20, 20], [8, 20, 24.7], [12, 30, 30], [14, 22, 36], [10, 36, 22]])
    voxels = np.indices(water.shape).reshape(3, -1).T
    for place in places:
        gaps = (((voxels - place) * steps) ** 2).sum(axis=1).reshape(water.shape)
        water += 2500 * np.exp(-gaps / 2).astype(np.float32)
    markers, warnings = find_markers(water, steps)
    assert len(markers) == 5 and warnings == []
    assert not doubtful_markers(water, steps, places).any()
    water[12:17, 18:27, 32:41] = np.minimum(water[12:17, 18:27, 32:41], 400)
    assert doubtful_markers(water, steps, places).tolist() == [False] * 3 + [True, False]


def test_a_large_saturated_spot_costs_no_more_than_its_voxels():
    volume = np.full((40, 60, 60), -1000.0, dtype=np.float32)
    volume[2:38, 2:58, 2:58] = 20
    off = np.indices(volume.shape) - np.reshape((20, 30, 30), (3, 1, 1, 1))
    steps = np.reshape((0.4, 0.3, 0.3), (3, 1, 1, 1))
    volume[((off * steps) ** 2).sum(axis=0) < 5**2] = 3071
    start = time.process_time()
    with pytest.raises(
        MarkerNotFoundError, match="mm, like bones; raise marker_threshold or marker_max_mm3"
    ):
        detect_markers(volume, (0.4, 0.3, 0.3))
    assert time.process_time() - start < 2


def test_bad_phantoms_are_refused():
    for options, message in (
        ({"seed": -1}, "seed must be 0 or more"),
        ({"seed": 0, "num_decoys": -1}, "num_decoys must be 0 or more"),
        ({"seed": 0, "shape": (24, 96)}, "three sides"),
        ({"seed": 0, "spacing": (0.3, 0.15, 0.15)}, "48 x 110 x 110 mm"),
    ):
        with pytest.raises(ValueError, match=message):
            make_breast_phantom(**options)
