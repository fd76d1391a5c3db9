"""`salhub train`: options, reports and mistakes; once in processes that work together."""

import json
import re

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


@pytest.fixture
def train(call):
    """Run `salhub train cifar-resnet`."""
    return lambda *words, **keywords: call("train", "cifar-resnet", "cpu=true", *words, **keywords)


SMALL = ["width=4", "stem_stride=1", "batch_size=8", "num_train_epochs=2", "lr_scheduler=constant"]


def test_options_of_a_file_and_of_the_command_line_and_two_processes(tmp_path, data, train, capfd):
    (tmp_path / "options.yaml").write_text("width: 2\nbatch_size: 8\nlearning-rate: 1e-2\n")
    words = ["--config", "options.yaml", f"data={data}", "--width", "4", "output_dir=two"]
    train(*words, "num_train_epochs=1", "--nproc", "2", "--json")
    said = capfd.readouterr()
    lines = [json.loads(line) for line in said.out.splitlines() if line.startswith("{")]
    assert [line["output"] for line in lines] == ["two"]  # once, whatever the processes
    results = Results.load(tmp_path / "two" / "results.json")
    assert results.data["processes"] == 2
    assert results.command.startswith(
        "salhub train cifar-resnet --config options.yaml cpu=true data=noise"
    )
    assert results.command.endswith(" --nproc 2")
    assert said.err.count("2 processes on cpu") == 1
    config = json.loads((tmp_path / "two" / "config.json").read_text())
    assert config["width"] == 4


def test_a_folder_that_holds_a_run_is_not_written_to(train, data):
    said = train(f"data={data}", *SMALL, "output_dir=one", "max_train_steps=1")
    lines = said.stdout.splitlines()
    whole = r"(; the whole run took \d+ s)?"
    assert re.fullmatch(rf"Trained 0.5 epochs in (under 1|\d+) s{whole}\.", lines[0])
    assert re.fullmatch(r"Held-out accuracy \d+\.\d % \(\d of 8\)\.", lines[1])
    assert lines[-2:] == [
        "Saved in one/: the model, its card, log.jsonl and results.json.",
        "Try: salhub run normgrad photo.jpg --classifier one",
    ]
    assert not any("/test" in line or "seconds" in line for line in lines)
    again = train(f"data={data}", *SMALL, "output_dir=one", "max_train_steps=1", code=1)
    assert again.stderr.splitlines()[-1].startswith("Error: one already has a run; resume it")


def test_a_run_is_repeated_by_the_options_that_it_leaves(tmp_path, data, train, monkeypatch):
    train(f"data={data}", *SMALL, "output_dir=one", "max_train_steps=1", "seed=4")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    train("--config", "../one/options.yaml", "output_dir=two")
    weights = [tmp_path / name / "model.safetensors" for name in ("one", "elsewhere/two")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert "data: ../noise.npz\n" in (tmp_path / "one" / "options.yaml").read_text()


def test_a_finished_run_gives_its_results_and_is_not_run_again(tmp_path, data, train, caplog):
    words = [f"data={data}", *SMALL, f"output_dir={tmp_path / 'one'}", "max_train_steps=1"]
    first = train(*words)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "one").iterdir()}
    again = train(*words, "resume_from_checkpoint=latest")
    assert again.stdout == first.stdout
    assert f"The run in {tmp_path / 'one'} is already finished" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "one").iterdir()} == before
    command = Results.load(tmp_path / "one" / "results.json").command
    assert "data=noise.npz" in command and "output_dir=one" in command
    assert str(tmp_path) not in command


@pytest.mark.parametrize("option", [["--dry-run"], ["--dry-run", "--width", "4"]])
def test_a_switch_needs_no_value(tmp_path, data, train, option):
    found = train(f"data={data}", "batch_size=8", *option)
    assert json.loads(found.stdout)["recipe"] == "train cifar-resnet"
    assert not (tmp_path / "cifar-resnet-train").exists()


def test_what_processes_end_with_is_said_once_and_last(tmp_path, data, train, monkeypatch, capfd):
    # What each of them does when it fails is the next test.
    (tmp_path / "salhub_fails.py").write_text(
        "import os, pathlib, sys\n"
        "print('talk', file=sys.stderr)\n"
        "folder, rank = os.environ['SALHUB_ERRORS'], os.environ['RANK']\n"
        "pathlib.Path(folder, rank).write_text('99 pictures need 50 of class 0.')\n"
        "sys.exit(1)\n"
    )
    monkeypatch.setattr("salhub.runner.launch._MODULE", "salhub_fails")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = train(f"data={data}", *SMALL, "--nproc", "2", code=1)
    assert found.stderr == "Error: 99 pictures need 50 of class 0.\n"
    said = capfd.readouterr()
    assert "Error" not in said.out + said.err and "Traceback" not in said.err


def test_a_process_among_several_leaves_its_sentence_to_the_launcher(
    tmp_path, data, train, monkeypatch
):
    (tmp_path / "errors").mkdir()
    monkeypatch.setenv("SALHUB_ERRORS", str(tmp_path / "errors"))
    monkeypatch.setenv("RANK", "0")
    found = train(f"data={data}", *SMALL, "num_train_images=99", code=1)
    assert "Error" not in found.output and "Traceback" not in found.output
    [path] = (tmp_path / "errors").iterdir()
    assert path.name == "0"
    assert path.read_text().startswith("99 pictures of 2 classes need 50 of class 0")


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (["data=x.npz", "widht=3"], "no option 'widht'. Did you mean 'width'", 2),
        ([], "needs 'data'", 2),
        (["data=x.npz"], "no archive of pictures at x.npz", 1),
    ],
)
def test_mistakes_get_one_sentence(tmp_path, train, words, message, code):
    found = train(*words, code=code)
    [line] = [line for line in found.stderr.splitlines() if line.strip()]
    assert line.startswith("Error: ") and message in line
    assert not list(tmp_path.iterdir())
