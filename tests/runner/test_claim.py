"""One run at a time in a folder, whoever began it and however it ended."""

import fcntl
import json
import os
import signal
import time

import pytest

from salhub.runner.claim import FolderInUseError, claimed
from salhub.runner.run import run
from tests.runner.test_loop import recipe_of, run_toy
from tests.testers.recipe import products


class Waiting:
    """A child process that holds a folder until it is killed."""

    def __init__(self, folder):
        self.folder = folder

    def __enter__(self) -> int:
        read, write = os.pipe()
        self.process = os.fork()
        if self.process == 0:
            with claimed(self.folder):
                os.write(write, b"claimed")
                time.sleep(60)
            os._exit(0)
        assert os.read(read, 7) == b"claimed"
        os.close(read), os.close(write)
        return self.process

    def kill(self) -> None:
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        self.process = 0

    def __exit__(self, *_) -> None:
        if self.process:
            self.kill()


def test_a_folder_that_another_run_writes_to_is_refused_before_the_model_is_built(tmp_path):
    run_toy(tmp_path / "alone", checkpointing_steps=3)
    out = tmp_path / "out"
    waiting = Waiting(out)
    with waiting as process:
        for options in ({}, {"overwrite": True}, {"resume_from_checkpoint": "latest"}):
            recipe = recipe_of(out, checkpointing_steps=3, **options)
            recipe.build_model = lambda: pytest.fail("the model was built")
            with pytest.raises(FolderInUseError, match=rf"\(process {process}\); wait"):
                run(recipe)
        assert run_toy(out, dry_run=True) is None  # it writes nothing
        waiting.kill()
        # Released with its process, though that could do nothing about it.
        run_toy(out, checkpointing_steps=3, resume_from_checkpoint="latest")
    assert products(out) == products(tmp_path / "alone")
    assert {p.name for p in out.iterdir()} == {p.name for p in (tmp_path / "alone").iterdir()}


def test_two_runs_of_one_process_are_two_runs(tmp_path):
    recipe = recipe_of(tmp_path / "out")
    build = recipe.build_model

    def again():
        with pytest.raises(
            FolderInUseError, match="wait for it, stop it, or choose another output_dir"
        ):
            run_toy(tmp_path / "out", overwrite=True)
        return build()

    recipe.build_model = again
    run(recipe)
    assert not list((tmp_path / "out").glob(".*"))
    with claimed(tmp_path / "other"), claimed(tmp_path / "third"):
        pass
    assert not (tmp_path / "other").exists()


def test_a_lock_that_is_removed_while_it_is_taken_is_no_claim(tmp_path, monkeypatch):
    take = fcntl.flock

    def late(*arguments):
        (tmp_path / "out" / ".run.lock").unlink(missing_ok=True)
        return take(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", late)
        with pytest.raises(FolderInUseError), claimed(tmp_path / "out"):
            pytest.fail("a third run could claim it as well")
    with claimed(tmp_path / "out"):
        pass


def test_a_run_of_another_machine_is_named(tmp_path, caplog):
    owner = tmp_path / "out" / ".run.json"
    owner.parent.mkdir()
    owner.write_text(json.dumps({"process": 7, "machine": "node-b"}))
    with claimed(tmp_path / "out"):
        assert "on the machine node-b (process 7)" in caplog.text
        owner.write_text(json.dumps({"process": 7, "machine": "node-b"}))
        with (
            pytest.raises(FolderInUseError, match=r"\(process 7 on node-b\)"),
            claimed(tmp_path / "out"),
        ):
            pass
    owner.write_text("{cut off")
    with claimed(tmp_path / "out"):
        assert caplog.text.count("node-b") == 1


def test_a_finished_run_that_is_only_read_claims_nothing(tmp_path):
    first = run_toy(tmp_path / "out")
    with Waiting(tmp_path / "out"):
        again = run_toy(tmp_path / "out", resume_from_checkpoint="latest")
    assert again.metric("accuracy").value == first.metric("accuracy").value


def test_what_is_refused_leaves_no_folder(tmp_path):
    recipe = recipe_of(tmp_path / "a" / "b")

    def fail():
        raise ValueError("no data")

    recipe.build_model = fail
    with pytest.raises(ValueError, match="no data"):
        run(recipe)
    assert not (tmp_path / "a").exists()
