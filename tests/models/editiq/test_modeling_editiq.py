"""The model: saving and calling, whole films, and what it refuses."""

import json
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
import torch

from salhub.models.editiq.actor_tracks import ActorTracks
from salhub.models.editiq.configuration_editiq import LEARNED, EditIQConfig
from salhub.models.editiq.edit_decision import EditDecision
from salhub.models.editiq.modeling_editiq import EditIQModel
from salhub.models.editiq.shots import Shot
from salhub.models.editiq.stages import StageStore
from salhub.models.editiq.utterances import Transcript, Utterance
from tests.models.editiq.small_scenes import BlankFilm, standing, two_lines
from tests.testers import CallingTester, SavingTester

SHOTS = ("WIDE", "MS:anna", "MS:ben", "MS:anna+ben")


class TestEditIQModel(SavingTester, CallingTester):
    model_class = EditIQModel
    shipped = ("salhub/editiq-stage",)

    def config(self):
        return EditIQConfig(minimum_shot=0.5, cut_weight=1.5, transition_weight=0.7)

    def inputs(self):
        draw = torch.Generator().manual_seed(0)
        corner = 60 * torch.rand(4, 40, 2, generator=draw)
        size = 20 + 40 * torch.rand(4, 40, 2, generator=draw)
        at = 80 * torch.rand(2, 40, 2, generator=draw)
        return {
            "dialogue_potential": torch.rand(4, 40, generator=draw),
            "saliency_potential": torch.rand(4, 40, generator=draw),
            "crops": torch.cat([corner, corner + size], -1),
            "boxes": torch.cat([at, at + 20], -1),
            "shots": SHOTS,
            "names": ("anna", "ben"),
            "frame_rate": 10.0,
        }

    def bad_inputs(self):
        good = self.inputs()
        broken = good["dialogue_potential"].clone()
        broken[1, 2] = float("nan")
        return [
            ({"shots": SHOTS[:2]}, ValueError, r"expected \(2, frames\), one row per shot\."),
            ({"crops": good["crops"][:, :3]}, ValueError, r"crops has the shape \(4, 3, 4\)"),
            ({"names": ("anna",)}, ValueError, r"boxes has the shape \(2, 40, 4\); expected \(1"),
            ({"frame_rate": 0.0}, ValueError, "frame_rate must be above 0"),
            ({"dialogue_potential": broken}, ValueError, "NaN or infinite values"),
            (
                {"shots": ("WIDE", "MS", "A", "B")},
                ValueError,
                "'MS' is not a shot; expected 'WIDE'",
            ),
        ]


def test_the_loss_is_a_bound_and_its_gradient_is_its_slope():
    tester = TestEditIQModel()
    model, inputs = tester.model(), tester.inputs()
    right = torch.zeros(4, 40, dtype=torch.bool)
    right[0, :10], right[2, 10:] = True, True
    shown = torch.rand(4, 40, generator=torch.Generator().manual_seed(1))
    given = {**inputs, "labels": right, "shown_potential": shown, "margin": 3.0}
    model.double()
    loss = model(**given).loss
    assert float(loss.detach()) > 0
    loss.backward()
    for name in LEARNED:
        weight = getattr(model, name)
        value, step = float(weight.detach()), 1e-6
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                weight.fill_(value + sign * step)
                sides.append(float(model(**given).loss))
                weight.fill_(value)
        slope = (sides[0] - sides[1]) / (2 * step)
        assert float(weight.grad) == pytest.approx(slope, rel=1e-3, abs=1e-5), name


@pytest.fixture(scope="module")
def edit():
    film = BlankFilm()
    model = EditIQModel(EditIQConfig())
    return model, film, model.edit(film, two_lines(), tracks=standing(film))


