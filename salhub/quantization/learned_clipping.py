"""Weights rounded to few bits, in ranges that are learned for each row and group of columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from salhub.quantization.quantized_weight import LARGEST_WIDTH, QuantizedWeight, group_count

# Sigmoid of 4 is 0.982: the range begins a little inside that of the weights.
INITIAL_LOGIT = 4.0
# Sigmoid of 0 is one half, which makes the scale of one bit the best in squares.
ONE_BIT_LOGIT = 0.0
# Shares of the range that a search tries.
_SMALLEST_SHARE, _LARGEST_SHARE, _NUM_SHARES = 0.35, 0.999, 14
# Fits the caches of a core.
_NUMBERS_TOGETHER = 2**17
SMALLEST_SCALE, LARGEST_SCALE = 1e-5, 1e4


class LearnedClipping(nn.Module):
    """A frozen weight in few bits, whose ranges are two trainable logits for each row and group.

    A group of two bits or more covers `low = sigmoid(lower) · min(w, 0)` to
    `high = sigmoid(upper) · max(w, 0)` with `scale = (high - low) / (2^b - 1)` and
    `zero = round(-low / scale)`; symmetric ones have `scale = max(high, -low) / (2^(b-1) - 1)` and
    `zero = 2^(b-1) - 1`, and are stored mirrored, with `-scale` and a zero of `2^(b-1)`. A group of
    one bit is `mean ± scale` with `scale = (sigmoid(upper) + 1/2) · mean|w - mean|`, and no use for
    `lower`.

    Rounding is straight-through for the weights and the scale and has no gradient for the zero;
    clamping has its own. A backward pass makes the gradients of the logits from that of the weight,
    and keeps nothing of the size of the weight.

    Every range holds 0, which that of the published quantizer does not where all weights of a group
    have one sign: a zero outside the codes cannot be stored. Scales and means are rounded to
    float16 as they are stored, so that what is trained is what is saved.

    Args:
        weight: float32 (n, m), which is kept and not copied; the module stays on its device.
        group_size: Columns in a group; the last one may be narrower.
        group_bits: The width of every group, or of all, from 1 to 5.
        symmetric: Whether the zero is in the middle of the codes; not with one bit.

    Attributes:
        upper, lower: The logits, float32 (n, k), 4 at first and 0 for groups of one bit.

    Raises:
        ValueError: The widths are not one for each group, out of range, or 1 where symmetric.
        TypeError: The weight is not float32.

    Example:
        >>> weight = torch.tensor([[-1.0, 0.1, 0.4, 2.0]])
        >>> clipping = LearnedClipping(weight, group_size=4, group_bits=2)
        >>> rounded = clipping()
        >>> rounded.square().sum().backward()
        >>> clipping.upper.grad.shape, clipping.quantized().codes.tolist()
        (torch.Size([1, 1]), [[0, 1, 1, 3]])

    Source: Shao et al. 2024 (arXiv 2308.13137), learnable weight clipping; as in Liao et al. 2024
        (arXiv 2402.05147) and, for one bit, in SliM-LLM+ of Huang et al. 2024 (arXiv 2405.14917),
        with the mean added back.
    """

    def __init__(
        self,
        weight: Tensor,
        group_size: int,
        group_bits: int | Sequence[int] | Tensor,
        *,
        symmetric: bool = False,
    ) -> None:
        super().__init__()
        if weight.dtype != torch.float32:
            raise TypeError(f"weight must be float32, got {weight.dtype}; call float() on it.")
        groups = group_count(weight.shape[1], group_size)
        if isinstance(group_bits, int):
            group_bits = [group_bits] * groups
        bits = torch.as_tensor(group_bits, dtype=torch.uint8, device=weight.device)
        allowed = range(1 + symmetric, LARGEST_WIDTH + 1)
        if bits.shape != (groups,) or not set(bits.tolist()) <= {*allowed}:
            raise ValueError(
                f"{weight.shape[1]} columns in groups of {group_size} need {groups} widths from "
                f"{allowed[0]} to {allowed[-1]}{' where symmetric' if symmetric else ''}, got "
                f"{bits.tolist()}."
            )
        self.group_size, self.symmetric = group_size, symmetric
        self.register_buffer("weight", weight.detach(), persistent=False)
        self.register_buffer("group_bits", bits, persistent=False)
        first = torch.where(bits == 1, ONE_BIT_LOGIT, INITIAL_LOGIT).expand(len(weight), groups)
        self.upper, self.lower = nn.Parameter(first.clone()), nn.Parameter(first.clone())
        self._parts = _parts(self.weight, group_size, bits, symmetric)

    def forward(self) -> Tensor:
        """The rounded weight, float32 (n, m)."""
        return _Rounded.apply(self.upper, self.lower, self.weight, None, False, self._parts)[0]

    def with_error(self, importance: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The rounded weight, and how far it is from the weight.

        Args:
            importance: What the square of an error counts, float32 (n, m); None for 1.

        Returns:
            float32 (n, m), and the weighted sum of the squared errors, ().
        """
        return _Rounded.apply(self.upper, self.lower, self.weight, importance, True, self._parts)

    @torch.no_grad()
    def search(self, importance: Tensor | None = None) -> None:
        """Set the logits to the ranges that keep the weight nearest in squares.

        The same share of both ends is tried first, from the whole range to a third of it, and then
        some more and some less of one end at a time.

        Args:
            importance: As of `with_error`.
        """
        shares = self.upper.new_ones(2, *self.upper.shape)
        least = torch.full_like(self.upper, torch.inf)

        def take(tried: Tensor) -> None:
            nonlocal least
            logits = tried.clamp(_SMALLEST_SHARE, _LARGEST_SHARE).logit()
            errors = self._group_errors(logits, importance)
            is_better = errors < least
            least = torch.where(is_better, errors, least)
            shares.copy_(torch.where(is_better, tried, shares))

        for share in torch.linspace(1, _SMALLEST_SHARE, _NUM_SHARES).tolist():
            take(torch.full_like(shares, share))
        step = (1 - _SMALLEST_SHARE) / (_NUM_SHARES - 1)
        for change in (step, step / 2):
            for end in (0, 1):
                before = shares.clone()
                for sign in (-1, 1):
                    tried = before.clone()
                    tried[end] += sign * change
                    take(tried)
        found = shares.clamp(_SMALLEST_SHARE, _LARGEST_SHARE).logit()
        is_one_bit = self.group_bits == 1
        for logits, values in zip((self.upper, self.lower), found, strict=True):
            logits.copy_(values.masked_fill(is_one_bit, ONE_BIT_LOGIT))

    def _group_errors(self, logits: Tensor, importance: Tensor | None) -> Tensor:
        errors = torch.zeros_like(self.upper)
        for part in self._parts:
            away = part.rounded(self.weight, *logits).values.sub_(part.of(self.weight)).square_()
            if importance is not None:
                away.mul_(part.of(importance))
            errors[:, part.groups] = away.sum(-1)
        return errors

    @torch.no_grad()
    def quantized(self) -> QuantizedWeight:
        """What is stored; it dequantizes to the bits of `forward`."""
        rows, groups = self.upper.shape
        codes = torch.empty_like(self.weight, dtype=torch.uint8)
        scales, means = (self.upper.new_zeros(rows, groups) for _ in range(2))
        zeros = torch.zeros_like(scales)
        for part in self._parts:
            found = part.rounded(self.weight, self.upper, self.lower)
            part.put(codes, found.codes.to(torch.uint8))
            scales[:, part.groups] = found.scale
            zeros[:, part.groups] = found.zero
            means[:, part.groups] = found.mean
        if self.symmetric:
            # The same values with steps below 0 and the zero at 2^(b-1), where other programs
            # have it.
            top = 2 ** self.group_bits.int() - 1
            columns = torch.arange(codes.shape[1], device=codes.device) // self.group_size
            codes = (top[columns] - codes).to(torch.uint8)
            scales, zeros = -scales, top - zeros
        return QuantizedWeight(
            codes,
            self.group_size,
            self.group_bits.clone(),
            scales.half(),
            zeros.to(torch.uint8),
            means.half(),
        )


