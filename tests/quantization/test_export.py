"""Quantized models in the formats of other programs, read where there is no salhub."""

import dataclasses
import json
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, CompressedTensorsConfig
from typer.testing import CliRunner

from salhub import entries, registration
from salhub.cli import app
from salhub.quantization import export
from salhub.quantization.export import export_model
from salhub.quantization.export_checks import check_exportable
from salhub.quantization.packed_linear import PackedLinear
from salhub.quantization.quantized_weight import QuantizedWeight
from salhub.quantization.quantizer import quantize_model
from tests import small_llama
from tests.machine import Machine
from tests.quantization import packed_toy
from tests.quantization.packed_toy import PackedToyConfig, plain_llama, random_weight

TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
GROUP_SIZE = 32
# Of the last part of a name, other for the second block.
WIDTHS = {"q": 2, "k": 2, "v": 2, "o": 4, "gate": 3, "up": 3, "down": 2}
NEW_PROCESS = """
import sys

sys.modules["salhub"] = None
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

tokens = load_file("tokens.safetensors")["tokens"]
found = {}
for folder in ("compressed", "dense"):
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not any(report.values()), report
    with torch.no_grad():
        found[folder] = model(tokens).logits
save_file(found, "logits.safetensors")
"""


@pytest.fixture(autouse=True, scope="module")
def known():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entries, "METHODS", entries.METHODS.copy())
        patch.setattr(entries, "MODELS", entries.MODELS.copy())
        patch.setattr(registration, "MODELS", entries.MODELS)
        packed_toy.register()
        yield


def width_of(name: str) -> int:
    own = WIDTHS[name.rpartition(".")[2].removesuffix("_proj")]
    return 5 - own if ".1.mlp" in name else own


def weight_of(name: str, layer: torch.nn.Linear, symmetric: bool) -> QuantizedWeight:
    groups = layer.in_features // GROUP_SIZE
    weight = random_weight(
        *layer.weight.shape, GROUP_SIZE, [width_of(name)] * groups, seed=len(name)
    )
    # Steps of either sign.
    signs = torch.rand(weight.scales.shape, generator=torch.Generator().manual_seed(1)) - 0.5
    scales = weight.scales * signs.sign().half()
    zeros = torch.full_like(weight.zeros, 2 ** (width_of(name) - 1))
    return dataclasses.replace(weight, scales=scales, zeros=zeros if symmetric else weight.zeros)


def save(folder: Path, *, symmetric: bool = True, embeddings: str | None = None, **other) -> Path:
    """A model of several widths, one a layer; `other` has weights that are to be otherwise."""
    model = plain_llama(vocab_size=small_llama.VOCAB_SIZE, hidden_size=64, intermediate_size=96)
    weights = {
        name: weight_of(name, layer, symmetric)
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and name != "lm_head"
    }
    weights |= {name.replace("__", "."): weight for name, weight in other.items()}
    given = {name: weight for name, weight in weights.items() if weight is not None}
    config = PackedToyConfig(3, GROUP_SIZE, quantize_embeddings=embeddings)
    quantize_model(model, given, config).save_pretrained(folder)
    small_llama.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def symmetric(tmp_path_factory, known) -> Path:
    return save(tmp_path_factory.mktemp("export") / "symmetric", embeddings="int8")


def logits(folder: Path, **settings) -> torch.Tensor:
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder, **settings)(TOKENS).logits.float()


def test_it_is_loaded_where_salhub_cannot_be_imported(symmetric, tmp_path):
    export_model(symmetric, tmp_path / "compressed", "compressed-tensors")
    export_model(symmetric, tmp_path / "dense", "dense")
    save_file({"tokens": TOKENS}, tmp_path / "tokens.safetensors")
    machine = Machine(os.environ, preload=False)
    finished = machine.run(NEW_PROCESS, folder=tmp_path, environment=os.environ)
    machine.close()
    assert finished.returncode == 0, finished.stderr
    wanted = logits(symmetric)
    for folder, found in load_file(tmp_path / "logits.safetensors").items():
        assert (found - wanted).abs().max() < 1e-3 * wanted.abs().max(), folder
        assert AutoTokenizer.from_pretrained(tmp_path / folder)("the king")["input_ids"]
    config = json.loads((tmp_path / "compressed/config.json").read_text())["quantization_config"]
    groups = config["config_groups"].values()
    assert {one["weights"]["num_bits"]: len(one["targets"]) for one in groups} == {2: 9, 3: 3, 4: 2}
    assert config["ignore"] == ["lm_head"]
    plain = json.loads((tmp_path / "dense/config.json").read_text())
    assert "quantization_config" not in plain


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_other_types_lose_what_their_rounding_loses(symmetric, tmp_path, dtype):
    for format in ("compressed-tensors", "dense"):
        folder = export_model(symmetric, tmp_path / format, format, dtype)
        sizes = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        assert sizes < 2 * 200_000
        found, wanted = logits(folder, dtype=torch.float32), logits(symmetric)
        loss = {"float16": 2e-3, "bfloat16": 2e-2}[dtype]
        assert 0 < (found - wanted).norm() < loss * wanted.norm()