def test_a_film_opens_wide_and_then_shows_who_speaks(edit):
    _, film, found = edit
    spans = found.decision.spans
    assert spans[0].shot.name == "WIDE"
    shown = [found.decision.span_at(round(t * 10)).shot.name for t in (5.0, 9.0)]
    assert shown == ["MS:anna", "MS:ben"]
    assert spans[-1].stop == film.num_frames and film.passes == 1
    assert min(span.stop - span.start for span in spans) >= 10
    total = sum(float(one.sum()) for one in found.energy_terms.values())
    assert total == pytest.approx(found.energy, abs=1e-9)


def test_decisions_are_the_same_after_a_round_trip_and_keyframes_follow_the_crops(edit):
    _, _, found = edit
    again = EditDecision.from_dict(found.decision.to_dict())
    assert again.spans == found.decision.spans and (again.crops == found.decision.crops).all()
    assert again.frame_rate == Fraction(10) and again.warnings == found.warnings
    for span in again.spans:
        keys = again.keyframes(span, tolerance=0.25)
        assert keys[0].frame == span.start and keys[-1].frame == span.stop - 1
        frames = np.arange(span.start, span.stop)
        at = [key.frame for key in keys]
        for side, name in ((0, "x"), (1, "y")):
            path = np.interp(frames, at, [getattr(key, name) for key in keys])
            assert np.abs(path - again.crops[frames, side]).max() <= 0.2501
    with pytest.raises(ValueError, match="There is no frame 120"):
        again.span_at(120)


def test_an_explanation_is_the_exact_difference_to_the_best_edit_without_the_shot(edit):
    _, _, found = edit
    said = found.explain(5.0)
    assert said.shot == "MS:anna" and said.runner_up != "MS:anna" and said.margin > 0
    assert said.margin == pytest.approx(sum(o - s for _, s, o in said.rows), abs=1e-6)
    assert said.text.startswith(f"MS:anna rather than {said.runner_up}, which would cost ")
    assert "question" in said.text and said.start <= 5.0 < said.end
    with pytest.raises(ValueError, match=r"12 s is outside the film, which lasts 12\.00 s\."):
        found.explain(12.0)


def test_editing_again_reads_no_picture_and_keeps_locks(edit):
    model, film, found = edit
    locked = model.re_edit(found, locks=["8.0-10.0=WIDE", "5.0-5.4=MS:ben"], transition_weight=0.2)
    assert film.passes == 1
    for frame in (*range(80, 100), *range(50, 54)):
        wanted = "WIDE" if frame >= 80 else "MS:ben"
        assert locked.decision.span_at(frame).shot.name == wanted
    assert model.re_edit(locked, locks=()).decision.spans == found.decision.spans
    with_full = model.re_edit(found, full_shots=True)
    assert Shot("FS", ("anna",)) in with_full.rushes.shots
    alone = model.with_settings(full_shots=True).edit(film, two_lines(), tracks=standing(film))
    assert alone.decision.spans == with_full.decision.spans
    with pytest.raises(ValueError, match="'saliency' needs the film again"):
        model.re_edit(found, saliency="none")


@pytest.mark.parametrize(
    "locks, sentence",
    [
        (["3-5=MS:ben", "4-6=MS:anna"], "The locks of MS:ben and MS:anna overlap at 4 s"),
        (["3-5=MS:bem"], "There is no shot 'MS:bem'"),
        (["30-31=WIDE"], "begins at 30 s, after the end of the film at 12.0 s"),
        (["x"], "'x' is not a lock; write it as '12"),
        (["3-5=MS:ben", "4-6=ms:Anna"], "The locks of MS:ben and ms:Anna overlap at 4 s"),
    ],
)
def test_locks_that_cannot_be_kept_are_refused(edit, locks, sentence):
    model, _, found = edit
    with pytest.raises(ValueError, match=sentence):
        model.re_edit(found, locks=locks)


