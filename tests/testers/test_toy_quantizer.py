"""The tester of quantizers passes for one that is right, and fails for one that is not."""

import pytest
import torch

from tests.testers import QuantizerTester
from tests.testers.toy_quantizer import NAME, PackedLinear, quantized_llama


class TestToyQuantizer(QuantizerTester):
    imports = "import salhub, tests.testers.toy_quantizer"
    quant_method = NAME

    def quantized(self):
        return quantized_llama()

    def expected_bytes(self, model):
        # Query, key, value, output; gate, up, down: half a byte a weight, a scale of 4 bytes a row.
        shapes = [(8, 8), (4, 8), (4, 8), (8, 8), (16, 8), (16, 8), (8, 16)]
        layers = sum(rows * columns // 2 + 4 * rows for rows, columns in shapes)
        norms, vocabulary = 4 * 8, 4 * 12 * 8
        return 2 * (layers + 2 * norms) + norms + 2 * vocabulary

    def unpacked(self, model):
        return {
            name: layer.unpacked()
            for name, layer in model.named_modules()
            if isinstance(layer, PackedLinear)
        }


class TestWrongQuantizers:
    def test_a_layer_that_unpacks_wrongly_is_noticed(self):
        class Swapped(TestToyQuantizer):
            def quantized(self):
                model = quantized_llama()
                layer = model.model.layers[0].mlp.up_proj
                layer.forward = lambda inputs: inputs @ layer.unpacked().flip(1).T
                return model

        with pytest.raises(AssertionError):
            Swapped().test_packed_weights_do_what_the_unpacked_ones_do()

    def test_weights_that_are_not_packed_are_noticed(self, tmp_path):
        class Fat(TestToyQuantizer):
            def quantized(self):
                model = quantized_llama()
                layer = model.model.layers[0].mlp.up_proj
                layer.register_buffer("weight", torch.zeros(16, 8))
                return model

        with pytest.raises(AssertionError):
            Fat().test_it_is_as_small_as_it_says(tmp_path)
