"""A quantizer as a method brings one: linear layers in 8 bits, a scale for every row."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin


class RoundedWeightsConfig(QuantizationConfigMixin):
    """Settings of the quantization."""

    def __init__(self, levels: int = 127, **_: Any) -> None:
        self.quant_method = "salhub_rounded_weights"
        self.levels = levels


class RoundedLinear(nn.Module):
    """A linear layer without bias whose weights are whole numbers."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(out_features, in_features, dtype=torch.int8))
        self.register_buffer("scale", torch.zeros(out_features, 1))

    def forward(self, hidden_states: Tensor) -> Tensor:
        return hidden_states @ (self.weight * self.scale).T


class RoundedWeightsQuantizer(HfQuantizer):
    """Puts the layers where the packed weights go."""

    config_class = RoundedWeightsConfig

    def _process_model_before_weight_loading(self, model: nn.Module, **_: Any) -> None:
        for name, layer in list(model.model.named_modules()):
            if isinstance(layer, nn.Linear):
                with torch.device("meta"):
                    rounded = RoundedLinear(layer.in_features, layer.out_features)
                model.model.set_submodule(name, rounded)

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False


def save_rounded(model: nn.Module, folder: Any) -> None:
    """Quantize the linear layers of a model in place, and save it."""
    settings = RoundedWeightsConfig()
    for name, layer in list(model.model.named_modules()):
        if isinstance(layer, nn.Linear):
            rounded = RoundedLinear(layer.in_features, layer.out_features)
            rounded.scale = layer.weight.detach().abs().amax(1, keepdim=True) / settings.levels
            rounded.weight = (layer.weight.detach() / rounded.scale).round().to(torch.int8)
            model.model.set_submodule(name, rounded)
    model.config.quantization_config = settings
    model.save_pretrained(folder)
