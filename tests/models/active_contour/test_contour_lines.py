"""Lines of equal height: where they run, that they close, and what touches by a corner."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, label

from salhub.models.active_contour.contour_lines import contour_lines


def smooth_noise(seed, size=(40, 47), sigma=1.2):
    return gaussian_filter(np.random.default_rng(seed).standard_normal(size), sigma)


def test_points_lie_where_the_level_is_crossed():
    grid = smooth_noise(0)
    for line in contour_lines(grid, 0.05):
        for row, column in line:
            low = int(np.floor(row)), int(np.floor(column))
            share = (row % 1) + (column % 1)
            other = (low[0] + (row % 1 > 0), low[1] + (column % 1 > 0))
            value = (1 - share) * grid[low] + share * grid[other]
            assert abs(value - 0.05) < 1e-5


def test_lines_close_or_end_at_the_border():
    grid = smooth_noise(1)
    for line in contour_lines(grid):
        is_closed = bool((line[0] == line[-1]).all())
        ends = line[[0, -1]]
        at_border = (ends == 0).any(1) | (ends == np.array(grid.shape) - 1).any(1)
        assert is_closed or at_border.all()
        assert (np.abs(np.diff(line, axis=0)).max(1) <= 1).all()


def test_each_piece_has_one_outer_line():
    grid = np.pad(smooth_noise(2), 2, constant_values=1.0)
    lines = contour_lines(grid)
    pieces = label(grid < 0, np.ones((3, 3)))[1]
    holes = label(grid >= 0)[1] - 1
    assert len(lines) == pieces + holes


def test_the_area_within_is_that_of_the_piece():
    rows, columns = np.mgrid[:80, :80]
    line = contour_lines(np.hypot(rows - 40.3, columns - 39.6) - 22.5)[0].astype(float)
    row, column = line.T
    area = 0.5 * abs((row[:-1] * column[1:] - row[1:] * column[:-1]).sum())
    assert area == pytest.approx(np.pi * 22.5**2, rel=1e-3)


def test_equals_scikit_image():
    measure = pytest.importorskip("skimage.measure", reason="scikit-image is not installed")
    for seed in range(4):
        grid = smooth_noise(seed)
        ours, theirs = contour_lines(grid), measure.find_contours(grid, 0)
        assert len(ours) == len(theirs)
        assert sorted(map(len, ours)) == sorted(map(len, theirs))
        mine, others = (
            np.unique(np.concatenate(lines).round(4), axis=0) for lines in (ours, theirs)
        )
        assert np.abs(mine - others).max() < 1e-3


def test_nothing_is_found_in_a_grid_of_one_side():
    assert contour_lines(np.ones((5, 5))) == []


@pytest.mark.parametrize("bad", [np.ones(5), np.full((4, 4), np.nan)])
def test_bad_grids_are_refused(bad):
    with pytest.raises(ValueError, match="finite numbers of shape"):
        contour_lines(bad)
