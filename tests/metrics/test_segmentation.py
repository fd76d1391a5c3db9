"""Overlap and surface distances against loops over voxels, and against distance transforms."""

import itertools
import math

import numpy as np
import pytest
from scipy import ndimage

from salhub.metrics.segmentation import (
    centroid_shift,
    dice,
    jaccard,
    segmentation_scores,
    summarize,
    surface_distances,
    volume_ratio,
)

SPACINGS = {2: (1.5, 0.7), 3: (3.0, 1.5, 0.8)}


def random_pair(num_axes, seed):
    """Two rough blobs that overlap, one of them touching the border."""
    random = np.random.default_rng(seed)
    shape = (7, 9, 8)[:num_axes]
    smooth = [ndimage.gaussian_filter(random.normal(size=shape), 1.2) for _ in range(2)]
    first, second = smooth[0] > 0, (smooth[0] + smooth[1]) > 0.05
    first[(0,) * num_axes] = True
    return first, second


def slow_surface(mask):
    """Voxels of which a neighbour along an axis is outside the mask, or outside the image."""
    found = []
    for place in itertools.product(*map(range, mask.shape)):
        if not mask[place]:
            continue
        for axis, step in itertools.product(range(mask.ndim), (-1, 1)):
            near = list(place)
            near[axis] += step
            is_inside = 0 <= near[axis] < mask.shape[axis]
            if not is_inside or not mask[tuple(near)]:
                found.append(place)
                break
    return found


def slow_distances(first, second, spacing):
    from_first, from_second = [], []
    surfaces = slow_surface(first), slow_surface(second)
    for own, other, found in (
        (*surfaces, from_first),
        (*reversed(surfaces), from_second),
    ):
        for a in own:
            found.append(
                min(
                    math.sqrt(
                        sum(((x - y) * s) ** 2 for x, y, s in zip(a, b, spacing, strict=True))
                    )
                    for b in other
                )
            )
    return from_first, from_second


