"""`salhub train`, in processes of its own."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from salhub.results import Results


@pytest.fixture
def data(tmp_path) -> str:
    pictures = np.random.default_rng(0).integers(0, 256, (24, 8, 8), dtype=np.uint8)
    labels = np.arange(24) % 2
    np.savez(
        tmp_path / "noise.npz", train_images=pictures[:16], train_labels=labels[:16],
        test_images=pictures[16:], test_labels=labels[16:],
    )  # fmt: skip
    return str(tmp_path / "noise.npz")


def salhub(folder, *words: str, module: str = "salhub.cli") -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", module, "train", "cifar-resnet", *words],
        cwd=folder,
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


SMALL = ["width=4", "stem_stride=1", "batch_size=8", "num_train_epochs=2", "lr_scheduler=constant"]


def test_options_of_a_file_and_of_the_command_line_and_two_processes(tmp_path, data):
    (tmp_path / "options.yaml").write_text("width: 2\nbatch_size: 8\nlearning-rate: 1e-2\n")
    words = ["--config", "options.yaml", f"data={data}", "--width", "4", "output_dir=two"]
    found = salhub(tmp_path, *words, "num_train_epochs=1", "--nproc", "2", "--json")
    assert found.returncode == 0, found.stderr
    lines = [json.loads(line) for line in found.stdout.splitlines() if line.startswith("{")]
    assert [line["output"] for line in lines] == ["two"]  # once, whatever the processes
    results = Results.load(tmp_path / "two" / "results.json")
    assert results.data["processes"] == 2
    assert results.command.startswith("salhub train cifar-resnet --config options.yaml data=noise")
    assert results.command.endswith(" --nproc 2")
    assert found.stderr.count("2 processes on cpu") == 1
    config = json.loads((tmp_path / "two" / "config.json").read_text())
    assert config["width"] == 4


def test_the_module_that_launchers_start_does_the_same(tmp_path, data):
    found = salhub(
        tmp_path, f"data={data}", *SMALL, "output_dir=one", "max_train_steps=1",
        module="salhub.runner",
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert "The model, its card, log.jsonl and results.json are in one" in found.stdout
    again = salhub(tmp_path, f"data={data}", *SMALL, "output_dir=one", "max_train_steps=1")
    assert again.returncode == 1
    assert again.stderr.splitlines()[-1].startswith("Error: one holds a run already")


def test_a_finished_run_gives_its_results_and_is_not_run_again(tmp_path, data):
    words = [f"data={data}", *SMALL, f"output_dir={tmp_path / 'one'}", "max_train_steps=1"]
    first = salhub(tmp_path, *words)
    assert first.returncode == 0, first.stderr
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "one").iterdir()}
    again = salhub(tmp_path, *words, "resume_from_checkpoint=latest")
    assert again.returncode == 0 and again.stdout == first.stdout
    assert f"The run in {tmp_path / 'one'} is finished already" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "one").iterdir()} == before
    command = Results.load(tmp_path / "one" / "results.json").command
    assert "data=noise.npz" in command and "output_dir=one" in command
    assert str(tmp_path) not in command


@pytest.mark.parametrize("option", [["--dry-run"], ["--dry-run", "--width", "4"]])
def test_a_switch_needs_no_value(tmp_path, data, option):
    found = salhub(tmp_path, f"data={data}", "batch_size=8", *option)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["recipe"] == "train cifar-resnet"
    assert not (tmp_path / "cifar-resnet-train").exists()


def test_what_processes_end_with_is_said_once_and_last(tmp_path, data):
    words = [f"data={data}", *SMALL, "num_train_images=99", "--nproc", "2"]
    found = salhub(tmp_path, *words)
    assert found.returncode == 1
    lines = [line for line in found.stderr.splitlines() if line.strip()]
    assert lines[-1].startswith("Error: 99 pictures of 2 classes need 50 of class 0")
    assert found.stderr.count("Error") == 1 and "Traceback" not in found.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data=x.npz", "widht=3"], "no option 'widht'. Did you mean 'width'"),
        ([], "needs 'data'"),
        (["data=x.npz"], "no archive of pictures at x.npz"),
    ],
)
def test_mistakes_get_one_sentence(tmp_path, words, message):
    found = salhub(tmp_path, *words)
    assert found.returncode == 1
    [line] = [line for line in found.stderr.splitlines() if line.strip()]
    assert line.startswith("Error: ") and message in line
    assert not list(tmp_path.iterdir())
