"""Settings as people write them."""

import os

import pytest
import typer

from salhub.cli.settings import (
    as_written,
    parse_settings,
    parse_value,
    refuse_unknown,
    try_without_place,
    typed_settings,
    without_place,
)
from salhub.cli.train import RecipeCall
from salhub.cli.trials import parse_grid
from salhub.evaluation.text_classification import evaluate
from salhub.models.lexrank.configuration_lexrank import LexRankConfig
from salhub.models.normgrad.configuration_normgrad import NormGradConfig


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1e-3", 0.001),
        ("2.5E+2", 250.0),
        ("-1e3", -1000.0),
        ("0.5", 0.5),
        ("true", True),
        ("null", None),
        ("None", None),
        ("", None),
        ("blocks.15", "blocks.15"),
        ("[blocks.4, 1e-2]", ["blocks.4", 0.01]),
        ("{a: 1e1}", {"a": 10.0}),
        ("'1e3'", 1000.0),
        ("a=b", "a=b"),
        ("*norm*", "*norm*"),
        ("*.bias", "*.bias"),
    ],
)
def test_values_are_yaml_with_exponents(text, value):
    found = parse_value(text, "x")
    assert found == value and type(found) is type(value)


def test_pairs_become_names_and_values():
    words = ["meta-step=1e-3", "layers=[a,b]", "note=x=y"]
    assert parse_settings(words) == {"meta_step": 0.001, "layers": ["a", "b"], "note": "x=y"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["photo.jpg"], "'photo.jpg' is not a valid setting"),
        (["a=1", "a=2"], "'a' is given twice"),
        (["a=[1"], "The value of 'a' cannot be read"),
        (["1a=2"], "write settings as name=value"),
    ],
)
def test_mistakes_are_named(words, message):
    with pytest.raises(typer.BadParameter, match=message.replace("[", r"\[")):
        parse_settings(words)


def test_an_unknown_setting_gets_the_nearest_name_or_all_of_them():
    with pytest.raises(typer.BadParameter, match=r"no setting 'metod'\. Did you mean 'method'"):
        refuse_unknown({"metod": 1}, ["method", "layers"], "normgrad")
    with pytest.raises(typer.BadParameter, match="It takes layers, method"):
        refuse_unknown({"zzz": 1}, ["method", "layers"], "normgrad")
    refuse_unknown({"method": 1}, ["method"], "normgrad")


def test_no_folder_of_this_machine_stays_in_a_setting(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / "a").mkdir(parents=True)
    for word, kept in (
        ("seed=3", "seed=3"),
        ("model=in/a", "model=a"),
        ("output_dir=/nowhere/out", "output_dir=out"),
        ('output_dir="/nowhere/out"', "output_dir=out"),
        ("forget=file:/nowhere/places.txt", "forget=file:places.txt"),
        ("model=me/mine", "model=me/mine"),
        ("forget=indices:3,8,9", "forget=indices:3 places, sha256 bc2be3c6"),
        ("note=" + "long " * 3000, "note=" + "long " * 3000),
        ("empty=", "empty="),
    ):
        assert without_place(word) == kept
    assert try_without_place("mask=/nowhere/one,in/a") == "mask=one,a"


def test_a_class_called_no_and_a_place_called_007_stay_as_they_are_written():
    assert parse_settings(["contrast=no", "class-labels=on", "contrasts=no"]) == {
        "contrast": "no",
        "class_labels": "on",
        "contrasts": False,
    }
    assert parse_settings(["class_labels=3", "contrast=[1e3, 2]", "classifier=null"]) == {
        "class_labels": "3",
        "contrast": ["1e3", "2"],
        "classifier": None,
    }
    words = ["my-notes=007", "film=null", "mask='a b'", "seed=1"]
    places = {"my_notes": "007", "film": None, "mask": "a b"}
    assert as_written(words, [*places]) == places


def test_names_of_files_that_are_no_text_are_values():
    name = os.fsdecode(b"caf\xe9")
    assert parse_settings([f"data={name}", f"output-dir=runs/{name}"]) == {
        "data": name, "output_dir": f"runs/{name}",
    }  # fmt: skip


def test_options_that_are_text_stay_as_typed_on_the_command_line():
    words = ["output_dir=2024_11_30", "data=007", "class_names=[no,1e3]", "label_column=12:30"]
    call = RecipeCall.read("train", "text-classification", [*words, "model=on"], None, 1)
    assert {"model": "on", "output_dir": "2024_11_30"}.items() <= call.settings.items()
    assert (call.settings["data"], call.settings["label_column"]) == ("007", "12:30")
    assert call.settings["class_names"] == ["no", "1e3"]


def test_text_of_a_file_of_values_to_try_and_of_other_commands_stays_as_written(tmp_path):
    file = tmp_path / "options.yaml"
    file.write_text("data: 007\nlabel-column: no\nclass_names: [on, 1e3]\nmodel: null\nseed: 08\n")
    call = RecipeCall.read("train", "text-classification", ["seed=3"], file, 1)
    assert call.settings == {
        "data": "007", "label_column": "no", "class_names": ["on", "1e3"], "model": None, "seed": 3,
        "output_dir": "text-classification-train",
    }  # fmt: skip
    kind = call.recipe_class.arguments_class
    tried = ["label_column=no,007", "model=null,on", "seed=1,2", "freeze=1,2"]
    assert parse_grid(tried, kind) == {
        "label_column": ["no", "007"], "model": [None, "on"], "seed": [1, 2], "freeze": ["1", "2"],
    }  # fmt: skip
    words = ["stopwords=no", "threshold=0.1", "revision=007"]
    expected = {"stopwords": "no", "threshold": 0.1, "revision": "007"}
    assert typed_settings(words, LexRankConfig) == expected
    sized = ["output_size=[7, 8]", "layers=[on, blocks.1]"]
    found = typed_settings(sized, NormGradConfig)
    assert found == {"output_size": [7, 8], "layers": ["on", "blocks.1"]}
    words = ["label_column=no", "text_column=2", "class_names=[no, yes]", "batch_size=3"]
    assert typed_settings(words, evaluate) == {
        "label_column": "no", "text_column": "2", "class_names": ["no", "yes"], "batch_size": 3,
    }  # fmt: skip
