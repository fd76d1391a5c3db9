"""Surfaces and distances between them, against erosions and full distance transforms."""

import math

import numpy as np
import pytest
from scipy import ndimage

from salhub.metrics.surfaces import distances_between, surfaces_of


def blobs(shape, seed, shift):
    """Two rough blobs, the second moved by some voxels, and a voxel far away."""
    random = np.random.default_rng(seed)
    rough = ndimage.gaussian_filter(random.normal(size=shape), 1.5)
    place = (np.indices(shape).T - (np.array(shape) - 1) / 2).T
    first = np.sqrt((place**2).sum(axis=0)) < min(shape) / 3 * (1 + rough / np.abs(rough).max() / 3)
    second = np.roll(first, shift, axis=tuple(range(len(shape))))
    first[(0,) * len(shape)] = True
    return first, second


CASES = [
    ((40, 60), (1.0, 1.0), 4),
    ((160, 150), (0.7, 1.9), 60),  # further than rows are looked up
    ((14, 40, 38), (3.0, 1.5, 1.5), 2),
    ((30, 30, 30), (1.0, 1.0, 1.0), 12),
    ((8, 40, 41), (20.0, 0.05, 0.4), 3),
    ((40, 9, 30), (0.05, 20.0, 3.0), 1),
    ((12, 30, 30), (1.0, 1.0, 50.0), 3),
    ((12, 30, 30), (1e-3, 1e3, 1.0), 3),
]


@pytest.mark.parametrize(("shape", "spacing", "shift"), CASES)
@pytest.mark.parametrize("seed", [0, 1])
def test_distances_are_those_of_a_full_distance_transform(shape, spacing, shift, seed):
    masks = blobs(shape, seed, shift)
    surfaces = surfaces_of(*masks)
    edges = [mask & ~ndimage.binary_erosion(mask) for mask in masks]
    for places, edge in zip(surfaces, edges, strict=True):
        np.testing.assert_array_equal(places, np.argwhere(edge))
    found = distances_between(*surfaces, shape, np.array(spacing))
    for distances, own, other in zip(found, edges, reversed(edges), strict=True):
        transform = ndimage.distance_transform_edt(~other, sampling=spacing)
        np.testing.assert_allclose(distances, transform[own], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("density", [0.001, 0.03, 0.5])
def test_voxels_strewn_about_have_the_same_distances(density):
    random = np.random.default_rng(3)
    masks = [random.random((25, 70, 64)) < density for _ in range(2)]
    spacing = np.array([2.5, 0.8, 1.1])
    for first, second in (masks, masks[::-1]):
        surfaces = surfaces_of(first, second)
        found, _ = distances_between(*surfaces, first.shape, spacing)
        transform = ndimage.distance_transform_edt(~second, sampling=spacing)
        # Nothing is nearer than the surface of what lies around it, except within a mask.
        outside = ~second[tuple(surfaces[0].T)]
        expected = transform[tuple(surfaces[0].T)]
        np.testing.assert_allclose(found[outside], expected[outside], atol=1e-12)


def test_two_voxels_far_apart_in_a_large_box_need_no_box():
    shape = (3000, 3000, 3000)
    first, second = np.array([[0, 0, 0]]), np.array([[2999, 2999, 2999], [0, 0, 7]])
    found = distances_between(first, second, shape, np.array([1.0, 1.0, 0.5]))
    assert found[0].tolist() == [3.5]
    assert found[1][0] == pytest.approx(2999 * 1.5) and found[1][1] == 3.5
    nothing = np.zeros((0, 3), dtype=int)
    one, other = distances_between(first, nothing, shape, np.ones(3))
    assert one.tolist() == [math.inf] and not len(other)
