"""Recognising activations that are written out as a product, such as x * sigmoid(x)."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

# Autograd's names of what bends a value to a gate, and of the arithmetic around it.
_SQUASHING = {
    "Sigmoid",
    "Tanh",
    "Erf",
    "Exp",
    "Softplus",
    "Hardsigmoid",
    "Hardtanh",
    "Relu",
    "Expm1",
}
_ARITHMETIC = {
    "Mul",
    "Div",
    "Add",
    "Sub",
    "Rsub",
    "Neg",
    "Pow",
    "Reciprocal",
    "Log",
    "Log1P",
    "Clamp",
    "ClampMin",
}
_CARRIERS = {"ToCopy", "Clone", "Alias", "View"}
_SCALING = {"Mul", "Div", "Neg"}
_MARK = "salhub_squashed"
# The tanh form of GELU is eight operations deep.
_MAX_NODES = 64


def mark_squashed(value: Tensor) -> None:
    """Lets a value count as squashed whatever operation made it."""
    if value.grad_fn is not None:
        value.grad_fn.metadata[_MARK] = True  # ty: ignore[invalid-assignment]


def is_self_gated(value: Tensor, factor: Tensor) -> bool:
    """True where `factor` is a squashed elementwise function of what `value` is a multiple of.

    Only elementwise operations are followed, so a gate that is computed from pooled, normalised,
    convolved or otherwise mixed values is not meant: squeeze-and-excitation, attention and gated
    linear units.

    Args:
        value: A factor of a product, with a graph.
        factor: The other one.

    Example:
        >>> import torch
        >>> x = torch.ones(3, requires_grad=True)
        >>> is_self_gated(0.5 * x, 1 + torch.tanh(x)), is_self_gated(x, x.mean().sigmoid())
        (True, False)
    """
    if value.shape != factor.shape or factor.grad_fn is None:
        return False
    origins = set(_origins(value))
    # (operation, whether it lies below a squashing one)
    waiting, seen = [(factor.grad_fn, False)], set()
    while waiting and len(seen) < _MAX_NODES:
        node, is_squashed = waiting.pop()
        if node is None or (node, is_squashed) in seen:
            continue
        if is_squashed and node in origins:
            return True
        seen.add((node, is_squashed))
        kind = _kind(node)
        squashes = kind in _SQUASHING or _MARK in node.metadata
        if squashes or kind in _ARITHMETIC | _CARRIERS:
            waiting += [(one, is_squashed or squashes) for one, _ in node.next_functions]
    return False


def _origins(value: Tensor) -> Iterator[Any]:
    """The operation that made a value, and those before it up to a constant multiple."""
    node = value.grad_fn or _leaf_node(value)
    for _ in range(_MAX_NODES):
        yield node
        before = [one for one, _ in node.next_functions if one is not None]
        if _kind(node) not in _SCALING | _CARRIERS or len(before) != 1:
            return
        node = before[0]


def _leaf_node(leaf: Tensor) -> Any:
    return leaf.view_as(leaf).grad_fn.next_functions[0][0]


def _kind(node: Any) -> str:
    """Such as "Mul" of MulBackward0."""
    return node.name().partition("Backward")[0]
