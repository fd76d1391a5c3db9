"""Rounding to 4 bits, a scale a row: the smallest quantizer that transformers can load."""

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

NAME = "toy_rounding"


@register_quantization_config(NAME)
class ToyRoundingConfig(QuantizationConfigMixin):
    """It has no settings."""

    def __init__(self, **_):
        self.quant_method = NAME


class PackedLinear(nn.Module):
    """Two weights a byte, each from -7 to 7 times the scale of its row."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.register_buffer("packed", torch.zeros(rows, columns // 2, dtype=torch.uint8))
        self.register_buffer("scale", torch.zeros(rows, 1))

    @classmethod
    def pack(cls, weight: Tensor) -> "PackedLinear":
        packed = cls(*weight.shape)
        packed.scale = weight.abs().amax(1, keepdim=True) / 7
        levels = (weight / packed.scale).round().to(torch.int16) + 8
        packed.packed = (levels[:, ::2] + 16 * levels[:, 1::2]).to(torch.uint8)
        return packed

    def unpacked(self) -> Tensor:
        levels = torch.stack([self.packed & 15, self.packed >> 4], -1).flatten(1)
        return (levels.to(self.scale.dtype) - 8) * self.scale

    def forward(self, inputs: Tensor) -> Tensor:
        return nn.functional.linear(inputs, self.unpacked())


@register_quantizer(NAME)
class ToyRoundingQuantizer(HfQuantizer):
    """Puts packed layers where the file has them."""

    requires_calibration = True

    def _process_model_before_weight_loading(self, model, **_):
        replace_layers(model, lambda layer: PackedLinear(layer.out_features, layer.in_features))

    def _process_model_after_weight_loading(self, model, **_):
        return model

    def is_serializable(self, **_):
        return True

    @property
    def is_trainable(self):
        return False


def replace_layers(model: nn.Module, make) -> None:
    """Replace the linear layers of the blocks."""
    blocks = model.model.layers
    for name, layer in list(blocks.named_modules()):
        if isinstance(layer, nn.Linear):
            blocks.set_submodule(name, make(layer))


def quantized_llama() -> LlamaForCausalLM:
    """A tiny language model of random weights, rounded."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=12, hidden_size=8, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=16,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    replace_layers(model, lambda layer: PackedLinear.pack(layer.weight.detach()))
    settings = ToyRoundingConfig()
    model.config.quantization_config = settings
    model.hf_quantizer = ToyRoundingQuantizer(settings)
    model.quantization_method = NAME
    return model