def slow_percentile(values, share):
    """Linear between the two nearest ranks."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


@pytest.mark.parametrize("num_axes", [2, 3])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_score_equals_its_definition(num_axes, seed):
    first, second = random_pair(num_axes, seed)
    spacing = SPACINGS[num_axes]
    a, b = slow_distances(first, second, spacing)
    common = sum(x and y for x, y in zip(first.flat, second.flat, strict=True))
    num_first, num_second = sum(first.flat), sum(second.flat)
    centres = [
        [s * sum(place[axis] for place in np.argwhere(mask)) / mask.sum() for axis, s in
         enumerate(spacing)]
        for mask in (first, second)
    ]  # fmt: skip
    expected = {
        "dice": 2 * common / (num_first + num_second),
        "jaccard": common / (num_first + num_second - common),
        "hd95": max(slow_percentile(a, 0.95), slow_percentile(b, 0.95)),
        "hd95_pooled": slow_percentile(a + b, 0.95),
        "assd": sum(a + b) / len(a + b),
        "mean_of_means": (sum(a) / len(a) + sum(b) / len(b)) / 2,
        "surface_dice": sum(d <= 1.5 for d in a + b) / len(a + b),
        "volume_ratio": num_first / num_second,
        "centroid_shift": math.dist(*centres),
    }
    found = segmentation_scores(first, second, spacing, tolerance=1.5)
    assert found == pytest.approx(expected, abs=1e-10)
    distances = surface_distances(first, second, spacing)
    assert distances.hausdorff == pytest.approx(max(a + b))
    precision, recall = (sum(d <= 1.5 for d in one) / len(one) for one in (a, b))
    f = 2 * precision * recall / (precision + recall)
    assert distances.boundary_f(1.5) == pytest.approx(f)


def test_distances_are_those_of_a_full_distance_transform():
    grid = np.indices((20, 48, 48)).T * (3.0, 1.5, 1.5)
    first = ((grid - (30, 36, 36)) ** 2).sum(axis=-1).T < 14**2
    second = (((grid - (33, 40, 32)) / (1, 1.3, 0.8)) ** 2).sum(axis=-1).T < 14**2
    found = surface_distances(first, second, (3.0, 1.5, 1.5))
    edges = [mask & ~ndimage.binary_erosion(mask) for mask in (first, second)]
    for distances, own, other in (
        (found.from_first, edges[0], edges[1]),
        (found.from_second, edges[1], edges[0]),
    ):
        transform = ndimage.distance_transform_edt(~other, sampling=(3.0, 1.5, 1.5))
        np.testing.assert_allclose(distances, transform[own], atol=1e-12)


def test_equal_masks_are_equal():
    mask, _ = random_pair(3, 4)
    found = segmentation_scores(mask, mask.astype(np.uint8), SPACINGS[3])
    perfect = {"dice": 1, "jaccard": 1, "surface_dice": 1, "volume_ratio": 1}
    assert found == {name: perfect.get(name, 0) for name in found}


def test_a_missed_structure_is_as_bad_as_can_be_and_two_empty_masks_agree():
    mask, empty = random_pair(3, 5)[0], np.zeros((7, 9, 8), dtype=bool)
    missed = segmentation_scores(empty, mask, SPACINGS[3])
    distances = ("hd95", "hd95_pooled", "assd", "mean_of_means", "centroid_shift")
    assert all(missed[name] == math.inf for name in distances)
    assert all(missed[name] == 0 for name in missed.keys() - set(distances))
    invented = segmentation_scores(mask, empty, SPACINGS[3])
    assert invented["hd95"] == invented["volume_ratio"] == math.inf
    assert invented["dice"] == invented["surface_dice"] == 0
    both = segmentation_scores(empty, empty, SPACINGS[3])
    perfect = {"dice": 1, "jaccard": 1, "surface_dice": 1, "volume_ratio": 1}
    assert both == {name: perfect.get(name, 0) for name in both}
    assert surface_distances(mask, empty, SPACINGS[3]).boundary_f(2.0) == 0
    assert surface_distances(empty, empty, SPACINGS[3]).boundary_f(2.0) == 1


def test_no_boundary_within_the_tolerance_has_an_f_of_zero():
    first, second = np.zeros((2, 5, 20), dtype=bool)
    first[2, 1], second[2, 18] = True, True
    assert surface_distances(first, second, (1, 1)).boundary_f(3.0) == 0


def test_failures_are_counted_and_make_the_median_worse():
    rows = [{"hd95": value, "dice": 0.5} for value in (2.0, 4.0, math.inf, math.inf)]
    found = summarize(rows)["hd95"]
    assert (found.estimate.mean, found.failures, found.median) == (3.0, 2, math.inf)
    assert f"{found:.1f}" == "3.0 (1.4), median inf, 2 of 4 missed"
    assert f"{summarize(rows[1:])['hd95']:.1f}" == "4.0, median inf, 2 of 3 missed"
    assert f"{summarize(rows[2:])['hd95']:.1f}" == "2 of 2 missed"
    assert f"{summarize(rows)['dice']:.2f}" == "0.50 (0.00), median 0.50"


def test_means_are_also_taken_over_patients():
    rows = [{"dice": value} for value in (0.2, 0.4, 0.9, 0.9, 0.9)]
    found = summarize(rows, ["a", "a", "b", "b", "b"])["dice"]
    assert found.estimate.mean == pytest.approx(0.66)
    assert found.patients is not None
    assert found.patients.mean == pytest.approx(0.6)
    assert (found.patients.n, found.estimate.n) == (2, 5)
    # Whole patients are drawn: the interval reaches to a patient's mean.
    assert found.estimate.low == pytest.approx(0.3)
    failed = [*rows, {"dice": math.inf}]
    failure = summarize(failed, ["a", "a", "b", "b", "b", "b"])["dice"].patients
    assert failure is not None
    assert (failure.n, failure.num_not_finite) == (1, 1)


def test_bad_input_is_named():
    mask = np.ones((4, 4), dtype=bool)
    with pytest.raises(ValueError, match=r"same shape .* \(4, 4\) and \(4, 5\)"):
        dice(mask, np.ones((4, 5), dtype=bool))
    with pytest.raises(ValueError, match=r"2 or 3 dimensions"):
        jaccard([True], [True])
    with pytest.raises(ValueError, match="other values"):
        volume_ratio(mask * 255, mask)
    with pytest.raises(ValueError, match="other values"):
        dice(np.full((4, 4), np.nan), mask)
    with pytest.raises(ValueError, match="2 numbers above 0"):
        surface_distances(mask, mask, (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="2 numbers above 0"):
        centroid_shift(mask, mask, (1.0, 0.0))
    with pytest.raises(ValueError, match="at least one mask, got 0"):
        summarize([])
    with pytest.raises(ValueError, match="same scores"):
        summarize([{"dice": 1.0}, {"hd95": 1.0}])
