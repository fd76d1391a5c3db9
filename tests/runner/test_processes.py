"""Real processes: killed ones are gone on with, and several hold one model and share the rows."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from salhub.results import Results
from salhub.runner.launch import launch
from salhub.runner.processes import EXPECTED_PROCESSES, check_whole_weights
from salhub.runner.run import run
from tests.runner.run_toys import KINDS, toy
from tests.runner.test_loop import lines, run_toy
from tests.testers.recipe import products

ROOT = Path(__file__).parents[2]


def start(folder: Path, what: str, processes: int = 1) -> str:
    """The toys in processes of their own; returns what they said."""
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    variables = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    found = subprocess.run(
        [*command, str(ROOT / "tests/runner/run_toys.py"), str(folder), what],
        env={**os.environ, **variables, EXPECTED_PROCESSES: str(processes)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    return found.stderr


def test_what_was_killed_goes_on_to_the_same_bytes(tmp_path):
    start(tmp_path, "kill")
    assert [p.name for p in sorted(tmp_path.glob("*/checkpoint-*"))] == [
        "checkpoint-4", "checkpoint-8",
    ]  # fmt: skip
    assert [p.name for p in sorted(tmp_path.glob("*/block-*"))] == [
        "block-0000.safetensors", "block-0001.safetensors",
    ]  # fmt: skip
    for kind in KINDS:
        assert not (tmp_path / kind / "results.json").exists()
        run(toy(kind, tmp_path / kind, "latest"))
        run(toy(kind, tmp_path / "whole"))
        assert products(tmp_path / kind) == products(tmp_path / "whole")
        (tmp_path / "whole").rename(tmp_path / f"whole {kind}")


def test_two_processes_learn_what_one_learns_wherever_they_were_stopped(tmp_path):
    said = start(tmp_path, "share", processes=2)
    assert "2 processes on cpu" in said
    for kind in KINDS:
        two, one = tmp_path / kind, tmp_path / f"one {kind}"
        assert products(two) == products(tmp_path / f"{kind} again")
        run(toy(kind, one))
        assert Results.load(two / "results.json").data["processes"] == 2
        expected = load_file(one / "model.safetensors")
        for name, values in load_file(two / "model.safetensors").items():
            torch.testing.assert_close(values, expected[name], rtol=0, atol=1e-5)
        for line, alone in zip(lines(two), lines(one), strict=True):
            assert line == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_an_environment_that_splits_weights_is_refused_on_a_cpu_too(tmp_path, monkeypatch, kind):
    monkeypatch.setenv(f"ACCELERATE_USE_{kind}", "true")
    with pytest.raises(RuntimeError, match=f"configured for {kind}.*recipes need all weights"):
        run_toy(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.setenv(f"ACCELERATE_USE_{kind}", "false")
    check_whole_weights()


def test_a_process_that_dies_ends_the_others(tmp_path, monkeypatch, capfd):
    (tmp_path / "salhub_dies.py").write_text(
        "import os, time\nif os.environ['RANK'] == '1': os._exit(7)\ntime.sleep(60)\n"
    )
    monkeypatch.setattr("salhub.runner.launch._MODULE", "salhub_dies")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert launch([], 2, cpu=True) == 7
    assert capfd.readouterr().err == (
        "Error: a process of the run ended with code 7 and no message.\n"
    )


def test_a_command_of_no_process_is_refused():
    with pytest.raises(ValueError, match="nproc must be 1 or more, got 0"):
        launch(["train"], 0)


def test_one_process_says_nothing_of_processes(tmp_path, capfd):
    run_toy(tmp_path, max_train_steps=1)
    assert "process" not in capfd.readouterr().err
