"""The edited film: every picture has its crop and its time, and the sound is the very same."""

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av", reason="films need the extra 'video'")

import av

from salhub.models.editiq.film_reading import FilmFile
from salhub.models.editiq.film_rendering import render_film
from salhub.models.editiq.film_writing import (
    DEFAULT_ENCODER,
    ENCODERS,
    FilmWriter,
    created,
    write_film,
)
from tests.models.editiq.films import (
    SIZE,
    constant_film,
    number_of,
    numbered,
    packets,
    random_stamps,
    tone,
    turn,
    variable_film,
)

OUT = (256, 144)
UPPER, LOWER = (0.0, 0.0, 256.0, 32.0), (0.0, 32.0, 256.0, 64.0)

THREADS = Path("/proc/self/task")


def halves(film: FilmFile, cuts: list[int]) -> np.ndarray:
    """Crops that change at cuts between the upper and the lower half, which are (8, 1) wide."""
    place = np.searchsorted(cuts, np.arange(film.num_frames), side="right") % 2
    return np.array([UPPER, LOWER])[place]


def marked(number: int) -> np.ndarray:
    """A numbered picture that is dark blue in its lower half."""
    picture = numbered(number)
    picture[32:, :, 2] = 255
    return picture


def seen(path: Path) -> list[tuple[Fraction, int, bool]]:
    """Time of every picture, its number, and whether it is of the lower half."""
    film = FilmFile.open(path)
    found = []
    for stamp, frame in film.pictures():
        picture = frame.to_ndarray(format="rgb24")
        middle = picture[picture.shape[0] // 2 - 8 : picture.shape[0] // 2 + 8]
        is_lower = middle[..., 2].mean() > middle[..., 0].mean() + 60
        found.append((film.time_of(stamp) - film.origin, number_of(middle), bool(is_lower)))
    return found


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(25, 2)], ids=str)
def test_every_picture_is_there_at_its_time_in_its_shot(tmp_path, rate):
    source = tmp_path / "film.mp4"
    write_film(source, map(marked, range(70)), rate, tone(float(70 / rate)), encoder="mpeg4")
    film = FilmFile.open(source)
    cuts = [17, 18, 40, 69]
    for ending in (".mp4", ".mkv"):
        target = tmp_path / f"edited{ending}"
        render_film(target, film, halves(film, cuts), size=(256, 32), encoder="mpeg4")
        found = seen(target)
        lower = [np.searchsorted(cuts, k, side="right") % 2 == 1 for k in range(70)]
        assert [(k, is_lower) for _, k, is_lower in found] == list(enumerate(lower))
        # The clock of .mkv has milliseconds, and begins with what the decoder of the sound drops.
        begin = found[0][0]
        off = max(abs(time - begin - k / rate) for time, k, _ in found)
        heard, before = packets(target), packets(source)
        assert [digest for _, digest in heard] == [digest for _, digest in before]
        if ending == ".mp4":
            assert off == begin == 0 and heard == before
        else:
            assert off <= Fraction(1, 1000)
            assert abs((begin - heard[0][0]) - (0 - before[0][0])) <= Fraction(1, 1000)


def test_a_variable_rate_stays_as_it_is(tmp_path):
    stamps = random_stamps(8)
    film = FilmFile.open(variable_film(tmp_path / "film.mp4", stamps, Fraction(1, 1000)))
    cuts = [41, 100, 180]
    render_film(tmp_path / "edited.mp4", film, halves(film, cuts), size=(256, 32), encoder="mpeg4")
    edited = FilmFile.open(tmp_path / "edited.mp4")
    assert [edited.time_of(int(one)) for one in edited.stamps] == [
        film.time_of(int(one)) for one in film.stamps
    ]
    found = [number_of(one) for _, one in edited.frames()]
    assert found == [number_of(one) for _, one in film.frames()]