def unpacked(words: torch.Tensor, bits: int) -> torch.Tensor:
    """The codes of every column as the digits of one large number."""
    columns = []
    for column in words.T.tolist():
        number = sum((word % 2**32) << (32 * place) for place, word in enumerate(column))
        count = 32 * len(column) // bits
        columns.append([(number >> (bits * place)) % 2**bits for place in range(count)])
    return torch.tensor(columns).T


@pytest.mark.parametrize("is_symmetric", [True, False])
def test_the_layout_of_gptq_holds_the_same_weights(tmp_path, is_symmetric):
    source = save(tmp_path / "source", symmetric=is_symmetric)
    folder = export_model(source, tmp_path / "gptq", "gptq")
    state = load_file(folder / "model.safetensors")
    settings = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert settings == json.loads((folder / "quantize_config.json").read_text())
    assert (settings["bits"], settings["sym"], settings["group_size"]) == (2, is_symmetric, 32)
    model = AutoModelForCausalLM.from_pretrained(source)
    plain = model.dequantize()
    for name, layer in plain.named_modules():
        if not isinstance(layer, torch.nn.Linear) or name == "lm_head":
            continue
        rules = [
            one for rule, one in settings["dynamic"].items()
            if rule.startswith("+:") and re.match(rule[2:], name)
        ]  # fmt: skip
        bits = rules[0]["bits"] if rules else settings["bits"]
        assert bits == width_of(name)
        codes, zeros = (unpacked(state[f"{name}.qweight"], bits), state[f"{name}.qzeros"])
        zeros = unpacked(zeros.T, bits).T
        groups = state[f"{name}.g_idx"].long()
        weight = (codes - zeros[groups]) * state[f"{name}.scales"][groups].float()
        torch.testing.assert_close(weight.T, layer.weight.detach(), rtol=0, atol=0)
        assert f"{name}.weight" not in state
        if layer.bias is not None:
            assert torch.equal(state[f"{name}.bias"], layer.bias)
    assert torch.equal(state["model.embed_tokens.weight"], plain.model.embed_tokens.weight)


def test_rules_of_gptq_hold_for_layers_that_are_put_together(tmp_path):
    source = save(tmp_path / "source", model__layers__1__self_attn__o_proj=None)
    export_model(source, tmp_path / "gptq", "gptq")
    settings = json.loads((tmp_path / "gptq/config.json").read_text())["quantization_config"]

    def matched(name: str) -> list:
        found = settings["dynamic"].items()
        return [(rule[0], one) for rule, one in found if re.match(rule[2:], name)]

    assert matched("model.layers.0.mlp.gate_up_proj") == [("+", {"bits": 3})]
    assert (
        matched("model.layers.1.mlp.gate_up_proj") == matched("model.layers.10.mlp.up_proj") == []
    )
    assert matched("language.model.layers.0.self_attn.o_proj") == [("+", {"bits": 4})]
    assert matched("model.layers.1.self_attn.o_proj") == [("-", {})]
    assert "model.layers.1.self_attn.o_proj.weight" in load_file(
        tmp_path / "gptq/model.safetensors"
    )


