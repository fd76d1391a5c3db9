"""Packed models as people have them: saved, loaded anywhere, trained on, unpacked, or refused."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, GgufConfig, LlamaForCausalLM
from transformers.quantizers.quantizer_gguf import GgufHfQuantizer

from salhub import entries, registration
from salhub.errors import IntegrityError, UnknownSettingError
from salhub.quantization.packed_embedding import PackedEmbedding
from salhub.quantization.packed_linear import PackedLinear
from salhub.quantization.quantizer import (
    loaded_bytes,
    packed_layers,
    quantize_model,
    set_inference,
)
from tests.quantization import packed_toy
from tests.quantization.packed_toy import (
    GROUP_SIZE,
    PackedToyConfig,
    packed_llama,
    plain_llama,
    random_weight,
)
from tests.testers import QuantizerTester

TOKENS = torch.tensor([[3, 1, 4, 1, 5]])
QUERY = "model.layers.0.self_attn.q_proj"
# In one process: what transformers does before salhub is imported, and after.
IMPORTS = """
import sys
from transformers import AutoModelForCausalLM

try:
    AutoModelForCausalLM.from_pretrained("packed")
except RuntimeError as error:
    assert "ignore_mismatched_sizes" in str(error), error
else:
    raise AssertionError("It loaded without salhub.")
assert "salhub" not in sys.modules

from tests.quantization import packed_toy

