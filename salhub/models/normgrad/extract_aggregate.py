"""Saliency from (activation, gradient) pairs: what a position adds to a parameter gradient.

A layer's parameter gradient is a sum over positions u. *Extract* names the parameters whose summand
is looked at (those of an identity layer imagined after the activation, or of a real convolution);
*aggregate* folds the summand into one number. The summand of a convolution is an outer product
g_u vec(x_N(u))^T of K x C k^2 numbers; every aggregate of it factors into statistics of g_u and of
the window N(u), so the product is never built.

Source: Rebuffi, Fong, Ji, Vedaldi, "There and Back Again: Revisiting Backpropagation Saliency
Methods", CVPR 2020, the extract and aggregate phases.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from salhub.errors import check_choice

Extract = Literal["bias", "scaling", "conv1x1", "conv3x3", "conv3x3_depthwise"]
Aggregate = Literal["sum", "norm", "filter_norm", "max", "max_abs", "abs_sum"]
EXTRACTS: tuple[str, ...] = get_args(Extract)
AGGREGATES: tuple[str, ...] = get_args(Aggregate)

# Numbers in intermediate values that exist at one time (a channel at least): they stay in the
# processor's cache, and memory stays O(H W) for any width.
NUMBERS_AT_ONCE = 2**18

# Sums below this share of their terms are what rounding leaves of terms that cancel: 2e-6 was seen
# in float32; a sum of a thousand terms that only differ in sign is some 4e-2.
_CANCELLED = 1e-4

# aggregate -> (statistic of the gradient, statistic of the window) pairs; their products make it.
_FACTORS = {
    "sum": (("sum", "sum"),),
    "abs_sum": (("abs_sum", "abs_sum"),),
    "norm": (("square_sum", "square_sum"),),
    "filter_norm": (
        ("positive_square_sum", "positive_square_sum"),
        ("negative_square_sum", "negative_square_sum"),
    ),
    "max_abs": (("max_abs", "max_abs"),),
    "max": (("max", "max"), ("max", "min"), ("min", "max"), ("min", "min")),
}


# What was computed of one activation and gradient, by what it is.
Known = dict[tuple, Tensor]


def extract_aggregate(
    activation: Tensor, gradient: Tensor, extract: str, aggregate: str, known: Known | None = None
) -> Tensor:
    """Saliency map of one layer for an imagined identity layer placed after it.

    Args:
        activation: Layer output x, shape (B, K, H, W).
        gradient: d score / d x, shape (B, K, H, W) or (T, B, K, H, W) for T scores.
        extract: One of `EXTRACTS`: which imagined parameters' gradient is looked at.
        aggregate: One of `AGGREGATES`: how a position's share of it becomes one number.
        known: A dictionary to share between calls with the same activation and gradient, so that
            what several maps need is computed once.

    Returns:
        Map of shape (B, H, W) or (T, B, H, W), float32 (float64 for float64 input).

    Raises:
        ValueError: For an unknown extract or aggregate, or shapes that do not belong together.

    Example:
        >>> x = torch.randn(1, 8, 7, 7)
        >>> g = torch.randn(1, 8, 7, 7)
        >>> normgrad = extract_aggregate(x, g, "conv1x1", "norm")  # ||g_u|| ||x_u||
        >>> normgrad.shape
        torch.Size([1, 7, 7])

    Source: Rebuffi et al. 2020, extract and aggregate phases; "conv3x3_depthwise" is in the
    code published with it.
    """
    check_pair(extract, aggregate)
    _check_same_grid(activation, gradient)
    if extract == "bias":
        # A vector is an outer product with the scalar 1: the first factor alone is its aggregate.
        name = _FACTORS[aggregate][0][0]
        one_group = gradient.unflatten(-3, (1, -1))
        total = _once(known, ("gradient", 0, 1, name), lambda: _channel_statistic(one_group, name))
        return _finish(total.squeeze(-3), aggregate, gradient)
    if extract == "scaling":
        if known is None or gradient.numel() > NUMBERS_AT_ONCE:
            return aggregate_channels(gradient, aggregate, scale=activation)
        product = _once(
            known, ("product",), lambda: gradient.to(_accurate_dtype(gradient)) * activation
        )
        return aggregate_channels(product, aggregate)
    size = 1 if extract == "conv1x1" else 3
    groups = activation.shape[-3] if extract == "conv3x3_depthwise" else 1
    return convolution_map(
        activation,
        gradient,
        aggregate,
        kernel_size=size,
        padding=size // 2,
        groups=groups,
        known=known,
    )


def is_cancelled(sums: Tensor, terms: Tensor, precision: torch.dtype) -> Tensor:
    """True where a map is what rounding leaves of sums over channels that cancel everywhere.

    Where a normalisation of each position follows a layer, gradient and activation are orthogonal.

    Args:
        sums: Map of aggregate "sum", shape (..., H, W).
        terms: The same of aggregate "abs_sum".
        precision: Of the activation and gradient.

    Returns:
        Boolean tensor of shape (...).

    Example:
        >>> is_cancelled(torch.tensor([[1e-7, 0.0]]), torch.ones(1, 2), torch.float32)
        tensor(True)
    """
    # Its largest value is judged beside its own terms: single positions may dwarf all others.
    largest, place = sums.abs().flatten(-2).max(-1, keepdim=True)
    share = max(_CANCELLED, torch.finfo(precision).eps)
    return (largest <= share * terms.flatten(-2).gather(-1, place)).squeeze(-1)


def aggregate_channels(values: Tensor, aggregate: str, scale: Tensor | None = None) -> Tensor:
    """Folds the channels of `values` (times `scale`, when given) into one number per position.

    Args:
        values: Shape (..., K, H, W).
        aggregate: One of `AGGREGATES`.
        scale: Shape broadcastable to `values`; multiplied a block of channels at a time.

    Returns:
        Shape (..., H, W), float32 (float64 for float64 input).

    Raises:
        ValueError: For an unknown aggregate.

    Example:
        >>> aggregate_channels(torch.tensor([[[-3.0]], [[2.0]]]), "max_abs")
        tensor([[3.]])

    Source: Rebuffi et al. 2020, aggregate phase.
    """
    check_choice("aggregate", aggregate, AGGREGATES)
    # A vector is an outer product with the scalar 1: the first factor alone is its aggregate.
    name = _FACTORS[aggregate][0][0]
    if scale is None:
        return _finish(_channel_statistic(values, name), aggregate, values)
    scale = scale.expand_as(values)
    total = None
    for block in _blocks(values, axis=-3):
        product = values[..., block, :, :].to(_accurate_dtype(values)) * scale[..., block, :, :]
        part = _channel_statistic(product, name)
        total = part if total is None else _fold_of(name)(total, part)
    return _finish(total, aggregate, values)


def convolution_map(
    layer_input: Tensor,
    gradient: Tensor,
    aggregate: str,
    *,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | tuple[int, int, int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    known: Known | None = None,
) -> Tensor:
    """Saliency map of a convolution: each output position's share of its weight gradient.

    The share is block diagonal over the groups, g_G vec(x_G,N(u))^T in block G; entries outside the
    blocks are not parameters and are not counted.

    Args:
        layer_input: Input of the convolution, shape (B, C, H, W).
        gradient: d score / d output, shape (B, K, H', W') or (T, B, K, H', W') for T scores.
        aggregate: One of `AGGREGATES`.
        kernel_size, stride, dilation: As of the convolution, one number or (vertical, horizontal).
        padding: One number, (vertical, horizontal), or (left, right, top, bottom).
        groups: Number of groups; C and K are multiples of it.
        padding_mode: "zeros", "reflect", "replicate" or "circular".
        known: As in `extract_aggregate`.

    Returns:
        Map of shape (B, H', W') or (T, B, H', W'), float32 (float64 for float64 input).

    Raises:
        ValueError: For an unknown aggregate, or a gradient not of this convolution's output.

    Example:
        >>> x, g = torch.randn(1, 4, 8, 8), torch.randn(1, 6, 4, 4)
        >>> convolution_map(x, g, "norm", kernel_size=3, stride=2, padding=1, groups=2).shape
        torch.Size([1, 4, 4])

    Source: Rebuffi et al. 2020, extract phase. The grouped form is ours: the Frobenius norm of the
    block-diagonal gradient, sqrt(sum_G ||g_G||^2 ||x_G,N(u)||^2).
    """
    check_choice("aggregate", aggregate, AGGREGATES)
    window = _Window(kernel_size, stride, padding, dilation, padding_mode)
    _check_convolution(layer_input, gradient, groups, window)
    inputs = layer_input.unflatten(-3, (groups, -1))  # (B, G, C/G, H, W)
    gradients = gradient.unflatten(-3, (groups, -1))  # (..., B, G, K/G, H', W')
    fold = torch.maximum if aggregate.startswith("max") else torch.add
    total = None
    for block in _blocks(inputs, axis=-4):
        part = _grouped_products(
            inputs[..., block, :, :, :],
            gradients[..., block, :, :, :],
            aggregate,
            window,
            known,
            (block.start, groups),
        )
        total = part if total is None else fold(total, part)
    return _finish(total, aggregate, layer_input, gradient)


def _grouped_products(
    inputs: Tensor,
    gradients: Tensor,
    aggregate: str,
    window: "_Window",
    known: Known | None,
    block: tuple[int, int],
) -> Tensor:
    """Aggregate (before the square root) over some of the groups."""

    def of_gradient(name: str) -> Tensor:
        key = ("gradient", *block, name)
        return _once(known, key, lambda: _channel_statistic(gradients, name))

    def of_window(name: str) -> Tensor:
        key = ("input", *block, name)
        statistic = _once(known, key, lambda: _channel_statistic(inputs, name))
        return _once(known, (window.key, *key), lambda: window.fold(statistic, _fold_of(name)))

    products = [of_gradient(left) * of_window(right) for left, right in _FACTORS[aggregate]]
    # For "max" exact for any signs: an extreme product has extreme factors.
    fold = torch.maximum if aggregate.startswith("max") else torch.add
    total = functools.reduce(fold, products)
    if total.shape[-3] == 1:
        return total.squeeze(-3)
    return total.amax(-3) if aggregate.startswith("max") else total.sum(-3)


def _once(known: Known | None, key: tuple, compute: Callable[[], Tensor]) -> Tensor:
    if known is None:
        return compute()
    if key not in known:
        known[key] = compute()
    return known[key]


def _blocks(values: Tensor, axis: int) -> Iterator[slice]:
    """Slices of an axis, of about `NUMBERS_AT_ONCE` numbers each."""
    length = values.shape[axis]
    step = max(1, NUMBERS_AT_ONCE * length // max(1, values.numel()))
    return (slice(start, start + step) for start in range(0, length, step))


def _channel_statistic(values: Tensor, name: str) -> Tensor:
    """Reduces axis -3 of (..., C, H, W) in float32 or better, a block of channels at a time."""
    if name in ("max", "min"):
        extreme = values.amax(-3) if name == "max" else values.amin(-3)
        return extreme.to(_accurate_dtype(values))
    total = None
    for block in _blocks(values, axis=-3):
        part = _reduce_block(values[..., block, :, :], name)
        total = part if total is None else _fold_of(name)(total, part)
    return total


def _reduce_block(block: Tensor, name: str) -> Tensor:
    if name == "sum":
        return block.sum(-3, dtype=_accurate_dtype(block))
    if name == "abs_sum":
        return block.abs().sum(-3, dtype=_accurate_dtype(block))
    if name == "max_abs":
        return block.abs().amax(-3).to(_accurate_dtype(block))
    # Gradients of 1e-20 occur in deep networks, and their squares are 0 in float32.
    dtype = torch.float32 if block.device.type == "mps" else torch.float64
    numbers = block.to(dtype, copy=True)
    if name != "square_sum":
        is_positive = name == "positive_square_sum"
        numbers = numbers.clamp_(min=0) if is_positive else numbers.clamp_(max=0)
    return numbers.square_().sum(-3)


def _finish(total: Tensor, aggregate: str, *inputs: Tensor) -> Tensor:
    """Takes the root of a norm, and returns float32 unless an input was float64."""
    root = total.sqrt() if aggregate in ("norm", "filter_norm") else total
    dtype = torch.float32
    for values in inputs:
        dtype = torch.promote_types(dtype, values.dtype)
    return root.to(dtype)


def _fold_of(statistic: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The operation that joins a statistic of two parts into that of the whole."""
    return {"max": torch.maximum, "max_abs": torch.maximum, "min": torch.minimum}.get(
        statistic, torch.add
    )


