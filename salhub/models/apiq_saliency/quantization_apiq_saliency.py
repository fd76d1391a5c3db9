"""How transformers loads models of ApiQ: few bits a weight, and adapters beside them."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from salhub.quantization.adapted_linear import AdaptedPackedLinear, has_adapter
from salhub.quantization.packed_linear import PackedLinear
from salhub.quantization.quantizer import PackedWeightsConfig, PackedWeightsQuantizer


class ApiQSaliencyQuantizationConfig(PackedWeightsConfig):
    """Settings of a model in few bits with adapters; see `PackedWeightsConfig`.

    Args:
        bits, group_size, **others: Of `PackedWeightsConfig`.
        lora_r: Rank of the adapters; None for a model without.
        lora_alpha: What their product is multiplied by, times the rank.
        target_modules: Last parts of the names of the layers that have one; None for all.

    Raises:
        UnknownSettingError, ValueError: As of `PackedWeightsConfig`.

    Example:
        >>> ApiQSaliencyQuantizationConfig(bits=2, group_size=64, lora_r=8).quant_method
        'salhub_apiq_saliency'
    """

    method = "salhub_apiq_saliency"

    def __init__(
        self,
        bits: float,
        group_size: int,
        lora_r: int | None = None,
        lora_alpha: float = 16.0,
        target_modules: Sequence[str] | None = None,
        **others: Any,
    ) -> None:
        super().__init__(bits, group_size, **others)
        is_rank = isinstance(lora_r, int) and not isinstance(lora_r, bool) and lora_r > 0
        if lora_r is not None and not is_rank:
            raise ValueError(f"lora_r must be an integer above 0, or None, got {lora_r!r}.")
        self.lora_r, self.lora_alpha = lora_r, lora_alpha
        self.target_modules = None if target_modules is None else list(target_modules)


class ApiQSaliencyQuantizer(PackedWeightsQuantizer):
    """Replaces linear layers by packed layers with adapters, as the configuration says."""

    config_class = ApiQSaliencyQuantizationConfig
    quantization_config: ApiQSaliencyQuantizationConfig

    def _empty_layer(self, name: str, layer: nn.Linear, widths: list[int]) -> PackedLinear:
        config = self.quantization_config
        if config.lora_r is None or not has_adapter(name, config.target_modules):
            return super()._empty_layer(name, layer, widths)
        return AdaptedPackedLinear(
            layer.in_features,
            layer.out_features,
            config.group_size,
            widths,
            layer.bias is not None,
            config.inference,
            lora_r=config.lora_r,
            lora_alpha=config.lora_alpha,
            dtype=layer.weight.dtype,
        )