@dataclass
class _RoundedPart:
    """Of groups that are rounded together: (n, k), and (n, k, β) of what is of single weights.

    `steps` is by how many scales a weight is above the mean, and `wanted` and `nearest` the same
    before they were rounded and clamped, None of one bit; `upper_slope` and `lower_slope` are the
    derivatives of the scale.
    """

    steps: Tensor
    scale: Tensor
    zero: Tensor
    mean: Tensor
    wanted: Tensor | None
    nearest: Tensor | None
    upper_slope: Tensor
    lower_slope: Tensor
    is_one_bit: bool

    @property
    def slope(self) -> Tensor:
        """The derivative of the rounded weights to the scale."""
        if self.wanted is None or self.nearest is None:
            return self.steps
        is_free = (self.nearest == self.steps).to(self.steps)
        return torch.addcmul(self.steps, self.wanted, is_free, value=-1)

    @property
    def values(self) -> Tensor:
        values = self.steps * self.scale[..., None]
        return values.add_(self.mean[..., None]) if self.is_one_bit else values

    @property
    def codes(self) -> Tensor:
        return (self.steps > 0) if self.is_one_bit else self.steps + self.zero[..., None]


class _Part:
    """Groups of one size, of one bit or of several."""

    def __init__(
        self,
        weight: Tensor,
        columns: slice,
        width: int,
        groups: Tensor,
        bits: Tensor,
        symmetric: bool,
    ) -> None:
        self.columns, self.width, self.groups = columns, width, groups
        # An index makes a copy; a narrow group has its columns for itself.
        is_all = len(groups) * width == columns.stop - columns.start
        self.inner = slice(None) if is_all else groups
        self.is_one_bit, self.symmetric = int(bits[0]) == 1, symmetric
        self.top = (2.0 ** bits.float() - 1).to(weight)
        values = self.of(weight)
        if self.is_one_bit:
            self.mean = values.mean(-1).half().float()
            self.spread = (values - self.mean[..., None]).abs_().mean(-1)
        else:
            self.highest, self.lowest = values.amax(-1).clamp(min=0), values.amin(-1).clamp(max=0)

    def of(self, matrix: Tensor) -> Tensor:
        """Its weights, (n, k, β)."""
        return matrix[:, self.columns].unflatten(1, (-1, self.width))[:, self.inner]

    def put(self, matrix: Tensor, values: Tensor) -> None:
        """Write its weights."""
        matrix[:, self.columns].unflatten(1, (-1, self.width))[:, self.inner] = values

    def rounded(
        self, weight: Tensor, upper: Tensor, lower: Tensor, rows: slice = slice(None)
    ) -> _RoundedPart:
        """Round some rows of the weight."""
        weight, upper = self.of(weight[rows]), upper[rows, self.groups].sigmoid()
        if self.is_one_bit:
            return self._one_bit(weight, upper, rows)
        lower = lower[rows, self.groups].sigmoid()
        highest, lowest = self.highest[rows] * upper, self.lowest[rows] * lower
        if self.symmetric:
            divisor = (self.top - 1) / 2
            exact = torch.maximum(highest, -lowest) / divisor
            # Of two that are equal each has half, as torch has it.
            share = 0.5 * (1 + (highest + lowest).sign())
            shares = share / divisor, (1 - share) / divisor
        else:
            exact = (highest - lowest) / self.top
            shares = 1 / self.top, 1 / self.top
        scale = exact.clamp(SMALLEST_SCALE, LARGEST_SCALE)
        is_free = scale == exact
        scale = scale.half().float()
        if self.symmetric:
            zero = ((self.top - 1) / 2).expand_as(scale)
        else:
            zero = torch.minimum((-lowest / scale).round_(), self.top)
        wanted = weight / scale[..., None]
        nearest = wanted.round()
        ends = -zero[..., None], (self.top - zero)[..., None]
        steps = torch.clamp(nearest, *ends)
        upper_slope = highest * (1 - upper) * shares[0] * is_free
        lower_slope = -lowest * (1 - lower) * shares[1] * is_free
        mean = torch.zeros_like(scale)
        slopes = upper_slope, lower_slope
        return _RoundedPart(steps, scale, zero, mean, wanted, nearest, *slopes, False)

    def _one_bit(self, weight: Tensor, upper: Tensor, rows: slice) -> _RoundedPart:
        mean, spread = self.mean[rows], self.spread[rows]
        exact = (upper + 0.5) * spread
        scale = exact.clamp(SMALLEST_SCALE, LARGEST_SCALE)
        slope = upper * (1 - upper) * spread * (scale == exact)
        # The weight at the mean counts as above it: a third level could not be stored.
        steps = (weight >= mean[..., None]).to(weight).mul_(2).sub_(1)
        none = torch.zeros_like(scale)
        scale = scale.half().float()
        return _RoundedPart(steps, scale, none, mean, None, None, slope, none, True)


