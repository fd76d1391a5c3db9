"""The film of a contour, and the contour drawn over a picture."""

import numpy as np
import pytest
from PIL import Image, ImageColor

from salhub.models.active_contour.film import LINE, Film, draw_contours, film_size, write_film
from salhub.models.active_contour.sample_cells import draw_cells
from salhub.processing import load_image


def shrinking_disk(size=(40, 60), frames=5) -> Film:
    film = Film()
    rows, columns = np.mgrid[: size[0], : size[1]]
    for place in range(frames):
        film.add(3 * place, np.hypot(rows - 20, columns - 30) - (18 - 2.5 * place))
    return film


def test_a_frame_keeps_where_the_contour_is_to_a_tenth_of_a_pixel():
    film = shrinking_disk()
    for place in range(len(film)):
        [line] = film.lines(place, (60, 40))
        radius = np.hypot(line[:, 0] - 30.5, line[:, 1] - 20.5)
        assert np.abs(radius - (18 - 2.5 * place)).max() < 0.1
    [line], [double] = film.lines(1, (60, 40)), film.lines(1, (120, 80))
    assert np.allclose(double, 2 * line)


def test_frames_keep_the_side_of_every_pixel():
    noise = np.random.default_rng(0).standard_normal((20, 20)) * np.logspace(-6, 6, 20)
    film = Film()
    film.add(0, noise)
    assert ((film.fields[0] < 0) == (noise < 0)).all() and (film.fields[0] != 0).all()


def test_what_came_after_the_end_is_left_out():
    film = shrinking_disk()
    film.end(7)
    assert film.iterations == [0, 3, 7] and len(film.fields) == 3


def test_the_gif_has_a_frame_for_each_and_the_contour_in_its_place(tmp_path):
    path, film = tmp_path / "film.gif", shrinking_disk()
    write_film(path, Image.new("RGB", (60, 40), "#777777"), film)
    color = np.array(ImageColor.getrgb(LINE))
    with Image.open(path) as gif:
        assert gif.n_frames == 5 and gif.info["loop"] == 0
        for place in range(5):
            gif.seek(place)
            frame = np.asarray(gif.convert("RGB")).astype(int)
            rows, columns = np.nonzero(np.abs(frame - color).sum(-1) < 30)
            assert film_size((60, 40)) == (240, 160) and frame.shape[1] == 240
            radius = np.hypot(columns - 4 * 30.5, rows - 4 * 20.5) / 4
            assert len(rows) and np.median(radius) == pytest.approx(18 - 2.5 * place, abs=0.4)


def test_the_picture_does_not_flicker(tmp_path):
    picture = draw_cells()[0].crop((0, 0, 240, 200))
    write_film(tmp_path / "film.gif", picture, shrinking_disk((200, 240), frames=3))
    with Image.open(tmp_path / "film.gif") as gif:
        corners = []
        for place in range(gif.n_frames):
            gif.seek(place)
            corners.append(np.asarray(gif.convert("RGB"))[100:190, 100:])
    assert all((one == corners[0]).all() for one in corners)


def test_a_contour_is_drawn_where_it_is():
    ring = np.array([[10, 10], [50, 10], [50, 30], [10, 30], [10, 10]], dtype=float)
    drawn = np.asarray(draw_contours(Image.new("RGB", (60, 40)), [ring])).astype(int)
    color = np.array(ImageColor.getrgb(LINE))
    assert np.abs(drawn[10, 20:40] - color).max() < 60
    assert (drawn[20, 20:40] == 0).all() and (drawn[2] == 0).all()


def test_the_sample_of_cells_is_what_the_code_draws():
    drawn, mask = draw_cells()
    shipped = np.asarray(load_image("sample:cells")).astype(float)
    assert np.abs(shipped - np.asarray(drawn)).mean() < 4  # JPEG smooths the grain
    assert 0.2 < mask.mean() < 0.3
