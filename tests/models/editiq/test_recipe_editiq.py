"""Weights of the terms, learned from edits through the runner, and how edits are measured."""

import json

import numpy as np
import pytest

from salhub.models.editiq.configuration_editiq import LEARNED, EditIQConfig
from salhub.models.editiq.edit_examples import read_examples, stage_examples
from salhub.models.editiq.edit_metrics import Reference, measure_edit
from salhub.models.editiq.evaluation_editiq import evaluate
from salhub.models.editiq.modeling_editiq import EditIQModel
from salhub.models.editiq.recipe_editiq import EditIQArguments, EditIQRecipe
from salhub.models.editiq.rushes import make_rushes
from salhub.models.editiq.stage_scene import make_stage_scene
from salhub.results import Results
from salhub.runner.run import run
from tests.evaluation.sharing import check_shared
from tests.testers.recipe import TrainingRecipeTester


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three edited films without pictures: tracks, lines, and the edit of a person."""
    place = tmp_path_factory.mktemp("edits")
    for seed in range(3):
        scene = make_stage_scene(seed, 2, seconds=12.0)
        scene.tracks.save(place / f"film{seed}.npz")
        (place / f"film{seed}.srt").write_text(scene.srt())
        (place / f"film{seed}.json").write_text(json.dumps(scene.truth()))
    return place


class TestEditIQ(TrainingRecipeTester):
    @pytest.fixture
    def make(self, folder):
        def recipe(output, **options):
            settings = {"data": str(folder), "cpu": True, "batch_size": 1, "num_train_epochs": 2}
            settings |= {"held_out": 0.34}
            return EditIQRecipe(EditIQArguments(output_dir=str(output), **settings | options))

        return recipe


def test_learning_makes_the_edits_of_a_person_cheaper(folder, tmp_path):
    arguments = EditIQArguments(
        output_dir=str(tmp_path / "out"), data=str(folder), cpu=True, held_out=0.0, batch_size=3,
        num_train_epochs=6, learning_rate=0.1,
    )  # fmt: skip
    results = run(EditIQRecipe(arguments))
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert losses[-1] < losses[0]
    model = EditIQModel.from_pretrained(tmp_path / "out")
    assert any(
        abs(getattr(model, name).item() - getattr(EditIQConfig(), name)) > 1e-3 for name in LEARNED
    )
    assert results.metric("accuracy/soft/learned/after").n == 3


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"preset": "gazed"}, "its weights cannot be learned"),
        ({"held_out": 1.0}, r"held_out must be 0 or more and below 1"),
        ({"held_out": 0.9}, "films leaves none for training; hold out less, or give more"),
        ({"margin": 0.0}, "margin must be above 0"),
        ({"data": "nowhere"}, "The folder of edits nowhere does not exist"),
    ],
)
def test_options_that_cannot_be_followed_are_refused(folder, tmp_path, options, sentence):
    given = {"output_dir": str(tmp_path), "data": str(folder), **options}
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        EditIQRecipe(EditIQArguments(**given)).build_model()


@pytest.mark.parametrize(
    "edit, sentence",
    [
        ("[[0, 2]]", "is not an edit; expected a list of"),
        ('[[0, 2, "CLOSE"]]', "is not an edit; expected a list of"),
        ("{", "is not valid JSON"),
        ('[[0, 2, "MS:zoe"]]', "', but zoe is not tracked; the tracks contain anna, ben"),
    ],
)
def test_edits_of_another_form_are_refused(folder, tmp_path, edit, sentence):
    for ending in ("npz", "srt"):
        (tmp_path / f"film.{ending}").write_bytes((folder / f"film0.{ending}").read_bytes())
    (tmp_path / "film.json").write_text(edit)
    with pytest.raises(ValueError, match=sentence):
        read_examples(tmp_path)
    (tmp_path / "film.json").write_text('[[0, 2, "WIDE"]]')
    (tmp_path / "film.srt").unlink()
    with pytest.raises(FileNotFoundError, match=r"There is no transcript next to"):
        read_examples(tmp_path)


def test_evaluation_measures_controls_and_parts():
    found = evaluate(
        EditIQModel(EditIQConfig()), "stage", num_scenes=1, seconds=12.0, tracker=False,
        progress=False,
    )  # fmt: skip
    assert found.metric("full/jump cuts").value == 0
    assert found.metric("full/short shots").value == 0
    assert found.metric("wide/cuts a minute").value == 0
    names = {row[0] for table in found.tables for row in table.rows}
    assert {"wide", "random", "speaker", "greedy", "gazed", "saliency only", "dialogue only",
            "first-order programme", "full", "no rhythm", "no overlap", "no misframing",
            "no transition", "jittered and dropped tracks"} <= names  # fmt: skip
    assert found.metric("first-order programme/energy gap").value >= -1e-9
    assert isinstance(found, Results)


def test_metrics_of_edits_that_are_made_by_hand():
    scene = make_stage_scene(0, 2, seconds=8.0)
    rushes = make_rushes(scene.tracks, EditIQConfig(full_shots=True))
    names = [shot.name for shot in rushes.shots]
    shots = np.zeros(100, int)
    shots[30:45], shots[45:60], shots[60:] = (names.index(n) for n in
                                              ("MS:anna", "FS:anna", "MS:ben"))  # fmt: skip
    crops = rushes.crops[shots, np.arange(100)]
    wanted = ["WIDE"] * 30 + ["MS:anna"] * 30 + ["MS:anna+ben"] * 40
    reference = Reference(wanted, [frozenset({one}) for one in wanted])
    found = measure_edit(shots, rushes, crops, scene.transcript, reference, 1.3)
    assert found["cuts a minute"] == pytest.approx(3 / (100 / 12.5) * 60)
    assert found["short shots"] == 2 and found["shortest shot"] == pytest.approx(1.2)
    assert found["accuracy/strict"] == pytest.approx(0.45)
    assert found["accuracy/soft"] == pytest.approx(1.0)
    # Cuts at 30 and 60 are right, the one at 45 is near neither.
    assert found["cut f1"] == pytest.approx(2 * 2 / (3 + 2))
    assert found["heads out"] == 0 and found["misframed"] == 0
    same = rushes.crops.copy()
    same[names.index("FS:anna")] = same[names.index("MS:anna")]
    jumpy = make_rushes(scene.tracks, EditIQConfig(full_shots=True))
    object.__setattr__(jumpy, "crops", same)
    assert measure_edit(shots, jumpy, crops, scene.transcript, None, 1.0)["jump cuts"] == 1


def test_scenes_that_are_learned_from_are_none_that_are_measured_on():
    names = {one.name for one in stage_examples(100, 2, 6.0)}
    recipe = EditIQRecipe(EditIQArguments(output_dir="out", num_scenes=2, seconds=6.0))
    recipe.build_model()
    assert not names & {one.name for one in (*recipe.examples, *recipe.held_out)}


def test_two_jobs_measure_what_one_measures(tmp_path):
    small = {"num_scenes": 2, "seconds": 5.0, "tracker": False, "ablations": False}
    model = EditIQModel(EditIQConfig())
    jobs = check_shared(
        lambda: evaluate(model, "stage", progress=False, **small), tmp_path / "rows"
    )
    assert jobs == 2
