"""A film and its transcript go in, and a film, a timeline and subtitles come out."""

import json
import os
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import salhub

pytest.importorskip("av", reason="films need the extra 'video'")

import opentimelineio as otio

from salhub.cli import app
from salhub.errors import ModelNotFoundError
from salhub.models.editiq.actor_tracks import ActorTracks
from salhub.models.editiq.film_reading import FilmFile
from salhub.models.editiq.film_writing import write_film
from salhub.models.editiq.stage_sample import sample_seed
from salhub.models.editiq.stage_scene import make_stage_scene
from salhub.models.editiq.subtitles import read_transcript
from tests.conftest import DATA
from tests.models.editiq.films import constant_film, packets, turn

NAME = "editiq-stage"
SMALL = (640, 180)


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    """What is kept between runs goes into a folder of the tests."""
    from salhub.models.editiq import pipeline_editiq, stage_sample

    home = str(tmp_path_factory.mktemp("home"))
    with pytest.MonkeyPatch.context() as patch:
        for module in (pipeline_editiq, stage_sample):
            patch.setattr(module, "HF_HOME", home)
        yield home


@pytest.fixture(scope="module")
def pipe():
    return salhub.pipeline(NAME)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A scene of ten seconds as files: film, subtitles and tracks, called alike."""
    scene = make_stage_scene(4, 2, seconds=10, size=SMALL)
    folder = tmp_path_factory.mktemp("scene")
    scene.save(folder)
    return scene, folder / "scene.mp4"


@pytest.fixture(scope="module")
def edited(pipe, scene):
    _, path = scene
    return pipe(
        str(path), transcript=str(path.with_suffix(".srt")), tracks=str(path.with_suffix(".npz"))
    )


def test_a_film_is_edited_and_comes_out_in_all_forms(edited, scene, tmp_path):
    drawn, path = scene
    assert len(edited.decision.spans) > 1 and edited.names == drawn.names
    assert edited.summary().startswith(
        " ".join([*edited.warnings, f"{len(edited.decision.spans)}"])
    )
    folder = edited.save(tmp_path / "all")
    names = {one.name for one in folder.iterdir()}
    assert names == {f"result.{e}" for e in ("mp4", "otio", "edl", "srt", "json", "npz")} | {
        "plot.png"
    }
    film = FilmFile.open(folder / "result.mp4")
    assert film.size == (1280, 720) and film.num_frames == drawn.num_frames
    assert packets(folder / "result.mp4") == packets(path)
    found = json.loads((folder / "result.json").read_text())
    cuts = [one["frames"][0] for one in found["shots"]]
    timeline = otio.adapters.read_from_file(str(folder / "result.otio"))
    clips = list(timeline.tracks[0])
    assert [one.range_in_parent().start_time.value for one in clips] == cuts
    assert [one.name.split(" ", 1)[1] for one in clips] == [one["shot"] for one in found["shots"]]
    cameras = [one.name for one in timeline.tracks if not one.enabled]
    assert cameras == [shot.name for shot in edited.edit.rushes.shots if shot.actors]
    # 12.5 frames a second are counted as 25.
    again = otio.adapters.read_from_string(
        (folder / "result.edl").read_text(), "cmx_3600", rate=25.0
    )
    starts = [one.range_in_parent().start_time.value for one in again.tracks[0]]
    assert starts == [2 * one for one in cuts]
    assert "no time changes" in edited.edl_notes[0]
    # Subtitles are of the same lines, and tracks go in again.
    lines = read_transcript(folder / "result.srt", edited.names).utterances
    assert [(one.speaker, one.text) for one in lines] == [
        (one.speaker, one.text) for one in drawn.transcript.utterances
    ]
    np.testing.assert_array_equal(
        ActorTracks.read(folder / "result.npz").boxes, edited.edit.tracks.boxes
    )


def test_every_picture_of_the_film_is_of_its_shot(edited, tmp_path):
    small = edited.resized((320, 180))
    film = FilmFile.open(small.render(tmp_path / "edited.mp4"))
    rushes = dict(edited.film.frames())
    from salhub.models.editiq.timeline_picture import cropped

    off, other = [], []
    for tick, picture in film.frames():
        crops = {
            span.shot.name: edited.edit.rushes.crops[
                edited.edit.rushes.shots.index(span.shot), tick
            ]
            for span in edited.decision.spans
        }
        own = edited.decision.span_at(tick).shot.name
        differences = {
            name: float(
                np.abs(
                    np.asarray(cropped(rushes[tick], crop, SMALL[0], (320, 180)), float) - picture
                ).mean()
            )
            for name, crop in crops.items()
        }
        off.append(differences.pop(own))
        other.append(min(differences.values()))
    assert max(off) < 8 < 10 < min(other)


def test_stages_are_taken_from_an_earlier_run(pipe, scene):
    _, path = scene
    given = {"transcript": str(path.with_suffix(".srt")), "cast": "anna,ben"}
    told = []
    first = pipe(str(path), **given, progress=lambda *one: told.append(one))
    assert first.resumed == () and first.edit.tracks.source == "static-camera"
    stages = list(dict.fromkeys(stage for stage, _, _ in told))
    assert stages == ["tracks", "saliency", "rushes", "dialogue", "edit"]
    assert all(done <= total for _, done, total in told if total is not None)
    told.clear()
    again = pipe(str(path), **given, longest_shot=4.0, progress=lambda *one: told.append(one))
    assert again.resumed == ("tracks", "saliency", "rushes")
    assert {"tracks", "saliency"}.isdisjoint(stage for stage, _, _ in told)
    assert pipe(str(path), **given, resume=False).resumed == ()
    assert again.edit.config.longest_shot == 4.0 and first.edit.config.longest_shot == 10.0


def test_a_run_that_was_stopped_goes_on_where_it_was(pipe, scene, tmp_path):
    _, path = scene

    class Stopped(Exception):
        pass

    def stop(stage, done, total):
        if stage == "saliency":
            raise Stopped

    given = {"cast": ["anna", "ben"], "resume": str(tmp_path)}
    with pytest.raises(Stopped):
        pipe(str(path), **given, progress=stop)
    whole = pipe(str(path), **given)
    assert whole.resumed == ("tracks",)
    fresh = pipe(str(path), cast=["anna", "ben"], resume=False)
    assert whole.decision.spans == fresh.decision.spans
    np.testing.assert_array_equal(whole.decision.crops, fresh.decision.crops)


def test_demanded_shots_are_on_screen(pipe, scene):
    _, path = scene
    result = pipe(str(path), tracks=str(path.with_suffix(".npz")), locks="4.0-6.0=MS:ben")
    frames = range(int(4.0 * 12.5) + 1, int(6.0 * 12.5) - 1)
    assert {result.decision.span_at(k).shot.name for k in frames} == {"MS:ben"}
    assert "no dialogue" in result.summary()


def test_the_sample_is_the_same_each_time(pipe):
    assert [sample_seed(one) for one in ("sample:stage", "sample:stage-7", "a.mp4")] == [4, 7, None]
    result = pipe("sample:stage")
    again = pipe("sample:stage", resume=False)
    assert result.decision.spans == again.decision.spans and not result.warnings
    assert result.film.path.name == "stage-4.mp4" and len(result.transcript.utterances) > 5
    with pytest.raises(ValueError, match="no sample film 'sample:cat'"):
        pipe("sample:cat")


def test_salhub_run_takes_what_lies_beside_the_film(scene, tmp_path):
    _, path = scene
    runner = CliRunner()
    target = tmp_path / "edited.edl"
    done = runner.invoke(app, ["run", NAME, str(path), "-o", str(target)])
    assert done.exit_code == 0, done.output
    assert f"Using {path.with_suffix('.srt')} as transcript" in done.output
    assert "as tracks" in done.output and target.read_text().startswith("TITLE: scene")
    named = [
        *["run", NAME, str(path), "--transcript", str(path.with_suffix(".srt"))],
        *["-o", str(tmp_path / "edited.mp4"), "size=320x180", "encoder=mpeg4", "longest_shot=5"],
    ]
    done = runner.invoke(app, named)
    assert done.exit_code == 0, done.output
    assert FilmFile.open(tmp_path / "edited.mp4").size == (320, 180)


def test_a_film_for_telephones(pipe, scene, tmp_path):
    _, path = scene
    result = pipe(str(path), tracks=str(path.with_suffix(".npz")), aspect_ratio="9:16")
    assert result.size == (720, 1280)


def test_a_portrait_film_without_sound_is_edited_and_both_are_said(pipe, tmp_path):
    scene = make_stage_scene(1, 2, seconds=6, size=(180, 320))
    path = tmp_path / "portrait.mp4"
    write_film(path, (p for _, p in scene.frames()), scene.frame_rate, encoder="mpeg4")
    result = pipe(str(path), tracks=scene.tracks, transcript=scene.transcript, resume=False)
    assert "The film has no sound." in result.warnings
    width, height = result.film.size
    crops = result.decision.crops
    assert crops.min() >= 0 and crops[:, 2].max() <= width and crops[:, 3].max() <= height
    film = FilmFile.open(result.resized((320, 180)).render(tmp_path / "edited.mp4"))
    assert film.num_frames == scene.num_frames and not film.has_sound
    turned = tmp_path / "turned.mp4"
    turned.write_bytes(path.read_bytes())
    turn(turned, 90)
    assert FilmFile.open(turned).size == (320, 180)


# --- bad input ------------------------------------------------------------------------------------

LATE = "1\n00:00:01,000 --> 00:00:02,000\nANNA: Hi\n\n2\n00:39:58,000 --> 00:39:59,000\nANNA: Bye\n"
FOREIGN = "1\n00:00:01,000 --> 00:00:02,000\nANA: Hi\n\n2\n00:00:03,000 --> 00:00:04,000\nZOE: Hi\n"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"transcript": LATE}, "begin after the film's end"),
        ({"transcript": FOREIGN}, "not in the cast: ANA, ZOE; the cast is anna, ben"),
        (
            {"tracks": np.zeros((2, 7, 4), np.float32)},
            "The tracks have 7 frames, but the film has 125|is empty",
        ),
        ({"cast": ["anna"]}, "1 names? .*2 people"),
        ({"cast": 3}, "names from left to right"),
        ({"locks": "4-3=MS:ben"}, "s; it must begin at 0 or later, and end after it begins"),
        ({"locks": "2-4=MS:ben,3-5=MS:anna"}, "overlap at 3"),
        ({"locks": "2-4=MS:carl"}, "names carl, who is not in the cast"),
        ({"locks": "12-14=WIDE"}, "after the end of the film at 10.0 s"),
        ({"locks": "now"}, "' is not a lock; write it as '12"),
        ({"size": "1280"}, "size must look like 1280x720, got"),
        ({"size": "1281x720"}, "must be even"),
        ({"encoder": "h264"}, "encoder must be one of"),
        ({"edl_rate": "23.98x"}, "edl_rate must be a number"),
        ({"start_timecode": "10:61:00:00"}, "frames per second; write hours, minutes, seconds and"),
        ({"longest_shots": 3}, "Did you mean 'longest_shot'"),
        ({"transcript": 3}, "must be a file or a Transcript"),
        ({"transcript": ""}, "is empty; leave the transcript out"),
        ({"cast": "Anna,ANNA"}, "Two people are called Anna and ANNA"),
        ({"cast": "Anna + Ben,Carl"}, "cannot be an actor's name"),
        ({"locks": 5}, "locks must be texts such as"),
        ({"locks": [5]}, "locks must be texts such as"),
        ({"locks": "2-4=FS:ben"}, "set full_shots=True"),
        ({"edl_rate": "1/0"}, "edl_rate must be a number"),
        ({"edl_rate": 15}, "An edit decision list does not support"),
        ({"edl_rate": -25}, "does not support -25"),
        ({"start_timecode": "10:00:00:25"}, "' is not a timecode at 25 frames per second; write"),
        ({"start_timecode": "00:01:00:00", "edl_rate": 29.97}, "begin at 00:01:00:02"),
        ({"detector": "yolo"}, "detector must be a function of a picture"),
        ({"understand": 5}, "understand must be a function of lines"),
        ({"saliency_maps": "maps"}, "for a model use saliency=NAME"),
        ({"saliency_maps": np.ones((4, 5))}, r"maps have the shape \(4, 5\)"),
        ({"resume": 5}, "resume must be True, False or a folder"),
        ({"minimum_shot": 20}, "minimum_shot must be below longest_shot, got 20 and 10"),
    ],
    ids=lambda one: next(iter(one)) if isinstance(one, dict) else None,
)
def test_bad_input_gets_its_sentence_before_any_work(pipe, scene, tmp_path, given, words):
    _, path = scene
    call = {"tracks": str(path.with_suffix(".npz")), "resume": False, **given}
    if isinstance(call.get("transcript"), str):
        (tmp_path / "talk.srt").write_text(call["transcript"])
        call["transcript"] = tmp_path / "talk.srt"
    told = []
    with pytest.raises((ValueError, TypeError), match=words):
        pipe(str(path), **{"progress": lambda *one: told.append(one), **call})
    assert not [one for one in told if one[0] in ("tracks", "saliency") and one[1]]


def test_films_that_are_none(pipe, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.mp4 is empty"):
        pipe(str(tmp_path / "a.mp4"))
    with pytest.raises(FileNotFoundError, match="no film at"):
        pipe(str(tmp_path / "b.mp4"))
    one = constant_film(tmp_path / "one.mp4", 1, Fraction(25), sound=False)
    with pytest.raises(
        ValueError, match="The film has only one frame, so there is nothing to edit"
    ):
        pipe(str(one), resume=False)


def test_a_saliency_model_that_is_not_there_is_missed_before_the_film_is_read(pipe, scene):
    told = []
    with pytest.raises(
        ModelNotFoundError,
        match="no model, method or folder 'no-such-model'; `salhub list` shows the",
    ):
        pipe(str(scene[1]), saliency="no-such-model", resume=False,
             progress=lambda *one: told.append(one))  # fmt: skip
    assert not told


def test_a_film_is_a_file(pipe):
    with pytest.raises(
        TypeError, match="A film must be a file, a FilmFile or 'sample:stage', got None"
    ):
        pipe(None)


def test_the_film_itself_is_never_written_over(pipe, scene, tmp_path):
    _, path = scene
    own = tmp_path / "result.mp4"
    own.write_bytes(path.read_bytes())
    result = pipe(str(own), tracks=str(path.with_suffix(".npz")))
    (tmp_path / "other.mp4").symlink_to(own)
    for target in (own, tmp_path / "other.mp4", tmp_path):
        with pytest.raises(
            ValueError, match="is the original film; give the new film another name"
        ):
            result.save(target)
    with pytest.raises(ValueError, match="is the original film; give the new film another name"):
        result.render(own)
    assert own.read_bytes() == path.read_bytes()
    assert {one.name for one in tmp_path.iterdir()} == {"result.mp4", "other.mp4"}


@pytest.mark.parametrize(("written", "meant"), [(23.976, 24000), ("23.98", 24000), (29.97, 30000)])
def test_rates_that_people_say_are_the_exact_ones(pipe, scene, written, meant):
    _, path = scene
    result = pipe(str(path), tracks=str(path.with_suffix(".npz")), edl_rate=written)
    assert result.delivery.edl_rate == Fraction(meant, 1001)
    assert "CUT" not in result.to_edl() and result.to_edl().count("\n001 ") == 1


def test_a_timecode_is_checked_at_the_rate_of_the_film(pipe, scene):
    _, path = scene
    # 12.5 frames a second are counted as 25, so that there is a frame 24.
    result = pipe(str(path), tracks=str(path.with_suffix(".npz")), start_timecode="10:00:00:24")
    assert "10:00:00:24" in result.to_edl()


def test_films_that_another_process_forgets_meanwhile_are_no_failure(
    pipe, scene, own_cache, monkeypatch
):
    _, path = scene
    home = Path(own_cache) / "salhub" / "editiq"
    old = [home / f"old-{number:02}" for number in range(34)]
    for folder in old:
        folder.mkdir(parents=True)
        (folder / "tracks.npz").touch()
        os.utime(folder, (1, 1))
    iterdir, glob = Path.iterdir, Path.glob

    def listed(folder):
        entries = list(iterdir(folder))
        if folder == home:
            shutil.rmtree(old[-1])
        return iter(entries)

    def found(folder, pattern):
        entries = list(glob(folder, pattern))
        if folder in old and folder.exists():
            shutil.rmtree(folder)
        return iter(entries)

    monkeypatch.setattr(Path, "iterdir", listed)
    monkeypatch.setattr(Path, "glob", found)
    assert pipe(str(path), tracks=str(path.with_suffix(".npz"))).names
    assert len(list(iterdir(home))) == 32


def test_tracks_may_be_a_table_beside_the_film(pipe, scene, tmp_path):
    drawn, path = scene
    boxes = drawn.tracks.boxes
    rows = ["name,frame,x1,y1,x2,y2"]
    for name, own in zip(drawn.names, boxes, strict=True):
        # A detector that looks at every third picture.
        rows += [f"{name},{k},{','.join(map(str, own[k].tolist()))}" for k in range(0, 125, 3)]
    film, table = tmp_path / "talk.mp4", tmp_path / "talk-tracks.csv"
    film.write_bytes(path.read_bytes())
    table.write_text("\n".join(rows))
    done = CliRunner().invoke(app, ["run", NAME, str(film), "-o", str(tmp_path / "edited.edl")])
    assert done.exit_code == 0 and f"Using {table} as tracks" in done.output
    given = pipe(str(film), tracks=table, resume=False)
    assert given.names == drawn.names
    assert np.abs(given.edit.rushes.boxes - boxes).max() < 12
    # Those who are missing between two boxes draw the eye as ever.
    exact = pipe(str(film), tracks=drawn.tracks, resume=False).edit.material.measured.shares
    np.testing.assert_allclose(given.edit.material.measured.shares, exact, atol=0.1)


def test_subtitles_of_nothing_are_refused(pipe, scene, tmp_path):
    _, path = scene
    result = pipe(str(path), tracks=str(path.with_suffix(".npz")))
    with pytest.raises(ValueError, match="There are no subtitles to save, because there was no"):
        result.save(tmp_path / "a.srt")


def test_a_real_clip_goes_through_everything(pipe, tmp_path):
    clip = DATA / "video" / "one-by-one-person-detection.mp4"
    if not clip.is_file():
        pytest.skip(f"the clips are not in {clip.parent}; set SALHUB_DATA to its parent")
    # Its first twenty seconds.
    film = FilmFile.open(clip)
    path = tmp_path / "clip.mp4"
    pictures = (picture for _, picture in film.frames(384, stop=200))
    write_film(path, pictures, film.frame_rate, encoder="mpeg4")
    result = pipe(str(path), resume=False)
    assert result.edit.tracks.source == "static-camera" and len(result.names) >= 1
    target = FilmFile.open(result.resized((320, 180)).render(tmp_path / "edited.mp4"))
    assert target.num_frames == 200 and len(result.decision.spans) > 1
