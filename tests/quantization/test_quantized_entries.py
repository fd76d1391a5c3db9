"""Models of transformers' own classes, with a quantizer of ours: found, loaded, shown, pushed."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

import salhub
from salhub import entries, registration
from salhub.entries import Method, Model, entry_of
from salhub.errors import UnknownNameError
from salhub.publishing import files_to_push
from tests.quantization.rounded_weights import RoundedWeightsQuantizer, save_rounded

ENTRY = Model(
    "rounded_weights",
    "rounded_weights",
    "text-generation",
    "transformers.LlamaConfig",
    "transformers.LlamaForCausalLM",
    quantizer="tests.quantization.rounded_weights.RoundedWeightsQuantizer",
)
TOKENS = torch.tensor([[3, 1, 4, 1, 5]])


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """What `salhub.auto` and `import salhub` do for a method that ships with salhub."""
    monkeypatch.setitem(entries.METHODS, ENTRY.name, Method(ENTRY.name, "arXiv:0000.00000"))
    monkeypatch.setitem(entries.MODELS, ENTRY.name, ENTRY)
    registration._register_quantizers()


@pytest.fixture(scope="module")
def tiny() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=20, **sizes, **heads)).eval()


@pytest.fixture(scope="module")
def folders(tiny, tmp_path_factory) -> tuple[Path, Path]:
    plain, packed = (tmp_path_factory.mktemp(name) for name in ("plain", "packed"))
    tiny.save_pretrained(plain)
    save_rounded(LlamaForCausalLM.from_pretrained(plain), packed)
    return plain, packed


def test_quantizers_are_registered_beside_models_and_only_once():
    registration._register_quantizers()
    assert AUTO_QUANTIZER_MAPPING["salhub_rounded_weights"] is RoundedWeightsQuantizer


def test_a_quantized_model_loads_through_every_door(tiny, folders):
    loaders = (AutoModelForCausalLM, salhub.AutoModelForSaliency)
    with torch.no_grad():
        expected = tiny(TOKENS).logits
        for loader in loaders:
            model = loader.from_pretrained(folders[1])
            assert type(model) is LlamaForCausalLM
            assert model.model.layers[0].mlp.up_proj.weight.dtype == torch.int8
            error = (model(TOKENS).logits - expected).abs().max()
            assert 0 < error < 0.02 * expected.abs().max()


def test_the_quantization_says_which_method_a_model_is_of(folders):
    plain, packed = folders
    content = json.loads((packed / "config.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(packed)
    assert entry_of(packed) is entry_of(content) is entry_of(model.config) is ENTRY
    with pytest.raises(UnknownNameError, match="of type 'llama', which is none of salhub's"):
        entry_of(plain)


def test_it_is_pushed_with_a_card(folders):
    files = files_to_push(folders[1], "me/packed")
    assert {"config.json", "model.safetensors", "README.md"} <= files.keys()
    card = files["README.md"].decode()
    assert "rounded_weights" in card and "arxiv:0000.00000" in card
    assert 'salhub.AutoModelForSaliency.from_pretrained("me/packed")' in card
    with pytest.raises(ValueError, match="none of salhub's"):
        files_to_push(folders[0], "me/plain")
