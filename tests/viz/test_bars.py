"""Bars: as long as their shares, with labels that fit."""

import numpy as np
import pytest

from salhub.viz import bars
from salhub.viz.text import font_for, percentage, shorten

FIRST, OTHERS, TRACK = (33, 145, 140), (156, 201, 198), (236, 236, 236)


def runs(panel, color):
    """Length in pixels and place of the longest run of a colour in each of its rows."""
    is_it = (np.asarray(panel) == color).all(axis=-1)
    return {y: int(row.sum()) for y, row in enumerate(is_it) if row.any()}


def test_bars_are_as_long_as_their_shares():
    panel = bars([("a", 0.5), ("b", 0.25), ("c", 0.0)], size=(224, 200))
    assert set(runs(panel, FIRST).values()) == {101}
    assert set(runs(panel, OTHERS).values()) == {51}
    # From top to bottom, and the third is only a track.
    assert max(runs(panel, FIRST)) < min(runs(panel, OTHERS))
    assert max(runs(panel, TRACK)) > max(runs(panel, OTHERS))


@pytest.mark.parametrize("count", [1, 5, 10])
def test_every_number_of_bars_fits(count):
    panel = bars([(f"a label of some words, number {one}" * 3, 1.0) for one in range(count)])
    pixels = np.asarray(panel)
    assert panel.size == (360, 360)
    edge = np.concatenate([pixels[:, :8].ravel(), pixels[:, -8:].ravel(), pixels[-8:].ravel()])
    assert (edge == 255).all()


def test_bars_of_nothing_or_of_no_share_are_refused():
    with pytest.raises(ValueError, match="no bar"):
        bars([])
    for share in (1.5, -0.1, float("nan")):
        with pytest.raises(ValueError, match="'cat' must be in"):
            bars([("cat", share)])


def test_texts_are_cut_to_one_line():
    font = font_for("x", 16)
    assert shorten("short", 16, 90) == "short"
    cut = shorten("tiger cat, and many\nother words", 16, 90)
    assert cut.endswith("…") and cut.startswith("tiger") and font.getlength(cut) <= 90
    assert shorten("abc", 16, 0) == "…"


def test_probabilities_are_never_rounded_to_certainty():
    shown = [percentage(value) for value in (0, 0.004, 0.01, 0.624, 0.99, 0.996, 1)]
    assert shown == ["0 %", "under 1 %", "1 %", "62 %", "99 %", "over 99 %", "100 %"]