packed_toy.register()
"""


@pytest.fixture(autouse=True, scope="module")
def known():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entries, "METHODS", entries.METHODS.copy())
        patch.setattr(entries, "MODELS", entries.MODELS.copy())
        patch.setattr(registration, "MODELS", entries.MODELS)
        packed_toy.register()
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory, known) -> Path:
    path = tmp_path_factory.mktemp("packed")
    packed_llama().save_pretrained(path)
    return path


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS).logits


class TestPackedToy(QuantizerTester):
    imports = IMPORTS
    quant_method = "salhub_packed_toy"

    def quantized(self):
        return packed_llama(quantize_embeddings="int8")

    def expected_bytes(self, model):
        layers = 0
        for name, widths in model.config.quantization_config.group_bits.items():
            layer = model.get_submodule(name)
            rows, rest = layer.out_features, layer.in_features
            for width in map(int, widths):
                # Groups of 16 or 8 columns, and rows in eights: no byte is filled up.
                columns = min(GROUP_SIZE, rest)
                layers += rows * columns * width // 8
                # A scale, and a mean or a zero.
                layers += rows * (2 + (2 if width == 1 else width / 8)) + 1
                rest -= columns
        # The four of attention in two blocks have a bias; five norms of ones, which half precision
        # holds.
        others = 4 * 2 * 4 * 40 + 2 * 5 * 40
        # The head is the embedding.
        return layers + others + 12 * (40 + 2)

    def unpacked(self, model):
        embedding = model.model.embed_tokens
        shared = embedding.weight.float() * embedding.scales.float()
        return {"model.embed_tokens": shared, "lm_head": shared} | {
            name: layer.to_quantized().dequantize() for name, layer in packed_layers(model).items()
        }


# --- loaded ---------------------------------------------------------------------------------------


def test_every_way_to_load_gives_the_same(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.equal(logits(model), logits(packed_llama()))
    for dtype in (torch.bfloat16, torch.float16):
        other = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        for name, layer in packed_layers(other).items():
            assert layer.scales.dtype == torch.float16
            assert torch.equal(layer.scales, model.get_submodule(name).scales)
        error = (logits(other).float() - logits(model)).abs().max()
        assert other.dtype == dtype and error < 0.02 * logits(model).abs().max()


def test_scales_stay_as_stored_in_a_family_that_keeps_layers_in_float32(folder, monkeypatch):
    monkeypatch.setattr(LlamaForCausalLM, "_keep_in_fp32_modules_strict", {"q_proj"})
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    layer = model.get_submodule(QUERY)
    assert layer.bias.dtype == torch.float32 and layer.scales.dtype == torch.float16


def test_a_model_without_its_head_is_packed_too(folder):
    model = AutoModel.from_pretrained(folder)
    assert len(packed_layers(model)) == 14
    with torch.no_grad():
        found = model(TOKENS).last_hidden_state
        expected = packed_llama().model(TOKENS).last_hidden_state
    assert torch.equal(found, expected)


def test_layers_may_lie_on_the_disk(folder, tmp_path):
    parts = ("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head", "model.layers.0")
    places = {**dict.fromkeys(parts, "cpu"), "model.layers.1": "disk"}
    for is_whole in (False, True):
        model = AutoModelForCausalLM.from_pretrained(
            folder, device_map=places, offload_folder=tmp_path, offload_buffers=is_whole
        )
        assert torch.equal(logits(model), logits(packed_llama()))


def test_packed_inference_gives_what_dequantized_does(folder):
    # Shapes that torch's product with 4 bits takes, where it is there.
    model = packed_llama(group_size=32, hidden_size=64, intermediate_size=96)
    expected = logits(model)
    set_inference(model, "packed")
    assert model.config.quantization_config.inference == "packed"
    torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)
    assert all(layer._dense is None for layer in packed_layers(model).values())
    model.to(torch.bfloat16)
    difference = (logits(model).float() - expected).abs().max()
    assert difference < 0.03 * expected.abs().max()
    with pytest.raises(ValueError, match="inference must be one of dequantized, packed"):
        set_inference(model, "dense")


def test_unpacking_gives_a_plain_model(folder, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(folder)
    expected = logits(model)
    model.save_pretrained(tmp_path / "again")  # which changes its configuration
    plain = model.dequantize()
    assert not packed_layers(plain) and torch.equal(logits(plain), expected)
    plain.save_pretrained(tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    assert torch.equal(logits(LlamaForCausalLM.from_pretrained(tmp_path)), expected)
    mixed = packed_llama().to(torch.bfloat16)
    mixed.model.norm.float()
    assert mixed.dequantize(torch.bfloat16).model.norm.weight.dtype == torch.float32
    half = packed_llama().dequantize(torch.bfloat16)
    assert {values.dtype for values in half.parameters()} == {torch.bfloat16}


class TestEmbeddings:
    """Those in 8 bits, and a head that is one of them."""

    @pytest.fixture
    def model(self) -> LlamaForCausalLM:
        return packed_llama(quantize_embeddings="int8")

    def test_rows_are_within_half_a_step(self, model):
        error = (model.model.embed_tokens.to_embedding(torch.float32).weight
                 - plain_llama().model.embed_tokens.weight).abs()  # fmt: skip
        # A half, and what rounding a scale to float16 moves 127 steps by.
        assert (error <= 0.6 * model.model.embed_tokens.scales.float()).all()
        padded = nn.Embedding(3, 4, padding_idx=1)
        assert not PackedEmbedding.from_embedding(padded)(torch.tensor(1)).any()

    def test_the_head_stays_the_embedding(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        assert not [name for name in load_file(tmp_path / "model.safetensors") if "head" in name]
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
        loaded.tie_weights()
        assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
        assert loaded.model.embed_tokens(TOKENS).dtype == torch.bfloat16
        assert loaded.model.embed_tokens.scales.dtype == torch.float16
        expected = logits(model)
        assert (logits(loaded) - expected).abs().max() < 0.02 * expected.abs().max()
        assert loaded.to(torch.float32).model.embed_tokens(TOKENS).dtype == torch.float32
        twin = copy.deepcopy(loaded)
        assert twin.lm_head.weight is twin.model.embed_tokens.weight
        assert torch.equal(logits(twin), logits(loaded))

    def test_a_head_of_its_own_is_left_as_it_is(self, tmp_path):
        model = packed_llama(quantize_embeddings="int8", tie_word_embeddings=False)
        model.save_pretrained(tmp_path)
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
        assert type(loaded.lm_head) is nn.Linear and torch.equal(logits(loaded), logits(model))

    def test_no_dense_copy_of_the_head_is_kept_packed(self, model):
        expected = logits(model)
        set_inference(model, "packed")
        torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)
        assert model.lm_head._dense is None

    def test_unpacked_they_are_plain_and_shared(self, model):
        expected = logits(model)
        plain = model.dequantize()
        assert type(plain.lm_head) is nn.Linear and type(plain.model.embed_tokens) is nn.Embedding
        assert plain.lm_head.weight is plain.model.embed_tokens.weight
        assert plain.all_tied_weights_keys == plain_llama().all_tied_weights_keys
        assert torch.equal(logits(plain), expected)

    def test_embeddings_of_another_kind_are_refused(self):
        model = plain_llama()
        model.model.embed_tokens.max_norm = 1.0
        config = PackedToyConfig(2, 16, quantize_embeddings="int8")
        with pytest.raises(ValueError, match="leave quantize_embeddings out"):
            quantize_model(model, {QUERY: random_weight(40, 40, 16)}, config)


def test_memory_is_what_is_loaded_and_kept():
    model = packed_llama(quantize_embeddings="int8")
    # In memory the norms are in float32 still.
    stored = TestPackedToy().expected_bytes(model) + 2 * 5 * 40
    buffers = sum(4 * one.numel() for name, one in model.named_buffers() if "inv_freq" in name)
    assert loaded_bytes(model) == stored + buffers
    logits(model)
    weights = sum(p.numel() for p in plain_llama().parameters()) - 2 * 4 * 40 - 5 * 40
    assert loaded_bytes(model) == stored + buffers + 4 * weights
    set_inference(model, "packed")
    logits(model)
    assert loaded_bytes(model) == stored + buffers


def test_registered_twice_is_harmless():
    registration._register_quantizers()
    packed_toy.register()


# --- trained --------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks
@pytest.mark.parametrize("inference", ["dequantized", "packed"])
def test_an_adapter_trains_and_is_not_lost(folder, inference):
    model = AutoModelForCausalLM.from_pretrained(folder)
    set_inference(model, inference)
    before = logits(model)
    adapter = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    optimizer = torch.optim.Adam([p for p in adapter.parameters() if p.requires_grad], 0.05)
    losses = []
    for _ in range(5):
        loss = adapter(TOKENS, labels=TOKENS).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
    assert all(p.grad is not None for p in adapter.parameters() if p.requires_grad)
    adapted = logits(adapter)
    for merge in (adapter.merge_and_unload, adapter.merge_adapter):
        for is_safe in (False, True):
            with pytest.raises(
                ValueError, match="An adapter cannot be merged into packed weights; keep it"
            ):
                merge(safe_merge=is_safe)
    assert torch.equal(logits(adapter), adapted)
    assert torch.equal(logits(adapter.unload()), before)


def test_an_adapter_that_needs_the_weights_is_refused_and_not_wrong(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    for settings in ({"use_dora": True}, {"init_lora_weights": "pissa"}):
        with pytest.raises((TypeError, RuntimeError, ValueError)):
            get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], **settings))


# --- refused --------------------------------------------------------------------------------------


def changed(folder: Path, target: Path, **settings) -> Path:
    """A copy of a folder whose configuration says something else."""
    shutil.copytree(folder, target)
    content = json.loads((target / "config.json").read_text())
    content["quantization_config"].update(settings)
    (target / "config.json").write_text(json.dumps(content))
    return target


WRONG = {
    "3 widths from 1 to 5, got 2": {"group_bits": {QUERY: "22"}},
    f"group_bits of '{QUERY}' must be a width from 1 to 5": {"group_bits": {QUERY: "272"}},
    "The model has no layer 'model.layers.7.q'": {"group_bits": {"model.layers.7.q": "222"}},
    "is of type Embedding, but only plain linear layers": {
        "group_bits": {"model.embed_tokens": "222"}
    },
    "both in group_bits and in modules_to": {"modules_to_not_convert": [QUERY]},
    "group_bits must map layer names to widths, got": {"group_bits": ["222"]},
    "group_size must be an integer of at least 1, got 0": {"group_size": 0},
    "Did you mean 'packed'": {"inference": "pack"},
    "quantize_embeddings must be one of int8 or None": {"quantize_embeddings": "int4"},
    "has no setting 'group_sizes'. Did you mean 'group_size'": {"group_sizes": 8},
}


@pytest.mark.parametrize("sentence", WRONG)
def test_wrong_configurations_are_refused(folder, tmp_path, sentence):
    other = changed(folder, tmp_path / "other", **WRONG[sentence])
    with pytest.raises(ValueError, match=sentence):
        AutoModelForCausalLM.from_pretrained(other)


def test_settings_that_nobody_knows_name_the_near_one():
    with pytest.raises(UnknownSettingError, match="Did you mean 'inference'"):
        PackedToyConfig(bits=2, group_size=8, inferenc="packed")
    with pytest.raises(ValueError, match="quant_method must be one of salhub_packed_toy, got 'x'"):
        PackedToyConfig(bits=2, group_size=8, quant_method="x")


def test_weights_that_are_not_those_of_the_configuration_are_refused(folder, tmp_path):
    tensors = load_file(folder / "model.safetensors")
    bits = f"{QUERY}.group_bits"
    damages = {
        "The widths of .* are not those in config.json": {bits: tensors[bits].flip(0) % 5 + 1},
        f"lack 1 of .* packed tensors, such as {QUERY}.scales; the file is": {
            f"{QUERY}.scales": None
        },
        f"lack 1 of .* packed tensors, such as {QUERY}.weight; the file is": {
            f"{QUERY}.weight": None
        },
    }
    for sentence, damage in damages.items():
        target = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(folder, target)
        content = {key: value for key, value in (tensors | damage).items() if value is not None}
        save_file(content, target / "model.safetensors", {"format": "pt"})
        with pytest.raises(IntegrityError, match=sentence):
            AutoModelForCausalLM.from_pretrained(target)


def test_quantizing_while_loading_is_refused(tmp_path):
    plain_llama().save_pretrained(tmp_path)
    config = PackedToyConfig(bits=2, group_size=8)
    with pytest.raises(ValueError, match="run `salhub compress` first"):
        AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config)


def test_weights_that_a_model_cannot_take_are_refused():
    config = PackedToyConfig(bits=2, group_size=16)
    good = random_weight(40, 40, 16)
    wrong = {
        "has weights of shape": {QUERY: random_weight(20, 40, 16)},
        "groups of 8, but group_size is 16": {QUERY: random_weight(40, 40, 8)},
        "shares its weights with the embedding": {"lm_head": random_weight(12, 40, 16)},
        f"did you mean '{QUERY}'": {QUERY.removeprefix("model."): good},
        "has no layer 'head'": {QUERY: good, "head": good},
    }
    model = plain_llama()
    for sentence, weights in wrong.items():
        with pytest.raises(ValueError, match=sentence):
            quantize_model(model, weights, config)
    with pytest.raises(ValueError, match="no weights to pack"):
        quantize_model(model, {}, config)
    assert type(model.get_submodule(QUERY)) is nn.Linear
    quantize_model(model, {QUERY: good}, config)
    assert isinstance(model.get_submodule(QUERY), PackedLinear)
    with pytest.raises(ValueError, match="already quantized with salhub_packed_toy; load it in"):
        quantize_model(model, {QUERY: good}, config)


def test_a_base_that_was_read_from_gguf_is_saved_packed(tmp_path):
    model = plain_llama()
    model.config.quantization_config = GgufConfig()
    model.hf_quantizer = GgufHfQuantizer(model.config.quantization_config)
    quantize_model(model, {QUERY: random_weight(40, 40, 16)}, PackedToyConfig(3, 16))
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded), logits(model))


def test_a_model_of_another_quantization_is_refused():
    model = plain_llama()
    model.config.quantization_config = {"quant_method": "gptq"}
    with pytest.raises(ValueError, match="already quantized with gptq; load it in full precision"):
        quantize_model(model, {QUERY: random_weight(40, 40, 16)}, PackedToyConfig(3, 16))
