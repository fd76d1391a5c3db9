"""Choosing settings without a retrained model, by themselves and on the command line."""

import json
import logging
import math
import shutil

import pytest
import yaml
from typer.testing import CliRunner

from salhub.cli import app
from salhub.models.salun.unlearning_report import choose_setting
from salhub.results import Results
from salhub.runner.claim import claimed


def measured(retained: float, distance: float | None = None, unlearned: float = 0.0) -> Results:
    results = Results(model="salun", command="", seed=0)
    for name, value in {"before/RA": 98.0, "RA": retained, "UA": unlearned}.items():
        results.add_metric(name, value)
    if distance is not None:
        results.add_metric("confidence_distance", distance)
    return results


def test_the_nearest_confidence_wins_among_those_that_know_the_rest():
    runs = [measured(98, 0.4), measured(96, 0.2), measured(95.9, 0.1)]
    assert choose_setting(runs) == 1
    assert choose_setting(runs, most_lost=3) == 2
    assert choose_setting([measured(97, 0.2), measured(98, 0.2)]) == 0


def test_a_whole_class_is_forgotten_best_where_it_is_recognized_least():
    runs = [measured(97, unlearned=90), measured(96, unlearned=99.5), measured(50, unlearned=100)]
    assert choose_setting(runs) == 1


def test_where_all_have_lost_too_much_the_one_that_lost_least_is_taken(caplog):
    with caplog.at_level(logging.WARNING):
        assert choose_setting([measured(50, 0.1), measured(70, 0.3)]) == 1
    assert "loses more than 2 points of retained accuracy (at least 28.0)" in caplog.text


def test_runs_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="no run to choose"):
        choose_setting([])
    with pytest.raises(ValueError, match="does not measure retained accuracy"):
        choose_setting([Results(model="x", command="", seed=0)])
    with pytest.raises(ValueError, match="had no retained pictures"):
        choose_setting([measured(98, 0.1), measured(math.nan, 0.1)])


# --- on the command line --------------------------------------------------------------------------


def invoke(small, folder, *words: str, recipe="salun", model=None, forget=("forget=random:16",)):
    options = [f"model={model or small.original}", f"data={small.data}", f"output_dir={folder}"]
    run = ["batch_size=16", "num_train_epochs=1", "attack=none", "cpu=true"]
    return CliRunner().invoke(app, ["unlearn", recipe, *options, *run, *forget, *words])


def test_every_combination_is_tried_and_the_best_one_kept(tmp_path, small):
    folder = tmp_path / "out"
    tried = ["--try", "learning_rate=1e-3,3", "--try", "mask_ratio=0.2,0.5"]
    said = invoke(small, folder, *tried, "--json")
    assert said.exit_code == 0, said.output
    found = json.loads(said.stdout)
    names = [
        f"learning_rate={rate},mask_ratio={ratio}" for rate in (0.001, 3) for ratio in (0.2, 0.5)
    ]
    assert list(found["tried"]) == names
    runs = [Results.load(folder / "tried" / name / "results.json") for name in names]
    assert found["chosen"] == names[choose_setting(runs)]
    assert found["chosen"].startswith("learning_rate=0.001")  # 3 destroys the classifier
    for name in ("model.safetensors", "mask.safetensors", "unlearning.json"):
        kept = folder / "tried" / found["chosen"] / name
        assert (folder / name).read_bytes() == kept.read_bytes()
    assert_made_as_typed(folder, "--try learning_rate=1e-3,3 --try mask_ratio=0.2,0.5")

    before = {name: (folder / "tried" / name / "results.json").stat().st_mtime_ns for name in names}
    again = invoke(small, folder, *tried, "resume_from_checkpoint=latest")
    assert again.exit_code == 0 and f"Kept {found['chosen']} in {folder}" in again.stdout
    for name, moment in before.items():
        assert (folder / "tried" / name / "results.json").stat().st_mtime_ns == moment
    other = invoke(small, folder, *tried, "resume_from_checkpoint=latest", "momentum=0.5")
    assert other.exit_code == 1 and "cannot be resumed with 0.5" in other.output


def assert_made_as_typed(folder, tries: str) -> None:
    """The card and the results name the folder that was kept, and what a person has typed."""
    card, command = (
        (folder / "README.md").read_text(),
        Results.load(folder / "results.json").command,
    )
    assert card.count("# out\n") == 1 and 'from_pretrained("out")' in card
    assert f"- command: `{command}`" in card
    assert command.startswith("salhub unlearn salun model=original data=colours.npz output_dir=out")
    assert command.endswith(tries)
    assert str(folder.parent) not in card + command and "tried" not in card


def test_what_an_earlier_run_left_is_gone(tmp_path, small):
    folder = tmp_path / "out"
    earlier = invoke(small, folder, "save_delta=true", "checkpointing_steps=2")
    assert earlier.exit_code == 0 and (folder / "delta.safetensors").is_file()
    assert list(folder.glob("checkpoint-*"))
    tried = ["--try", "learning_rate=1e-3,1e-2", "mask_ratio=0.5"]
    refused = invoke(small, folder, *tried)
    assert refused.exit_code == 1 and "already has a run; resume it with" in refused.output
    assert invoke(small, folder, *tried, "overwrite=true").exit_code == 0
    assert not list(folder.glob("checkpoint-*"))
    assert not (folder / "delta.safetensors").exists() and (folder / "mask.safetensors").exists()
    chosen = json.loads((folder / "options.json").read_text())["learning_rate"]
    kept = folder / "tried" / f"learning_rate={chosen}" / "log.jsonl"
    assert (folder / "log.jsonl").read_bytes() == kept.read_bytes()
    for place in (folder, kept.parent):  # each names the data as seen from itself
        named = yaml.safe_load((place / "options.yaml").read_text())["data"]
        assert (place / named).samefile(small.data)


