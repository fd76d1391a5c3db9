"""A method that packs weights, as one that ships with salhub: its entry, and a small model."""

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from salhub import entries, registration
from salhub.entries import Method, Model
from salhub.quantization.quantized_weight import QuantizedWeight, group_count
from salhub.quantization.quantizer import (
    PackedWeightsConfig,
    PackedWeightsQuantizer,
    quantize_model,
)

ENTRY = Model(
    "packed_toy",
    "packed_toy",
    "text-generation",
    "transformers.LlamaConfig",
    "transformers.LlamaForCausalLM",
    quantizer="tests.quantization.packed_toy.PackedToyQuantizer",
)
GROUP_SIZE = 16


class PackedToyConfig(PackedWeightsConfig):
    method = "salhub_packed_toy"


class PackedToyQuantizer(PackedWeightsQuantizer):
    config_class = PackedToyConfig


def register() -> None:
    """What `import salhub` does for a method that ships with it."""
    entries.METHODS[ENTRY.name] = Method(ENTRY.name, "arXiv:0000.00000")
    entries.MODELS[ENTRY.name] = ENTRY
    registration._register_quantizers()


def random_weight(
    rows: int, columns: int, group_size: int, widths: list[int] | None = None, seed: int = 0
) -> QuantizedWeight:
    """Random codes, scales and the rest, of random widths unless they are given."""
    draw = torch.Generator().manual_seed(seed)
    groups = group_count(columns, group_size)
    if widths is None:
        widths = torch.randint(1, 6, (groups,), generator=draw).tolist()
    bits = torch.tensor(widths, dtype=torch.uint8)
    levels = 2.0 ** bits.float()

    def whole(levels: Tensor) -> Tensor:
        return (torch.rand(rows, len(levels), generator=draw) * levels).to(torch.uint8)

    return QuantizedWeight(
        codes=whole(levels[torch.arange(columns) // group_size]),
        group_size=group_size,
        group_bits=bits,
        scales=(0.01 + 0.2 * torch.rand(rows, groups, generator=draw) / levels).half(),
        zeros=whole(levels) * (bits > 1),
        means=(0.02 * torch.randn(rows, groups, generator=draw) * (bits == 1)).half(),
    )


def plain_llama(**settings) -> LlamaForCausalLM:
    """Its last group of columns is half as wide as the others, and its head is the embedding."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 12, "hidden_size": 40, "intermediate_size": 32, "num_hidden_layers": 2,
             "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 16,
             "tie_word_embeddings": True, "attention_bias": True}  # fmt: skip
    model = LlamaForCausalLM(LlamaConfig(**(sizes | settings))).eval()
    for name, values in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(values)
    return model


def packed_llama(
    group_size: int = GROUP_SIZE, quantize_embeddings: str | None = None, **settings
) -> LlamaForCausalLM:
    """Every linear layer of the blocks in groups of 1 to 5 bits."""
    model = plain_llama(**settings)
    weights = {
        name: random_weight(*layer.weight.shape, group_size, seed=seed)
        for seed, (name, layer) in enumerate(model.named_modules())
        if isinstance(layer, nn.Linear) and name != "lm_head"
    }
    config = PackedToyConfig(3, group_size, quantize_embeddings=quantize_embeddings)
    return quantize_model(model, weights, config)
