"""`salhub evaluate` hands the model and the data to the method's own protocol."""

import importlib.util
import inspect
import json
import shlex
import shutil
from pathlib import Path

import pytest

from salhub.data.samples import sample_path
from salhub.entries import MODELS
from salhub.results import Results


def test_the_results_say_how_to_repeat_them(call, letters, texts):
    words = ["--data", texts, "--keep", "all", "share=0.25", "seed=3"]
    output = call("evaluate", "letters", *words).stdout
    results = Results.load(texts.parent / "letters-en.results.json")
    assert (results.seed, results.metric("share").value) == (3, 0.25)
    assert results.tables[0].rows == [["all", 0.25]]
    assert shlex.split(results.command) == [
        "salhub", "evaluate", "letters", "--data", "texts", "share=0.25", "seed=3", "keep=all",
    ]  # fmt: skip
    assert str(texts.parent) not in results.command
    assert "  what  value\n  all   0.25\n" in output


def test_a_token_is_never_recorded(call, letters, texts):
    words = ["--token", "hf_SECRET", "cache-dir=/somewhere", "revision=v1", "seed=3"]
    call("evaluate", "letters", "--data", texts, *words)
    written = (texts.parent / "letters-en.results.json").read_text()
    assert "hf_SECRET" not in written and "/somewhere" not in written
    command = shlex.split(Results.load(texts.parent / "letters-en.results.json").command)
    assert command[:5] == ["salhub", "evaluate", "letters", "--data", "texts"]
    assert sorted(command[5:]) == ["revision=v1", "seed=3"]


def test_mistakes_are_named_before_anything_is_loaded(call, letters, texts):
    error = call("evaluate", "letters", "--data", "texts", "--sead", "3", code=2).stderr
    assert "Did you mean 'seed'" in error
    assert "nowhere does not exist; give a file or folder of data" in (
        call("evaluate", "letters", "--data", "nowhere", code=1).stderr
    )
    (texts.parent / "letters-en.results.json").write_text("{}")
    assert "exists" in call("evaluate", "letters", "--data", "texts", code=1).stderr
    assert "nowhere does not" in call("evaluate", "letters", "--data", "nowhere", code=1).stderr
    assert letters.made == []


def test_a_network_is_measured_by_itself(call, call_json, tmp_path):
    for index, name in ((282, "cat"), (967, "coffee"), (657, "rocket")):
        folder = tmp_path / "pictures" / str(index)
        folder.mkdir(parents=True)
        shutil.copy(sample_path(name), folder)
    index = [
        {"file": f"{place}/{name}.jpg", "index": place, "name": name}
        for place, name in ((282, "cat"), (967, "coffee"), (1, "rocket"))
    ]
    index[-1]["file"] = "657/rocket.jpg"
    (tmp_path / "pictures" / "index.json").write_text(json.dumps(index))
    [record] = call_json("evaluate", "efficientnet-lite0", "--data", "pictures")
    results = Results.load(record["output"])
    assert results.model == "salhub/efficientnet-lite0"
    assert results.metric("top1").value == pytest.approx(2 / 3)
    assert results.metric("top5").n == 3
    assert results.tables[0].rows[0][1] == "0.667"
    error = call("run", "efficientnet-lite0", "sample:cat", code=1).stderr
    assert "--classifier efficientnet-lite0" in error


def test_class_folders_are_matched_to_the_classes(call, call_json, tmp_path):
    for folder, name in (("tiger_cat", "cat"), ("967", "coffee"), ("spaniel dog", "rocket")):
        (tmp_path / "pictures" / folder).mkdir(parents=True)
        shutil.copy(sample_path(name), tmp_path / "pictures" / folder)
    error = call("evaluate", "efficientnet-lite0", "--data", "pictures", code=1).stderr
    assert "'spaniel dog' is not a class of the classifier." in error
    (tmp_path / "pictures" / "spaniel dog").rename(tmp_path / "pictures" / "missile")
    [record] = call_json("evaluate", "efficientnet-lite0", "--data", "pictures")
    assert Results.load(record["output"]).metric("top5").value == 1


def test_too_few_confident_pictures_name_the_setting(call, own_network, tmp_path):
    for name in ("apple", "pear", "plum"):
        (tmp_path / "fruit" / name).mkdir(parents=True)
        shutil.copy(sample_path("coffee"), tmp_path / "fruit" / name)
    words = ["--data", "fruit", "--classifier", own_network, "min_probability=0.999"]
    error = call("evaluate", "normgrad", *words, code=1).stderr
    assert "0 of 3 pictures" in error and "min_probability=0.999" in error


def test_the_layout_of_the_data_is_in_the_help(call):
    words = " ".join(call("evaluate", "--help").stdout.split())
    assert "one sub-folder per class" in words and "WordNet ids" in words


@pytest.mark.parametrize("name", [name for name, one in MODELS.items() if one.method])
def test_a_method_measures_parts_of_its_pipeline_on_a_path(name):

    folder = Path(importlib.util.find_spec(MODELS[name].home).origin).parent
    if not (folder / f"evaluation_{name}.py").is_file():
        pytest.skip(f"{name} has no evaluation")
    signature = inspect.signature(MODELS[name].module("evaluation").evaluate)
    inputs = {
        argument
        for argument, parameter in signature.parameters.items()
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY
    }
    pipeline = inspect.signature(MODELS[name].pipeline_class.__init__).parameters
    assert {"model", "data_path"} <= inputs
    assert inputs - {"data_path"} <= pipeline.keys()


def test_an_evaluation_that_fails_keeps_what_it_measured(call, letters, texts, monkeypatch):
    def fail(results, *_):
        raise ValueError("The last part went wrong.")

    monkeypatch.setattr(Results, "save", fail)
    result = call("evaluate", "letters", "--data", "texts", code=1)
    assert "The last part went wrong." in result.stderr
    notes = (texts.parent / "letters-en.results.json.partial.jsonl").read_text()
    assert json.loads(notes)["name"] == "share"