# What one layer is instead, the format, and what the sentence says.
REFUSED = {
    "one bit": (
        {"model__layers__1__mlp__down_proj": random_weight(64, 96, 32, [1, 1, 1])}, "gptq",
        r"model\.layers\.1\.mlp\.down_proj cannot be written as gptq: it has groups of one bit",
    ),
    "several widths": (
        {"model__layers__0__self_attn__o_proj": random_weight(64, 64, 32, [2, 3])},
        "compressed-tensors",
        r"0\.self_attn\.o_proj cannot be written as compressed-tensors: its groups have 2, 3 bits",
    ),
    "five bits": (
        {"model__layers__0__self_attn__o_proj": random_weight(64, 64, 32, [5, 5])}, "gptq",
        "it has 5 bits, but the format allows 2, 3 or 4",
    ),
    "a key of other bits": (
        {"model__layers__1__self_attn__k_proj": random_weight(64, 64, 32, [3, 3])}, "gptq",
        r"1\.self_attn\.q_proj has 2 bits, model\.layers\.1\.self_attn\.k_proj has 3 bits",
    ),
    "a gate that is not packed": (
        {"model__layers__1__mlp__gate_proj": None}, "gptq", r"mlp\.gate_proj has no packed bits",
    ),
    "zeros": ({"symmetric": False}, "compressed-tensors", "it is asymmetric, and no release of"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_layers_without_a_place_are_refused_by_name(tmp_path, name):
    other, format, words = REFUSED[name]
    source = save(tmp_path / "source", **other)
    with pytest.raises(ValueError, match=words):
        export_model(source, tmp_path / "out", format)
    assert not (tmp_path / "out").exists()
    export_model(source, tmp_path / "out", "dense")
    assert torch.equal(logits(tmp_path / "out"), logits(source))


@pytest.mark.parametrize(
    ("sizes", "group_size", "format", "words"),
    [
        (
            {},
            16,
            "compressed-tensors",
            "group is narrower, because 40 columns are not divisible by",
        ),
        ({"hidden_size": 64}, 4, "gptq", "its group_size is 4, but the format allows 16, 32, 64"),
        (
            {"hidden_size": 48, "intermediate_size": 48},
            16,
            "gptq",
            "it is 48 x 48, but both must be divisible by 32",
        ),
    ],
)
def test_sizes_without_a_place_are_refused(tmp_path, sizes, group_size, format, words):
    model = plain_llama(vocab_size=small_llama.VOCAB_SIZE, **sizes)
    name = "model.layers.0.self_attn.o_proj"
    shape = model.get_submodule(name).weight.shape
    weight = random_weight(*shape, group_size, [2] * -(-shape[1] // group_size))
    quantize_model(model, {name: weight}, PackedToyConfig(2, group_size))
    model.save_pretrained(tmp_path / "source")
    small_llama.tokenizer().save_pretrained(tmp_path / "source")
    with pytest.raises(ValueError, match=words):
        export_model(tmp_path / "source", tmp_path / "out", format)


def test_what_is_no_quantized_model_is_refused(symmetric, tmp_path):
    plain = small_llama.save(tmp_path / "plain")
    with pytest.raises(
        ValueError, match="has no packed weights; give a model quantized with salhub"
    ):
        export_model(plain, tmp_path / "out", "dense")
    for name in ("model.gguf", "model.safetensors"):
        (tmp_path / name).touch()
        with pytest.raises(OSError, match=f"{name} is a file of weights, but a model is a"):
            export_model(tmp_path / name, tmp_path / "out", "dense")
    with pytest.raises(ValueError, match="only language models are exported; give one that salhub"):
        export_model("efficientnet-lite0", tmp_path / "out", "dense")
    with pytest.raises(ValueError, match="format must be one of compressed-tensors, gptq, peft"):
        export_model(symmetric, tmp_path / "out", "gguf")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").touch()
    with pytest.raises(FileExistsError, match="out already exists; choose a new folder"):
        export_model(symmetric, tmp_path / "out", "dense")


def test_models_with_adapters_are_refused(symmetric, tmp_path):
    peft = pytest.importorskip("peft")
    model = AutoModelForCausalLM.from_pretrained(symmetric)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    adapted.save_pretrained(tmp_path / "adapter")
    small_llama.tokenizer().save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match="has an adapter, which this format cannot hold; merge it"):
        export_model(tmp_path / "adapter", tmp_path / "out", "dense")


def test_an_adapter_within_a_layer_is_refused_and_not_lost(symmetric):
    model = AutoModelForCausalLM.from_pretrained(symmetric)
    name = "model.layers.1.mlp.up_proj"
    layer = model.get_submodule(name)
    size = layer.in_features, layer.out_features, layer.group_size
    model.set_submodule(name, type("Adapted", (PackedLinear,), {})(*size, layer.widths))
    for format in ("gptq", "compressed-tensors"):
        with pytest.raises(ValueError, match=r"1\.mlp\.up_proj cannot .* it has an adapter, which"):
            check_exportable(model, format)


def test_the_command_writes_a_folder(symmetric, tmp_path):
    words = ["export", str(symmetric), str(tmp_path / "out"), "--format", "dense", "--json"]
    found = CliRunner().invoke(app, words)
    assert json.loads(found.stdout) == str(tmp_path / "out"), found.output
    assert torch.equal(logits(tmp_path / "out"), logits(symmetric))


@pytest.mark.xfail(strict=True, reason="transformers and compressed-tensors cannot load these")
@pytest.mark.parametrize("settings", [{}, {"dequantize": True}])
def test_asymmetric_layers_of_several_widths_can_be_loaded(tmp_path, monkeypatch, settings):
    source = save(tmp_path / "source", symmetric=False)
    monkeypatch.setattr(export, "check_exportable", lambda model, format: None)
    export_model(source, tmp_path / "out", "compressed-tensors")
    how = {"quantization_config": CompressedTensorsConfig(**settings)} if settings else {}
    found = logits(tmp_path / "out", **how)
    torch.testing.assert_close(found, logits(source), rtol=1e-3, atol=1e-3)
