"""Other ways for a gradient to pass a rectifier: deconvolutional network, guided backprop."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_RELU = {torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.relu}
_HARDTANH = {F.hardtanh, torch._C._nn.hardtanh, torch._C._nn.hardtanh_}
_RELU6 = {F.relu6, torch._C._nn.relu6, torch._C._nn.relu6_}
_IN_PLACE = {torch.relu_, Tensor.relu_, torch._C._nn.hardtanh_, torch._C._nn.relu6_}
# Position of `inplace` among the arguments of the functional forms.
_IN_PLACE_ARGUMENT = {F.relu: 1, F.relu6: 1, F.hardtanh: 3}

# Activations with a negative or curved part: "the input was positive" is no mask for them.
_UNDEFINED = {
    F.silu: "SiLU",
    F.gelu: "GELU",
    F.hardswish: "Hardswish",
    F.mish: "Mish",
    F.elu: "ELU",
    torch._C._nn.elu_: "ELU",
    F.selu: "SELU",
    torch.selu: "SELU",
    F.celu: "CELU",
    torch.celu: "CELU",
    F.leaky_relu: "LeakyReLU",
    torch._C._nn.leaky_relu: "LeakyReLU",
    torch._C._nn.leaky_relu_: "LeakyReLU",
    F.prelu: "PReLU",
    torch.prelu: "PReLU",
    F.rrelu: "RReLU",
    F.softplus: "Softplus",
}


class RectifierRule(TorchFunctionMode):
    """While active, gradients pass ReLU, ReLU6 and Hardtanh from 0 by another rule.

    It sees modules and functional calls alike, in place or not, because it watches the functions
    and not the modules. The forward values stay exact.

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
        if func in _UNDEFINED:
            self._refuse_if_differentiated(_UNDEFINED[func], args, kwargs)
            return func(*args, **kwargs)
        if func not in _RELU | _RELU6 | _HARDTANH:
            return func(*args, **kwargs)
        value = _argument(args, kwargs, 0, "input", None)
        if not _is_differentiated(value):
            return func(*args, **kwargs)
        upper = self._upper_bound(func, args, kwargs)
        self.reached += 1
        is_in_place = func in _IN_PLACE or (
            func in _IN_PLACE_ARGUMENT
            and _argument(args, kwargs, _IN_PLACE_ARGUMENT[func], "inplace", False)
        )
        return self._rectify(value, upper, is_in_place)

    def check_reached(self, layers: list[str]) -> None:
        """Raises ValueError when no rectifier lay between the layers and the class scores."""
        if self.reached == 0:
            raise ValueError(
                f"relu_rule='{self.rule}' changes nothing: no ReLU, ReLU6 or Hardtanh lies between "
                f"{', '.join(layers)} and the logits; use relu_rule=None or an earlier layer."
            )

    def _upper_bound(self, func, args: tuple, kwargs: dict) -> float:
        if func in _RELU:
            return float("inf")
        if func in _RELU6:
            return 6.0
        lower = _argument(args, kwargs, 1, "min_val", -1.0)
        upper = _argument(args, kwargs, 2, "max_val", 1.0)
        if lower != 0:
            self._refuse(f"Hardtanh from {lower} to {upper}")
        return float(upper)

    def _rectify(self, value: Tensor, upper: float, is_in_place: bool) -> Tensor:
        # A fresh node before the rectifier: the rule acts there, and neither the gradient at the
        # rectifier's output nor that at `value` itself is altered on its way to a recorded layer.
        before = value.clone() if is_in_place else value.view_as(value)
        before.register_hook(_positive_part)
        open_part = torch.relu(before) if upper == float("inf") else F.hardtanh(before, 0.0, upper)
        if self.rule == "deconvnet":
            # Value of the rectifier, derivative of the identity; the difference is exactly 0.
            open_part = open_part.detach() + (before - before.detach())
        return value.copy_(open_part) if is_in_place else open_part

    def _refuse_if_differentiated(self, activation: str, args: tuple, kwargs: dict) -> None:
        if _is_differentiated(_argument(args, kwargs, 0, "input", None)):
            self._refuse(activation)

    def _refuse(self, activation: str) -> None:
        raise ValueError(
            f"relu_rule='{self.rule}' is defined for ReLU-type rectifiers only, and this network "
            f"uses {activation}; use relu_rule=None or a network of ReLU or ReLU6."
        )


def _positive_part(gradient: Tensor) -> Tensor:
    return gradient.clamp(min=0)


def _is_differentiated(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad and torch.is_grad_enabled()


def _argument(args: tuple, kwargs: dict, position: int, name: str, default: Any) -> Any:
    return args[position] if len(args) > position else kwargs.get(name, default)
