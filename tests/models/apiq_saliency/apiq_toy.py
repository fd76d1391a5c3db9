"""A small model of ApiQ without training."""

import torch
from torch import nn
from transformers import LlamaForCausalLM

from salhub.models.apiq_saliency.quantization_apiq_saliency import ApiQSaliencyQuantizationConfig
from salhub.quantization.adapted_linear import AdaptedPackedLinear
from salhub.quantization.learned_clipping import LearnedClipping
from salhub.quantization.packed_linear import PackedLinear
from salhub.quantization.quantizer import describe_packed
from tests.quantization.packed_toy import plain_llama

GROUP_SIZE, RANK, ALPHA = 16, 3, 6.0


def adapted_llama(
    bits: int = 2, targets: tuple[str, ...] | None = None, symmetric: bool = False, size: float = 1
) -> LlamaForCausalLM:
    """Its linear layers in few bits, with adapters that add half of what rounding took."""
    model = plain_llama(hidden_size=48, attention_bias=False)
    draw = torch.Generator().manual_seed(1)
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and name != "lm_head"
    }
    for name, layer in layers.items():
        rows, columns = layer.weight.shape
        clipping = LearnedClipping(layer.weight.detach(), GROUP_SIZE, bits, symmetric=symmetric)
        clipping.search()
        stored = clipping.quantized()
        if targets is not None and name.rpartition(".")[2] not in targets:
            packed = PackedLinear.from_quantized(stored)
        else:
            factors = (
                torch.randn(RANK, columns, generator=draw),
                torch.randn(rows, RANK, generator=draw),
            )
            # As large as the error of two bits is.
            scale = size * 0.15 * layer.weight.std().item() ** 0.5
            packed = AdaptedPackedLinear.from_parts(
                stored, *(scale * one for one in factors), ALPHA
            )
        model.set_submodule(name, packed)
    config = ApiQSaliencyQuantizationConfig(
        bits=bits, group_size=GROUP_SIZE, lora_r=RANK, lora_alpha=ALPHA, target_modules=targets
    )
    return describe_packed(model.eval(), config)
