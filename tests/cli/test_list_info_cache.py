"""What is there: list, info, cache."""

import json
from pathlib import Path

import huggingface_hub.constants
import pytest

import salhub
from salhub.entries import METHODS
from salhub.errors import UnknownNameError
from salhub.manifest import read_manifest
from salhub.model_facts import key_number, method_in_short, read_facts
from salhub.results import read_results


def test_list_names_every_shipped_model(call, call_json):
    output = call("list").stdout
    [models] = call_json("list")
    assert [model["name"] for model in models] == [
        model.full_name for model in read_manifest().values()
    ]
    for model in models:
        assert model["name"] in output
        assert model["bytes"] > 0 and model["license"] and len(model["revision"]) == 40


def test_list_fits_a_hundred_columns(call):
    lines = call("list").stdout.splitlines()
    assert lines[0].split() == ["name", "method", "task", "MB"]
    assert max(map(len, lines)) <= 100


def test_list_of_a_task_and_of_a_method(call, call_json):
    shipped = read_manifest().values()
    [models] = call_json("list", "--task", "image-saliency")
    wanted = [model.full_name for model in shipped if model.task == "image-saliency"]
    assert [model["name"] for model in models] == wanted and len(wanted) == 3
    [models] = call_json("list", "--method", "salient-relevance")
    assert [model["method"] for model in models] == ["salient_relevance"]
    both = salhub.list_models(task="image_generation", method="salun")
    assert [model.name for model in both] == [
        model.name
        for model in shipped
        if (model.method, model.task) == ("salun", "image-generation")
    ]
    assert len(both) == 3
    assert call("list", "--task", "video-editing", "--method", "salun").stdout.count("salhub/") == 0


@pytest.mark.parametrize(
    ("option", "wrong", "meant"),
    [("task", "image-salency", "image-saliency"), ("method", "normgard", "normgrad")],
)
def test_list_of_an_unknown_task_or_method_names_the_nearest(call, option, wrong, meant):
    error = call("list", f"--{option}", wrong, code=1).stderr
    assert error.startswith(f"Error: There is no {option} '{wrong}'; the {option}s are ")
    assert f"Did you mean '{meant}'" in error
    with pytest.raises(UnknownNameError, match=f"Did you mean '{meant}'"):
        salhub.list_models(**{option: wrong})


def test_info_shows_where_a_model_comes_from_and_every_setting(call, call_json):
    [info] = call_json("info", "normgrad-efficientnet-lite0")
    model = read_manifest()["normgrad-efficientnet-lite0"]
    assert info["name"] == model.full_name
    assert (info["task"], info["paper"]) == ("image-saliency", "arXiv:2004.02866")
    assert [file["sha256"] for file in info["files"]] == [file.sha256 for file in model.files]
    settings = {setting["name"]: setting for setting in info["settings"]}
    config = json.loads((model.folder_of("config.json") / "config.json").read_text())
    assert settings["layers"]["value"] == config["layers"]
    assert settings["method"]["help"]
    assert "backbone_config" not in settings
    assert info["call_settings"] == ["class_labels", "fit"]
    assert any(layer.startswith("blocks.15 ") for layer in info["choices"]["layers"])
    text = call("info", "normgrad-efficientnet-lite0").stdout
    for file in model.files:
        assert file.sha256[:12] in text
    for name in settings:
        assert f"\n  {name} = " in text
    assert "Choices for layers" in text


def test_info_names_what_only_the_training_reads_without_values(call):
    text = call("info", "disa-tiny-clip-cifar10").stdout
    assert "\n  class_names = ['airplane'" in text
    assert "base_fingerprint =" not in text and "prompt_std =" not in text
    assert "\nSet in training, see config.json: base_config, base_fingerprint, " in text


