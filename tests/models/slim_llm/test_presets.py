"""Sets of options that have a name, and what happens where options contradict them."""

import logging

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from salhub.cli import app
from salhub.models.slim_llm.quantize_model import quantize_slim_llm
from salhub.models.slim_llm.recipe_slim_llm import SlimLLMArguments
from salhub.quantization.quantizer import packed_layers
from salhub.runner.run import run
from tests import small_llama
from tests.models.slim_llm.compressing import GROUP_SIZE, LENGTH, recipe

TOKENS = torch.arange(6 * LENGTH).view(6, LENGTH) * 7 % small_llama.VOCAB_SIZE


def quantized(preset: str, **options) -> dict[str, nn.Module]:
    done = quantize_slim_llm(
        small_llama.network(), None, TOKENS, group_size=GROUP_SIZE, preset=preset, **options
    )
    return packed_layers(done.model)


def rounded(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """Every weight by itself, with the range of its row in its group."""
    written = torch.zeros_like(weight)
    for row in range(len(weight)):
        for begin in range(0, weight.shape[1], GROUP_SIZE):
            values = weight[row, begin : begin + GROUP_SIZE].tolist()
            low, high = min(0.0, *values), max(0.0, *values)
            step = (high - low) / (2**bits - 1)
            zero = round(-low / step)
            step = float(torch.tensor(step).half())
            for place, value in enumerate(values):
                code = min(max(round(value / step) + zero, 0), 2**bits - 1)
                written[row, begin + place] = (code - zero) * step
    return written


@pytest.mark.parametrize("bits", [2, 3])
def test_rtn_rounds_every_weight_by_itself(bits):
    plain = small_llama.network()
    for name, layer in quantized("rtn", bits=bits).items():
        assert set(layer.widths) == {bits}
        expected = rounded(plain.get_submodule(name).weight.detach(), bits)
        torch.testing.assert_close(layer.to_quantized().dequantize(), expected, rtol=0, atol=1e-6)


def test_what_is_compared_with_differs_in_what_it_says():
    found = {name: quantized(name) for name in ("rtn", "gptq", "gptq-clip", "reference")}
    first = "model.layers.0.mlp.down_proj"
    scales = {name: layers[first].scales for name, layers in found.items()}
    assert all(set(found[name][first].widths) == {2} for name in ("rtn", "gptq", "gptq-clip"))
    assert set(found["reference"][first].widths) == {1, 2, 3}
    # The first group is fitted before any column makes up for another: only a search moves it.
    assert torch.equal(scales["gptq"][:, 0], scales["rtn"][:, 0])
    assert not torch.equal(scales["gptq"], scales["rtn"])
    assert not torch.equal(scales["gptq-clip"][:, 0], scales["gptq"][:, 0])


def test_gptq_lowers_the_error_of_the_outputs_and_the_search_lowers_it_further():
    errors = {}
    for name in ("rtn", "gptq", "gptq-clip"):
        done = quantize_slim_llm(
            small_llama.network(), None, TOKENS, group_size=GROUP_SIZE, preset=name
        )
        errors[name] = sum(layer.error for layer in done.layers.values())
    assert errors["gptq-clip"] < errors["gptq"] < errors["rtn"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"preset": "gptq", "allocation": "salience"},
            "preset=gptq sets allocation=uniform, but you gave allocation=salience",
        ),
        (
            {"preset": "rtn", "backbone": "gptq"},
            "preset=rtn sets backbone=rtn, but you gave backbone=gptq",
        ),
        (
            {"preset": "gptq", "search_range": 0.2},
            r"sets search_range=0\.0, but you gave search_range=0\.2",
        ),
        (
            {"preset": "gptq-clip", "allow_uniform": False},
            "sets allow_uniform=true, but you gave allow_uniform=false",
        ),
        ({"preset": "gtpq"}, "Did you mean 'gptq'"),
    ],
)
def test_options_that_contradict_what_is_compared_with_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        SlimLLMArguments(output_dir="out", model="m", calibration="t.txt", **options)


def test_options_that_were_given_win_over_the_preset_and_this_is_said(tmp_path, sources, caplog):
    given = {"preset": "reference", "error_norm": 3.0, "allow_uniform": True}
    made = recipe(tmp_path / "out", sources, **given)
    assert (made.settings.error_norm, made.settings.allow_uniform) == (3.0, True)
    with caplog.at_level(logging.WARNING):
        run(made)
    said = [one.message for one in caplog.records]
    assert "You set error_norm to 3.0, while preset=reference uses 2.4." in said
    card = (tmp_path / "out" / "README.md").read_text()
    # What the preset decided stands on the card beside what was given.
    assert "| `error_norm` | `3.0` |" in card and "| `search_weights` | `mask` |" in card
    same = recipe(tmp_path / "same", sources, preset="reference", error_norm=2.4)
    assert same.arguments.changed() == {}


def test_a_file_of_options_takes_another_preset_or_other_bits(tmp_path, sources):
    """It holds what was given, and not what the preset made of it."""
    run(recipe(tmp_path / "out", sources))
    text = (tmp_path / "out" / "options.yaml").read_text()
    assert "preset: recommended" in text and "search_weights: null" in text


def test_the_help_tells_every_option():
    shown = CliRunner().invoke(app, ["compress", "slim-llm", "--help"])
    assert shown.exit_code == 0, shown.output
    text = " ".join(shown.output.split())
    for word in ('"recommended"', '"rtn"', '"gptq-clip"', "quantize_embeddings=none", "bits=2"):
        assert word in text
    for line in shown.output.splitlines():
        assert len(line) <= 100


def test_a_baseline_is_a_model_like_any_other(tmp_path, sources):
    results = run(recipe(tmp_path / "out", sources, preset="gptq-clip", bits=3))
    assert results.metric("bits").value == 3
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert len(packed_layers(model)) == 14
    # Nothing was searched, so there is no curve.
    assert not (tmp_path / "out" / "divergences.png").exists()
    assert "divergences.png" not in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"salience": "hinv"}, "salience=hinv needs objective=divergence, but objective is"),
        ({"salience_weight": 3.0}, "salience_weight=3 needs search_weights=mask"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(given, words):
    settings = {"output_dir": "out", "model": "m", "calibration": "text.txt"}
    with pytest.raises(ValueError, match=words):
        SlimLLMArguments(**settings, **given).validate()
    SlimLLMArguments(**settings, **given, preset="reference").validate()
