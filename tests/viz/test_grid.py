"""Grids of small pictures: sharp pixels, lines that break, captions beside their rows."""

import numpy as np
import pytest
from PIL import Image

from salhub.viz import enlarge, picture_grid

RED, GREEN = (255, 0, 0), (0, 255, 0)


def one(color, size=(10, 10)):
    return Image.new("RGB", size, color)


def places(grid, color):
    rows, columns = np.nonzero((np.asarray(grid) == color).all(axis=-1))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_small_pictures_are_enlarged_by_whole_factors():
    checks = Image.fromarray(np.array([[0, 255], [255, 0]], dtype=np.uint8))
    large = enlarge(checks, 7)
    assert large.size == (6, 6)
    assert np.array_equal(np.asarray(large), np.kron(np.asarray(checks), np.ones((3, 3))))
    assert enlarge(one(RED), 19).size == (10, 10)
    assert enlarge(one(RED, (300, 20)), 96).size == (300, 20)


def test_long_rows_go_on_in_the_next_line():
    grid = picture_grid([("", [one(RED)] * 2 + [one(GREEN)])], side=20, columns=2)
    left, top, right, bottom = places(grid, RED)
    assert (right - left, bottom - top) == (2 * 20 + 6, 20)
    assert places(grid, GREEN) == (left, bottom + 6, left + 20, bottom + 26)
    assert grid.size == (left + right, bottom + 26 + top)


def test_captions_stand_to_the_left_of_their_rows():
    plain = picture_grid([("", [one(RED)]), ("", [one(GREEN)])])
    named = picture_grid([("first", [one(RED)]), ("a second one of many words" * 3, [one(GREEN)])])
    assert places(named, RED)[0] == places(named, GREEN)[0] > places(plain, RED)[0] + 30
    left, top, _, bottom = places(named, GREEN)
    ink = np.asarray(named.convert("L")) < 100
    assert ink[top:bottom, 10 : left - 10].any() and not ink[:, left - 8 : left - 2].any()
    assert not ink[:, :10].any()


def test_large_pictures_are_made_smaller():
    left, _, right, _ = places(picture_grid([("", [one(RED, (400, 300))])], side=100), RED)
    assert right - left == 100


def test_grids_of_nothing_or_of_several_sizes_are_refused():
    for rows in ([], [("a", [])], [("a", [one(RED)]), ("b", [])]):
        with pytest.raises(ValueError, match="at least one row, and a picture in each"):
            picture_grid(rows)
    with pytest.raises(ValueError, match="must have the same size"):
        picture_grid([("", [one(RED), one(RED, (4, 4))])])
