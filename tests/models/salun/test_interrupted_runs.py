"""Unlearning that is stopped, killed or shared by processes ends as it would have ended."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from salhub.data.labelled_split import LabelledSplit
from salhub.models.salun.masked_optimizer import closed_weights_digest
from salhub.models.salun.recipe_salun import SalUnRecipe
from salhub.models.salun.weight_mask import WeightMask
from salhub.results import Results
from salhub.runner.launch import launch
from salhub.runner.run import run
from tests.models.salun.small_archive import load, recipe_of, record, unlearn
from tests.models.salun.test_unlearning_runs import by_hand
from tests.testers.recipe import RecipeTester, Stopped, TrainingRecipeTester, counted

ROOT = Path(__file__).parents[3]


def test_a_killed_run_goes_on_to_the_same_weights_and_log_bit_by_bit(tmp_path, small):
    options = {
        "num_train_epochs": 12, "batch_size": 16, "checkpointing_steps": 7, "augment": True,
        "checkpoints_total_limit": 2, "lr_scheduler": "cosine", "relabel": "uniform_all",
        "forget": "random:16", "attack": "none",
    }  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    words = [f"{name}={str(value).lower()}" for name, value in options.items()]
    words += [f"output_dir={killed}", f"model={small.original}", f"data={small.data}", "cpu=true"]
    process = subprocess.Popen(
        [sys.executable, "-m", "salhub.cli", "unlearn", "salun", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
    )
    while process.poll() is None and not list(killed.glob("checkpoint-*")):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors.decode()
    assert list(killed.glob("checkpoint-*")) and not (killed / "results.json").exists()
    unlearn(small, whole, "salun", **options)
    unlearn(small, killed, "salun", resume_from_checkpoint="latest", **options)
    for name in ("model.safetensors", "log.jsonl", "split.json", "unlearning.json"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    assert WeightMask.from_pretrained(killed) == WeightMask.from_pretrained(whole)
    assert len((whole / "log.jsonl").read_text().splitlines()) > 24


@pytest.mark.parametrize("damage", [None, "bits", "another model"])
def test_a_run_that_goes_on_takes_the_mask_that_it_made(
    tmp_path, small, monkeypatch, damage, caplog
):
    options = {"num_train_epochs": 2, "batch_size": 16, "checkpointing_steps": 2}
    unlearn(small, tmp_path / "whole", "salun", **options)
    out, made = tmp_path / "out", []
    with pytest.raises(Stopped):
        run(counted(recipe_of(small, out, "salun", **options), 4)[0])
    [kept] = out.glob("prepared-mask-*")
    if damage == "bits":
        file = kept / "mask.safetensors"
        file.write_bytes(file.read_bytes()[:-1] + b"\x77")
    elif damage == "another model":
        kept.rename(out / "prepared-mask-0123456789abcdef")
    ranked = SalUnRecipe.score_weights
    monkeypatch.setattr(
        SalUnRecipe, "score_weights", lambda self: made.append(self) or ranked(self)
    )
    unlearn(small, out, "salun", resume_from_checkpoint="latest", **options)
    assert len(made) == (damage is not None)
    assert ("The mask is computed again" in caplog.text) == (damage == "bits")
    for name in ("model.safetensors", "mask.safetensors", "log.jsonl"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert damage == "another model" or not list(out.glob("prepared-*"))
    # One that begins anew makes its own.
    kept.mkdir(exist_ok=True)
    unlearn(small, out, "salun", overwrite=True, **options)
    assert len(made) == 1 + (damage is not None) and not list(out.glob("prepared-*"))


class TestTraining(TrainingRecipeTester):
    @pytest.fixture(params=["salun", "salun-soft", "be", "bs"])
    def make(self, small, request):
        settings = {"num_train_epochs": 4, "batch_size": 16, "relabel": "uniform_all"}
        settings |= {"lr_scheduler": "cosine", "augment": True, "forget": "random:16"}
        if request.param in ("be", "bs"):
            del settings["relabel"]
        return lambda folder, **options: recipe_of(
            small, folder, request.param, **{**settings, **options}
        )


class TestInfluence(RecipeTester):
    @pytest.fixture
    def make(self, small):
        return lambda folder, **options: recipe_of(small, folder, "iu", mask_ratio=0.5, **options)


def test_a_run_goes_on_from_any_of_its_checkpoints_with_its_own_options(tmp_path, small):
    options = {"num_train_epochs": 3, "batch_size": 16, "checkpointing_steps": 2}
    unlearn(small, tmp_path / "whole", "be", **options)
    shutil.copytree(tmp_path / "whole", tmp_path / "part")
    (tmp_path / "part" / "results.json").unlink()
    checkpoint = str(tmp_path / "part" / "checkpoint-2")
    unlearn(small, tmp_path / "part", "be", resume_from_checkpoint=checkpoint, **options)
    for file in ("model.safetensors", "log.jsonl"):
        assert (tmp_path / "part" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    with pytest.raises(ValueError, match=r"and cannot be resumed with 0\.5; give the same"):
        options |= {"resume_from_checkpoint": "latest", "learning_rate": 0.5}
        unlearn(small, tmp_path / "part", "be", **options)


def test_what_two_processes_report_is_what_the_saved_model_does(tmp_path, small):
    # Numbers that two cannot share evenly, and statistics of batch normalisation that differ.
    words = [f"model={small.original}", f"data={small.data}", f"output_dir={tmp_path}", "cpu=true"]
    words += ["forget=random:17", "attack=none", "batch_size=15", "num_train_epochs=2"]
    assert launch(["unlearn", "salun", *words], 2, cpu=True) == 0
    results = Results.load(tmp_path / "results.json")
    assert results.data["processes"] == 2
    expected = by_hand(small, tmp_path, LabelledSplit.load(tmp_path), red=False)
    for name, value in expected.items():
        assert results.metric(name).value == pytest.approx(value, abs=1e-9), name
    digest = closed_weights_digest(load(tmp_path), WeightMask.from_pretrained(tmp_path))
    assert record(tmp_path)["mask"]["closed_weights_sha256"] == digest
