"""Other ways for a gradient to pass a rectifier: deconvolutional network, guided backprop."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_INFINITY = float("inf")

# By name: a function, its method and its in-place form are many objects.
_RELU = {"relu", "relu_"}
_RELU6 = {"relu6", "relu6_"}
_HARDTANH = {"hardtanh", "hardtanh_"}
_CLAMP = {"clamp", "clamp_", "clip", "clip_"}
_CLAMP_MIN = {"clamp_min", "clamp_min_"}
_THRESHOLD = {"threshold", "threshold_", "_threshold"}
_MAXIMUM = {"maximum", "fmax", "max"}
_MASKED_FILL = {"masked_fill", "masked_fill_"}
_COMMUTATIVE = {"mul", "multiply"}
_PRODUCT = {"mul", "mul_", "multiply", "multiply_", "div", "div_", "divide", "true_divide"}
# Position of `inplace` among the arguments of the functional forms.
_IN_PLACE_ARGUMENT = {"relu": 1, "relu6": 1, "hardtanh": 3, "_threshold": 3, "threshold": 3}

# Activations with a negative or curved part: "the input was positive" is no mask for them.
_UNDEFINED = {
    "silu": "SiLU",
    "gelu": "GELU",
    "hardswish": "Hardswish",
    "mish": "Mish",
    "elu": "ELU",
    "selu": "SELU",
    "celu": "CELU",
    "leaky_relu": "LeakyReLU",
    "prelu": "PReLU",
    "rrelu": "RReLU",
    "softplus": "Softplus",
}
# Numbers are kept in range by clamping far out; closer in, it is an activation.
_GUARD = 1000.0


class RectifierRule(TorchFunctionMode):
    """While active, gradients pass ReLU, ReLU6 and Hardtanh from 0 by another rule.

    It sees modules and functional calls alike, in place or not, because it watches the functions
    and not the modules: also rectifiers written as a clamp or threshold at 0, as a maximum with 0,
    or as a choice or product by the sign. The forward values stay exact.

    Gates and attention keep their true gradient: sigmoid, softmax and the like are not rectifiers,
    and their products with something else are not activations. A value times a squashed function
    of itself is one (x * sigmoid(x)), and is refused as SiLU and GELU are.

    Args:
        rule: "deconvnet" passes max(gradient, 0) and ignores the forward mask; "guided" passes
            max(gradient, 0) where the rectifier was open, 0 < x (< 6).

    Raises:
        ValueError: In the forward pass, when an activation for which the rule is not defined lies
            on the way of the gradient.

    Example:
        >>> x = torch.tensor([-1.0, 2.0, 3.0], requires_grad=True)
        >>> with RectifierRule("deconvnet"):
        ...     y = torch.relu(x)
        >>> torch.autograd.grad(y, x, torch.tensor([5.0, -1.0, 2.0]))[0]
        tensor([5., 0., 2.])

    Source: Zeiler & Fergus 2014 (deconvnet); Springenberg et al. 2015 (guided backpropagation).
    """

    def __init__(self, rule: str):
        super().__init__()
        self.rule = rule
        self.reached = 0

    def __torch_function__(self, func, types, args=(), kwargs=None) -> Any:
        """Replaces rectifiers that lie on the way of the gradient, and passes all else on."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name.removesuffix("_") in _UNDEFINED:
            if _is_differentiated(_argument(args, kwargs, 0, "input", None)):
                self._refuse(_UNDEFINED[name.removesuffix("_")])
            return func(*args, **kwargs)
        found = self._recognize(name, args, kwargs)
        if found is None:
            return func(*args, **kwargs)
        value, upper = found
        self.reached += 1
        is_in_place = (name.endswith("_") and not name.startswith("__")) or (
            name in _IN_PLACE_ARGUMENT
            and _argument(args, kwargs, _IN_PLACE_ARGUMENT[name], "inplace", False)
        )
        return self._rectify(value, upper, is_in_place)

    def check_reached(self, layers: list[str]) -> None:
        """Raises ValueError when no rectifier lay between the layers and the class scores."""
        if self.reached == 0:
            raise ValueError(
                f"relu_rule='{self.rule}' changes nothing: no ReLU, ReLU6 or Hardtanh lies between "
                f"{', '.join(layers)} and the logits; use relu_rule=None or an earlier layer."
            )

    def _recognize(self, name: str, args: tuple, kwargs: dict) -> tuple[Tensor, float] | None:
        """The value that is rectified and the upper end of the open part, or None."""
        if name in _MAXIMUM:
            return self._maximum(args, kwargs)
        if name == "where":
            return self._where(*_where_arguments(args, kwargs))
        if name in _PRODUCT:
            return self._product(name, args, kwargs)
        value = _argument(args, kwargs, 0, "input", None)
        if not _is_differentiated(value):
            return None
        if name in _RELU:
            return value, _INFINITY
        if name in _RELU6:
            return value, 6.0
        if name in _HARDTANH:
            lower = _argument(args, kwargs, 1, "min_val", -1.0)
            upper = _argument(args, kwargs, 2, "max_val", 1.0)
            if lower != 0:
                self._refuse(f"Hardtanh from {lower} to {upper}")
            return value, float(upper)
        if name in _CLAMP | _CLAMP_MIN:
            return self._clamp(name, value, args, kwargs)
        if name in _THRESHOLD:
            bound = _argument(args, kwargs, 1, "threshold", None)
            if bound != 0 or _argument(args, kwargs, 2, "value", None) != 0:
                self._refuse(f"Threshold at {bound}")
            return value, _INFINITY
        if name in _MASKED_FILL and _is_zero(_argument(args, kwargs, 2, "value", None)):
            mask = _argument(args, kwargs, 1, "mask", None)
            return (value, _INFINITY) if _is_sign(~mask, value) else None
        if name == "__setitem__" and _is_inverse_sign(args[1], value):
            self._refuse("an assignment by the sign")
        return None

    def _clamp(self, name, value, args, kwargs) -> tuple[Tensor, float] | None:
        lower = _argument(args, kwargs, 1, "min", None)
        upper = None if name in _CLAMP_MIN else _argument(args, kwargs, 2, "max", None)
        if _is_zero(lower):
            if isinstance(upper, Tensor) and upper.numel() > 1:
                self._refuse("a clamp with a bound for each element")
            return value, _INFINITY if upper is None else float(upper)
        are_numbers = isinstance(lower, int | float) and isinstance(upper, int | float)
        if are_numbers and -_GUARD < lower < 0 < upper < _GUARD:
            self._refuse(f"a clamp from {lower} to {upper}")
        return None

    def _maximum(self, args: tuple, kwargs: dict) -> tuple[Tensor, float] | None:
        pair = args[0] if args else kwargs.get("input"), _argument(args, kwargs, 1, "other", None)
        if not all(isinstance(one, Tensor) for one in pair):
            return None  # the maximum over an axis
        for value, other in (pair, pair[::-1]):
            if _is_differentiated(value) and _is_zero(other) and value.shape == _shape(*pair):
                return value, _INFINITY
        if any(_is_differentiated(one) for one in pair):
            self._refuse("an elementwise maximum that is not a ReLU")
        return None

    def _where(self, condition, chosen, other) -> tuple[Tensor, float] | None:
        """ReLU written as a choice by the sign; masks of any other kind are not activations."""
        if not isinstance(condition, Tensor):
            return None
        for value, rest, mask in ((chosen, other, condition), (other, chosen, ~condition)):
            if not _is_differentiated(value) or not _is_sign(mask, value):
                continue
            if _is_zero(rest):
                return value, _INFINITY
            self._refuse("an activation made with torch.where")
        return None

    def _product(self, name: str, args: tuple, kwargs: dict) -> tuple[Tensor, float] | None:
        first, second = (
            _argument(args, kwargs, 0, "input", None),
            _argument(args, kwargs, 1, "other", None),
        )
        # Only the first is overwritten in place, and only it is divided.
        pairs = ((first, second), (second, first)) if name in _COMMUTATIVE else ((first, second),)
        for value, factor in pairs:
            if not (_is_differentiated(value) and isinstance(factor, Tensor)):
                continue
            if factor.requires_grad:
                if is_self_gated(value, factor):
                    self._refuse("a value times a squashed function of itself, as SiLU and GELU do")
            elif "mul" in name and _is_sign(factor, value):
                return value, _INFINITY
        return None

    def _rectify(self, value: Tensor, upper: float, is_in_place: bool) -> Tensor:
        # A fresh node before the rectifier: the rule acts there, and neither the gradient at the
        # rectifier's output nor that at `value` itself is altered on its way to a recorded layer.
        before = value.clone() if is_in_place else value.view_as(value)
        before.register_hook(_positive_part)
        open_part = torch.relu(before) if upper == _INFINITY else F.hardtanh(before, 0.0, upper)
        if self.rule == "deconvnet":
            # Value of the rectifier, derivative of the identity; the difference is exactly 0.
            open_part = open_part.detach() + (before - before.detach())
        mark_squashed(open_part)
        return value.copy_(open_part) if is_in_place else open_part

    def _refuse(self, activation: str) -> None:
        raise ValueError(
            f"relu_rule='{self.rule}' is defined for ReLU-type rectifiers only, and this network "
            f"uses {activation}; use relu_rule=None or a network of ReLU or ReLU6."
        )