@pytest.mark.parametrize("encoder", sorted(ENCODERS))
def test_all_encoders_write_what_they_are_given(tmp_path, encoder):
    film = FilmFile.open(constant_film(tmp_path / "film.mp4", 12, Fraction(25)))
    crops = np.tile((0.0, 0.0, 256.0, 64.0), (12, 1))
    target = tmp_path / "edited.mp4"
    render_film(target, film, crops, size=(256, 64), encoder=encoder)
    edited = FilmFile.open(target)
    with av.open(str(target)) as container:
        kind = container.streams.video[0].codec_context.name
    assert kind in {
        "libsvtav1": ("libdav1d", "av1"),
        "libx264": ("h264",),
        "libx265": ("hevc",),
    }.get(encoder, (kind,))
    assert edited.size == (256, 64) and edited.num_frames == 12
    for number, picture in edited.frames():
        assert number_of(picture) == number
        assert np.abs(picture.astype(int) - numbered(number)).mean() < 14


@pytest.mark.skipif(
    not Path("/proc/self/task").is_dir(), reason="threads are listed on Linux alone"
)
def test_writing_a_film_leaves_no_thread_with_real_time_priority(tmp_path, monkeypatch):
    seen = []
    add = FilmWriter.add

    def noted(self, *arguments, **named):
        seen.extend(os.sched_getscheduler(int(one.name)) for one in THREADS.iterdir())
        add(self, *arguments, **named)

    monkeypatch.setattr(FilmWriter, "add", noted)
    write_film(tmp_path / "dark.mp4", [np.zeros((64, 64, 3), np.uint8)] * 3, Fraction(25))
    assert set(seen) == {os.SCHED_OTHER} and os.sched_getscheduler(0) == os.SCHED_OTHER
    with created(tmp_path / "begun by its first picture.mp4") as container:
        writer = FilmWriter(container, DEFAULT_ENCODER, (64, 64), Fraction(25), Fraction(1, 25))
        writer.add(np.zeros((96, 64), np.uint8), 0)
        writer.finish()
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_crops_lie_between_pixels_and_other_proportions_get_bars(tmp_path):
    ramp = np.tile(np.linspace(20, 235, SIZE[0])[None, :, None], (SIZE[1], 1, 3)).astype(np.uint8)
    write_film(tmp_path / "film.mp4", [ramp] * 8, Fraction(25), encoder="mpeg4")
    film = FilmFile.open(tmp_path / "film.mp4")
    original = next(film.frames())[1].astype(float)
    crops = np.array([(40.0 + 0.5 * k, 8.0, 104.0 + 0.5 * k, 44.0) for k in range(8)])
    crops[7] = (0, 0, *SIZE)
    render_film(tmp_path / "edited.mp4", film, crops, size=OUT, encoder="mpeg4")
    pictures = [p for _, p in FilmFile.open(tmp_path / "edited.mp4").frames()]
    slope = (235 - 20) / (SIZE[0] - 1)
    for k in range(7):
        middle = pictures[k][72, OUT[0] // 2 - 4 : OUT[0] // 2 + 4].mean()
        expected = original[30].mean(1)[72 : 72 + 8].mean() + (0.5 * k - 4) * slope
        assert middle == pytest.approx(expected, abs=2.5)
    wide = pictures[7]
    assert wide[:36].max() < 12 and wide[-36:].max() < 12 and wide[60].mean() > 100


def test_a_turned_film_is_cropped_as_it_is_seen(tmp_path):
    picture = np.zeros((*SIZE[::-1], 3), np.uint8)
    picture[:, :128, 0] = 220
    picture[:, 128:, 2] = 220
    write_film(tmp_path / "film.mp4", [picture] * 3, Fraction(25), encoder="mpeg4")
    turn(tmp_path / "film.mp4", 90)
    film = FilmFile.open(tmp_path / "film.mp4")
    assert film.size == (64, 256)
    crops = np.array([(0, 0, 64, 128), (0, 128, 64, 256), (0, 0, 64, 256)], float)
    render_film(tmp_path / "edited.mp4", film, crops, size=(64, 128), encoder="mpeg4")
    first, second, both = (p for _, p in FilmFile.open(tmp_path / "edited.mp4").frames())
    assert first[..., 0].mean() > 150 > 60 > first[..., 2].mean()
    assert second[..., 2].mean() > 150 > 60 > second[..., 0].mean()
    # Half as wide as the frame, in its middle, upright.
    assert both[:, :12].max() < 40 and both[20, 32, 0] > 150 and both[-20, 32, 2] > 150


def test_colours_stay_what_they_are(tmp_path):
    colors = [(250, 20, 20), (20, 250, 20), (20, 20, 250), (250, 250, 250)]
    picture = np.repeat(np.array(colors, np.uint8), 64, axis=0)[None].repeat(64, 0)
    write_film(tmp_path / "film.mp4", [picture] * 3, Fraction(25), encoder="mpeg4")
    film = FilmFile.open(tmp_path / "film.mp4")
    crops = np.tile((0.0, 0.0, 256.0, 64.0), (3, 1))
    render_film(tmp_path / "edited.mp4", film, crops, size=(512, 128))
    edited = next(FilmFile.open(tmp_path / "edited.mp4").frames())[1]
    found = edited[64, 64::128].astype(int)
    assert np.abs(found - colors).max() < 22


def test_progress_goes_up_to_the_end(tmp_path):
    film = FilmFile.open(constant_film(tmp_path / "film.mp4", 45, Fraction(25)))
    told = []
    crops = np.tile((0.0, 0.0, 256.0, 64.0), (45, 1))
    render_film(
        tmp_path / "edited.mp4",
        film,
        crops,
        size=(256, 64),
        encoder="mpeg4",
        progress=lambda *one: told.append(one),
    )
    assert told == [("render", k, 45) for k in (10, 20, 30, 40, 45)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"crops": np.zeros((4, 4))},
            "has 5 frames, but there are crops for 4; give one crop of four",
        ),
        ({"crops": np.full((5, 4), np.nan)}, "must be finite"),
        ({"crops": np.tile((0.0, 0.0, 300.0, 64.0), (5, 1))}, "lie within the picture of 256x64"),
        ({"crops": np.tile((9.0, 9.0, 9.5, 20.0), (5, 1))}, "at least two pixels"),
        ({"size": (255, 64)}, "must be even"),
        ({"encoder": "x264"}, "Did you mean 'libx264'"),
    ],
    ids=["frames", "nan", "outside", "empty", "odd", "encoder"],
)
def test_what_cannot_be_rendered_gets_a_sentence(tmp_path, change, words):
    film = FilmFile.open(constant_film(tmp_path / "film.mp4", 5, Fraction(25)))
    given = {"crops": np.tile((0.0, 0.0, 256.0, 64.0), (5, 1)), "size": (256, 64), **change}
    with pytest.raises(ValueError, match=words):
        render_film(tmp_path / "edited.mp4", film, given.pop("crops"), **given)


