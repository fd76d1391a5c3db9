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
from collections.abc import Callable, Iterable, Iterator
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


def extract_aggregate(activation: Tensor, gradient: Tensor, extract: str, aggregate: str) -> Tensor:
    """Saliency map of one layer for an imagined identity layer placed after it.

    Args:
        activation: Layer output x, shape (B, K, H, W).
        gradient: d score / d x, shape (B, K, H, W) or (T, B, K, H, W) for T scores.
        extract: One of `EXTRACTS`: which imagined parameters' gradient is looked at.
        aggregate: One of `AGGREGATES`: how a position's share of it becomes one number.

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
    return extract_aggregate_pairs(activation, gradient, [(extract, aggregate)])[extract, aggregate]


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


def extract_aggregate_pairs(
    activation: Tensor, gradient: Tensor, pairs: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], Tensor]:
    """Maps of several pairs of an extract and an aggregate; what they share is computed once.

    Args:
        activation, gradient: As of `extract_aggregate`.
        pairs: (extract, aggregate), as of `extract_aggregate`.

    Returns:
        Each pair's map, as of `extract_aggregate`.

    Raises:
        ValueError: As of `extract_aggregate`.
    """
    wanted: dict[str, list[str]] = {extract: [] for extract in EXTRACTS}
    for extract, aggregate in dict.fromkeys(pairs):
        check_pair(extract, aggregate)
        wanted[extract].append(aggregate)
    _check_same_grid(activation, gradient)
    outer = {*wanted["conv1x1"], *wanted["conv3x3"]}
    of_input = _channel_statistics(activation, _names(outer, 1))
    of_gradient = _channel_statistics(
        gradient, _names(outer, 0) | {_of_vector(aggregate) for aggregate in wanted["bias"]}
    )
    of_product = _channel_statistics(
        gradient, {_of_vector(aggregate) for aggregate in wanted["scaling"]}, scale=activation
    )
    of_window = _WINDOW_3X3.fold({name: of_input[name] for name in _names(wanted["conv3x3"], 1)})
    dtype = _map_dtype(activation, gradient)
    maps = {}
    for extract, of_channels in (("bias", of_gradient), ("scaling", of_product)):
        for aggregate in wanted[extract]:
            total = of_channels[_of_vector(aggregate)]
            maps[extract, aggregate] = _finish(total, aggregate, dtype)
    for extract, of_channels in (("conv1x1", of_input), ("conv3x3", of_window)):
        for aggregate in wanted[extract]:
            total = _products(of_gradient, of_channels, aggregate)
            maps[extract, aggregate] = _finish(total, aggregate, dtype)
    for aggregate in wanted["conv3x3_depthwise"]:
        maps["conv3x3_depthwise", aggregate] = convolution_map(
            activation,
            gradient,
            aggregate,
            kernel_size=3,
            padding=1,
            groups=activation.shape[-3],
        )
    return maps


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
    total = None
    for block in _blocks(inputs, axis=-4):
        of_input = _channel_statistics(inputs[..., block, :, :, :], _names([aggregate], 1))
        of_gradient = _channel_statistics(gradients[..., block, :, :, :], _names([aggregate], 0))
        part = _products(of_gradient, window.fold(of_input), aggregate)
        part = part.amax(-3) if aggregate.startswith("max") else part.sum(-3)
        total = part if total is None else _fold_of(aggregate)(total, part)
    return _finish(total, aggregate, _map_dtype(layer_input, gradient))


def _names(aggregates: Iterable[str], side: int) -> set[str]:
    """Statistics of the gradient (side 0) or the window (1) that these aggregates are made of."""
    return {factor[side] for aggregate in aggregates for factor in _FACTORS[aggregate]}


def _of_vector(aggregate: str) -> str:
    """The statistic that folds a vector, which is an outer product with the scalar 1."""
    return _FACTORS[aggregate][0][0]


def _products(
    of_gradient: dict[str, Tensor], of_window: dict[str, Tensor], aggregate: str
) -> Tensor:
    """Aggregate (before the square root) of an outer product, from statistics of its factors."""
    products = [of_gradient[left] * of_window[right] for left, right in _FACTORS[aggregate]]
    # For "max" exact for any signs: an extreme product has extreme factors.
    return functools.reduce(_fold_of(aggregate), products)


def _blocks(values: Tensor, axis: int) -> Iterator[slice]:
    """Slices of an axis, of about `NUMBERS_AT_ONCE` numbers each."""
    length = values.shape[axis]
    step = max(1, NUMBERS_AT_ONCE * length // max(1, values.numel()))
    return (slice(start, start + step) for start in range(0, length, step))


def _channel_statistics(
    values: Tensor, names: set[str], scale: Tensor | None = None
) -> dict[str, Tensor]:
    """Reduces axis -3 of (..., C, H, W), times `scale`, a block of channels at a time."""
    total: dict[str, Tensor] = {}
    if not names:
        return total
    for block in _blocks(values, axis=-3):
        part = values[..., block, :, :]
        if scale is not None:
            part = part.to(_accurate_dtype(part)) * scale[..., block, :, :]
        for name, found in _reduce_block(part, names).items():
            total[name] = _fold_of(name)(total[name], found) if name in total else found
    return total


def _reduce_block(block: Tensor, names: set[str]) -> dict[str, Tensor]:
    """The statistics of these names, in float32 or better."""
    dtype = _accurate_dtype(block)
    found: dict[str, Tensor] = {}
    if "sum" in names:
        found["sum"] = block.sum(-3, dtype=dtype)
    if "max" in names:
        found["max"] = block.amax(-3).to(dtype)
    if "min" in names:
        found["min"] = block.amin(-3).to(dtype)
    if "abs_sum" in names:
        found["abs_sum"] = block.abs().sum(-3, dtype=dtype)
    if "max_abs" in names:
        found["max_abs"] = block.abs().amax(-3).to(dtype)
    if len(found) == len(names):
        return found
    # Gradients of 1e-20 occur in deep networks, and their squares are 0 in float32.
    exact = torch.float32 if block.device.type == "mps" else torch.float64
    numbers = block.to(exact, copy=True)
    if "positive_square_sum" in names:
        found["positive_square_sum"] = numbers.clamp(min=0).square_().sum(-3)
    if "negative_square_sum" in names:
        found["negative_square_sum"] = numbers.clamp(max=0).square_().sum(-3)
    if "square_sum" in names:
        signs = [found[name] for name in found if name.endswith("square_sum")]
        found["square_sum"] = torch.add(*signs) if signs[1:] else numbers.square_().sum(-3)
    return found


def _finish(total: Tensor, aggregate: str, dtype: torch.dtype) -> Tensor:
    """Takes the root of a norm."""
    return (total.sqrt() if aggregate in ("norm", "filter_norm") else total).to(dtype)


def _fold_of(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The operation that joins a statistic, or an aggregate, of two parts into the whole's."""
    if name == "min":
        return torch.minimum
    return torch.maximum if name in ("max", "max_abs") else torch.add


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

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        left, right, top, bottom = self.padding
        padded = (height + top + bottom, width + left + right)
        return tuple(
            (size - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, dilation in zip(
                padded, self.kernel_size, self.stride, self.dilation, strict=True
            )
        )

    def fold(self, statistics: dict[str, Tensor]) -> dict[str, Tensor]:
        """Folds statistics (..., H, W) over the window; those that fold alike go together."""
        if self.kernel_size == self.stride == (1, 1) and not any(self.padding):
            return statistics
        folded: dict[str, Tensor] = {}
        for operation in (torch.add, torch.maximum, torch.minimum):
            alike = {name: one for name, one in statistics.items() if _fold_of(name) is operation}
            if alike:
                stacked = torch.stack([*alike.values()])
                folded.update(zip(alike, self._fold_planes(stacked, operation), strict=True))
        return folded

    def _fold_planes(self, planes: Tensor, operation: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Folds (..., H, W), rows then columns: sums and extremes are separable."""
        folded = self._pad(planes)
        for axis, kernel, stride, dilation in zip(
            (-2, -1), self.kernel_size, self.stride, self.dilation, strict=True
        ):
            windows = folded.unfold(axis, dilation * (kernel - 1) + 1, stride)
            folded = functools.reduce(operation, windows[..., ::dilation].unbind(-1))
        return folded

    def _pad(self, planes: Tensor) -> Tensor:
        # Padding commutes with every statistic: that of a zero is zero, that of a copy a copy.
        if not any(self.padding):
            return planes
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        padded = F.pad(planes.flatten(0, -3), self.padding, mode=mode)
        return padded.unflatten(0, planes.shape[:-2])


def _pair(value) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


_WINDOW_3X3 = _Window(kernel_size=3, stride=1, padding=1, dilation=1, padding_mode="zeros")


def _accurate_dtype(values: Tensor) -> torch.dtype:
    return torch.promote_types(values.dtype, torch.float32)


def _map_dtype(*inputs: Tensor) -> torch.dtype:
    """float32, unless an input is float64."""
    return functools.reduce(torch.promote_types, [one.dtype for one in inputs], torch.float32)


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
            "gradient must have the shape of the convolution's output, (batch, height, "
            f"width) = {expected}, got {given}."
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
            f"layer '{name}' is a {type(module).__name__}, but norm_grad_proper "
            "(virtual_identity=False) uses the weights of a Conv2d; choose a convolution of "
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