def _parts(weight: Tensor, group_size: int, bits: Tensor, symmetric: bool) -> list[_Part]:
    columns = weight.shape[1]
    whole = columns // group_size
    sets: tuple[tuple[slice, int, Tensor], ...] = (
        (slice(0, whole * group_size), group_size, torch.arange(whole)),
        (slice(whole * group_size, columns), columns % group_size, torch.arange(whole, len(bits))),
    )
    return [
        _Part(weight, place, width, groups[mask].to(weight.device), bits[groups][mask], symmetric)
        for place, width, groups in sets
        for mask in (bits[groups] == 1, bits[groups] > 1)
        if mask.any()
    ]


def _together(weight: Tensor) -> list[slice]:
    """Rows that are rounded together: what is made of them on the way stays small."""
    size = max(1, _NUMBERS_TOGETHER // max(1, weight.shape[1]))
    return [slice(first, first + size) for first in range(0, len(weight), size)]


class _Rounded(torch.autograd.Function):
    """Rounds anew in the backward pass, as autograd would keep three matrices of every weight."""

    @staticmethod
    def forward(
        ctx: Any,
        upper: Tensor,
        lower: Tensor,
        weight: Tensor,
        importance: Tensor | None,
        with_error: bool,
        parts: list[_Part],
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(upper, lower, weight, importance)
        ctx.parts, ctx.with_error = parts, with_error
        rounded, error = torch.empty_like(weight), weight.new_zeros(())
        for rows in _together(weight):
            for part in parts:
                part.put(rounded[rows], part.rounded(weight, upper, lower, rows).values)
            if with_error:
                away = (rounded[rows] - weight[rows]).square_()
                error += (away if importance is None else away.mul_(importance[rows])).sum()
        return rounded, error

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, error_gradient: Tensor) -> tuple[Tensor | None, ...]:
        upper, lower, weight, importance = ctx.saved_tensors
        upper_gradient, lower_gradient = torch.zeros_like(upper), torch.zeros_like(lower)
        for rows in _together(weight):
            for part in ctx.parts:
                found = part.rounded(weight, upper, lower, rows)
                of_values = part.of(gradient[rows])
                if ctx.with_error:
                    of_error = found.values.sub_(part.of(weight[rows])).mul_(2 * error_gradient)
                    if importance is not None:
                        of_error.mul_(part.of(importance[rows]))
                    of_values = of_error.add_(of_values)
                of_scale = (of_values * found.slope).sum(-1)
                upper_gradient[rows, part.groups] = of_scale * found.upper_slope
                lower_gradient[rows, part.groups] = of_scale * found.lower_slope
        return upper_gradient, lower_gradient, None, None, None, None