def test_nobody_comes_between_the_runs_of_a_choice(tmp_path, small):
    folder, tried = tmp_path / "out", ["--try", "learning_rate=1e-3,1e-2", "overwrite=true"]
    (folder / "tried" / "learning_rate=0.001").mkdir(parents=True)
    with claimed(folder):
        said = invoke(small, folder, *tried)
    assert said.exit_code == 1 and "another run is writing to" in said.output
    assert (folder / "tried" / "learning_rate=0.001").is_dir()


def test_a_setting_that_diverges_is_reported_and_not_chosen(tmp_path, small):
    folder, tried = tmp_path / "out", ["--try", "learning_rate=1e-3,1e30"]
    said = invoke(small, folder, *tried, "--json")
    assert said.exit_code == 0, said.output
    found = json.loads(said.stdout)
    assert found["chosen"] == "learning_rate=0.001" and list(found["tried"]) == [found["chosen"]]
    assert found["failed"]["learning_rate=1e+30"].startswith("the loss is nan at step")
    again = invoke(small, folder, *tried, "resume_from_checkpoint=latest")
    assert "Trying" not in again.output
    assert "  learning_rate=1e+30  failed: the loss is nan at step" in again.stdout
    none = invoke(small, tmp_path / "none", "--try", "learning_rate=1e29,1e30")
    assert none.exit_code == 1
    assert "The loss diverged with all 2 settings, so none can be kept" in none.output
    assert not (tmp_path / "none" / "results.json").exists()


def test_settings_that_were_tried_are_not_lost(tmp_path, small):
    folder, tried = tmp_path / "out", ["--try", "learning_rate=1e-3,1e-2"]
    (folder / "tried" / "learning_rate=0.001").mkdir(parents=True)  # an aborted grid
    refused = invoke(small, folder, *tried)
    assert refused.exit_code == 1 and "already has runs of --try" in refused.output
    assert (folder / "tried" / "learning_rate=0.001").is_dir()
    assert invoke(small, folder, *tried, "overwrite=true").exit_code == 0


def test_trials_that_cannot_be_compared_end_after_the_first(tmp_path, small):
    words = ["forget=indices:" + ",".join(map(str, range(64))), "allow_no_retain=true"]
    words += ["--try", "learning_rate=1e-3,1e-2"]
    said = invoke(small, tmp_path / "out", *words, recipe="ga", forget=())
    assert said.exit_code == 1 and "had no retained pictures" in said.output
    assert len(list((tmp_path / "out" / "tried").iterdir())) == 1


def test_the_folder_of_the_model_is_not_where_settings_are_tried(tmp_path, small):
    folder = tmp_path / "mine"
    shutil.copytree(small.original, folder)
    tried = ["--try", "learning_rate=1e-3,1e-2", "overwrite=true"]
    said = invoke(small, folder, *tried, model=folder)
    assert said.exit_code == 1 and "output_dir is the folder of model=" in said.output
    assert not (folder / "tried").exists()


def test_processes_that_work_together_try_what_diverges(tmp_path, small, monkeypatch):
    # What they do together is shown of the toy recipe; here one process stands for both.
    asked = []

    def launch(words, processes, *, cpu, quiet, command):
        asked.append((processes, quiet))
        with monkeypatch.context() as patch:
            patch.setenv("SALHUB_COMMAND", command)
            return CliRunner().invoke(app, words).exit_code

    monkeypatch.setattr("salhub.runner.launch.launch", launch)
    tried = ["--nproc", "2", "--try", "learning_rate=1e-3,1e30"]
    assert invoke(small, tmp_path / "out", *tried, "--dry-run").exit_code == 0
    assert asked == [(2, False)] * 2  # plans are shown
    assert not (tmp_path / "out").exists()
    said = invoke(small, tmp_path / "out", *tried, "--json")
    assert said.exit_code == 0, said.output
    assert asked[2:] == [(2, True)] * 2
    assert "learning_rate=1e+30" in json.loads(said.stdout)["failed"]
    assert_made_as_typed(tmp_path / "out", "--try learning_rate=1e-3,1e30 --nproc 2")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--try", "learning_rate=1"], "needs at least two values"),
        (["--try", "learning_rate"], "has no values"),
        (["--try", "learning_rat=1,2"], "Did you mean 'learning_rate'"),
        (["--try", "momentum=0.5,0.9", "momentum=0.9"], "is both set and tried"),
        (["--try", "mask_ratio=0.5,50"], "mask_ratio must be a share above 0 and at most 1"),
        (
            ["--try", "momentum=0,0.9", "push_to_hub=true", "hub_model_id=a/b"],
            "--try does not push",
        ),
    ],
)
def test_bad_values_to_try_are_refused_before_the_first_run(tmp_path, small, words, message):
    said = invoke(small, tmp_path / "out", *words)
    assert said.exit_code != 0
    text = " ".join(f"{said.output} {said.exception}".replace("│", " ").split())
    assert message in text
    assert not (tmp_path / "out").exists()
