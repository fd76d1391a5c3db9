"""A model of SliM-LLM as people have it: on disk, in a new process, unpacked."""

from functools import cache

import torch

from salhub.models.slim_llm.quantize_model import quantize_slim_llm
from salhub.quantization.quantizer import packed_layers
from tests import small_llama
from tests.testers import QuantizerTester

# Rows of groups of 8 fill whole bytes at every width.
GROUP_SIZE = 8
TOKENS = torch.arange(96).view(4, 24) * 5 % small_llama.VOCAB_SIZE


@cache
def packed():
    base = small_llama.network()
    options = {"group_size": GROUP_SIZE, "quantize_embeddings": "int8"}
    return quantize_slim_llm(base, None, TOKENS, **options).model


class TestPackedSlimLLM(QuantizerTester):
    quant_method = "salhub_slim_llm"
    imports = """
import sys
from transformers import AutoModelForCausalLM

try:
    AutoModelForCausalLM.from_pretrained("packed")
except RuntimeError as error:
    assert "ignore_mismatched_sizes" in str(error), error
else:
    raise AssertionError("It loaded without salhub.")
assert "salhub" not in sys.modules

import salhub
"""

    def quantized(self):
        return packed()

    def inputs(self):
        return {"input_ids": TOKENS[:1]}

    def expected_bytes(self, model):
        # Five norms of ones, which half precision holds; 280 rows of bytes with a scale.
        size = 2 * 5 * 16 + 280 * (16 + 2)
        for name, widths in model.config.quantization_config.group_bits.items():
            rows = model.get_submodule(name).out_features
            # The widths, and for each row and group a scale, and a mean or a zero.
            size += len(widths)
            for width in map(int, widths):
                size += rows * (GROUP_SIZE * width / 8 + 2 + (2 if width == 1 else width / 8))
        return size

    def unpacked(self, model):
        embedding = model.model.embed_tokens
        shared = embedding.weight.float() * embedding.scales.float()
        return {"model.embed_tokens": shared, "lm_head": shared} | {
            name: layer.to_quantized().dequantize() for name, layer in packed_layers(model).items()
        }