def _positive_part(gradient: Tensor) -> Tensor:
    return gradient.clamp(min=0)


def _is_differentiated(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad and torch.is_grad_enabled()


def _is_zero(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not value.requires_grad and not value.is_meta and not bool(value.any())
    return isinstance(value, int | float) and value == 0


def _is_sign(mask: Any, value: Tensor) -> bool:
    """True for the mask of the positive elements, as booleans or numbers; 0 may be either."""
    if not isinstance(mask, Tensor) or mask.shape != value.shape or mask.requires_grad:
        return False
    # A mask that lets all through, or nothing, says nothing about signs.
    if bool(mask.all()) or not bool(mask.any()):
        return False
    known = value.detach()
    return torch.equal(mask, (known > 0).to(mask.dtype)) or torch.equal(
        mask, (known >= 0).to(mask.dtype)
    )


def _is_inverse_sign(mask: Any, value: Tensor) -> bool:
    return isinstance(mask, Tensor) and mask.dtype == torch.bool and _is_sign(~mask, value)


def _shape(first: Tensor, second: Tensor) -> torch.Size:
    return torch.broadcast_shapes(first.shape, second.shape)


def _where_arguments(args: tuple, kwargs: dict) -> tuple[Any, Any, Any]:
    if args and isinstance(args[0], Tensor) and args[0].dtype != torch.bool:
        # The method: value.where(condition, other).
        return (
            _argument(args, kwargs, 1, "condition", None),
            args[0],
            _argument(args, kwargs, 2, "other", None),
        )
    return (
        _argument(args, kwargs, 0, "condition", None),
        _argument(args, kwargs, 1, "input", None),
        _argument(args, kwargs, 2, "other", None),
    )


def _argument(args: tuple, kwargs: dict, position: int, name: str, default: Any) -> Any:
    return args[position] if len(args) > position else kwargs.get(name, default)


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
