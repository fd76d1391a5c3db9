"""Colour maps: even steps, ordered lightness, readable without red-green vision."""

import numpy as np
import pytest

from salhub.errors import UnknownNameError
from salhub.viz import COLORMAPS, DIVERGING, SEQUENTIAL, colorize

RAMP = np.linspace(0, 1, 256)
SEQUENTIAL_MAPS = [name for name in COLORMAPS if name != DIVERGING]

# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
BLINDNESS = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}


def linear(colors):
    values = colors / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def cielab(linear_rgb):
    """CIE 1976 L*a*b*, channel by channel."""
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    ratios = np.clip(linear_rgb, 0, 1) @ to_xyz.T / [0.9505, 1.0, 1.089]
    cubic = np.where(ratios > 216 / 24389, np.cbrt(ratios), (24389 / 27 * ratios + 16) / 116)
    x, y, z = cubic.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


@pytest.mark.parametrize("name", SEQUENTIAL_MAPS)
def test_amounts_get_lighter_in_even_steps(name):
    lab = cielab(linear(colorize(RAMP, name)))
    assert (np.diff(lab[::4, 0]) > 0).all()
    steps = np.linalg.norm(np.diff(lab[::16], axis=0), axis=1)
    assert steps.max() / steps.min() < 1.4


@pytest.mark.parametrize("blindness", BLINDNESS)
@pytest.mark.parametrize("name", SEQUENTIAL_MAPS)
def test_amounts_stay_ordered_without_red_green_vision(name, blindness):
    seen = linear(colorize(RAMP[::8], name)) @ np.transpose(BLINDNESS[blindness])
    assert (np.diff(cielab(seen)[:, 0]) > 0.3).all()


def test_the_sign_is_told_by_hue_and_the_size_by_lightness():
    lab = cielab(linear(colorize(RAMP, DIVERGING)))
    lightness = lab[:, 0]
    assert (np.diff(lightness[:128:4]) > 0).all() and (np.diff(lightness[128::4]) < 0).all()
    assert np.abs(lightness - lightness[::-1]).max() < 5
    middle = colorize(np.array([0.5]), DIVERGING)[0].astype(int)
    assert middle.min() > 235 and np.ptp(middle) < 8


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_the_sign_is_seen_without_red_green_vision(blindness):
    seen = cielab(linear(colorize(RAMP, DIVERGING)) @ np.transpose(BLINDNESS[blindness]))
    # Equal sizes of opposite sign, from a fifth of the top value on.
    distances = np.linalg.norm(seen - seen[::-1], axis=1)
    assert distances[:102].min() > 20


def test_viridis_and_magma_pass_through_the_colours_people_know():
    assert colorize(np.array([0.0, 1.0])).tolist() == [[0x44, 0x01, 0x54], [0xFD, 0xE7, 0x25]]
    colormaps = pytest.importorskip("matplotlib", reason="it comes with 'dev'").colormaps
    for name in ("viridis", "magma"):
        known = cielab(linear(colormaps[name](RAMP)[:, :3] * 255))
        ours = cielab(linear(colorize(RAMP, name)))
        distances = np.linalg.norm(ours[:, None] - known[None], axis=-1)
        assert distances.min(axis=1).max() < 5


def test_shapes_and_rounding():
    assert colorize(np.zeros((2, 3, 4))).shape == (2, 3, 4, 3)
    assert colorize(np.array([0.5]), "gray").dtype == np.uint8
    assert colorize(np.array([0.0, 0.4999, 1.0]), "gray")[:, 0].tolist() != [0, 0, 0]
    assert SEQUENTIAL in COLORMAPS and DIVERGING in COLORMAPS


@pytest.mark.parametrize(
    ("values", "sentence"),
    [([-0.1, 1], "got -0.1 to 1;"), ([0, 1.5], "got 0 to 1.5;"), ([np.nan, 1], "1 to 1 and NaN")],
)
def test_values_that_have_no_colour(values, sentence):
    with pytest.raises(ValueError) as raised:
        colorize(np.array(values))
    assert sentence in str(raised.value) and "to_unit_range" in str(raised.value)


def test_an_unknown_map():
    with pytest.raises(UnknownNameError, match="Did you mean 'viridis'"):
        colorize(np.zeros(1), "viridsi")