def test_locks_are_kept_however_they_are_written_and_however_short(edit):
    model, _, found = edit
    own = model.re_edit(found, locks=["8-10=MS:anna+ben"]).decision.spans
    for text in ("8.0-10.0=MS:Ben+ANNA", "0:08-0:10=ms:anna + ben"):
        assert model.re_edit(found, locks=[text]).decision.spans == own
    both = ["8-10=MS:ben+anna", "9-11=MS:anna+ben"]
    assert model.re_edit(found, locks=both).decision.span_at(105).shot.name == "MS:anna+ben"
    instant = model.re_edit(found, locks=["8.0-8.001=MS:anna+ben"])
    assert instant.decision.span_at(80).shot.name == "MS:anna+ben"


def test_a_lock_ends_a_beginning_of_fixed_length(edit):
    model, _, found = edit
    fixed = {"establishing": "only", "establishing_seconds": 4.0}
    assert model.re_edit(found, **fixed).decision.spans[0].stop == 40
    early = model.re_edit(found, locks=["1-2=MS:ben"], **fixed)
    assert {early.decision.span_at(k).shot.name for k in range(10, 20)} == {"MS:ben"}
    assert early.decision.span_at(5).shot.name == "WIDE"


def test_in_a_long_film_a_lock_between_two_decisions_is_kept():
    film = BlankFilm(seconds=40, rate=Fraction(25))
    boxes = standing(film).boxes.copy()
    boxes[0, :700] = np.nan
    model = EditIQModel(EditIQConfig(saliency="none", decimate_after=30.0))
    tracks = ActorTracks(("anna", "ben"), boxes, film.frame_rate, film.size)
    for times, frame in (("12.1-15", 310), ("12.0-12.05", 300), ("39.95-60", 999)):
        found = model.edit(film, tracks=tracks, locks=[f"{times}=MS:anna"])
        assert found.decision.span_at(frame).shot.name == "MS:anna"


def test_locks_of_shots_that_there_never_are_are_refused_before_any_work():
    film = BlankFilm()
    model = EditIQModel(EditIQConfig())
    cases = {"1-2=FS:anna": "set full_shots=True, or lock MS:anna", "1-2=FS:anna+ben": "group_size"}
    for lock, words in cases.items():
        with pytest.raises(ValueError, match=words):
            model.edit(film, cast=["anna", "ben"], locks=[lock])
    assert film.passes == 0


def test_the_first_order_programme_says_where_another_edit_is_cheaper(edit):
    model, _, found = edit
    greedy = model.re_edit(found, solver="greedy_tau", stay_weight=3.0, longest_shot=2.0)
    said = [greedy.explain(time) for time in np.arange(0.2, 12, 0.4)]
    missed = [one for one in said if one.margin < 0]
    assert missed
    for one in missed:
        assert f"which would cost {-one.margin:.2f} less in total" in one.text
        assert one.text.endswith("First-order optimization did not find it.")


def test_what_functions_find_is_never_taken_from_another_one(tmp_path):
    film, model, store = BlankFilm(), EditIQModel(EditIQConfig()), StageStore(tmp_path)
    found = []
    for x in (40, 200):
        boxes = [[x, 40, x + 20, 80], [250, 40, 270, 80]]
        found.append(model.edit(film, detector=lambda _, b=boxes: b, store=store).tracks.boxes)
    assert np.nanmax(np.abs(found[0] - found[1])) > 100
    shares = []
    for side in (slice(0, 80), slice(80, 160)):

        def eye(picture, side=side):
            seen = np.full(picture.shape[:2], 0.001)
            seen[:, side] = 1.0
            return seen

        edit = model.edit(film, tracks=standing(film), saliency=eye, store=store)
        shares.append(edit.material.measured.shares[0].mean())
    assert shares[0] > 0.9 and shares[1] < 0.1


