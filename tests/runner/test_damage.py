"""Strangers' folders, damaged files and full disks: no code is run, and nothing is lost."""

import errno
import json
import pickle
import shutil

import pytest
from safetensors.torch import save_model

from salhub.errors import SalhubError
from salhub.manifest import file_sha256
from salhub.runner.disk import DiskFullError
from salhub.runner.run import run
from salhub.runner.run_folder import OPTIONS_NAME
from tests.runner.test_loop import recipe_of, run_toy
from tests.testers.recipe import Stopped, counted, products

AGAIN = {"checkpointing_steps": 3, "resume_from_checkpoint": "latest"}


class Command:
    """Runs a command when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


def stopped_run(folder, after: int = 8):
    """A run with checkpoints of steps 3 and 6."""
    recipe, _ = counted(recipe_of(folder, checkpointing_steps=3), after)
    with pytest.raises(Stopped):
        run(recipe)
    return folder


# --- code -----------------------------------------------------------------------------------------

# What Accelerate, torch and transformers' trainer would read, some of it by unpickling.
PICKLES = (
    "custom_checkpoint_0.pkl", "random_states_0.pkl", "optimizer.bin", "optimizer.pt",
    "scheduler.bin", "scheduler.pt", "sampler.bin", "scaler.pt", "pytorch_model.bin", "model.pt",
    "rng_state.pth", "training_args.bin", "states.pkl", "model.pkl",
)  # fmt: skip


def test_a_pickle_in_a_strangers_run_is_never_unpickled(tmp_path):
    mark = tmp_path / "mark"
    attack = pickle.dumps(Command(mark))
    pickle.loads(attack).close()
    assert mark.exists()  # it would work
    mark.unlink()
    run_toy(tmp_path / "whole", checkpointing_steps=3)
    out = stopped_run(tmp_path / "out")
    for folder in (out, *out.glob("checkpoint-*")):
        for name in PICKLES:
            (folder / name).write_bytes(attack)
    run_toy(out, **AGAIN)
    assert not mark.exists()
    assert products(out) == products(tmp_path / "whole")


@pytest.mark.parametrize("name", ["model.safetensors", "states.safetensors", "states.json"])
def test_a_pickle_in_the_place_of_a_file_of_ours_is_refused_with_a_sentence(tmp_path, name):
    mark, out = tmp_path / "mark", stopped_run(tmp_path / "out")
    last = out / "checkpoint-6"
    (last / name).write_bytes(pickle.dumps(Command(mark)))
    digests = json.loads((last / "checkpoint.json").read_text())
    # A stranger can write the digest that belongs to it.
    digests[name] = file_sha256(last / name)
    (last / "checkpoint.json").write_text(json.dumps(digests))
    with pytest.raises(
        ValueError, match=r"remove it, and resume with resume_from_checkpoint=latest"
    ):
        run_toy(out, **AGAIN)
    assert not mark.exists()
    shutil.rmtree(last)  # as it was said
    run_toy(out, **AGAIN)


@pytest.mark.parametrize("content", ["[]", "{}", '{"optimizer": 3}', '{"optimizer": {"pairs": 1}}'])
def test_states_of_something_else_are_refused_with_a_sentence(tmp_path, content):
    last = stopped_run(tmp_path) / "checkpoint-6"
    (last / "states.json").write_text(content)
    digests = json.loads((last / "checkpoint.json").read_text())
    digests["states.json"] = file_sha256(last / "states.json")
    (last / "checkpoint.json").write_text(json.dumps(digests))
    with pytest.raises(
        ValueError, match=r"remove it, and resume with resume_from_checkpoint=latest"
    ):
        run_toy(tmp_path, **AGAIN)


# --- damage ---------------------------------------------------------------------------------------


def halve(path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def test_a_run_goes_on_from_a_log_and_a_list_of_files_that_are_damaged(tmp_path, caplog):
    run_toy(tmp_path / "whole", checkpointing_steps=3)
    out = stopped_run(tmp_path / "out")
    (out / "exported.json").write_text('["model.safete')
    with (out / "log.jsonl").open("ab") as file:
        file.write(b"\xff\xfe\x00{")
    run_toy(out, **AGAIN)
    assert "exported.json is damaged and was skipped" in caplog.text
    assert products(out) == products(tmp_path / "whole")


def test_lines_of_the_log_that_are_lost_are_said(tmp_path, caplog):
    out = stopped_run(tmp_path / "out")
    halve(out / "log.jsonl")
    run_toy(out, **AGAIN)
    assert "log.jsonl has lost lines before step 6" in caplog.text
    run_toy(tmp_path / "whole", checkpointing_steps=3)
    name = "model.safetensors"
    assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("content", [None, b"", b"[]", b"\xff\xff"])
def test_results_that_are_damaged_are_measured_again(tmp_path, caplog, content):
    first = run_toy(tmp_path, checkpointing_steps=3)
    before = products(tmp_path)
    if content is None:
        halve(tmp_path / "results.json")
    else:
        (tmp_path / "results.json").write_bytes(content)
    again = run_toy(tmp_path, **AGAIN)
    assert "results.json is damaged and was skipped" in caplog.text
    assert again.metric("accuracy").value == first.metric("accuracy").value
    assert products(tmp_path) == before


def test_options_that_are_damaged_are_refused_and_can_be_replaced(tmp_path):
    out = stopped_run(tmp_path)
    halve(out / OPTIONS_NAME)
    with pytest.raises(ValueError, match=r"options\.json is damaged.*again with overwrite=true"):
        run_toy(out, **AGAIN)
    assert sorted(path.name for path in out.glob("checkpoint-*")) == [
        "checkpoint-3",
        "checkpoint-6",
    ]
    run_toy(out, overwrite=True)


# --- a full disk ----------------------------------------------------------------------------------


def no_room(*_, **__):
    # As safetensors and the system say it.
    raise SalhubError("Error while serializing: I/O error: No space left on device (os error 28)")


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device", "/disk/file")


@pytest.mark.parametrize(
    ("writer", "fault"),
    [
        ("salhub.runner.checkpoint.save_model", no_room),
        ("salhub.runner.checkpoint.save_file", full),
        ("tests.runner.toy_recipe.save_model", no_room),
        ("salhub.runner.trackers.JsonLinesTracker.log", full),
        ("salhub.results.write_text", full),
        ("salhub.runner.run.write_text", full),
        ("salhub.runner.run_folder.write_text", full),
    ],
)
def test_a_full_disk_is_said_and_loses_nothing(tmp_path, monkeypatch, writer, fault):
    run_toy(tmp_path / "whole", checkpointing_steps=3)
    out = stopped_run(tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(writer, fault)
        with pytest.raises(DiskFullError) as refused:
            run_toy(out, **AGAIN)
    said = str(refused.value)
    assert said.startswith(f"disk full: there is no space left in {out}")
    assert "resume with resume_from_checkpoint=latest" in said
    assert not list(out.glob(".*"))  # half of a file takes room
    run_toy(out, **AGAIN)
    assert products(out) == products(tmp_path / "whole")


def test_other_errors_stay_what_they_are(tmp_path):
    recipe = recipe_of(tmp_path / "out")
    recipe.build_model = lambda: (tmp_path / "none").read_text()
    with pytest.raises(FileNotFoundError):
        run(recipe)


def test_the_words_of_safetensors_are_known(tmp_path):
    # Its errors have no number; that it still says them is shown by what it says of a folder.
    recipe = recipe_of(tmp_path)
    with pytest.raises(Exception, match=r"os error \d+"):
        save_model(recipe.build_model(), str(tmp_path / "no" / "folder"))
