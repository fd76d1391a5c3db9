"""Figures: nothing is cut, nothing overlaps, proportions are kept."""

import numpy as np
import pytest
from PIL import Image

from salhub.viz import ColorBar, compare, message_panel, panels
from salhub.viz.text import font_for, wrap

RED, GREEN, BLUE = "#ff0000", "#00ff00", "#0000ff"


def boxes(figure, color):
    """Bounding box (left, top, width, height) of the pixels of exactly one colour."""
    wanted = np.array([int(color[start : start + 2], 16) for start in (1, 3, 5)])
    rows, columns = np.nonzero((np.asarray(figure) == wanted).all(axis=-1))
    assert rows.size, f"nothing in {color}"
    return columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1


def has_ink(figure, left, top, right, bottom):
    return (np.asarray(figure)[top:bottom, left:right].sum(axis=-1) < 600).any()


def border_is_white(figure, width=10):
    pixels = np.asarray(figure).astype(int)
    inner = pixels[width:-width, width:-width]
    return pixels.sum() - inner.sum() == 255 * (pixels.size - inner.size)


@pytest.mark.parametrize("size", [(90, 60), (60, 90), (900, 600), (300, 20), (5, 5)])
def test_pictures_keep_their_proportions(size):
    figure = panels([(Image.new("RGB", size, RED), "a"), (Image.new("L", size), "b")], side=180)
    _, _, width, height = boxes(figure, RED)
    scale = 180 / max(size)
    assert abs(width - size[0] * scale) <= 1 and abs(height - size[1] * scale) <= 1


def test_panels_stand_in_a_row_with_captions_below():
    items = [(Image.new("RGB", (90, 60), color), "Word") for color in (RED, GREEN, BLUE)]
    figure = panels(items, side=180)
    placed = [boxes(figure, color) for color in (RED, GREEN, BLUE)]
    for (left, top, width, height), after in zip(placed, [*placed[1:], None], strict=True):
        assert top == placed[0][1]
        assert has_ink(figure, left, top + height + 2, left + width, figure.height)
        assert after is None or left + width < after[0]
    assert border_is_white(figure)


def test_title_note_and_bar_take_room_of_their_own():
    item = (Image.new("RGB", (90, 60), RED), "caption")
    plain = panels([item], side=180)
    bar = ColorBar("gray", "least", "most", "half")
    full = panels([item], title="Title", note="A note.", color_bar=bar, side=180)
    left, top, width, height = boxes(full, RED)
    assert full.height > plain.height and full.width > plain.width
    assert has_ink(full, 0, 0, full.width, top - 4)
    strip = np.asarray(full)[top : top + height, left + width + 16 : left + width + 34]
    ramp = strip[:, 9].astype(int)
    assert (ramp[:, 0] == ramp[:, 2]).all() and (np.diff(ramp[:, 0]) <= 0).all()
    assert ramp[0, 0] == 255 and ramp[-1, 0] == 0
    for share in (0.05, 0.5, 0.95):
        y = top + round(share * height)
        assert has_ink(full, left + width + 38, y - 9, full.width, y + 9)
    assert border_is_white(full)


def test_bars_say_what_the_default_colours_mean():
    assert ColorBar.for_map(signed=False).colormap == "viridis"
    assert ColorBar.for_map(signed=True).low == "against"


def test_long_words_and_captions_are_wrapped_into_the_column():
    caption = "a caption of many words that goes on " * 4 + "Donaudampfschifffahrtsgesellschaft" * 3
    first = (Image.new("RGB", (90, 60), RED), caption)
    figure = panels([first, (Image.new("RGB", (90, 60), GREEN), "")], title=caption, side=180)
    left, _, width, _ = boxes(figure, RED)
    top = boxes(figure, GREEN)[1]
    assert border_is_white(figure)
    between = np.asarray(figure)[top:, left + width + 1 : boxes(figure, GREEN)[0] - 1]
    assert (between == 255).all()


def test_wrapping_loses_no_character():
    text = "one two\nthree Donaudampfschifffahrtsgesellschaftskapitän"
    lines = wrap(text, 16, 90)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "").replace("\n", "")
    font = font_for(text, 16)
    assert all(font.getlength(line) <= 90 for line in lines)
    assert wrap("one two\nthree", 16, 500) == ["one two", "three"]
    assert wrap("", 16, 90) == []


def test_characters_nobody_can_draw_do_not_stop_a_figure():
    figure = panels([(Image.new("RGB", (90, 60), RED), "\U000f0000 猫 кот\x07")], side=180)
    assert border_is_white(figure)


def test_a_grid_has_one_row_a_photo_and_one_column_a_method():
    rows = [
        ("a cat", [Image.new("RGB", (90, 60), RED), Image.new("RGB", (90, 60), GREEN)]),
        ("a dog", [Image.new("RGB", (60, 90), BLUE), Image.new("RGB", (60, 90), "#ffff00")]),
    ]
    figure = compare(["photo", "a very long method name that wraps"], rows, side=120)
    cat, dog = boxes(figure, RED), boxes(figure, BLUE)
    assert dog[1] > cat[1] + cat[3] and boxes(figure, GREEN)[0] > cat[0] + cat[2]
    assert boxes(figure, "#ffff00")[0] == boxes(figure, GREEN)[0]
    assert has_ink(figure, *cat[:2], cat[0] + 90, cat[1] + cat[3] + 30)
    assert border_is_white(figure)


def test_one_photo_with_many_methods_is_broken_into_even_rows():
    colors = [f"#{10 * number:02x}00ff" for number in range(8)]
    pictures = [Image.new("RGB", (90, 60), color) for color in colors]
    figure = compare([f"m{n}" for n in range(8)], [("cat", pictures)], side=120, most_columns=5)
    tops = [boxes(figure, color)[1] for color in colors]
    assert len(set(tops[:4])) == 1 and len(set(tops[4:])) == 1 and tops[4] > tops[0]
    assert border_is_white(figure)


def test_a_message_fills_the_place_of_a_picture():
    panel = message_panel((300, 200), "The map is constant.")
    assert panel.size == (300, 200)
    assert has_ink(panel, 40, 60, 260, 140)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: panels([]), "at least one picture"),
        (lambda: compare([], []), "at least one column"),
        (
            lambda: compare(["a", "b"], [("x", [Image.new("L", (2, 2))])]),
            "'x' has 1 pictures for 2",
        ),
    ],
)
def test_figures_of_nothing(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
