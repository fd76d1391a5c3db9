"""The saliency map against a full distance transform, plain loops, and finite differences."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.optimize import minimize

from salhub.models.sdl_seg.configuration_sdl_seg import SDLSegConfig
from salhub.models.sdl_seg.saliency_map import saliency_map

SHAPE, SPACING = (14, 30, 26), (3.0, 0.8, 1.7)
KINDS = ("edt_gauss", "edt_linear", "hull", "points")
CLIPS = np.array([[3, 8, 7], [9, 20, 9], [6, 12, 20], [4, 24, 15], [10, 9, 14]])


def map_of(markers, kind="edt_gauss", **settings) -> torch.Tensor:
    return saliency_map(markers, SHAPE, SPACING, SDLSegConfig(saliency_kind=kind, **settings))


def full_distances(markers: np.ndarray) -> np.ndarray:
    """Of a distance transform of the whole volume, in mm."""
    free = np.ones(SHAPE, dtype=bool)
    free[tuple(markers.T)] = False
    return ndimage.distance_transform_edt(free, sampling=SPACING)


def smoothed(field: np.ndarray, sigma: float) -> np.ndarray:
    field = ndimage.gaussian_filter(field, [sigma / s for s in SPACING], mode="nearest")
    return field / field.max()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_edt_gauss_is_that_of_a_full_distance_transform(count):
    expected = smoothed(np.exp(-(full_distances(CLIPS[:count]) ** 2) / (2 * 8.0**2)), 2.0)
    assert np.abs(map_of(CLIPS[:count]).numpy() - expected).max() < 1e-5


def test_edt_linear_is_that_of_a_full_distance_transform():
    expected = smoothed((1 - full_distances(CLIPS) / 11.0).clip(0), 3.0)
    found = map_of(CLIPS, "edt_linear", linear_radius_mm=11.0, sigma_g_mm=3.0)
    assert np.abs(found.numpy() - expected).max() < 1e-5


def test_points_is_a_gaussian_filter_of_the_marked_voxels():
    # In a volume that is large enough for nothing to be cut off.
    shape, clips = (41, 61, 61), CLIPS + np.array([16, 18, 16])
    marked = np.zeros(shape)
    marked[tuple(clips.T)] = 1
    widths = [4.0 / s for s in SPACING]
    expected = ndimage.gaussian_filter(marked, widths, mode="constant", truncate=8)
    config = SDLSegConfig(saliency_kind="points", points_sigma_mm=4.0)
    found = saliency_map(clips, shape, SPACING, config).numpy()
    assert np.abs(found - expected / expected.max()).max() < 1e-5


def hull_distance(place: np.ndarray, corners: np.ndarray) -> float:
    """Distance to a convex hull: the best mixture of its corners."""
    count = len(corners)
    found = minimize(
        lambda share: float(((share @ corners - place) ** 2).sum()),
        np.full(count, 1 / count),
        jac=lambda share: 2 * corners @ (share @ corners - place),
        bounds=[(0, 1)] * count,
        constraints={"type": "eq", "fun": lambda share: share.sum() - 1},
        options={"ftol": 1e-14, "maxiter": 300},
    )
    return float(np.sqrt(found.fun))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_hull_is_the_logistic_of_the_distance_to_the_best_mixture(count):
    corners = CLIPS[:count] * SPACING
    raw = map_of(CLIPS[:count], "hull").numpy()
    rng = np.random.default_rng(0)
    places = rng.integers(0, SHAPE, (25, 3))
    outside = [hull_distance(p * np.array(SPACING), corners) for p in places]
    expected = np.array([1 / (1 + np.exp(d / 5.0)) for d in outside])
    found = raw[tuple(places.T)]
    far = np.array(outside) > 1e-3
    assert far.sum() > 10
    ratio = found[far] / expected[far]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)
    # Inside the map is higher than on the surface, which has 1 / 2 before the division.
    assert (found[~far] >= 0.5 * ratio[0] - 1e-4).all()


def test_inside_of_a_box_the_hull_is_as_deep_as_its_nearest_side():
    corners = np.array([[z, y, x] for z in (2, 10) for y in (5, 25) for x in (4, 20)])
    raw = map_of(corners, "hull").numpy()
    sides = np.array([[2, 10], [5, 25], [4, 20]]) * np.array(SPACING)[:, None]
    depths = {}
    for place in ((6, 15, 12), (3, 15, 12), (6, 6, 12), (6, 15, 18)):
        mm = np.array(place) * SPACING
        depths[place] = min(abs(mm[a] - side) for a in range(3) for side in sides[a])
    expected = {place: 1 / (1 + np.exp(-depth / 5.0)) for place, depth in depths.items()}
    middle = (6, 15, 12)
    for place, value in expected.items():
        assert raw[place] / raw[middle] == pytest.approx(value / expected[middle], rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_map_is_differentiable_in_the_markers(kind):
    generator = torch.Generator().manual_seed(0)
    weight = torch.rand(SHAPE, generator=generator, dtype=torch.float64)
    clips = torch.tensor(CLIPS + 0.3, dtype=torch.float64, requires_grad=True)

    def total(places: torch.Tensor) -> torch.Tensor:
        return (map_of(places, kind) * weight).sum()

    (gradient,) = torch.autograd.grad(total(clips), clips)
    for k, axis in ((0, 0), (2, 1), (4, 2)):
        step = torch.zeros_like(clips)
        step[k, axis] = 1e-5
        with torch.no_grad():
            slope = float(total(clips + step) - total(clips - step)) / 2e-5
        assert float(gradient[k, axis]) == pytest.approx(slope, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_every_map_is_between_0_and_1_and_highest_at_the_markers(kind):
    found = map_of(CLIPS, kind)
    assert found.dtype == torch.float32
    assert float(found.min()) >= 0 and float(found.max()) == 1
    at_clips = found[tuple(torch.as_tensor(CLIPS).T)]
    assert float(at_clips.min()) > float(found.mean())


def test_no_markers_give_nothing_and_flat_hulls_are_measured():
    assert not map_of(np.zeros((0, 3))).any()
    flat = np.array([[5, 5, 5], [5, 20, 5], [5, 20, 20], [5, 5, 20]])
    found = map_of(flat, "hull")
    assert float(found[5, 12, 12]) == pytest.approx(1, abs=1e-6)
    assert float(found[8, 12, 12]) == pytest.approx(2 / (1 + np.exp(9 / 5)), rel=1e-5)


def test_what_is_no_place_is_refused():
    with pytest.raises(ValueError, match=r"shape \(K, 3\)"):
        map_of([[1.0, 2.0]])
    with pytest.raises(ValueError, match="finite voxel coordinates"):
        map_of([[1.0, 2.0, float("nan")]])
    with pytest.raises(ValueError, match="'none' has no map"):
        map_of(CLIPS, "none")
