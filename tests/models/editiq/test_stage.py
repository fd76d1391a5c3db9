"""The drawn stage, what moves on it, and the tracker that looks for people there."""

import json
import time
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from scipy.ndimage import binary_closing

from salhub.models.editiq.configuration_editiq import EditIQConfig
from salhub.models.editiq.film_saliency import saliency_of_film
from salhub.models.editiq.frame_source import FrameSource
from salhub.models.editiq.modeling_editiq import EditIQModel
from salhub.models.editiq.stage_scene import StageScene, make_stage_scene
from salhub.models.editiq.stage_script import Gesture, Script
from salhub.models.editiq.static_tracker import (
    StaticCameraTracker,
    _closed,
    _Person,
    track_by_detector,
)
from tests.models.editiq.small_scenes import BlankFilm, standing, two_lines


@pytest.fixture(scope="module")
def scene():
    return make_stage_scene(3, 2, seconds=12.0, size=(640, 180), frame_rate=Fraction(10))


def test_a_scene_is_drawn_anew_each_time_and_always_alike(scene):
    again = make_stage_scene(3, 2, seconds=12.0, size=(640, 180), frame_rate=Fraction(10))
    assert isinstance(scene, FrameSource) and scene.num_frames == 120
    assert (scene.picture(40) == again.picture(40)).all()
    assert not (scene.picture(40) == scene.picture(41)).all()
    assert again.truth() == scene.truth() and again.fingerprint() == scene.fingerprint()
    assert make_stage_scene(4, 2, seconds=12.0).fingerprint() != scene.fingerprint()
    numbers = [frame for frame, _ in scene.frames(160, start=3, stop=30, step=9)]
    assert numbers == [3, 12, 21]
    assert next(scene.frames(160))[1].shape == (45, 160, 3)


def test_people_are_where_their_boxes_say(scene):
    empty = np.asarray(scene._background).astype(int)
    for frame in (0, 60, 119):
        inside = np.abs(scene.picture(frame).astype(int) - empty).max(2) > 40
        for box in scene.tracks.boxes[:, frame]:
            x1, y1, x2, y2 = np.round(box).astype(int)
            own = inside[y1:y2, x1:x2]
            assert own.mean() > 0.2
            rows = np.flatnonzero(own.any(1))
            assert rows[0] <= 3 and rows[-1] >= own.shape[0] - 4
            inside[y1 - 2 : y2 + 2, x1 - 2 : x2 + 2] = False
        # The lamp, and a few pixels of noise.
        assert inside[:, 40:].mean() < 1e-3


def test_references_tile_the_scene_and_lines_do_not_run_past_it():
    for seed in range(12):
        one = make_stage_scene(seed, seconds=30.0)
        spans = one.script.reference
        assert spans[0].start == 0 and spans[0].shot == "WIDE" and spans[-1].end == 30.0
        for before, after in pairwise(spans):
            assert before.end == after.start and before.shot != after.shot
        assert min(span.end - span.start for span in spans) >= 1.19
        assert all(0 <= a.start < a.end <= 30.0 for a in one.script.lines)
        shots, accepted = one.reference()
        assert len(shots) == one.num_frames
        assert all(name in good for name, good in zip(shots, accepted, strict=True))
        speed = np.abs(np.diff(one.middles, axis=1)) * 12.5
        assert speed.max() < 125
        json.dumps(one.truth())


def test_voices_sound_while_people_speak(scene):
    sound = scene.sound(8000)
    assert sound.shape == (96_000,) and sound.dtype == np.float32 and np.abs(sound).max() <= 1
    line = scene.script.lines[0]
    loud = sound[round(line.start * 8000) : round(line.end * 8000)]
    assert loud.std() > 10 * sound[: round(0.5 * line.start * 8000)].std()
    assert scene.srt().startswith("1\n00:00:00,600 --> ")


def test_who_speaks_or_gestures_draws_the_eye():
    script = Script(("anna", "ben"))
    script.gestures = [Gesture(2.0, 5.0, 0, "gesture"), Gesture(7.0, 10.0, 1, "speech")]
    places, heights = np.array([210.0, 430.0]), np.array([85.0, 90.0])
    quiet = StageScene(script, 11.0, (640, 180), Fraction(10), 5, places, heights)
    found = saliency_of_film(quiet, quiet.tracks.boxes, EditIQConfig(), "motion+contrast")
    np.testing.assert_allclose(found.shares.sum(0), 1.0, atol=1e-9)
    for one in script.gestures:
        during = (found.times > one.start + 1.5) & (found.times < one.end)
        shares = found.shares[:, during].mean(1)
        assert shares[one.actor] > shares[1 - one.actor] + 0.05