class _Window:
    """Geometry of a convolution, and the fold of a statistic over its window."""

    def __init__(self, kernel_size, stride, padding, dilation, padding_mode: str):
        self.kernel_size = _pair(kernel_size)
        self.stride = _pair(stride)
        self.dilation = _pair(dilation)
        self.padding_mode = padding_mode
        if isinstance(padding, tuple | list) and len(padding) == 4:
            self.padding = tuple(padding)
        else:
            vertical, horizontal = _pair(padding)
            self.padding = (horizontal, horizontal, vertical, vertical)
        self.key = (self.kernel_size, self.stride, self.padding, self.dilation, padding_mode)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        left, right, top, bottom = self.padding
        padded = (height + top + bottom, width + left + right)
        return tuple(
            (size - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, dilation in zip(
                padded, self.kernel_size, self.stride, self.dilation, strict=True
            )
        )

    def fold(self, statistic: Tensor, operation: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Folds (..., H, W) over the window, rows then columns: sums and extremes are separable."""
        if self.kernel_size == self.stride == (1, 1) and not any(self.padding):
            return statistic
        height, width = self.output_size(*statistic.shape[-2:])
        padded = self._pad(statistic)
        for axis, size, index in ((-2, height, 0), (-1, width, 1)):
            kernel, stride, dilation = (
                self.kernel_size[index],
                self.stride[index],
                self.dilation[index],
            )
            folded = None
            for tap in range(kernel):
                begin = tap * dilation
                taken = slice(begin, begin + stride * (size - 1) + 1, stride)
                part = padded[..., taken, :] if axis == -2 else padded[..., taken]
                folded = part if folded is None else operation(folded, part)
            padded = folded
        return padded

    def _pad(self, statistic: Tensor) -> Tensor:
        # Padding commutes with every statistic: that of a zero is zero, that of a copy a copy.
        if not any(self.padding):
            return statistic
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        return F.pad(statistic, self.padding, mode=mode)


def _pair(value) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def _accurate_dtype(values: Tensor) -> torch.dtype:
    return torch.promote_types(values.dtype, torch.float32)


def check_pair(extract: str, aggregate: str) -> None:
    """Raises ValueError unless both names are known."""
    check_choice("extract", extract, EXTRACTS)
    check_choice("aggregate", aggregate, AGGREGATES)


def _check_same_grid(activation: Tensor, gradient: Tensor) -> None:
    if activation.ndim != 4 or gradient.ndim not in (4, 5):
        raise ValueError(
            "activation must have shape (B, K, H, W) and gradient (B, K, H, W) or (T, B, K, H, W), "
            f"got {tuple(activation.shape)} and {tuple(gradient.shape)}."
        )
    if gradient.shape[-4:] != activation.shape:
        raise ValueError(
            f"gradient must have the activation's shape {tuple(activation.shape)}, "
            f"optionally with a leading axis of scores, got {tuple(gradient.shape)}."
        )


def _check_convolution(layer_input: Tensor, gradient: Tensor, groups: int, window: _Window):
    if layer_input.ndim != 4 or gradient.ndim not in (4, 5):
        raise ValueError(
            "layer_input must have shape (B, C, H, W) and gradient (B, K, H', W') or "
            f"(T, B, K, H', W'), got {tuple(layer_input.shape)} and {tuple(gradient.shape)}."
        )
    channels = (layer_input.shape[-3], gradient.shape[-3])
    if groups < 1 or any(count % groups for count in channels):
        raise ValueError(
            f"groups must divide the {channels[0]} input and {channels[1]} output channels, "
            f"got {groups}."
        )
    expected = (layer_input.shape[0], *window.output_size(*layer_input.shape[-2:]))
    given = (gradient.shape[-4], *gradient.shape[-2:])
    if given != expected:
        raise ValueError(
            "gradient must be of the convolution's output, (batch, height, width) = "
            f"{expected}, got {given}."
        )


def own_convolution_map(
    name: str, module: nn.Module, layer_input: Tensor, gradient: Tensor, aggregate: str
) -> Tensor:
    """Map of a real convolution, whatever its stride, padding, dilation and groups.

    Args:
        name: The layer, for the error.
        module: The convolution.
        layer_input: What it read, (B, C, H, W).
        gradient: d score / d output, (T, B, K, H', W').
        aggregate: One of `AGGREGATES`.

    Returns:
        (T, B, H', W').

    Raises:
        ValueError: The module is no 2-D convolution.
    """
    check_convolution(name, module)
    return convolution_map(
        layer_input,
        gradient,
        aggregate,
        kernel_size=module.kernel_size,
        stride=module.stride,
        padding=_padding(module, *layer_input.shape[-2:]),
        dilation=module.dilation,
        groups=module.groups,
        padding_mode=module.padding_mode,
    )


def check_convolution(name: str, module: nn.Module) -> None:
    """Raises ValueError unless the module is a 2-D convolution."""
    if not isinstance(module, nn.Conv2d):
        raise ValueError(
            f"layer '{name}' is a {type(module).__name__}, and norm_grad_proper "
            "(virtual_identity=False) looks at a Conv2d's own weights; choose a convolution of "
            "model.saliency_layers(), or method='norm_grad'."
        )


def _padding(module: nn.Conv2d, height: int, width: int) -> tuple[int, int, int, int]:
    """(left, right, top, bottom)."""
    if hasattr(module, "same_padding"):  # TensorFlow's rule, which depends on the input's size
        return module.same_padding(height, width)
    if module.padding == "valid":
        return (0, 0, 0, 0)
    if module.padding == "same":
        totals = [
            dilation * (kernel - 1)
            for dilation, kernel in zip(module.dilation, module.kernel_size, strict=True)
        ]
        (top, bottom), (left, right) = [(total // 2, total - total // 2) for total in totals]
        return (left, right, top, bottom)
    vertical, horizontal = module.padding
    return (horizontal, horizontal, vertical, vertical)
