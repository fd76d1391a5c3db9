"""Editing programs open the edit with every cut at its frame."""

import random
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("av", reason="films need the extra 'video'")
pytest.importorskip("opentimelineio", reason="timelines need the extra 'video'")

import opentimelineio as otio

from salhub.models.editiq.edit_decision import CropKeyframe, EditDecision, ShotSpan
from salhub.models.editiq.film_reading import FilmFile
from salhub.models.editiq.frame_rates import SMPTE_RATES
from salhub.models.editiq.shots import Shot
from salhub.models.editiq.timelines import (
    CameraMove,
    reel_of,
    start_time,
    to_edl,
    to_otio,
)
from tests.models.editiq.films import SIZE, constant_film, random_stamps, variable_film

SHOTS = (Shot("WIDE"), Shot("MS", ("anna",)), Shot("FS", ("anna", "ben")))
MINUTES = 10


@pytest.fixture(scope="module")
def short_film(tmp_path_factory):
    path = tmp_path_factory.mktemp("film") / "My talk.mp4"
    return FilmFile.open(constant_film(path, 5, Fraction(25)))


def edit_of(film: FilmFile, cuts: list[int]) -> EditDecision:
    bounds = pairwise([0, *cuts, film.num_frames])
    spans = tuple(ShotSpan(SHOTS[k % 3], a, b) for k, (a, b) in enumerate(bounds))
    crops = np.tile(np.array((0, 0, *SIZE), np.float32), (film.num_frames, 1))
    return EditDecision(film.frame_rate, film.num_frames, SIZE, Fraction(16, 9), spans, crops)


def ten_minutes(film: FilmFile, rate: Fraction) -> tuple[FilmFile, list[int]]:
    """A film as if it was of ten minutes, and 120 cuts in it."""
    frames = int(MINUTES * 60 * rate)
    cuts = sorted(random.Random(0).sample(range(1, frames), 120))
    return replace(film, frame_rate=rate, num_frames=frames), cuts


def clips_of(timeline):
    return [one for one in timeline.tracks[0] if isinstance(one, otio.schema.Clip)]


@pytest.mark.parametrize("start", ["00:00:00:00", "01:00:00:00", "10:59:59:00"])
@pytest.mark.parametrize("rate", SMPTE_RATES, ids=lambda rate: f"{float(rate):.5g}")
def test_no_cut_of_ten_minutes_is_off_by_a_frame(short_film, rate, start):
    film, cuts = ten_minutes(short_film, rate)
    text, notes = to_edl(edit_of(film, cuts), film, start=start)
    timeline = otio.adapters.read_from_string(text, "cmx_3600", rate=float(rate))
    clips = clips_of(timeline)
    assert [one.range_in_parent().start_time.value for one in clips] == [0, *cuts]
    assert [one.source_range.start_time.value for one in clips] == [0, *cuts]
    on_record = [
        one.transformed_time_range(one.trimmed_range(), timeline.tracks).start_time.value
        for one in clips
    ]
    assert on_record == [start_time(start, rate) + one for one in [0, *cuts]]
    assert clips[-1].range_in_parent().end_time_exclusive().value == film.num_frames
    comments = [list(one.metadata["cmx_3600"]["comments"]) for one in clips[:3]]
    assert comments == [["salhub WIDE"], ["salhub MS:anna"], ["salhub FS:anna+ben"]]
    is_dropped = rate in (Fraction(30000, 1001), Fraction(60000, 1001))
    assert f"FCM: {'' if is_dropped else 'NON-'}DROP FRAME" in text and not notes
    # Timecodes as they are counted by hand.
    first = next(line for line in text.splitlines() if line.startswith("001"))
    assert first.split()[-2].replace(";", ":") == start


@pytest.mark.parametrize("rate", [*SMPTE_RATES, Fraction(25, 2)], ids=lambda r: f"{float(r):.5g}")
def test_otio_comes_back_with_exact_rate_cuts_and_cameras(short_film, rate, tmp_path):
    film, cuts = ten_minutes(short_film, rate)
    decision = edit_of(film, cuts)
    moves = (CropKeyframe(0, 1.0, 2.0, 32.0, 18.0), CropKeyframe(99, 4.5, 2.0, 32.0, 18.0))
    cameras = [CameraMove(shot, moves) for shot in SHOTS[1:]]
    timeline = to_otio(decision, film, cameras=cameras, output_size=(1280, 720))
    otio.adapters.write_to_file(timeline, str(tmp_path / "edit.otio"))
    found = otio.adapters.read_from_file(str(tmp_path / "edit.otio"))
    assert found.is_equivalent_to(timeline)
    assert [track.name for track in found.tracks] == ["Edit", "MS:anna", "FS:anna+ben", "Sound"]
    assert [track.enabled for track in found.tracks] == [True, False, False, True]
    clips = clips_of(found)
    starts = [one.range_in_parent().start_time for one in clips]
    assert [one.value for one in starts] == [0, *cuts]
    assert {Fraction(one.rate).limit_denominator(1001) for one in starts} == {rate}
    crop = clips[1].effects[0].metadata["salhub"]
    assert clips[1].effects[0].effect_name == "salhub.crop"
    assert list(crop["output_size"]) == [1280, 720] and list(crop["frame_size"]) == list(SIZE)
    assert [one["frame"] for one in crop["keyframes"]] == [cuts[0], cuts[1] - 1]
    assert found.tracks[1][0].effects[0].metadata["salhub"]["keyframes"][1]["x"] == 4.5
    assert clips[0].media_reference.target_url.endswith("/My%20talk.mp4")


