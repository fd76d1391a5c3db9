"""Blocks one by one give what the whole model gives."""

import contextlib
import itertools

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from salhub.quantization.decoder_blocks import (
    BlockInputs,
    StepwisePass,
    block_outputs,
    decoder_blocks,
    first_inputs,
    in_full_precision,
    linear_layers,
    passed_with_inputs,
)

SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "attn_implementation": "eager",
}
WINDOW = {"sliding_window": 3}
ALTERNATING = {"layer_types": ["sliding_attention", "full_attention"] * 2}
FAMILIES = {
    "llama": {},
    "mistral": WINDOW,
    "qwen2": {**WINDOW, **ALTERNATING, "use_sliding_window": True},
    "qwen3": {**WINDOW, **ALTERNATING, "use_sliding_window": True},
    "gemma2": {**WINDOW, **ALTERNATING},
    "gemma3_text": {**WINDOW, **ALTERNATING},
    "olmo3": {**WINDOW, **ALTERNATING},
    "smollm3": {"no_rope_layers": [1, 0, 1, 0]},
    "phi3": {},
    "granite": {"residual_multiplier": 0.5},
    "bloom": {"n_layer": 4, "n_head": 4},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 4},
    "gpt_neox": {},
    "ministral": {**WINDOW, **ALTERNATING},
    "cohere2": {**WINDOW, **ALTERNATING},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_one_by_one_give_what_the_model_gives(family):
    torch.manual_seed(0)
    config = CONFIG_MAPPING[family](**SIZES, **FAMILIES[family])
    model = AutoModelForCausalLM.from_config(config).eval()
    ids = torch.randint(1, 40, (3, 12), generator=torch.Generator().manual_seed(1))
    seen = []
    blocks = decoder_blocks(model)
    for block in blocks.values():
        block.register_forward_hook(
            lambda module, inputs, outputs: seen.append(
                outputs if isinstance(outputs, torch.Tensor) else outputs[0]
            )
        )
    with torch.no_grad():
        wanted = model(ids).logits
    whole, before = list(seen), {name: dict(block.__dict__) for name, block in blocks.items()}
    inputs = first_inputs(model, ids, batch_size=2)
    assert {name: dict(block.__dict__) for name, block in blocks.items()} == before
    with torch.no_grad():
        for block, outputs in zip(blocks.values(), whole, strict=True):
            inputs.move_on(block_outputs(in_full_precision(block), inputs))
            torch.testing.assert_close(inputs.hidden, outputs)
        assert torch.equal(model(ids).logits, wanted)


def test_the_head_is_not_asked():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING["llama"](**SIZES)).eval()
    model.lm_head.register_forward_pre_hook(lambda *_: pytest.fail("the head was called"))
    assert first_inputs(model, torch.ones(2, 9, dtype=torch.long)).hidden.shape == (2, 9, 32)


def test_one_sequence_at_a_time_is_said(caplog):
    config = CONFIG_MAPPING["bloom"](**SIZES, **FAMILIES["bloom"])
    model = AutoModelForCausalLM.from_config(config).eval()
    assert first_inputs(model, torch.ones(2, 9, dtype=torch.long), batch_size=2).batch_size == 1
    assert "BloomForCausalLM takes one sequence at a time" in caplog.text


def test_what_blocks_share_is_kept_once():
    torch.manual_seed(0)
    config = CONFIG_MAPPING["gemma3_text"](**SIZES, **FAMILIES["gemma3_text"])
    model = AutoModelForCausalLM.from_config(config).eval()
    kept = first_inputs(model, torch.ones(1, 9, dtype=torch.long)).keywords_of_blocks
    first, second, third, _ = (one["position_embeddings"][0] for one in kept)
    assert first is third
    assert not torch.equal(first, second)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pass_in_steps_gives_what_whole_passes_give(family):
    torch.manual_seed(0)
    config = CONFIG_MAPPING[family](**SIZES, **FAMILIES[family])
    model = AutoModelForCausalLM.from_config(config).eval()
    ids = torch.randint(1, 40, (5, 12), generator=torch.Generator().manual_seed(1))
    block, inputs = next(iter(decoder_blocks(model).values())), first_inputs(model, ids)
    # What is given beside outputs is None with this attention, where a family has it.
    with contextlib.suppress(ValueError):
        model.set_attn_implementation("sdpa")
    steps = StepwisePass(block, inputs)
    assert len(steps.groups) > 2
    assert sorted(itertools.chain(*steps.groups)) == sorted(linear_layers(block))
    for together in steps.groups:
        _, seen = passed_with_inputs(block, inputs, together)
        found = [*steps.layer_inputs(together[-1])]
        assert all(torch.equal(*pair) for pair in zip(found, seen[together[0]], strict=True))
        for layer in together:
            block.get_submodule(layer).weight.data.mul_(0.5)
    with torch.no_grad():
        expected = block_outputs(block, inputs)
    assert torch.equal(steps.outputs(), expected)
    for module in block.modules():
        assert "forward" not in module.__dict__ and not module._forward_pre_hooks


def test_a_pass_in_steps_calls_attention_no_more_than_it_must():
    torch.manual_seed(0)
    config = CONFIG_MAPPING["llama"](**{**SIZES, "attn_implementation": "sdpa"})
    model = AutoModelForCausalLM.from_config(config).eval()
    block = next(iter(decoder_blocks(model).values()))
    steps = StepwisePass(block, first_inputs(model, torch.ones(3, 9, dtype=torch.long)))
    called = []
    for name in ("self_attn.q_proj", "mlp.gate_proj"):
        block.get_submodule(name).register_forward_hook(lambda *_, name=name: called.append(name))
    for together in steps.groups:
        [*steps.layer_inputs(together[0])]
    steps.outputs()
    assert called == ["self_attn.q_proj", "mlp.gate_proj"]


class Odd(torch.nn.Module):
    """A part that does not simply end in a linear layer."""

    def __init__(self, kind):
        super().__init__()
        self.first, self.second = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
        self.kind = kind
        if kind == "read again":
            self.between = torch.nn.Linear(4, 4)
        if kind == "hook":
            self.second.register_forward_pre_hook(lambda module, values: values[0] * 2)

    def forward(self, hidden):
        found = self.first(hidden)
        if self.kind == "in place":
            return self.second(found).mul_(2)
        if self.kind == "read again":
            self.between(found)
            return self.second(hidden)
        if self.kind == "another after it":
            self.second(hidden + 1)
            return found
        return self.second(found)


@pytest.mark.parametrize("kind", ["in place", "read again", "another after it", "hook"])
def test_a_part_that_does_not_end_in_a_layer_is_passed_again(kind):
    torch.manual_seed(0)
    block = torch.nn.Sequential(Odd(kind), torch.nn.Linear(4, 4))
    inputs = BlockInputs(torch.randn(3, 5, 4), [{}], 2)
    steps = StepwisePass(block, inputs)
    for together in steps.groups:
        _, seen = passed_with_inputs(block, inputs, together[:1])
        found = [*steps.layer_inputs(together[0])]
        assert all(torch.equal(*pair) for pair in zip(found, seen[together[0]], strict=True))
        for name in together:
            block.get_submodule(name).weight.data.neg_()
    with torch.no_grad():
        assert torch.equal(steps.outputs(), block_outputs(block, inputs))
