"""What is said when something goes wrong, and the exit codes."""

import json
import os

import pytest
from typer.testing import CliRunner

from salhub.cli import app
from salhub.cli.failures import sentence_of

from .conftest import LettersConfig


def test_messages_become_one_line():
    assert sentence_of(ValueError("a\n  b")) == "a b"
    assert sentence_of(KeyError("no metric 'x'")) == "no metric 'x'"
    assert sentence_of(FileNotFoundError(2, "No such file or directory", "x")) == (
        "x: No such file or directory."
    )
    assert sentence_of(RuntimeError("odd")) == "RuntimeError: odd (--debug shows where)"
    assert sentence_of(ValueError()) == "ValueError"


def test_a_refused_configuration_says_why_and_not_which_validator():
    with pytest.raises(ValueError) as caught:
        LettersConfig(keep="consonants")
    assert sentence_of(caught.value) == "keep must be vowels or all, got 'consonants'."


def test_a_failure_is_one_sentence_with_exit_code_1(call):
    result = call("info", "no-such-model", code=1)
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("Error: There is no model, method or folder 'no-such-model'; ")
    assert result.stdout == ""


def test_export_without_a_format_lists_the_formats(call):
    error = call("export", "model", "folder", code=2).stderr
    assert "Give --format compressed-tensors, gptq, peft or dense." in error


@pytest.mark.parametrize("device", ["foo", "cuda:99", "meta", "cpu:x"])
@pytest.mark.parametrize(
    "words",
    [
        ["run", "letters", "sample:abc"],
        ["compare", "sample:abc", "letters"],
        ["evaluate", "letters", "--data", "."],
    ],
    ids=["run", "compare", "evaluate"],
)
def test_a_device_that_is_not_there_is_refused_before_loading(call, letters, words, device):
    error = call(*words, "--device", device, code=2).stderr
    assert f"There is no device '{device}' here; use cpu" in error.splitlines()[-1]
    assert letters.made == []


@pytest.mark.parametrize("place", ["before", "after"])
def test_debug_shows_the_traceback(letters, tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    words = ["run", "letters", "missing.txt"]
    words = ["--debug", *words] if place == "before" else [*words, "--debug"]
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, FileNotFoundError)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rum"], "No such command 'rum'. Did you mean 'run'?"),
        (["run"], "Missing argument"),
        (["run", "letters", "sample:abc", "--batch-size", "0"], "batch-size"),
        (["run", "letters", "sample:abc", "--keeep", "all"], "Did you mean 'keep'?"),
        (["run", "letters", "sample:abc", "--keep"], "--keep needs a value"),
        (["run", "letters", "sample:abc", "--keep", "-o", "a.out"], "--keep needs a value, got"),
        (["run", "letters", "sample:abc", "--keep", "--json"], "--keep needs a value, got"),
        (["run", "letters", "sample:abc", "--keep", "-"], "--keep needs a value, got '-'"),
        (["run", "letters", "sample:abc", "other.txt"], "'other.txt' is not a valid setting"),
        (["run", "letters", "sample:abc", "--classifier", "x"], "no setting 'classifier'"),
        (["run", "letters", "sample:abc", "--class", "cat"], "no setting 'class_labels'"),
        (["run", "letters", "sample:abc", "--format", "png"], "choose .out, .json"),
        (["run", "letters", "sample:abc", "--view", "uper"], "Did you mean 'upper'?"),
        (["run", "letters", "sample:abc", "-o", "x.png"], "cannot be written as '.png'"),
        (["run", "letters", "sample:abc", "--json", "-o", "-"], "both write to standard output"),
        (["cache", "sed"], "No such command 'sed'"),
    ],
)
def test_usage_errors_have_exit_code_2_and_load_nothing(call, letters, words, message):
    result = call(*words, code=2)
    assert message in result.stderr
    assert letters.made == []


def test_a_word_that_is_a_setting_is_said_to_be_one(call):
    error = call("run", "gradcam", "sample:cat", code=1).stderr
    assert "Did you mean 'gradcam-efficientnet-lite0'?" in error
    assert "'grad_cam' is also a setting: normgrad with method=grad_cam." in error


def test_short_forms_of_options_are_understood(call):
    error = " ".join(call("train", "cifar-resnet", "data=x.npz", "lr=0.1", code=2).stderr.split())
    assert "Did you mean 'learning_rate'" in error


def test_a_typed_text_that_is_no_text_is_one_sentence(call):
    text = os.fsdecode(b"the caf\xe9 is good.")
    result = call("run", "lexrank", text, "--json", code=1)
    assert result.stderr.count("\n") == 1 and "contains the byte 0xe9" in result.stderr
    record = json.loads(result.stdout)
    assert os.fsencode(record["input"]) == b"the caf\xe9 is good." and "error" in record