def test_a_variable_rate_does_not_drift_in_a_list_of_one_rate(tmp_path):
    stamps = random_stamps(120, seed=3)
    path = variable_film(tmp_path / "film.mkv", stamps[:40], Fraction(1, 1000))
    film = FilmFile.open(path)
    rate = film.frame_rate
    film = replace(film, stamps=stamps, num_frames=round(stamps[-1] / 1000 * rate) + 1)
    # Cuts at pictures: where they are on the grid, and in the list, is nearest to their time.
    pictures = sorted(random.Random(1).sample(range(30, len(stamps)), 50))
    cuts = [film.grid_index(int(stamps[k])) for k in pictures]
    text, notes = to_edl(edit_of(film, cuts), film)
    assert "varies" in " ".join(notes)
    timeline = otio.adapters.read_from_string(text, "cmx_3600", rate=float(rate))
    found = [one.range_in_parent().start_time.value for one in clips_of(timeline)][1:]
    assert found == cuts
    shortest = np.diff(stamps).min() / 1000
    for cut, k in zip(found, pictures, strict=True):
        assert abs(cut / rate - stamps[k] / 1000) <= 1 / (2 * rate) + 1e-9 < shortest


def test_other_rates_are_conformed_and_that_is_said(short_film):
    for rate, expected, words in (
        (Fraction(25, 2), 25, "no time changes"),
        (Fraction(10), 30, "no time changes"),
        (Fraction(29), Fraction(30000, 1001), "rounded"),
    ):
        film, cuts = ten_minutes(short_film, rate)
        text, notes = to_edl(edit_of(film, cuts), film)
        timeline = otio.adapters.read_from_string(text, "cmx_3600", rate=float(expected))
        found = [one.range_in_parent().start_time.value for one in clips_of(timeline)]
        times = [one / rate for one in [0, *cuts]]
        assert len(found) == 121 and words in notes[0]
        assert max(abs(f - t * expected) for f, t in zip(found, times, strict=True)) <= 0.5


def test_a_film_with_its_own_timecode_is_counted_on_it(short_film):
    film, cuts = ten_minutes(short_film, Fraction(25))
    film = replace(film, timecode="09:30:00:05")
    text, _ = to_edl(edit_of(film, cuts), film)
    assert "09:30:00:05" in text.splitlines()[3]
    timeline = to_otio(edit_of(film, cuts), film)
    first = timeline.tracks[0][0]
    assert first.source_range.start_time.to_timecode() == "09:30:00:05"
    assert first.media_reference.available_range.start_time.to_timecode() == "09:30:00:05"
    odd = replace(film, timecode="09:30:00:29")
    assert "is not valid at this rate; counting starts at 0" in " ".join(
        to_edl(edit_of(odd, cuts), odd)[1]
    )


def test_names_cannot_break_a_list(short_film, tmp_path):
    assert reel_of(tmp_path / "Gespräch am 1. Mai.mp4") == "GESPRCHA"
    assert reel_of(tmp_path / "über.mp4") == "BER" and reel_of(tmp_path / "中文.mp4") == "FILM"
    film = replace(short_film, path=tmp_path / "a\n999  AX V C\n.mp4")
    crops = np.zeros((5, 4), np.float32)
    spans = (ShotSpan(Shot("MS", ("an\nna",)), 0, 2), ShotSpan(Shot("WIDE"), 2, 5))
    decision = EditDecision(film.frame_rate, 5, SIZE, Fraction(16, 9), spans, crops)
    text, _ = to_edl(decision, film)
    assert sum(line[:3].isdigit() for line in text.splitlines()) == 2
    timeline = otio.adapters.read_from_string(text, "cmx_3600", rate=25)
    assert len(clips_of(timeline)) == 2


def test_a_list_with_a_thousand_shots(short_film):
    film = replace(short_film, num_frames=40_000)
    cuts = list(range(30, 30_330, 30))
    text, _ = to_edl(edit_of(film, cuts), film)
    timeline = otio.adapters.read_from_string(text, "cmx_3600", rate=25)
    assert len(cuts) == 1010
    assert [one.source_range.start_time.value for one in clips_of(timeline)] == [0, *cuts]


def test_timecodes_are_counted_by_hand():
    dropping = Fraction(30000, 1001)
    # Two numbers a minute are passed over, but for every tenth: 10 minutes are 17,982 frames.
    assert start_time("00:10:00:00", dropping) == 17_982
    assert start_time("00:00:59:29", dropping) + 1 == start_time("00:01:00:02", dropping)
    assert start_time("00:10:00:00", 2 * dropping) == 2 * 17_982
    assert start_time("01:00:00:00", Fraction(24000, 1001)) == 86_400
    for text, rate in (
        ("00:01:00:00", dropping),
        ("00:00:00:25", Fraction(25)),
        ("24:00:00:00", Fraction(25)),
        ("1:2:3", Fraction(25)),
        ("", Fraction(25)),
    ):
        with pytest.raises(ValueError, match=r"timecode|Drop frame"):
            start_time(text, rate)


def test_a_rate_that_no_list_has_is_refused(short_film):
    with pytest.raises(ValueError, match=r"list does not support 12\.5 frames per second; choose"):
        to_edl(edit_of(short_film, [2]), short_film, rate=Fraction(25, 2))
