"""Curves: what is drawn lies where its numbers say, on axes that can be read."""

import numpy as np
import pytest

from salhub.viz.curves import _COLORS, WIDTH, CurvePanel, draw_curves, ticks


def places(picture, color) -> np.ndarray:
    """(y, x) of the pixels of a colour, the legend's left out."""
    wanted = [int(color[start : start + 2], 16) for start in (1, 3, 5)]
    found = np.argwhere(np.abs(np.asarray(picture, int) - wanted).max(-1) < 24)
    return found[found[:, 0] > 70]


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        ((0, 12), [0, 5, 10, 15]),
        ((0.4, 2.3), [0, 1, 2, 3]),
        ((0.912, 0.957), [0.9, 0.92, 0.94, 0.96]),
        ((-3, 4), [-4, -2, 0, 2, 4]),
        ((1e-7, 3e-7), [1e-7, 1.5e-7, 2e-7, 2.5e-7, 3e-7]),
    ],
)
def test_axes_have_round_numbers_that_hold_what_is_drawn(span, expected):
    assert ticks(*span) == pytest.approx(expected)


def test_a_curve_goes_where_its_numbers_are():
    falling = CurvePanel("loss", {"training": [(0, 4.0), (10, 0.0)]})
    found = places(draw_curves([falling], "epoch"), _COLORS[0])
    top, bottom = found[found[:, 0].argmin()], found[found[:, 0].argmax()]
    assert top[1] < bottom[1] and bottom[0] - top[0] == pytest.approx(250, abs=12)
    assert bottom[1] - top[1] == pytest.approx(WIDTH - 130, abs=12)
    middle = found[np.abs(found[:, 1] - (top[1] + bottom[1]) / 2) < 1][:, 0].mean()
    assert middle == pytest.approx((top[0] + bottom[0]) / 2, abs=4)


def test_a_name_has_one_colour_in_every_panel():
    panels = [
        CurvePanel("loss", {"training": [(1, 1.0), (2, 0.5)], "held out": [(2, 0.7)]}),
        CurvePanel("accuracy", {"held out": [(2, 0.5), (3, 0.5)]}, is_share=True),
    ]
    picture = draw_curves(panels, "epoch")
    lower = picture.crop((0, picture.height // 2, *picture.size))
    assert len(places(lower, _COLORS[1])) > 0 == len(places(lower, _COLORS[0]))
    assert picture.width == WIDTH and picture.mode == "RGB"


def test_one_point_and_equal_points_are_drawn_and_none_is_refused():
    for points in ([(3, 0.0)], [(1, 1.0), (2, 1.0)], [(5, -2.5)]):
        picture = draw_curves([CurvePanel("x", {"training": points})], "step")
        assert len(places(picture, _COLORS[0])) > 20
    for panels in ([], [CurvePanel("x", {"training": []})]):
        with pytest.raises(ValueError, match="at least one point"):
            draw_curves(panels, "step")
