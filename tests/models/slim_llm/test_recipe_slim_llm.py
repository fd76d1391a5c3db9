"""Compression by SliM-LLM: from a LLaMA and a text to a folder that transformers loads."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from salhub import entries, registration
from salhub.entries import Method, Model
from salhub.models.slim_llm.recipe_slim_llm import SlimLLMArguments, SlimLLMRecipe
from salhub.quantization.quantizer import packed_layers
from salhub.runner.run import run
from tests import small_llama
from tests.testers.recipe import RecipeTester

ENTRY = Model(
    "slim_llm",
    "slim_llm",
    "text-generation",
    "transformers.LlamaConfig",
    "transformers.LlamaForCausalLM",
    "AutoModelForCausalLM",
    quantizer="SlimLLMQuantizer",
)


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """The lines that `salhub.auto` gets with the first model that ships."""
    monkeypatch.setitem(entries.METHODS, ENTRY.name, Method(ENTRY.name, "arXiv:2405.14917"))
    monkeypatch.setitem(entries.MODELS, ENTRY.name, ENTRY)
    registration._register_quantizers()


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, str]:
    """A model and a text."""
    folder = tmp_path_factory.mktemp("slim")
    (folder / "text.txt").write_text("\n\n".join(small_llama.documents(60)))
    model = small_llama.save(folder / "model")
    return {"model": str(model), "calibration": str(folder / "text.txt")}


def recipe(folder: Path, sources: dict[str, str], **options) -> SlimLLMRecipe:
    settings = {"num_calibration_windows": 6, "context_length": 24, "group_size": 4, "cpu": True}
    return SlimLLMRecipe(
        SlimLLMArguments(output_dir=str(folder), **{**sources, **settings, **options})
    )


class TestSlimLLM(RecipeTester):
    @pytest.fixture
    def make(self, sources):
        return lambda folder, **options: recipe(folder, sources, **options)


def widths(folder: Path) -> dict[str, str]:
    return json.loads((folder / "config.json").read_text())["quantization_config"]["group_bits"]


def test_a_compressed_model_loads_and_predicts_what_it_did(tmp_path, sources):
    made = recipe(
        tmp_path / "out", sources, bits=3, test_data=sources["calibration"], test_context_length=24
    )
    results = run(made)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer("the old king said", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = model(ids).logits
        plain = AutoModelForCausalLM.from_pretrained(sources["model"])(ids).logits
    # Three bits change the answers of a model of random weights by little.
    assert 0 < float((logits - plain).norm() / plain.norm()) < 0.3
    assert all(layer.widths for layer in packed_layers(model).values())
    for name, digits in widths(tmp_path / "out").items():
        assert sum(map(int, digits)) == 3 * len(digits), name
    assert results.metric("bits").value == 3
    assert results.metric("perplexity/before").value == pytest.approx(
        results.metric("perplexity/after").value, rel=0.05
    )


def test_maps_to_compare_with_keep_the_counts(tmp_path, sources):
    found = {}
    for allocation in ("salience", "random", "inverted", "uniform"):
        run(recipe(tmp_path / allocation, sources, allocation=allocation))
        found[allocation] = widths(tmp_path / allocation)
    first = "model.layers.0.mlp.down_proj"
    assert found["inverted"][first].translate(str.maketrans("13", "31")) == found["salience"][first]
    assert set(found["uniform"][first]) == {"2"}
    assert found["random"] != found["salience"]
    for name, digits in found["salience"].items():
        # Later blocks see what the earlier ones give, so only those of the first are the same.
        if ".0.self_attn.q" in name:
            assert sorted(digits) == sorted(found["random"][name])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bits": 5}, "bits must be 2, 3 or 4, got 5"),
        ({"group_size": 64}, "group_size is 64, and model.layers.0.self_attn.q_proj has 16"),
        ({"num_test_tokens": -5}, "num_test_tokens must be an integer, 1 or more, got -5"),
        ({"search_range": 1.0}, r"search_range must be in \[0, 1\)"),
        ({"context_length": 100_000}, "100,?000"),
        ({"preset": "best"}, "preset must be one of recommended, reference"),
    ],
)
def test_bad_options_are_refused_before_any_work(tmp_path, sources, options, words):
    with pytest.raises(ValueError, match=words):
        run(recipe(tmp_path / "out", sources, **options))
    assert not (tmp_path / "out").exists()


def test_models_that_cannot_be_compressed_are_refused(tmp_path, sources):
    run(recipe(tmp_path / "once", sources))
    with pytest.raises(ValueError, match="is quantized already"):
        run(recipe(tmp_path / "twice", {**sources, "model": str(tmp_path / "once")}))
    broken = small_llama.network()
    with torch.no_grad():
        broken.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    broken.save_pretrained(tmp_path / "broken")
    small_llama.tokenizer().save_pretrained(tmp_path / "broken")
    with pytest.raises(ValueError, match=r"weight of model\.layers\.1\.mlp\.up_proj is not finite"):
        run(recipe(tmp_path / "out", {**sources, "model": str(tmp_path / "broken")}))
