"""Linear layers whose weights are not there as a matrix, and are made a few rows at a time."""

from collections.abc import Callable, Iterator
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.modules.module import register_module_module_registration_hook

from salhub.errors import check_choice

Inference = Literal["dequantized", "packed"]


class BlockwiseLinear(nn.Linear):
    """A linear layer whose subclass says how blocks of its weights are made.

    Args:
        in_features: Columns of the weight.
        out_features: Rows of the weight.
        bias: Whether there is one.
        inference: "dequantized" keeps a dense copy from the first use on; "packed" keeps none.
    """

    # transformers fills plain linear layers with random numbers where a file lacks their weights.
    _is_hf_initialized = True

    def __init__(
        self, in_features: int, out_features: int, bias: bool, inference: Inference
    ) -> None:
        nn.Module.__init__(self)
        check_choice("inference", inference, get_args(Inference))
        self.in_features, self.out_features = in_features, out_features
        self.inference: Inference = inference
        self.register_parameter("bias", nn.Parameter(torch.zeros(out_features)) if bias else None)
        self._dense: Tensor | None = None

    def _row_blocks(self, dtype: torch.dtype) -> Iterator[Tensor]:
        """The weights, a few rows at a time."""
        raise NotImplementedError

    def _packed_product(self, inputs: Tensor) -> Tensor:
        """The outputs without a dense copy, as fast as can be."""
        return self._unpacked_product(inputs)

    def _unpacked_product(self, inputs: Tensor) -> Tensor:
        blocks = self._row_blocks(inputs.dtype)
        return torch.cat([functional.linear(inputs, rows) for rows in blocks], -1)

    def forward(self, input: Tensor) -> Tensor:
        # A CPU is slow and imprecise in float16.
        is_half = input.dtype == torch.float16 and input.device.type == "cpu"
        inputs = input.float() if is_half else input
        bias = None if self.bias is None else self.bias.to(inputs.dtype)
        if self.inference == "dequantized":
            outputs = functional.linear(inputs, self._dense_weight(inputs.dtype), bias)
        else:
            if torch.is_grad_enabled() and inputs.requires_grad:
                outputs = _UnpackedTwice.apply(inputs, self)
            else:
                outputs = self._packed_product(inputs)
            outputs = outputs if bias is None else outputs + bias
        return outputs.to(input.dtype) if is_half else outputs

    def set_inference(self, inference: Inference) -> None:
        """Choose how the layer computes, as the class says."""
        check_choice("inference", inference, get_args(Inference))
        self.inference, self._dense = inference, None

    def to_linear(self, dtype: torch.dtype = torch.float32) -> nn.Linear:
        """Return a plain linear layer of the same weights, rounded to a type."""
        weight = torch.cat([*self._row_blocks(dtype)])
        with torch.device("meta"):
            plain = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None)
        plain.weight = nn.Parameter(weight)
        if self.bias is not None:
            plain.bias = nn.Parameter(self.bias.detach().to(dtype))
        return plain.train(self.training)

    def kept_tensors(self) -> list[Tensor]:
        """What the layer has made since it was loaded, and holds beside its state."""
        return [] if self._dense is None else [self._dense]

    def _dense_weight(self, dtype: torch.dtype) -> Tensor:
        dense = self._dense
        if dense is None or dense.dtype != dtype or dense.device != self.scales.device:
            # Made in inference mode it could never take part in a training.
            with torch.inference_mode(False), torch.no_grad():
                dense = self._dense = torch.cat([*self._row_blocks(dtype)])
        return dense

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self._dense = None
        return super()._apply(fn, recurse)


def keeping_types(fn: Callable[[Tensor], Tensor], *kept: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a function that moves some tensors to other devices as another one does.

    Args:
        fn: What a module is told to do with its tensors, such as to take another type.
        *kept: Those that keep their type: a model that is rounded must not round its scales.
    """

    def moved(values: Tensor) -> Tensor:
        result = fn(values)
        is_kept = any(values is one for one in kept)
        return values.to(result.device) if is_kept else result

    return moved


class _UnpackedTwice(torch.autograd.Function):
    """Unpacks again for the gradient, as autograd would keep every unpacked block."""

    @staticmethod
    def forward(ctx, inputs: Tensor, layer: BlockwiseLinear) -> Tensor:
        ctx.layer, ctx.dtype = layer, inputs.dtype
        return layer._unpacked_product(inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        result, start = 0, 0
        for rows in ctx.layer._row_blocks(gradient.dtype):
            result = result + gradient[..., start : start + len(rows)] @ rows
            start += len(rows)
        return result.to(ctx.dtype), None


def _refuse_merging(*_: Any, **__: Any) -> None:
    raise ValueError(
        "An adapter cannot be merged into packed weights; keep it separate, or call "
        "dequantize() on the model before you add the adapter."
    )


def _refuse_merging_into_packed(owner: nn.Module, name: str, module: nn.Module | None) -> None:
    if name == "base_layer" and isinstance(module, BlockwiseLinear):
        vars(owner)["merge"] = _refuse_merging


# peft takes the layer for a plain linear one, and asks it nothing before it merges.
register_module_module_registration_hook(_refuse_merging_into_packed)