def test_sound_that_the_file_cannot_hold_is_said(tmp_path):
    source = tmp_path / "film.mkv"
    with av.open(str(source), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width, video.height = SIZE
        sound = container.add_stream("wavpack", rate=16_000, layout="mono")
        sound.format = "s16p"
        for k in range(5):
            frame = av.VideoFrame.from_ndarray(numbered(k), format="rgb24")
            container.mux(video.encode(frame))
        samples = np.zeros((1, 2048), np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format="s16p", layout="mono")
        frame.sample_rate, frame.pts = 16_000, 0
        for one in (sound.encode(frame), sound.encode(None), video.encode(None)):
            container.mux(one)
    film = FilmFile.open(source)
    crops = np.tile((0.0, 0.0, 256.0, 64.0), (film.num_frames, 1))
    with pytest.raises(ValueError, match=r"\.mp4 cannot hold wavpack sound; save the film as"):
        render_film(tmp_path / "edited.mp4", film, crops, size=(256, 64), encoder="mpeg4")
    render_film(tmp_path / "edited.mkv", film, crops, size=(256, 64), encoder="mpeg4")
    assert [one for _, one in packets(tmp_path / "edited.mkv")] == [
        one for _, one in packets(source)
    ]


def test_colours_of_a_film_in_red_green_and_blue_are_said(tmp_path):
    path = tmp_path / "rgb.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "bgr0"
        for number in range(3):
            picture = np.full((32, 64, 3), (200, 40, 60), np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="bgr0")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    film = FilmFile.open(path)
    crops = np.tile(np.array([0, 0, 64, 32], np.float32), (film.num_frames, 1))
    render_film(tmp_path / "new.mp4", film, crops, size=(64, 32), encoder="libsvtav1")
    _, frame = next(FilmFile.open(tmp_path / "new.mp4").pictures())
    assert (int(frame.colorspace), int(frame.color_range)) == (6, 1)
    shown = frame.to_ndarray(format="rgb24").reshape(-1, 3).mean(0)
    np.testing.assert_allclose(shown, (200, 40, 60), atol=6)