def test_maps_and_functions_say_where_the_eye_goes(scene):
    left = np.zeros((4, 18, 64))
    left[..., :32] = 1
    given = saliency_of_film(scene, scene.tracks.boxes, EditIQConfig(), left)
    assert (given.shares[0] > 0.99).all() and len(given.times) == 4
    called = saliency_of_film(scene, scene.tracks.boxes, EditIQConfig(), lambda picture: left[0])
    assert (called.shares[0] > 0.99).all()


def test_an_image_saliency_model_of_the_hub_is_taken_by_name():
    short = make_stage_scene(3, 2, seconds=5.0, size=(320, 90), frame_rate=Fraction(2))
    config = EditIQConfig(saliency_rate=0.5)
    name = "salhub/normgrad-efficientnet-lite0"
    found = saliency_of_film(short, short.tracks.boxes, config, name)
    assert found.shares.shape == (2, 3) and np.isfinite(found.shares).all()
    with pytest.raises(ValueError, match="' does not compute saliency maps of pictures; choose a"):
        saliency_of_film(short, short.tracks.boxes, config, "salhub/lexrank-news-en")


def overlap(one, other):
    low, high = np.maximum(one[..., :2], other[..., :2]), np.minimum(one[..., 2:], other[..., 2:])
    shared = np.maximum(high - low, 0).prod(-1)
    area = (one[..., 2:] - one[..., :2]).prod(-1) + (other[..., 2:] - other[..., :2]).prod(-1)
    return shared / (area - shared)


def test_the_tracker_finds_everybody_who_is_on_the_stage():
    stage = make_stage_scene(1, 3, seconds=8.0)
    found = StaticCameraTracker(EditIQConfig()).track(stage)
    assert found.names == ("actor 1", "actor 2", "actor 3") and found.source == "static-camera"
    scores = [np.nanmean(overlap(a, b)) for a, b in zip(stage.tracks.boxes, found.boxes,
                                                        strict=True)]  # fmt: skip
    assert min(scores) > 0.45
    assert any(
        "found by the tracker for static cameras, which can be" in one for one in found.warnings
    )


