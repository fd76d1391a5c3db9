"""Maps painted and laid over photos."""

import numpy as np
import pytest
from PIL import Image

from salhub.viz import colorize, overlay, paint, to_unit_range

PHOTO = Image.new("RGB", (8, 6), (200, 100, 50))
GREY = int(np.asarray(PHOTO.convert("L"))[0, 0])


def test_amounts_are_scaled_by_the_top_and_signs_kept():
    assert to_unit_range(np.array([0.0, 1.0, 4.0]), 100).tolist() == [0, 0.25, 1]
    assert to_unit_range(np.array([-1.0, 0.0, 4.0]), 100).tolist() == [0.375, 0.5, 1]
    assert to_unit_range(np.array([-4.0, -2.0]), 100).tolist() == [0, 0.25]
    assert to_unit_range(np.zeros(3)).tolist() == [0, 0, 0]


def test_a_few_spikes_do_not_hide_the_rest():
    saliency = np.ones((100, 100))
    saliency[0, :3] = 1000
    scaled = to_unit_range(saliency)
    assert scaled.max() == 1 and np.median(scaled) == 1
    assert np.median(to_unit_range(saliency, 100)) == pytest.approx(0.001)


def test_painting_is_the_colour_map_and_grey_outside():
    saliency = np.random.default_rng(0).random((6, 8))
    painted = np.asarray(paint(saliency))
    assert np.array_equal(painted, colorize(to_unit_range(saliency)))
    signed = saliency - 0.5
    assert np.array_equal(np.asarray(paint(signed)), colorize(to_unit_range(signed), "blue_orange"))
    boxed = np.asarray(paint(saliency, "magma", viewed_box=(2.4, 1.6, 7, 6)))
    # Pixels belong to the box when their centre does.
    assert np.array_equal(boxed[2:, 2:7], colorize(to_unit_range(saliency), "magma")[2:, 2:7])
    outside = np.ones((6, 8), bool)
    outside[2:, 2:7] = False
    assert (boxed[outside] == 226).all()


def test_colours_come_from_the_map_alone():
    saliency = np.zeros((6, 8))
    saliency[0, 0] = 1
    laid = np.asarray(overlay(PHOTO, saliency, alpha=0.75)).astype(int)
    lifted = round(45 + GREY * (255 - 45) / 255)
    assert np.abs(laid[1:] - lifted).max() <= 1
    expected = 0.25 * lifted + 0.75 * colorize(np.array([1.0]))[0]
    assert np.abs(laid[0, 0] - expected).max() <= 1
    solid = np.asarray(overlay(PHOTO, saliency, alpha=1))
    assert np.array_equal(solid[0, 0], colorize(np.array([1.0]))[0])


def test_signs_are_told_apart_over_the_photo_and_zero_stays_grey():
    saliency = np.zeros((6, 8))
    saliency[0, :4] = [1, -1, 0.2, -0.2]
    laid = np.asarray(overlay(PHOTO, saliency)).astype(int)
    redness = laid[..., 0] - laid[..., 2]
    assert redness[0, 0] > redness[0, 2] > 10 and redness[0, 1] < redness[0, 3] < -10
    assert (redness[1:] == 0).all()


def test_what_the_network_did_not_see_is_faded():
    laid = np.asarray(overlay(PHOTO, np.ones((6, 8)), viewed_box=(0, 0, 4, 6))).astype(int)
    assert np.abs(laid[:, 4:] - (0.3 * GREY + 0.7 * 255)).max() <= 1
    assert np.ptp(laid[0, 0]) > 50


def test_a_map_of_zeros_is_a_grey_photo():
    laid = np.asarray(overlay(PHOTO, np.zeros((6, 8))))
    assert np.ptp(laid) == 0


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: overlay(PHOTO, np.zeros((8, 6))), "shape (8, 6) but the photo is 6 pixels high"),
        (lambda: overlay(PHOTO, np.zeros((6, 8)), alpha=1.5), "alpha must be in [0, 1], got 1.5"),
        (lambda: overlay(PHOTO, np.zeros((1, 6, 8))), "(height, width), got (1, 6, 8)"),
        (lambda: paint(np.zeros((0, 4))), "got (0, 4)"),
        (lambda: paint(np.full((2, 2), np.nan)), "NaN or infinite"),
        (lambda: to_unit_range(np.ones(2), 0), "percentile must be in (0, 100], got 0"),
    ],
)
def test_what_cannot_be_drawn(call, sentence):
    with pytest.raises(ValueError) as raised:
        call()
    assert sentence in str(raised.value)
