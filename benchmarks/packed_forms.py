"""The ways to compute a packed linear layer, beside plain ones of the same weights."""

from functools import partial

import torch
from torch import nn

from benchmarks.interleaved import Contender
from salhub.quantization.packed_linear import PackedLinear
from salhub.quantization.quantized_weight import QuantizedWeight


def layer_forms(weight: QuantizedWeight, dtype: torch.dtype) -> dict[str, nn.Linear]:
    """Return a layer for each way, by what it is called in tables.

    Args:
        weight: What all of them hold.
        dtype: What a plain layer holds it in.
    """
    kind = str(dtype).removeprefix("torch.")
    packed = {
        f"{inference}, {kind}": PackedLinear.from_quantized(weight, None, inference).eval()
        for inference in ("dequantized", "packed")
    }
    return {f"plain, {kind}": packed[f"packed, {kind}"].to_linear(dtype).eval(), **packed}


def form_contenders(weight: QuantizedWeight, tokens: int, dtype: torch.dtype) -> list[Contender]:
    """Return contenders for a race: each computes the same outputs without gradients.

    Args:
        weight: What all of them hold.
        tokens: How many inputs each takes at once; 1 is what writing a text costs.
        dtype: Type of the inputs.
    """
    inputs = torch.randn(tokens, weight.codes.shape[1], generator=torch.Generator().manual_seed(0))
    run = torch.no_grad()(lambda layer: layer(inputs.to(dtype)))
    return [
        Contender(name, partial(run, layer)) for name, layer in layer_forms(weight, dtype).items()
    ]
