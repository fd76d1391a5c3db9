"""Operations written as the simple ones that they are made of, each of which has its relevance."""

import types
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`torch.nn.functional.scaled_dot_product_attention` in single steps, without dropout."""
    if enable_gqa:
        times = query.shape[-3] // key.shape[-3]
        key, value = (one.repeat_interleave(times, dim=-3) for one in (key, value))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = torch.matmul(query, key.transpose(-2, -1)) * scale
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return torch.matmul(scores.softmax(dim=-1), value)


def is_plain_attention(args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether a call of it has three signals of the same heads, and neither mask nor scale 0."""
    if len(args) != 3 or not all(signal.requires_grad for signal in args):
        return False
    is_masked = kwargs.get("attn_mask") is not None or kwargs.get("is_causal")
    same_heads = len({signal.shape[:-2] for signal in args}) == 1
    return same_heads and not is_masked and kwargs.get("scale") != 0


def addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    """Input + value * tensor1 * tensor2."""
    product = tensor1 * tensor2
    return input + (product if value == 1 else product * value)


def addcdiv(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    """Input + value * tensor1 / tensor2."""
    quotient = tensor1 / tensor2
    return input + (quotient if value == 1 else quotient * value)


def lerp(input: Tensor, end: Tensor, weight: Tensor | float) -> Tensor:
    """(1 - weight) * input + weight * end."""
    return input * (1 - weight) + end * weight


def addmm(
    input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor:
    """Beta * input + alpha * mat1 @ mat2, for `baddbmm` and `addmv` too."""
    product = torch.matmul(mat1, mat2)
    product = product if alpha == 1 else product * alpha
    return product if beta == 0 else product + (input if beta == 1 else input * beta)


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """The first half times the sigmoid of the second."""
    signal, gate = input.chunk(2, dim)
    return signal * gate.sigmoid()


# Its first line hands a watched call back to who watches; its body is what is to be watched.
_own = F.multi_head_attention_forward
multi_head_attention_forward = types.FunctionType(
    _own.__code__,
    {**vars(F), "has_torch_function": lambda tensors: False},
    _own.__name__,
    _own.__defaults__,
)

COMPOSED: dict[str, Callable[..., Any]] = {
    "scaled_dot_product_attention": scaled_dot_product_attention,
    "multi_head_attention_forward": multi_head_attention_forward,
    "addcmul": addcmul,
    "addcdiv": addcdiv,
    "lerp": lerp,
    "addmm": addmm,
    "baddbmm": addmm,
    "addmv": addmm,
    "glu": glu,
}