def test_stages_are_kept_and_taken_up_again(tmp_path):
    film, model, told = BlankFilm(), EditIQModel(EditIQConfig()), []
    lines, tracks = two_lines(), standing(film)
    store = StageStore(tmp_path)
    first = model.edit(film, lines, tracks=tracks, store=store, progress=lambda *a: told.append(a))
    assert {stage for stage, _, _ in told} == {"saliency", "rushes", "dialogue", "edit"}
    assert all(0 <= done <= total for _, done, total in told)
    again = model.edit(film, lines, tracks=tracks, store=store)
    assert film.passes == 1 and again.decision.spans == first.decision.spans
    assert (again.decision.crops == first.decision.crops).all()
    # Another film, or other settings of a stage, take nothing of it.
    other = BlankFilm(seconds=12.5)
    model.edit(other, lines, tracks=standing(other), store=store)
    assert other.passes == 1
    (tmp_path / "saliency.npz").write_bytes(b"damaged")
    model.edit(film, lines, tracks=tracks, store=store)
    assert film.passes == 2


def test_memory_holds_no_pictures():
    model, peaks = EditIQModel(EditIQConfig()), []
    for seconds in (10, 60):
        film = BlankFilm(seconds)
        tracemalloc.start()
        model.edit(film, None, tracks=standing(film))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # The 250 pictures more that are looked at would be 5.4 MB in their small size.
    assert peaks[1] - peaks[0] < 4e6


def test_gazed_begins_wide_for_four_seconds_and_never_again():
    film = BlankFilm(20.0)
    model = EditIQModel(EditIQConfig.from_preset("gazed"))
    found = model.edit(film, two_lines(), tracks=standing(film))
    spans = found.decision.spans
    assert spans[0].shot.name == "WIDE" and spans[0].stop == 40
    assert not any(span.shot.name == "WIDE" for span in spans[1:])
    assert "every film begins with a wide shot" in found.explain(1.0).text
    assert found.explain(10.0).runner_up != "WIDE"


def test_long_films_are_decided_on_less_often_and_that_is_said():
    film = BlankFilm(30.0)
    config = EditIQConfig(decimate_after=20.0, decisions_per_second=5.0)
    found = EditIQModel(config).edit(film, two_lines(), tracks=standing(film))
    assert any("minutes; shots are decided 5 times per second" in one for one in found.warnings)
    assert all(cut % 2 == 0 for cut in found.decision.cuts) and found.decision.cuts
    assert found.explain(9.0).shot == found.decision.span_at(90).shot.name


def test_films_without_dialogue_and_people_without_names():
    film = BlankFilm()
    found = EditIQModel(EditIQConfig()).edit(film, None, tracks=standing(film).boxes)
    assert found.tracks.names == ("actor 1", "actor 2")
    assert "There is no dialogue; only saliency chooses the shots." in found.warnings
    named = EditIQModel(EditIQConfig()).edit(
        film, two_lines(), tracks=standing(film).boxes, cast=["anna", "ben"]
    )
    assert named.tracks.names == ("anna", "ben")


def test_a_chat_model_or_a_function_reads_the_lines_instead_of_rules():
    film, model = BlankFilm(), EditIQModel(EditIQConfig())
    answer = [{"id": 0, "show": ["MS:ben"]}, {"id": 1, "addressee": "anna", "show": ["WIDE"]}]
    given = {"tracks": standing(film)}
    chat = model.edit(film, two_lines(), language_model=lambda _: json.dumps(answer), **given)
    assert [one.show for one in chat.readings] == [("MS:ben",), ("WIDE",)]
    assert [one.speaker for one in chat.readings] == ["anna", "ben"]
    own = model.edit(film, two_lines(), understand=lambda lines, cast, shots: answer, **given)
    assert own.readings == chat.readings and own.decision.spans == chat.decision.spans
    prose = model.edit(film, two_lines(), language_model=lambda _: "I would cut here.", **given)
    assert any("rules read them" in one for one in prose.warnings)


