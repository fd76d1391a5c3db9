"""Low-rank adapters beside packed weights: saved, loaded, merged, and taken apart for peft."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from salhub.models.apiq_saliency.evaluation_apiq_saliency import evaluate
from salhub.models.apiq_saliency.merging import merge_adapters
from salhub.models.apiq_saliency.quantization_apiq_saliency import ApiQSaliencyQuantizationConfig
from salhub.quantization.adapted_linear import AdaptedPackedLinear, adapted_layers
from salhub.quantization.export import export_model
from salhub.quantization.quantizer import packed_layers, set_inference
from tests import small_llama
from tests.models.apiq_saliency.apiq_toy import GROUP_SIZE, RANK, adapted_llama
from tests.testers import QuantizerTester

TOKENS = torch.tensor([[3, 5, 7, 2, 9], [1, 8, 4, 6, 0]])


def logits(model) -> Tensor:
    with torch.no_grad():
        return model(TOKENS).logits


class TestApiQSaliencyQuantizer(QuantizerTester):
    quant_method = "salhub_apiq_saliency"

    def quantized(self):
        return adapted_llama(targets=("q_proj", "down_proj"))

    def expected_bytes(self, model):
        # Rows, columns and whether there is an adapter of 3 * (rows + columns) float32 values.
        attention = [(48, 48, 1), (48, 48, 0), (48, 48, 0), (48, 48, 0)]
        feed_forward = [(32, 48, 0), (32, 48, 0), (48, 32, 1)]
        layers = sum(
            rows * columns // 4 + rows * (columns // GROUP_SIZE) * 2
            + rows * (columns // GROUP_SIZE) // 4 + columns // GROUP_SIZE
            + adapted * 4 * RANK * (rows + columns)
            for rows, columns, adapted in (*attention, *feed_forward)
        )  # fmt: skip
        # Half precision holds the ones of the norms exactly.
        norms, embedding = 48 * 2, 12 * 48 * 4
        return 2 * (layers + 2 * norms) + norms + embedding

    def unpacked(self, model):
        return {name: layer.to_linear().weight.data for name, layer in packed_layers(model).items()}


@pytest.fixture
def folder(tmp_path) -> Path:
    adapted_llama().save_pretrained(tmp_path / "model")
    small_llama.tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_adapters_are_loaded_without_peft_and_counted(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    layers = adapted_layers(model)
    assert layers.keys() == packed_layers(model).keys()
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert (config["lora_r"], config["lora_alpha"]) == (RANK, 6.0)
    layer = layers["model.layers.0.mlp.up_proj"]
    assert layer.adapter_bits() == pytest.approx(32 * RANK * (48 + 32) / (48 * 32))
    inputs = torch.randn(4, 48)
    by_hand = (
        inputs @ (layer.to_quantized().dequantize() + 2.0 * layer.lora_B @ layer.lora_A).T
    )  # alpha / r = 6 / 3
    torch.testing.assert_close(layer(inputs), by_hand, rtol=0, atol=1e-5)


def test_what_is_measured_counts_the_adapters(folder, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(folder)
    # The vocabulary of the model is smaller than that of the tokenizer.
    tokens = torch.randint(12, (90,), generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "tokens.npy", tokens.numpy())
    results = evaluate(
        model, small_llama.tokenizer(), tmp_path / "tokens.npy", context=16, speed_tokens=0
    )
    # Groups of 16 have a scale of 16 bits and a zero of 2.
    assert results.metric("bits_with_scales").value == pytest.approx(2 + 18 / 16)
    # 32 bits of 3 * (rows + columns) values: 4 of 48 x 48 and 3 of 32 x 48.
    added = 32 * RANK * (4 * 96 + 3 * 80) / (4 * 48 * 48 + 3 * 32 * 48)
    assert results.metric("bits_with_adapters").value == pytest.approx(2 + 18 / 16 + added)
    assert results.tables[1].title == "Bits per weight"


def test_every_inference_and_type_gives_the_same(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    wanted = logits(model)
    set_inference(model, "packed")
    torch.testing.assert_close(logits(model), wanted, rtol=0, atol=1e-5)
    half = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float16)
    torch.testing.assert_close(logits(half).float(), wanted, rtol=0, atol=2e-3)
    model.dequantize()
    assert not packed_layers(model)
    torch.testing.assert_close(logits(model), wanted, rtol=0, atol=1e-5)


def test_adapters_are_trained_as_they_are(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    model(TOKENS, labels=TOKENS).loss.backward()
    for layer in adapted_layers(model).values():
        assert float(layer.lora_A.grad.abs().max()) > 0 and float(layer.lora_B.grad.abs().max()) > 0


@pytest.mark.parametrize("symmetric", [False, True])
def test_merging_keeps_what_the_adapters_do(symmetric):
    model, base = (adapted_llama(symmetric=symmetric, size=1.5) for _ in range(2))
    for name, layer in adapted_layers(base).items():
        base.set_submodule(name, layer.to_packed())
    adapted, without = logits(model), logits(base)
    report = merge_adapters(model, bits=5)
    assert not adapted_layers(model) and model.config.quantization_config.lora_r is None
    assert {layer.widths for layer in packed_layers(model).values()} == {(5, 5), (5, 5, 5)}
    away = float((logits(model) - adapted).norm())
    assert away < 0.3 * float((without - adapted).norm())
    assert 0 < report.error < 0.1 and report.loss < 0.5
    assert "Merged 14 adapters into weights of 5 bits: rounding changed the" in str(report)
    if symmetric:
        assert all(layer.is_symmetric for layer in packed_layers(model).values())


def test_merging_says_what_it_lost_and_the_result_is_saved(tmp_path, caplog):
    model = adapted_llama(size=0.3)
    report = merge_adapters(model, bits=2)
    assert report.loss > 1
    assert "In 12 of 14 layers rounding changed the" in caplog.text
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(again), logits(model))
    with pytest.raises(ValueError, match="has no adapters of its own"):
        merge_adapters(model)
    with pytest.raises(ValueError, match="bits must be one of 2, 3, 4, 5, got 8"):
        merge_adapters(adapted_llama(), bits=8)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks
def test_peft_loads_what_is_taken_apart_and_trains_it(folder, tmp_path):
    wanted = logits(AutoModelForCausalLM.from_pretrained(folder))
    export_model(folder, tmp_path / "apart", "peft")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "apart")
    assert not adapted_layers(base) and packed_layers(base)
    without = logits(base)
    model = PeftModel.from_pretrained(base, tmp_path / "apart" / "adapter", is_trainable=True)
    found = logits(model)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    assert float((without - wanted).abs().max()) > 1e-2
    model(TOKENS, labels=TOKENS).loss.backward()
    trained = [one for name, one in model.named_parameters() if "lora_" in name]
    assert len(trained) == 28 and all(float(one.grad.abs().max()) > 0 for one in trained)
    with pytest.raises(
        ValueError, match="An adapter cannot be merged into packed weights; keep it"
    ):
        model.merge_and_unload()


def test_a_second_adapter_is_refused():
    with pytest.raises(ValueError, match="The layers have adapters of their own, which peft would"):
        get_peft_model(adapted_llama(), LoraConfig(r=2, target_modules=["q_proj"]))


def test_exports_that_would_lose_adapters_are_refused(folder, tmp_path):
    for format in ("compressed-tensors", "gptq"):
        with pytest.raises(ValueError, match="it has an adapter, which would be lost; merge the"):
            export_model(folder, tmp_path / "out", format)
    export_model(folder, tmp_path / "dense", "dense")
    dense = AutoModelForCausalLM.from_pretrained(tmp_path / "dense")
    wanted = logits(AutoModelForCausalLM.from_pretrained(folder))
    torch.testing.assert_close(logits(dense), wanted, rtol=0, atol=1e-5)
    merged = AutoModelForCausalLM.from_pretrained(folder)
    merge_adapters(merged)
    merged.save_pretrained(tmp_path / "merged")
    small_llama.tokenizer().save_pretrained(tmp_path / "merged")
    with pytest.raises(ValueError, match="merged has no adapters of its own"):
        export_model(tmp_path / "merged", tmp_path / "out", "peft")


@pytest.mark.parametrize("rank", [0, -1, 2.5, True])
def test_a_rank_that_is_none_is_refused(rank):
    with pytest.raises(ValueError, match="lora_r must be an integer above 0, or None"):
        ApiQSaliencyQuantizationConfig(bits=2, group_size=16, lora_r=rank)


def test_a_layer_tells_of_its_adapter():
    layer = next(iter(adapted_layers(adapted_llama()).values()))
    assert "lora_r=3, lora_alpha=6.0" in repr(layer)
    assert type(layer.to_packed()) is not AdaptedPackedLinear
