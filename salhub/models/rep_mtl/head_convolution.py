"""A convolution whose gradient is differentiated again in the time of two convolutions.

torch differentiates the gradient of a convolution by one whose kernel is as large as the map, which
takes more than twice as long on a CPU. The same numbers are the gradient of a weight of an ordinary
convolution, with the direction of differentiation in place of its input.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Padding and dilation, each of two numbers.
_Steps = tuple[tuple[int, int], tuple[int, int]]


class HeadConvolution(nn.Conv2d):
    """A convolution of stride 1 in a head, for training by the gradient of a gradient.

    Its values and gradients are those of `torch.nn.Conv2d`.

    Attributes:
        is_differentiated_twice: Whether the gradient of the next passes is differentiated again. It
            is faster then, and the gradient of the weights, or a third derivative, cannot be.

    Example:
        >>> layer, shared = HeadConvolution(2, 3, 1), torch.ones(1, 2, 4, 4, requires_grad=True)
        >>> layer.is_differentiated_twice = True
        >>> [slope] = torch.autograd.grad(layer(shared).square().sum(), shared, create_graph=True)
        >>> slope.square().sum().backward()
        >>> layer.weight.grad.shape
        torch.Size([3, 2, 1, 1])
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.is_differentiated_twice = False

    def forward(self, input: Tensor) -> Tensor:
        is_plain = not (
            self.is_differentiated_twice
            and torch.is_grad_enabled()
            and input.requires_grad
            and self.weight.requires_grad
            and self.stride == (1, 1)
            and self.groups == 1
            and self.padding_mode == "zeros"
            and not isinstance(self.padding, str)
        )
        if is_plain or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return super().forward(input)
        weight, bias = self.weight, self.bias
        if torch.is_autocast_enabled(input.device.type):
            dtype = torch.get_autocast_dtype(input.device.type)
            input, weight = input.to(dtype), weight.to(dtype)
            bias = None if bias is None else bias.to(dtype)
        steps = self.padding, self.dilation
        found = _OfInput.apply(input, weight, steps)
        # By itself, so that weights have no gradient where only that of the input is asked for.
        return found + _OfWeights.apply(input.detach(), weight, bias, found.shape, steps)


class _OfInput(torch.autograd.Function):
    """The convolution, as a function of its input."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, steps: _Steps) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.shape, ctx.layout, ctx.steps = input.shape, _layout_of(input), steps
        return torch.conv2d(input, weight, None, 1, *steps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple:  # type: ignore[override]
        (weight,) = ctx.saved_tensors
        found = _InputGradient.apply(gradient, weight, ctx.shape, ctx.layout, ctx.steps)
        return found, None, None


class _InputGradient(torch.autograd.Function):
    """The gradient of the input, as a function of that of the output and of the weight."""

    @staticmethod
    def forward(
        ctx: Any,
        gradient: Tensor,
        weight: Tensor,
        shape: torch.Size,
        layout: torch.memory_format,
        steps: _Steps,
    ) -> Tensor:
        ctx.save_for_backward(gradient, weight)
        ctx.layout, ctx.steps = layout, steps
        # Of the input only shape and layout matter.
        anything = torch.empty(
            shape, dtype=gradient.dtype, device=gradient.device, memory_format=layout
        )
        return _gradients(gradient, anything, weight, steps, (True, False, False))[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, direction: Tensor) -> tuple:  # type: ignore[override]
        gradient, weight = ctx.saved_tensors
        direction = direction.contiguous(memory_format=ctx.layout)
        of_gradient = torch.conv2d(direction, weight, None, 1, *ctx.steps)
        of_weight = _gradients(gradient, direction, weight, ctx.steps, (False, True, False))[1]
        return of_gradient, of_weight, None, None, None


class _OfWeights(torch.autograd.Function):
    """The bias on every position, or zeros; its gradients are those of weight and bias."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        shape: torch.Size,
        steps: _Steps,
    ) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.has_bias, ctx.steps = bias is not None, steps
        added = weight.new_zeros(1) if bias is None else bias
        return added.detach().view(1, -1, 1, 1).expand(shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple:  # type: ignore[override]
        input, weight = ctx.saved_tensors
        wanted = (False, True, ctx.has_bias)
        _, *of_weights = _gradients(gradient, input, weight, ctx.steps, wanted)
        return None, *of_weights, None, None


def _layout_of(maps: Tensor) -> torch.memory_format:
    is_last = maps.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_last else torch.contiguous_format


def _gradients(
    gradient: Tensor, input: Tensor, weight: Tensor, steps: _Steps, wanted: tuple[bool, bool, bool]
) -> tuple[Any, ...]:
    """Gradients of input, weight and bias of a convolution of stride 1, those that are wanted."""
    sizes = [len(weight)] if wanted[2] else None
    return torch.ops.aten.convolution_backward(
        gradient, input, weight, sizes, (1, 1), *steps, False, (0, 0), 1, wanted
    )