@pytest.mark.parametrize("size", [(360, 640), (64, 48)])
def test_portrait_and_small_films_are_edited(size):
    film = BlankFilm(size=size)
    found = EditIQModel(EditIQConfig()).edit(film, two_lines(), tracks=standing(film))
    crops = found.rushes.crops
    assert crops.min() >= -1e-3 and (crops[..., 2:] <= np.array(size) + 1e-3).all()


def bad(**changed):
    film = changed.pop("film", BlankFilm())
    given = {"transcript": two_lines(), "tracks": standing(film), **changed}
    return film, given


@pytest.mark.parametrize(
    "case, sentence",
    [
        (bad(tracks=None), "Nobody was found: nothing of the size of a person moves in"),
        (bad(tracks=standing(BlankFilm(9.0))), "The tracks have 90 frames, but the film has 120"),
        (bad(tracks=standing(BlankFilm(6.0, rate=Fraction(20)))),
         "tracks belong to a film of 1280x360 pixels at 20 frames per second, but this one has"),
        (bad(tracks=np.full((1, 120, 4), np.nan), transcript=None),
         "actor 1 has no box inside the film's 1280x360 frame at any time"),
        (bad(tracks=np.zeros((1, 120, 3))), r"have the shape \(1, 120, 3\)"),
        (bad(tracks=np.zeros((1, 120, 4))), "The box of actor 1 at frame 0 is empty"),
        (bad(tracks=standing(BlankFilm(), ("anna", "bea"))),
         "not in the cast: BEN; the cast is anna, bea.*Name the cast"),
        (bad(cast=["anna"], transcript=None), "The cast has 1 names"),
        (bad(transcript=Transcript((Utterance(40, 41, "x", "anna"),))),
         "1 of 1 lines of the transcript begin after the film's end"),
        (bad(film=BlankFilm(0.1)), "The film has only one frame, so there is nothing to edit"),
        (bad(saliency=np.ones((3, 4))), r"Saliency maps have the shape \(3, 4\)"),
        (bad(saliency=lambda picture: -np.ones(picture.shape[:2])), "or has negative or invalid"),
        (bad(tracks=None, detector=lambda picture: [[1, 2, 3]]),
         r"returned boxes of shape \(1, 3\); expected \(N, 4\) finite"),
        (bad(tracks=None, detector=lambda picture: []), "The detector found nobody"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_a_sentence(case, sentence):
    film, given = case
    with pytest.raises(ValueError, match=sentence):
        EditIQModel(EditIQConfig()).edit(film, **given)


def test_what_is_shipped_has_the_settings_that_are_documented():
    shipped, plain = EditIQConfig.from_pretrained("salhub/editiq-stage"), EditIQConfig()
    names = EditIQConfig.field_names()
    assert {name: getattr(shipped, name) for name in names} == {
        name: getattr(plain, name) for name in names
    }


def test_names_of_actors_are_checked():
    boxes = np.tile([1.0, 1, 5, 9], (2, 3, 1))
    for names, sentence in (
        (("a", "a"), "tracks needs a distinct name, got a, a"),
        (("a:b", "c"), "'a:b' cannot be an actor's name"),
    ):
        with pytest.raises(ValueError, match=sentence):
            ActorTracks(names, boxes, Fraction(25), (10, 10))


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({"aspect_ratio": "16/9"}, "two whole numbers such as '16:9'"),
        ({"aspect_ratio": "9:1"}, "between 1:4 and 4:1"),
        ({"saliency": "motoin"}, "saliency must be one of"),
        ({"overlap_low": 0.7}, "overlap_low must be below overlap_high"),
        ({"shortest_shot": 20.0}, "shortest_shot must be below longest_shot"),
        ({"understanding": "transformers"}, "needs the name of a chat model"),
        ({"dialogue_weight": 0.0, "saliency_weight": 0.0}, "are both 0"),
        ({"epsilon": 0.0}, "epsilon must be above 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        EditIQConfig(**settings)