def test_info_begins_with_what_it_is_for_a_line_to_copy_and_the_number_that_matters(call):
    name = "salient-relevance-efficientnet-lite0"
    head = call("info", name).stdout.split("\n\n")
    assert head[0].splitlines()[1] == read_facts(name).in_short
    assert head[1].strip() == f"salhub run {name} sample:cat"
    results = read_results(name)
    ours, theirs = (
        f"{100 * results.metric(f'grid/mass/{one}').value:.1f} %"
        for one in ("salient relevance", "relevance alone")
    )
    ends = [line.split("  ")[-1].strip() for line in head[2].splitlines()]
    assert ends == [ours, theirs] and "layer-wise relevance alone" in head[2]


def test_every_shipped_model_says_what_it_is_for_and_its_number_is_measured():
    for model in read_manifest().values():
        said = read_facts(model.name).in_short
        assert said and said.endswith(".") and len(said) <= 100, model.name
        number = key_number(model.name)
        assert number is not None, model.name
        assert (number.beside is None) == (number.beside_value is None)
    assert {name: method_in_short(name).count(".") for name in METHODS} == dict.fromkeys(METHODS, 1)


def test_info_of_a_network_and_of_a_folder_begin_alike(call_json, own_network):
    [info] = call_json("info", "mnist-resnet8")
    assert info["run"] == "salhub evaluate mnist-resnet8 --data FOLDER"
    [info] = call_json("info", "normgrad", "--classifier", own_network)
    assert info["run"] == f"salhub run normgrad sample:cat --classifier {own_network}"
    assert info["in_short"] == method_in_short("normgrad") and info["key_number"] is None


def test_info_of_a_method_is_that_of_its_default_model(call_json):
    [of_method], [of_model] = (
        call_json("info", "normgrad"),
        call_json("info", "salhub/normgrad-efficientnet-lite0"),
    )
    assert of_method == of_model


def test_info_says_of_which_method_a_kind_of_model_is(call, call_json):
    [info] = call_json("info", "salun-diffusion")
    assert (info["method"], info["kind"]) == ("salun", "salun_diffusion")
    shown = [line.split() for line in call("info", "salun-diffusion").stdout.splitlines()]
    assert ["method", "salun"] in shown and ["kind", "salun_diffusion"] in shown


def test_info_of_a_network_that_is_no_method(call_json):
    [info] = call_json("info", "efficientnet-lite0")
    assert (info["task"], info["method"]) == ("image-classification", None)
    assert info["kind"] == "efficientnet_lite"
    assert {"width_coefficient", "image_size"} <= {setting["name"] for setting in info["settings"]}
    assert info["choices"] == {}


def test_info_shows_the_layers_of_the_users_own_network(call_json, own_network):
    [info] = call_json("info", "normgrad", "--classifier", own_network)
    assert info["classifier"] == str(own_network)
    assert any("stages" in layer for layer in info["choices"]["layers"])


def test_an_unknown_name_gets_the_nearest_without_a_network(call):
    error = call("info", "normgrad-eficientnet-lite0", code=1).stderr
    assert "Did you mean 'normgrad-efficientnet-lite0'" in error


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_cache_seed_copies_and_says_where(call, call_json, cache):
    revision = read_manifest()["efficientnet-lite0"].revision
    [[folder]] = call_json("cache", "seed", "efficientnet-lite0")
    assert folder == str(cache / "models--salhub--efficientnet-lite0" / "snapshots" / revision)
    assert (Path(folder) / "model.safetensors").is_file()
    assert folder in call("cache", "seed", "efficientnet-lite0").stdout
    assert [entry.name for entry in cache.iterdir()] == ["models--salhub--efficientnet-lite0"]
    assert "is not shipped" in call("cache", "seed", "eficientnet-lite0", code=1).stderr


def test_cache_where(call, call_json, cache):
    [places] = call_json("cache", "where")
    assert places["cache"] == str(cache)
    assert (Path(places["shipped"]) / "manifest.json").is_file()
    assert str(cache) in call("cache", "where").stdout