class Walk:
    """A film in which somebody stands in one place, and has left it in some frames."""

    has_sound, warnings, frame_rate, size = False, (), Fraction(6), (320, 180)

    def __init__(self, seconds, is_there, size=(320, 180)):
        self.num_frames, self.is_there, self.size = int(6 * seconds), is_there, size

    def frames(self, width=None, *, start=0, stop=None, step=1):
        across, down = self.size
        noise = np.random.default_rng(0).normal(0, 2, (down + 40, across, 3))
        for frame in range(self.num_frames)[start:stop:step]:
            picture = np.full((down, across, 3), 90.0)
            if self.is_there(frame / 6):
                x, y = across // 2 + round(3 * np.sin(frame)), down // 3
                picture[y : y + down // 2, x : x + across // 8] = (200, 60, 60)
            picture += noise[7 * frame % 40 :][:down]
            yield frame, picture.clip(0, 255).astype(np.uint8)

    def fingerprint(self):
        return "walk"


def test_a_place_that_somebody_has_left_is_nobody():
    # The background is the median of the film, and so holds whoever stands there most of the time.
    film = Walk(40, lambda time: not 12 <= time < 28)
    found = StaticCameraTracker(EditIQConfig()).track(film)
    there = found.present.any(0)
    assert there[12:66].mean() > 0.9 and there[-60:].mean() > 0.9
    assert not there[96:156].any()
    assert found.warnings[-1].startswith(f"{len(found.names)} p")


def test_a_foot_in_the_door_is_nobody_yet():
    film = Walk(20, lambda time: True)
    whole, part = np.array([10.0, 10, 40, 110]), np.array([0.0, 90, 12, 110])
    seen = {frame: part if frame < 12 else whole for frame in range(0, 90, 3)}
    person = _Person(whole, np.ones(24) / 24, seen=seen)
    boxes = StaticCameraTracker(EditIQConfig())._tracks(film, [person], (320, 180), 3, 117, 8).boxes
    there = np.isfinite(boxes[0]).all(1)
    # Neither before the whole body is seen, nor after it was seen last.
    assert there[12:88].all() and not there[:9].any() and not there[91:].any()


def test_who_is_away_for_long_is_away_in_a_long_film_too():
    film = Walk(12, lambda time: True)
    film.num_frames = 30_000
    seen = {frame: np.array([10.0, 10, 30, 90]) for frame in range(0, 24_000, 4) if frame < 9000
            or frame > 20_000}  # fmt: skip
    person = _Person(np.array([10.0, 10, 30, 90]), np.ones(24) / 24, seen=seen)
    tracker = StaticCameraTracker(EditIQConfig())
    boxes = tracker._tracks(film, [person], (320, 180), 4, 29_996, 8).boxes[0]
    there = np.isfinite(boxes).all(1)
    assert there[:8990].all() and there[20_010:23_990].all()
    assert not there[9010:19_990].any() and not there[24_010:].any()


def test_an_upright_film_takes_no_longer_to_look_through():
    started = time.process_time()
    StaticCameraTracker(EditIQConfig()).track(Walk(10, lambda now: now > 3, (160, 480)))
    assert time.process_time() - started < 3


def test_closing_by_sides_is_closing_by_the_square():
    draw = np.random.default_rng(0)
    for reach in range(3, 20):
        mask = draw.random((40, 60)) < 0.05
        whole = binary_closing(np.pad(mask, reach), np.ones((reach, reach)))
        np.testing.assert_array_equal(_closed(mask, reach), whole[reach:-reach, reach:-reach])


def test_people_are_named_by_who_moves_while_speaking():
    film, times = BlankFilm(), iter(np.arange(0, 12, 0.2))
    boxes = standing(film).boxes

    def eye(picture):
        time, found = next(times), np.full(picture.shape[:2], 0.01)
        who = 1 if 3.5 <= time < 6.5 else 0 if 7.0 <= time < 11.0 else None
        if who is not None:
            x1, y1, x2, y2 = np.round(boxes[who, 0] * picture.shape[1] / 1280).astype(int)
            found[y1:y2, x1:x2] = 1.0
        return found

    edit = EditIQModel(EditIQConfig()).edit(film, two_lines(), tracks=boxes, saliency=eye)
    # Anna speaks first, and it is the one on the right who moves then.
    assert edit.tracks.names == ("BEN", "ANNA")
    assert any(
        "The names were matched to the people by who moves while speaking" in one
        for one in edit.warnings
    )
    with pytest.raises(ValueError, match="Without saliency, the people in the picture cannot be"):
        EditIQModel(EditIQConfig(saliency="none")).edit(film, two_lines(), tracks=boxes)
    alone = boxes[:1]
    with pytest.raises(ValueError, match=r"has 2 speakers .* and 1 person was found"):
        EditIQModel(EditIQConfig(saliency="none")).edit(film, two_lines(), tracks=alone)


def test_a_detector_is_followed_over_gaps(scene):
    boxes, calls = scene.tracks.boxes, []

    def detector(picture):
        calls.append(picture.shape)
        frame = 2 * (len(calls) - 1)
        scale = picture.shape[1] / scene.size[0]
        people = boxes[:, min(frame, 119)] * scale
        return people[:1] if len(calls) % 7 == 0 else people

    found = track_by_detector(scene, detector, EditIQConfig(tracker_rate=5.0))
    assert len(found.names) == 2 and found.source == "callback" and calls[0] == (90, 320, 3)
    assert np.nanmean(overlap(boxes, found.boxes)) > 0.8 and found.present.mean() > 0.95


def test_worse_tracks_change_little():
    stage = make_stage_scene(5, 3, seconds=10.0)
    model, draw = EditIQModel(EditIQConfig()), np.random.default_rng(0)
    good = model.edit(stage, stage.transcript, tracks=stage.tracks)
    boxes = stage.tracks.boxes + draw.normal(0, 4, stage.tracks.boxes.shape).astype(np.float32)
    boxes[draw.random(boxes.shape[:2]) < 0.05] = np.nan
    worse = model.edit(stage, stage.transcript, tracks=boxes, cast=stage.names)
    same = [
        good.decision.span_at(t).shot == worse.decision.span_at(t).shot
        for t in range(stage.num_frames)
    ]
    assert np.mean(same) > 0.95
    with pytest.raises(ValueError, match="A scene has 2 to 4 actors"):
        make_stage_scene(0, 7)
