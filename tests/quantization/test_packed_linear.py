"""A packed layer computes what its weights say, whichever way, and keeps what it was given."""

import copy
from itertools import product

import pytest
import torch
from torch import nn

from salhub.quantization import packed_linear
from salhub.quantization.packed_linear import PackedLinear, has_four_bit_product
from tests.quantization.packed_toy import random_weight

# Rows, columns, columns in a group: a shape that torch's product with 4 bits takes, and odd ones.
SHAPES = {"four bits": (48, 576, 128), "odd": (7, 37, 8), "narrow end": (16, 72, 32)}


def layer_of(shape: str, inference: str, bias: bool = False) -> PackedLinear:
    rows, columns, group_size = SHAPES[shape]
    widths = [1, 3, 2, 4, 2] if shape == "four bits" else None
    weight = random_weight(rows, columns, group_size, widths)
    vector = torch.linspace(-1, 1, rows) if bias else None
    return PackedLinear.from_quantized(weight, vector, inference).eval()


def inputs_for(layer: nn.Linear, dtype=torch.float32) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, layer.in_features, generator=draw).to(dtype)


TOLERANCES = {torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("inference", ["dequantized", "packed"])
def test_it_computes_what_its_weights_say(shape, inference, monkeypatch):
    monkeypatch.setattr(packed_linear, "_BLOCK", 100)  # several blocks of rows
    for dtype, bias in product(TOLERANCES, [False, True]):
        layer = layer_of(shape, inference, bias)
        plain = layer.to_linear()
        inputs = inputs_for(layer, dtype)
        found, expected = layer(inputs), plain(inputs.float())
        assert found.dtype == dtype and found.shape == expected.shape
        error = (found.float() - expected).abs().max() / expected.abs().max()
        assert error < TOLERANCES[dtype]
        assert layer(inputs[0, 0]).shape == (layer.out_features,)
        assert layer(inputs[:0]).shape == (0, 3, layer.out_features)


def test_float16_is_computed_in_float32_on_a_cpu():
    layer = layer_of("odd", "dequantized")
    inputs = inputs_for(layer, torch.float16)
    assert torch.equal(layer(inputs), layer(inputs.float()).half())


def test_a_dense_copy_is_made_once_and_not_saved():
    layer = layer_of("odd", "dequantized")
    before = layer.state_dict()
    layer(inputs_for(layer))
    dense = layer._dense
    layer(inputs_for(layer))
    assert layer._dense is dense
    assert layer.state_dict().keys() == before.keys()
    layer.set_inference("packed")
    assert layer._dense is None


def test_a_layer_used_in_inference_mode_first_can_be_trained_through():
    for inference in ("dequantized", "packed"):
        layer = layer_of("four bits", inference)
        for dtype in (torch.float32, torch.bfloat16):
            inputs = inputs_for(layer, dtype)
            with torch.inference_mode():
                layer(inputs.clone())
            inputs.requires_grad_()
            layer(inputs).sum().backward()
            expected = layer.to_linear(dtype).weight.sum(0).expand_as(inputs)
            torch.testing.assert_close(inputs.grad, expected, rtol=2e-2, atol=2e-2)


def test_autocast_is_obeyed():
    for inference in ("dequantized", "packed"):
        layer = layer_of("odd", inference)
        inputs = inputs_for(layer).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            outputs = layer(inputs)
        assert outputs.dtype == torch.bfloat16
        outputs.sum().backward()
        assert inputs.grad.dtype == torch.float32


@pytest.mark.skipif(not has_four_bit_product(), reason="this torch has no product with 4 bits")
class TestFourBits:
    def held(self) -> PackedLinear:
        layer = layer_of("four bits", "packed")
        layer(inputs_for(layer, torch.bfloat16))
        assert layer._four_bits is not None and layer.weight.numel() == 0
        return layer

    def test_memory_stays_under_half_of_float16(self):
        layer = self.held()
        tensors = [*layer.buffers(), *layer._four_bits]
        size = sum(values.numel() * values.element_size() for values in tensors)
        assert size < 0.4 * 2 * layer.in_features * layer.out_features

    def test_the_stored_codes_come_back_from_it(self):
        stored = layer_of("four bits", "packed").state_dict()
        for restored in (self.held().state_dict(), copy.deepcopy(self.held()).state_dict(),
                         self.held().to("cpu").state_dict()):  # fmt: skip
            assert all(torch.equal(restored[name], stored[name]) for name in stored)

    def test_without_the_operation_the_result_is_the_same(self, monkeypatch):
        layer = layer_of("four bits", "packed")
        inputs = inputs_for(layer, torch.bfloat16)
        with monkeypatch.context() as patch:
            patch.setattr(packed_linear, "has_four_bit_product", lambda: False)
            expected = layer(inputs)
            assert layer._four_bits is None
        torch.testing.assert_close(layer(inputs), expected, rtol=2e-2, atol=2e-2)

    def test_five_bits_are_unpacked_instead(self):
        layer = PackedLinear.from_quantized(random_weight(16, 64, 32, [5, 2]), None, "packed")
        layer.eval()(inputs_for(layer, torch.bfloat16))
        assert layer._four_bits is None

    def test_a_training_keeps_the_stored_codes(self):
        inputs = inputs_for(self.held(), torch.bfloat16)
        layer = self.held()
        layer(inputs.requires_grad_()).sum().backward()
        assert layer._four_bits is None
        # The first layer of a network has inputs without a gradient.
        layer.train()(inputs.detach())
        assert layer._four_bits is None


def test_scales_are_not_rounded_with_the_model():
    layer = layer_of("odd", "dequantized", bias=True)
    before = layer.to_quantized().dequantize()
    layer(inputs_for(layer))
    layer.to(torch.bfloat16)
    assert layer.bias.dtype == torch.bfloat16 and layer._dense is None
    assert torch.equal(layer.to_quantized().dequantize(), before)


def test_loading_other_weights_forgets_the_dense_copy():
    layer = layer_of("odd", "dequantized")
    inputs = inputs_for(layer)
    layer(inputs)
    other = random_weight(*SHAPES["odd"], layer.widths, seed=5)
    layer.load_state_dict(PackedLinear.from_quantized(other).state_dict())
    assert torch.equal(layer(inputs), inputs @ other.dequantize().T)


def test_wrong_layers_are_refused():
    with pytest.raises(ValueError, match=r"37 columns in groups of 8 needs 5 widths .* got 2"):
        PackedLinear(37, 7, 8, [2, 2])
    with pytest.raises(ValueError, match=r"needs 1 widths from 1 to 5, got 1: \[6\]"):
        PackedLinear(8, 7, 8, [6])
    with pytest.raises(ValueError, match="Did you mean 'packed'"):
        PackedLinear(8, 7, 8, [2], inference="pakced")


def test_its_text_says_what_it_holds():
    text = str(layer_of("four bits", "packed"))
    assert "in_features=576" in text and "bits: 1 of 1, 2 of 2, 1 of 3" in text
