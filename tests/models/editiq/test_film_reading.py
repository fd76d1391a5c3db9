"""Films of all kinds are read with the times that they give their pictures."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av", reason="films need the extra 'video'")

import av

from salhub.models.editiq.film_reading import FilmFile
from salhub.models.editiq.film_writing import FilmWriter, created, write_film
from salhub.models.editiq.frame_rates import SMPTE_RATES, smpte_rate
from salhub.models.editiq.frame_source import FrameSource
from tests.conftest import DATA
from tests.models.editiq.films import (
    SIZE,
    constant_film,
    number_of,
    numbered,
    random_stamps,
    tone,
    turn,
    variable_film,
)

RATES = [Fraction(24000, 1001), Fraction(25), Fraction(30000, 1001), Fraction(25, 2), Fraction(10)]


@pytest.mark.parametrize("rate", RATES, ids=str)
@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".avi", ".mov"])
def test_a_constant_rate_is_exact_and_every_picture_has_its_number(tmp_path, rate, ending):
    film = FilmFile.open(constant_film(tmp_path / f"film{ending}", 30, rate))
    assert (film.frame_rate, film.num_frames, film.is_variable) == (rate, 30, False)
    assert film.size == SIZE and film.has_sound and film.warnings == ()
    assert isinstance(film, FrameSource)
    assert [(k, number_of(one)) for k, one in film.frames()] == [(k, k) for k in range(30)]


def test_a_rate_that_no_clock_of_milliseconds_can_say_is_found_over_seconds(tmp_path):
    rates = [Fraction(24000, 1001), Fraction(24), Fraction(60000, 1001), Fraction(60)]
    for rate in rates:
        stamps = [round(k / rate * 1000) for k in range(420)]
        path = variable_film(tmp_path / "film.mkv", stamps, Fraction(1, 1000))
        film = FilmFile.open(path)
        assert film.frame_rate == rate and not film.is_variable


def test_a_variable_rate_keeps_the_time_of_every_picture(tmp_path):
    stamps = random_stamps(8)
    for ending in (".mp4", ".mkv"):
        film = FilmFile.open(variable_film(tmp_path / f"film{ending}", stamps, Fraction(1, 1000)))
        assert film.is_variable and "varies" in film.warnings[0]
        assert [float(film.time_of(int(one))) for one in film.stamps] == [
            pytest.approx(one / 1000, abs=1e-9) for one in stamps
        ]
        # Half a tick of the grid is less than the shortest picture, so that none is passed over.
        assert film.frame_rate == 30 and (np.diff(film.grid_indices) >= 1).all()
        away = film.grid_indices / 30 - stamps / 1000
        assert np.abs(away).max() <= 1 / 60 + 1e-9
        # At every tick stands the last picture whose tick has come.
        shown = [number_of(one) for _, one in film.frames()]
        expected = np.searchsorted(film.grid_indices, np.arange(film.num_frames), side="right") - 1
        assert shown == expected.tolist()


def test_times_that_tremble_are_no_variable_rate(tmp_path):
    trembling = np.arange(100) * 3003 + np.random.default_rng(0).integers(-200, 200, 100)
    stamps = trembling - trembling[0]
    film = FilmFile.open(variable_film(tmp_path / "film.mkv", stamps // 90, Fraction(1, 1000)))
    assert film.frame_rate == Fraction(30000, 1001) and not film.is_variable
    assert film.grid_indices.tolist() == list(range(100))


@pytest.mark.parametrize("encoder", ["libx264", "libvpx-vp9", "libsvtav1", "mpeg4"])
def test_few_pictures_of_a_long_film_are_those_of_all(tmp_path, encoder):
    path = tmp_path / ("film.webm" if encoder == "libvpx-vp9" else "film.mp4")
    with created(path) as container:
        writer = FilmWriter(container, encoder, SIZE, Fraction(25), Fraction(1, 25))
        writer.stream.codec_context.gop_size = 40
        for k in range(300):
            frame = av.VideoFrame.from_ndarray(numbered(k), format="rgb24")
            writer.add(frame.to_ndarray(format="yuv420p"), k)
        writer.finish()
    film = FilmFile.open(path)
    for start, stop, step in ((0, None, 70), (5, None, 99), (0, 30, 7), (299, None, 1)):
        expected = list(range(300))[start:stop:step]
        found = [(k, number_of(p)) for k, p in film.frames(64, start=start, stop=stop, step=step)]
        assert found == [(k, k) for k in expected]


def test_small_pictures_are_in_proportion_and_never_larger(tmp_path):
    film = FilmFile.open(constant_film(tmp_path / "film.mp4", 3, Fraction(25)))
    assert next(film.frames(96))[1].shape == (24, 96, 3)
    assert next(film.frames(9999))[1].shape == (64, 256, 3)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_film_of_a_turned_phone_is_upright(tmp_path, degrees):
    path = tmp_path / "film.mp4"
    picture = np.zeros((*SIZE[::-1], 3), np.uint8)
    picture[:32, :128] = (250, 0, 0)  # top left
    picture[32:, 128:] = (0, 0, 250)  # bottom right
    picture[:32, 128:] = (0, 250, 0)  # top right
    write_film(path, [picture] * 3, Fraction(25), encoder="mpeg4")
    turn(path, degrees)
    film = FilmFile.open(path)
    upright = np.rot90(picture, -degrees // 90)
    assert film.size == upright.shape[1::-1]
    for width, expected in ((None, upright), (film.size[0] // 2, upright[::2, ::2])):
        found = next(film.frames(width))[1]
        assert found.shape == expected.shape
        assert np.abs(found.astype(int) - expected).mean() < 12


def test_pictures_of_stretched_pixels_are_wide(tmp_path):
    path = tmp_path / "film.mkv"
    with created(path) as container:
        writer = FilmWriter(container, "mpeg4", SIZE, Fraction(25), Fraction(1, 25))
        writer.stream.codec_context.sample_aspect_ratio = Fraction(3, 2)
        frame = av.VideoFrame.from_ndarray(numbered(7), format="rgb24")
        writer.add(frame.to_ndarray(format="yuv420p"), 0)
        writer.finish()
    film = FilmFile.open(path)
    assert film.size == (384, 64) and next(film.frames())[1].shape == (64, 384, 3)


def test_a_stream_that_begins_late_begins_at_its_first_picture(tmp_path):
    path = tmp_path / "film.ts"
    with created(path) as container:
        writer = FilmWriter(container, "mpeg4", SIZE, Fraction(25), Fraction(1, 25))
        for k in range(20):
            frame = av.VideoFrame.from_ndarray(numbered(k), format="rgb24")
            writer.add(frame.to_ndarray(format="yuv420p"), k + 50)
        writer.finish()
    film = FilmFile.open(path)
    assert film.origin > 1 and film.lead == 0
    assert (film.num_frames, film.frame_rate) == (20, 25)
    assert [number_of(one) for _, one in film.frames()] == list(range(20))


def test_the_fingerprint_is_of_the_content_and_not_of_the_place(tmp_path):
    first = constant_film(tmp_path / "a.mp4", 10, Fraction(25))
    copy = tmp_path / "b.mp4"
    copy.write_bytes(first.read_bytes())
    other = constant_film(tmp_path / "c.mp4", 11, Fraction(25))
    digests = [FilmFile.open(one).fingerprint() for one in (first, copy, other)]
    assert digests[0] == digests[1] != digests[2]


def test_a_single_picture_and_an_animation_are_films(tmp_path):
    film = FilmFile.open(constant_film(tmp_path / "one.mp4", 1, Fraction(25), sound=False))
    assert film.num_frames == 1 and film.warnings == ("The film has no sound.",)
    clip = DATA / "video" / "classroom.gif"
    if not clip.is_file():
        pytest.skip(f"the clips are not in {clip.parent}; set SALHUB_DATA to its parent")
    film = FilmFile.open(clip)
    assert film.size == (480, 270) and film.num_frames == len(film.stamps) == 45


def test_a_real_clip_is_read(tmp_path):
    clip = DATA / "video" / "one-by-one-person-detection.mp4"
    if not clip.is_file():
        pytest.skip(f"the clips are not in {clip.parent}; set SALHUB_DATA to its parent")
    film = FilmFile.open(clip)
    assert (film.size, film.frame_rate, film.num_frames) == ((768, 432), 10, 1394)
    few = dict(film.frames(96, stop=400, step=80))
    for k, picture in film.frames(96, stop=321):
        if k in few:
            np.testing.assert_array_equal(picture, few[k])


# --- what is no film ------------------------------------------------------------------------------


def _cut_short(path: Path) -> None:
    write_film(path, map(numbered, range(400)), Fraction(25), tone(16), encoder="mpeg4")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _only_sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        samples, rate = tone(1)
        frame = av.AudioFrame.from_ndarray(samples[None, :1024], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _damaged(path: Path) -> None:
    write_film(path, map(numbered, range(200)), Fraction(25), encoder="libx264")
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat")
    data[start + 8 : start + 4000] = bytes(3992)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_bytes(b"no film " * 100), "is not a readable film, or is damaged"),
        (_cut_short, "cut short: it holds"),
        (_only_sound, "only sound"),
        (_damaged, "decoded|damaged"),
    ],
    ids=["empty", "garbage", "cut", "sound", "damaged"],
)
def test_what_is_no_film_gets_a_sentence_with_its_path(tmp_path, make, words):
    path = tmp_path / "film.mp4"
    make(path)
    with pytest.raises(ValueError, match=words) as error:
        list(FilmFile.open(path).frames(64))
    assert str(path) in str(error.value) and str(error.value).endswith(".")


def test_no_file_and_a_folder_are_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="no film at"):
        FilmFile.open(tmp_path / "film.mp4")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        FilmFile.open(tmp_path)


def test_rates_of_editing_programs():
    multiples = {Fraction(25, 2): 25, Fraction(10): 30, Fraction(15): 30, Fraction(12): 24}
    for rate, expected in multiples.items():
        assert smpte_rate(rate) == expected
    for rate in SMPTE_RATES:
        assert smpte_rate(rate) == rate
    assert smpte_rate(Fraction(2263, 100)) == Fraction(24000, 1001)
