"""Grids of other steps: means of what a voxel covers, and lines in between."""

import numpy as np
import pytest

from salhub.models.sdl_seg.configuration_sdl_seg import SDLSegConfig
from salhub.models.sdl_seg.processing_sdl_seg import Grid
from salhub.models.sdl_seg.resampling import resampled


def slow_mean(values, new, scale):
    """Each new voxel in 2000 pieces, and the voxel that each piece lies in."""
    middle, new_middle = (len(values) - 1) / 2, (new - 1) / 2
    found = []
    for place in range(new):
        pieces = (place - new_middle + (np.arange(2000) + 0.5) / 2000 - 0.5) * scale + middle
        found.append(values[np.rint(pieces).astype(int).clip(0, len(values) - 1)].mean())
    return np.array(found)


@pytest.mark.parametrize(("old", "new", "scale"), [(30, 8, 3.75), (21, 14, 1.5), (1, 1, 2.0)])
def test_a_coarser_voxel_is_the_mean_of_what_it_covers(old, new, scale):
    values = np.random.default_rng(0).random(old)
    found = resampled(values, [new], [scale])
    np.testing.assert_allclose(found, slow_mean(values, new, scale), atol=2e-3)


def test_finer_voxels_lie_on_a_line_and_the_ends_go_on():
    found = resampled(np.array([0.0, 2.0, 4.0]), [6], [0.5])
    np.testing.assert_allclose(found, [0, 0.5, 1.5, 2.5, 3.5, 4])
    assert resampled(np.ones((1, 2, 3), dtype=np.float32), (4, 2, 3), (0.25, 1, 1)).dtype == "f4"
    # Without means a coarser grid reads the line too.
    line = resampled(np.arange(9.0), [3], [3.0], averages=False)
    np.testing.assert_allclose(line, [1, 4, 7])


def test_axes_do_not_depend_on_each_other_and_a_constant_stays():
    values = np.random.default_rng(1).random((9, 10, 11))
    counts, scales = (3, 16, 11), (3.0, 0.6, 1.0)
    found = resampled(values, counts, scales)
    expected = values
    for axis in range(3):
        pick = [1.0] * 3
        pick[axis] = scales[axis]
        size = list(expected.shape)
        size[axis] = counts[axis]
        expected = resampled(expected, size, pick)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(resampled(np.full((7, 8, 9), 3.0), counts, scales), 3)


def test_any_spacing_keeps_balls_of_8_mm():
    random = np.random.default_rng(2)
    for _ in range(12):
        spacing = np.exp(random.uniform(np.log(0.5), np.log(5), 3))
        shape = np.ceil(44 / spacing).astype(int)
        place = np.stack(np.indices(shape), axis=-1) * spacing
        ball = np.linalg.norm(place - random.uniform(20, 24, 3), axis=-1) <= 8
        grid = Grid.of(shape.tolist(), spacing.tolist(), SDLSegConfig())
        back = grid.resample_back(grid.resample(ball.astype(np.float32), 0.0)) > 0.5
        assert 2 * (ball & back).sum() / (ball.sum() + back.sum()) >= 0.95
        gap = place[back].mean(axis=0) - place[ball].mean(axis=0)
        assert np.linalg.norm(gap) <= 0.25
