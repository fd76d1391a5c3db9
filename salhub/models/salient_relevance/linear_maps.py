"""Weighted layers as linear maps that can be run with other weights, forwards and transposed."""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_CONVOLUTIONS = {
    "conv1d": (1, False),
    "conv2d": (2, False),
    "conv3d": (3, False),
    "conv_transpose1d": (1, True),
    "conv_transpose2d": (2, True),
    "conv_transpose3d": (3, True),
}
CONVOLUTION_NAMES = frozenset(_CONVOLUTIONS)


@dataclass(eq=False)
class LinearMap:
    """y = W a + b of a fully connected layer.

    Args:
        weight: (out, in).
        bias: (out,) or None.
        name: path of the module it belongs to, for messages and audits.
    """

    weight: Tensor
    bias: Tensor | None
    name: str
    layer_type: str = field(default="linear", init=False)

    def apply(self, inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """W a + b for these weights."""
        return F.linear(inputs, weight, bias)

    def transpose(
        self,
        signal: Tensor,
        weight: Tensor,
        like: Tensor,
        *,
        scale: float = 1.0,
        onto: Tensor | None = None,
    ) -> Tensor:
        """W^T s times `scale`, added in place to `onto`; of the shape of the inputs `like`."""
        return _add_scaled(signal @ weight, scale, onto)

    def align_bias(self, bias: Tensor) -> Tensor:
        """The bias, shaped so that it broadcasts over outputs."""
        return bias

    def spread(self, amount: Tensor, like: Tensor, support: Tensor | None = None) -> Tensor:
        """Give what every output has to its inputs in equal shares; shape of `like`."""
        share = amount.sum(dim=-1, keepdim=True) / like.shape[-1]
        return share.expand(*share.shape[:-1], like.shape[-1])


@dataclass(frozen=True)
class ConvolutionMap:
    """A convolution or transposed convolution of 1 to 3 dimensions, with any stride and groups.

    Args:
        weight, bias: as the layer has them.
        name: path of the module it belongs to.
        stride, padding, dilation, output_padding: one number a dimension.
        groups: number of groups.
        transposed: whether it is a transposed convolution.
    """

    weight: Tensor
    bias: Tensor | None
    name: str
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    output_padding: tuple[int, ...]
    groups: int
    transposed: bool
    layer_type: str = field(default="convolution", init=False)

    def apply(self, inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The layer with these weights."""
        if self._cuts_patches(inputs):  # products of matrices take half of a convolution's time
            rows = F.linear(self._patches(inputs), _as_rows(weight), bias)
            return rows.movedim(-1, 1)
        return torch.convolution(
            inputs, weight, bias, self.stride, self.padding, self.dilation,
            self.transposed, self.output_padding, self.groups,
        )  # fmt: skip

    def transpose(
        self,
        signal: Tensor,
        weight: Tensor,
        like: Tensor,
        *,
        scale: float = 1.0,
        onto: Tensor | None = None,
    ) -> Tensor:
        """The transposed map times `scale`, added in place to `onto`; of the shape of `like`."""
        if self._is_pointwise:
            return _multiply_pointwise(signal, weight.flatten(1), scale, onto)
        if self._cuts_patches(like):
            patches = signal.movedim(1, -1) @ _as_rows(weight)
            return _add_scaled(self._without_cuts(patches, like), scale, onto)
        result = torch.ops.aten.convolution_backward(
            signal, like, weight, None, self.stride, self.padding, self.dilation,
            self.transposed, self.output_padding, self.groups, (True, False, False),
        )[0]  # fmt: skip
        return _add_scaled(result, scale, onto)

    @property
    def _is_pointwise(self) -> bool:
        moves = {*self.stride, *self.weight.shape[2:]} != {1} or any(self.padding)
        return self.groups == 1 and not (moves or self.transposed)

    def _cuts_patches(self, inputs: Tensor) -> bool:
        """Whether every input is seen once, as by the first layer of a vision transformer."""
        kernel = self.weight.shape[2:]
        if self.stride != kernel or self.transposed or self.groups != 1 or max(kernel) == 1:
            return False
        sizes = zip(inputs.shape[2:], kernel, strict=True)
        return (
            {*self.padding, *(size % side for size, side in sizes)}
            == {0}
            == {step - 1 for step in self.dilation}
        )

    def _patches(self, inputs: Tensor) -> Tensor:
        """(B, C, ...) as (B, ..., numbers of a patch), the channels last as in the weights."""
        kernel = self.weight.shape[2:]
        sizes = [
            part
            for size, side in zip(inputs.shape[2:], kernel, strict=True)
            for part in (size // side, side)
        ]
        cut = inputs.movedim(1, -1).reshape(len(inputs), *sizes, -1)
        return cut.permute(self._patch_axes).flatten(len(kernel) + 1)

    def _without_cuts(self, patches: Tensor, like: Tensor) -> Tensor:
        """The way back, to the shape of `like`."""
        kernel = self.weight.shape[2:]
        cut = patches.unflatten(-1, (*kernel, like.shape[1]))
        axes = [self._patch_axes.index(axis) for axis in range(cut.dim())]
        whole = cut.permute(axes).reshape(len(like), *like.shape[2:], like.shape[1])
        return whole.movedim(-1, 1)

    @property
    def _patch_axes(self) -> list[int]:
        end = 2 * len(self.stride) + 1
        return [0, *range(1, end, 2), *range(2, end, 2), end]

    def align_bias(self, bias: Tensor) -> Tensor:
        """The bias, shaped so that it broadcasts over outputs."""
        return bias.view(-1, *(1,) * len(self.stride))

    def spread(self, amount: Tensor, like: Tensor, support: Tensor | None = None) -> Tensor:
        """Give what every output has to the inputs in its window in equal shares.

        Args:
            amount: (B, out, ...).
            like: the inputs, (B, in, ...).
            support: (1, 1, ...), 0 where the inputs are padding, which gets nothing.

        Returns:
            Tensor of the shape of `like`, with the sum of `amount`.
        """
        kernel = self.weight.shape[2:]
        # all channels of a group get the same, so one channel a group is computed
        ones = amount.new_ones((self.groups, 1, *kernel))
        real = like.new_ones((1, self.groups, *like.shape[2:]))
        if support is not None:
            real = real * support
        channels = like.shape[1] // self.groups
        inputs_seen = (self.apply(real, ones) * channels).clamp(min=1)
        by_group = amount.view(amount.shape[0], self.groups, -1, *amount.shape[2:]).sum(dim=2)
        shape = (like.shape[0], self.groups, *like.shape[2:])
        share = self.transpose(by_group / inputs_seen, ones, like.new_empty(shape)) * real
        if self.groups == 1:
            return share.expand_as(like)
        return share.repeat_interleave(channels, dim=1)


Layer = ConvolutionMap | LinearMap


def _multiply_pointwise(
    signal: Tensor, matrix: Tensor, scale: float, onto: Tensor | None
) -> Tensor:
    """(B, out, ...) times (out, in): half the time of the convolution's own backward pass."""
    rows = signal.movedim(1, -1)
    flat = rows.flatten(0, -2)
    if onto is None:
        flat = torch.addmm(flat.new_empty(1), flat, matrix, beta=0, alpha=scale)
    else:  # one of these products, so that its rows are a view
        flat = onto.movedim(1, -1).flatten(0, -2).addmm_(flat, matrix, alpha=scale)
    return flat.unflatten(0, rows.shape[:-1]).movedim(-1, 1)


def _as_rows(weight: Tensor) -> Tensor:
    """(out, in, ...) as (out, ... times in)."""
    return weight.movedim(1, -1).flatten(1)


def _add_scaled(result: Tensor, scale: float, onto: Tensor | None) -> Tensor:
    if onto is None:
        return result if scale == 1 else result.mul_(scale)
    return onto.add_(result, alpha=scale)


def linear_arguments(
    input: Tensor, weight: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The arguments of a call of `torch.nn.functional.linear` in its own order."""
    return input, weight, bias


def convolution_arguments(name: str, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Name the arguments of a call of torch.nn.functional's convolutions."""
    order = ["input", "weight", "bias", "stride", "padding", "dilation", "groups"]
    if _CONVOLUTIONS[name][1]:
        order = ["input", "weight", "bias", "stride", "padding", "output_padding", "groups"]
        order.append("dilation")
    defaults = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "output_padding": 0}
    return {**defaults, "groups": 1, **dict(zip(order, args, strict=False)), **kwargs}


def convolution_map(name: str, call: dict[str, Any], path: str) -> ConvolutionMap:
    """Build the map of a convolution call whose padding is given in numbers."""
    dimensions, transposed = _CONVOLUTIONS[name]
    sizes = {
        key: _one_per_dimension(call[key], dimensions)
        for key in ("stride", "padding", "dilation", "output_padding")
    }
    return ConvolutionMap(
        call["weight"], call["bias"], path, groups=call["groups"], transposed=transposed, **sizes
    )


def explicit_padding(call: dict[str, Any]) -> tuple[int, ...]:
    """Zeros to add for padding="same" (as torch.nn.functional.pad counts); all 0 for "valid"."""
    kernel = call["weight"].shape[2:]
    if call["padding"] == "valid":
        return (0,) * (2 * len(kernel))
    pads: list[int] = []
    for size, dilation in zip(
        reversed(kernel), reversed(_one_per_dimension(call["dilation"], len(kernel))), strict=True
    ):
        total = dilation * (size - 1)
        pads += [total // 2, total - total // 2]
    return tuple(pads)


def _one_per_dimension(value: int | tuple[int, ...], dimensions: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * dimensions if len(values) == 1 else values
