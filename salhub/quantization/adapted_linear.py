"""A linear layer in few bits with a low-rank adapter beside its weights."""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.module import register_module_module_registration_hook

from salhub.quantization.blockwise_linear import Inference
from salhub.quantization.packed_linear import PackedLinear
from salhub.quantization.quantized_weight import QuantizedWeight


class AdaptedPackedLinear(PackedLinear):
    """A packed layer whose outputs have `lora_alpha / lora_r · (x A^T) B^T` added.

    Args:
        in_features, out_features, group_size, group_bits, bias, inference: As of `PackedLinear`.
        lora_r: Rank of the adapter.
        lora_alpha: What its product is multiplied by, times the rank.
        dtype: Type of the adapter; that of torch by default.

    Attributes:
        lora_A: Parameter (lora_r, in_features).
        lora_B: Parameter (out_features, lora_r).
    """

    lora_A: nn.Parameter
    lora_B: nn.Parameter

    def __init__(
        self,
        in_features: int,
        out_features: int,
        group_size: int,
        group_bits: Sequence[int],
        bias: bool = False,
        inference: Inference = "dequantized",
        *,
        lora_r: int = 1,
        lora_alpha: float = 1.0,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, group_size, group_bits, bias, inference)
        self.lora_r, self.lora_alpha = lora_r, lora_alpha
        self.lora_A = nn.Parameter(torch.zeros(lora_r, in_features, dtype=dtype))
        self.lora_B = nn.Parameter(torch.zeros(out_features, lora_r, dtype=dtype))

    @classmethod
    def from_parts(
        cls,
        weight: QuantizedWeight,
        lora_a: Tensor,
        lora_b: Tensor,
        lora_alpha: float,
        bias: Tensor | None = None,
        inference: Inference = "dequantized",
    ) -> Self:
        """Pack a weight, and put an adapter beside it.

        Args:
            weight: What the layer is to hold.
            lora_a: (r, m).
            lora_b: (n, r), of the same type.
            lora_alpha: As of the class.
            bias: That of the layer, which stays as it is.
            inference: As of the class.
        """
        layer = cls.from_quantized(weight, bias, inference)
        layer.lora_r, layer.lora_alpha = len(lora_a), lora_alpha
        layer.lora_A = nn.Parameter(lora_a.detach().clone())
        layer.lora_B = nn.Parameter(lora_b.detach().clone())
        return layer

    @property
    def scaling(self) -> float:
        """What the product of the adapter is multiplied by."""
        return self.lora_alpha / self.lora_r

    def adapter_bits(self) -> float:
        """Bits that the adapter takes for each weight of the layer where it is saved."""
        spent = sum(one.numel() * _stored_bits(one) for one in (self.lora_A, self.lora_B))
        return spent / (self.in_features * self.out_features)

    def adapter_weight(self) -> Tensor:
        """What the adapter adds to the weight, float32 (n, m)."""
        return self.scaling * (self.lora_B.detach().float() @ self.lora_A.detach().float())

    def forward(self, input: Tensor) -> Tensor:
        outputs = super().forward(input)
        # A CPU is slow and imprecise in float16.
        is_half = input.dtype == torch.float16 and input.device.type == "cpu"
        inputs = input.float() if is_half else input
        inner = functional.linear(inputs, self.lora_A.to(inputs.dtype))
        added = functional.linear(inner, self.lora_B.to(inputs.dtype)) * self.scaling
        return outputs + added.to(outputs.dtype)

    def to_linear(self, dtype: torch.dtype = torch.float32) -> nn.Linear:
        """Return a plain linear layer of the weights with the adapter added, rounded to a type."""
        plain = super().to_linear(torch.float32)
        with torch.no_grad():
            plain.weight += self.adapter_weight()
        return plain.to(dtype)

    def to_packed(self) -> PackedLinear:
        """Return the layer without its adapter."""
        return PackedLinear.from_quantized(self.to_quantized(), self.bias, self.inference)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, lora_r={self.lora_r}, lora_alpha={self.lora_alpha}"


def _refuse_second_adapter(_: nn.Module, name: str, module: nn.Module | None) -> None:
    if name == "base_layer" and isinstance(module, AdaptedPackedLinear):
        raise ValueError(
            "The layers have adapters of their own, which peft would neither save nor "
            "freeze; separate them with: salhub export MODEL FOLDER --format peft"
        )


# peft takes the layer for a plain linear one.
register_module_module_registration_hook(_refuse_second_adapter)


def _stored_bits(values: Tensor) -> int:
    # See `in_half_where_exact`.
    is_half = values.dtype == torch.float32 and torch.equal(values.half().float(), values)
    return 16 if is_half else 8 * values.element_size()


def adapted_layers(model: nn.Module) -> dict[str, AdaptedPackedLinear]:
    """Return the layers with adapters of a model by their names."""
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, AdaptedPackedLinear)
    }


def mean_adapter_bits(model: nn.Module) -> float:
    """Bits that adapters take for each packed weight of a model, on average."""
    layers = [one for one in model.modules() if isinstance(one, PackedLinear)]
    spent = sum(
        one.adapter_bits() * one.in_features * one.out_features
        for one in adapted_layers(model).values()
    )
    return spent / sum(one.in_features * one.out_features for one in layers)


def has_adapter(name: str, targets: Sequence[str] | None) -> bool:
    """Whether the layer of a name has an adapter.

    Args:
        name: Such as "model.layers.0.self_attn.q_proj".
        targets: Last parts of names; None for all.

    Example:
        >>> has_adapter("model.layers.0.self_attn.q_proj", ["q_proj"])
        True
    """
    return targets is None or name.rpartition(".")[2] in targets
