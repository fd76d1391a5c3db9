"""Layers that make up for what the quantized ones before them have changed."""

import copy

import pytest
import torch

from salhub.models.slim_llm.input_statistics import inverse_factor
from salhub.models.slim_llm.output_matching import matched_weight, paired_statistics
from salhub.models.slim_llm.quantize_model import quantize_slim_llm
from salhub.quantization.decoder_blocks import BlockInputs, StepwisePass, passed_with_inputs
from tests import small_llama


def test_a_matched_weight_is_that_of_least_squares():
    draw = torch.Generator().manual_seed(5)
    inputs = torch.randn(200, 6, generator=draw)
    given = inputs + 0.3 * torch.randn(200, 6, generator=draw)
    weight = torch.randn(3, 6, generator=draw)
    hessian = given.T @ given
    factor, _ = inverse_factor(hessian, 1e-9, "layer")
    found = matched_weight(weight, (inputs - given).T @ given, factor)
    expected = torch.linalg.lstsq(given, inputs @ weight.T).solution.T
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    # Inputs that are as they were leave the weight as it is.
    torch.testing.assert_close(matched_weight(weight, torch.zeros(6, 6), factor), weight)


def test_pairs_of_inputs_are_those_of_both_blocks():
    torch.manual_seed(0)
    plain = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 4))
    block = copy.deepcopy(plain)
    block[0].weight.data *= 0.8
    hidden, before = torch.randn(5, 7, 6), torch.randn(5, 7, 6)
    inputs, plain_inputs = (BlockInputs(one, [{}], 2) for one in (hidden, before))
    outputs, before_layers = passed_with_inputs(plain, plain_inputs, ["2"])
    values = StepwisePass(block, inputs).layer_inputs("2")
    found, cross = paired_statistics(
        ["2"], values, before_layers["2"], most_rows=20, num_sequences=5
    )
    torch.testing.assert_close(outputs, plain(before))
    given = block[1](block[0](hidden)).reshape(-1, 5)
    were = plain[1](plain[0](before)).reshape(-1, 5)
    torch.testing.assert_close(found.moments, given.T @ given)
    torch.testing.assert_close(cross, (were - given).T @ given)
    assert (found.layers, found.num_sequences, found.num_tokens) == (["2"], 5, 35)
    assert torch.equal(found.rows, given.view(5, 7, 5)[:, :4].reshape(20, 5))
    assert not block[2]._forward_pre_hooks and not plain[2]._forward_pre_hooks


@pytest.mark.parametrize("bits", [2, 3])
def test_a_model_stays_nearer_to_what_it_was(bits):
    draw = torch.Generator().manual_seed(0)
    windows = torch.randint(small_llama.VOCAB_SIZE, (40, 24), generator=draw)
    plain = small_llama.network()
    # Layers that matter as much as what they are added to.
    for layer in plain.model.layers:
        layer.self_attn.o_proj.weight.data *= 20
        layer.mlp.down_proj.weight.data *= 20
    with torch.no_grad():
        wanted = plain(windows).logits
    away = {}
    for match_outputs in (False, True):
        made = quantize_slim_llm(
            copy.deepcopy(plain),
            None,
            windows,
            bits=bits,
            group_size=8,
            match_outputs=match_outputs,
        )
        with torch.no_grad():
            away[match_outputs] = float((made.model(windows).logits - wanted).norm())
    assert away[True] < 0.97 * away[False]
