"""Backward passes that hand down relevance instead of gradients.

Each function computes its layer's ordinary output; called by autograd with the relevance of the
output, it returns the relevance of the inputs. One `torch.autograd.grad` over a network made of
these is a relevance pass, through any graph of sums, branches and reshapes.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from salhub.models.salient_relevance.conservation_audit import Ledger
from salhub.models.salient_relevance.linear_maps import Layer
from salhub.models.salient_relevance.rules import Part, Rule


@dataclass
class PassState:
    """What all steps of one relevance pass share.

    Args:
        epsilon: stabiliser of sums and poolings.
        bias_relevance: "absorb", "ignore" or "uniform".
        ledger: where every step enters its sums, or None when nobody audits.
        is_audited: whether any pass back has a ledger, so that steps need the names of modules.
        is_last: whether no other class follows, so that nothing need be kept for it.
        is_everywhere: whether relevance has reached most tokens, so that none can be left out.
        parts_cache: modified weights by (layer weight, rule), kept between passes.
    """

    epsilon: float
    bias_relevance: str
    ledger: Ledger | None = None
    is_audited: bool = False
    is_last: bool = True
    is_everywhere: bool = False
    parts_cache: dict[tuple[int, int, Rule, str], tuple[Part, ...]] = field(default_factory=dict)

    @property
    def accounts(self) -> bool:
        """Whether somebody asks what becomes of relevance that is not handed down."""
        return self.is_audited or self.bias_relevance == "uniform"

    def parts(self, layer: Layer, rule: Rule) -> tuple[Part, ...]:
        """Modified weights of a layer, made once for a parameter that is kept."""
        bias = None if self.bias_relevance == "ignore" else layer.bias
        if not isinstance(layer.weight, torch.nn.Parameter):
            return rule.parts(layer.weight, bias)
        # Layers may share a weight and not the bias.
        key = (id(layer.weight), id(bias), rule, self.bias_relevance)
        if key not in self.parts_cache:
            self.parts_cache[key] = rule.parts(layer.weight, bias)
        return self.parts_cache[key]

    def few_tokens(self, relevance: Tensor) -> Tensor | None:
        """Indices of the tokens, (..., tokens, features), that have relevance; None for most.

        A classifier that reads its class token hands the last block relevance at that one alone.
        """
        if self.is_everywhere or relevance.dim() < 3:
            return None
        others = [axis for axis in range(relevance.dim()) if axis != relevance.dim() - 2]
        tokens = (relevance != 0).any(others).nonzero()[:, 0]
        self.is_everywhere = len(tokens) > _FEW * relevance.shape[-2]
        return None if self.is_everywhere else tokens


_FEW = 0.25  # share of the tokens below which picking them is cheaper than taking all


def stabilise(values: Tensor, epsilon: float, sign: int | None = None) -> Tensor:
    """Move values away from zero by epsilon, in their own direction (zero goes up).

    Args:
        values: denominators.
        epsilon: how far.
        sign: 1 or -1 where no value can have the other sign, which takes one step less.
    """
    if sign is not None:
        return values + sign * epsilon
    return _with_signs_of(values, epsilon).add_(values)


def quotient(relevance: Tensor, outputs: Tensor, epsilon: float, times: int = 1) -> Tensor:
    """Relevance over `times` the stabilised outputs.

    Args:
        relevance: of the outputs.
        outputs: any values.
        epsilon: how far they are moved away from zero.
        times: 1, 2, 4 and so on, by which the stabilised outputs are multiplied.
    """
    # in memory that is at hand: new memory costs as much as the arithmetic
    away = _with_signs_of(outputs, epsilon * times)
    return torch.div(relevance, away.add_(outputs, alpha=times), out=away)


def _with_signs_of(values: Tensor, size: float) -> Tensor:
    """The size of a number with the sign of each value."""
    number, bits, sign = _number(abs(size), values.dtype, values.device)
    if bits is None or sign is None:
        return torch.copysign(number, values)
    # which takes a CPU twice as long
    return values.view(bits.dtype).bitwise_and(sign).bitwise_or_(bits).view(values.dtype)


_BITS = {torch.float32: torch.int32, torch.float64: torch.int64}


@functools.lru_cache(maxsize=32)
def _number(
    value: float, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """A number, and on a CPU its bits and that of the sign."""
    number = torch.tensor(value, dtype=dtype, device=device)
    if device.type != "cpu" or dtype not in _BITS:
        return number, None, None
    bits = _BITS[dtype]
    return number, number.view(bits), torch.tensor(torch.iinfo(bits).min, dtype=bits)


class PassThrough(torch.autograd.Function):
    """An elementwise function that relevance passes unchanged: activations, scaling."""

    @staticmethod
    def forward(ctx, inputs: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.shape = inputs.shape
        return function(inputs)

    @staticmethod
    def backward(ctx, relevance: Tensor) -> tuple[Tensor, None]:
        return relevance.sum_to_size(ctx.shape), None


class ProductRelevance(torch.autograd.Function):
    """A product of two, element by element; a gate without a gradient counts as a constant.

    Two signals get half of the relevance each: the uniform rule of Achtibat et al. 2024 (AttnLRP).
    """

    @staticmethod
    def forward(ctx, signal: Tensor, gate: Tensor) -> Tensor:
        ctx.shapes = signal.shape, gate.shape
        return signal * gate

    @staticmethod
    def backward(ctx, relevance: Tensor) -> tuple[Tensor, Tensor | None]:
        if not ctx.needs_input_grad[1]:
            return relevance.sum_to_size(ctx.shapes[0]), None
        first, second = ((relevance / 2).sum_to_size(shape) for shape in ctx.shapes)
        return first, second


class Normaliser(torch.autograd.Function):
    """A size of a signal, by which it may be divided; any other use of it has no rule."""

    @staticmethod
    def forward(
        ctx, inputs: Tensor, function: Callable[[Tensor], Tensor], error: Exception
    ) -> Tensor:
        ctx.error = error
        return function(inputs)

    @staticmethod
    def backward(ctx, relevance: Tensor) -> tuple[None, ...]:
        raise ctx.error


class JoinedRelevance(torch.autograd.Function):
    """An arrangement of signals and constants: what arrives at a constant stays there."""

    @staticmethod
    def forward(
        ctx, function: Callable[..., Tensor], state: PassState, name: str, *signals: Tensor
    ) -> Tensor:
        ctx.function, ctx.state, ctx.name = function, state, name
        ctx.save_for_backward(*signals)
        return function(*signals)

    @staticmethod
    def backward(ctx, relevance: Tensor) -> tuple[Tensor | None, ...]:
        signals, state = ctx.saved_tensors, ctx.state
        given, kept = relevance, None
        if state.bias_relevance == "uniform" or state.ledger is not None:
            ones = ctx.function(*(torch.ones_like(signal) for signal in signals))
            is_signal = ones - ctx.function(*(torch.zeros_like(signal) for signal in signals))
            is_signal = is_signal.nan_to_num()  # masks may hold an infinity
            kept = relevance * (1 - is_signal)
            if state.bias_relevance == "uniform":
                given = relevance + _spread_beside(kept, is_signal)
                kept = given * (1 - is_signal)
        shares = transpose_of(ctx.function, signals, given)
        if state.ledger is not None:
            state.ledger.enter(ctx.name, "constant", "absorb", relevance, shares, kept, None)
        return None, None, None, *shares


def _spread_beside(kept: Tensor, is_signal: Tensor) -> Tensor:
    """What constants kept, in equal shares for the signals beside them, and away from them."""
    axes = [
        axis
        for axis in range(1, kept.dim())  # never from one picture to another
        if bool((is_signal.amin(axis) != is_signal.amax(axis)).any())
    ]
    if not axes:
        return torch.zeros_like(kept)
    count = is_signal.sum(axes, keepdim=True)
    share = kept.sum(axes, keepdim=True) / count.clamp(min=1)
    return torch.where(count > 0, share * is_signal - kept, 0)


class SumRelevance(torch.autograd.Function):
    """A weighted sum of two branches: each gets relevance in proportion to what it added."""

    @staticmethod
    def forward(
        ctx, state: PassState, name: str, weights: tuple[float, float], a: Tensor, b: Tensor
    ) -> Tensor:
        ctx.state, ctx.name, ctx.weights = state, name, weights
        total = a + b if weights == (1.0, 1.0) else weights[0] * a + weights[1] * b
        ctx.save_for_backward(total, a, b)
        return total

    @staticmethod
    def backward(ctx, relevance: Tensor) -> tuple[Tensor | None, ...]:
        total, *terms = ctx.saved_tensors
        state: PassState = ctx.state
        signal = quotient(relevance, total, state.epsilon)
        shares = [
            (term if weight == 1 else weight * term) * signal
            for term, weight in zip(terms, ctx.weights, strict=True)
        ]
        if state.bias_relevance == "uniform" or state.ledger is not None:
            lost = relevance - signal * total
            if state.bias_relevance == "uniform":
                shares, lost = [share + lost / 2 for share in shares], None
            if state.ledger is not None:
                state.ledger.enter(ctx.name, "sum", "split", relevance, shares, None, lost)
        shares = [share.sum_to_size(term.shape) for share, term in zip(shares, terms, strict=True)]
        return None, None, None, *shares


class MultilinearRelevance(torch.autograd.Function):
    """A function that is linear in each of its signals: a pooling, or a product of two signals.

    Each signal gets an equal share (the uniform rule of AttnLRP for products), and in it every
    element in proportion to what it contributed.
    """

    @staticmethod
    def forward(
        ctx,
        function: Callable[..., Tensor],
        state: PassState,
        name: str,
        layer_type: str,
        *signals: Tensor,
    ) -> Tensor:
        ctx.function, ctx.state, ctx.name, ctx.layer_type = function, state, name, layer_type
        outputs = function(*signals)
        ctx.save_for_backward(outputs, *signals)
        return outputs

    @staticmethod
    def backward(ctx, relevance: Tensor) -> tuple[Tensor | None, ...]:
        outputs, *signals = ctx.saved_tensors
        state: PassState = ctx.state
        signal = quotient(relevance, outputs, state.epsilon, len(signals))
        handed = transpose_of(ctx.function, signals, signal)
        shares = [share * values for share, values in zip(handed, signals, strict=True)]
        if state.bias_relevance == "uniform" or state.ledger is not None:
            lost = relevance - signal * outputs * len(signals)
            if state.bias_relevance == "uniform":
                ones = [torch.ones_like(values) for values in signals]
                even = lost / len(signals) / ctx.function(*ones).clamp(min=1e-30)
                spread = transpose_of(ctx.function, ones, even)
                shares = [share + more for share, more in zip(shares, spread, strict=True)]
                lost = None
            if state.ledger is not None:
                rule = "proportional" if len(signals) == 1 else "uniform"
                entry = (relevance, shares, None, lost)
                state.ledger.enter(ctx.name, ctx.layer_type, rule, *entry)
        return None, None, None, None, *shares


def transpose_of(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], signal: Tensor
) -> tuple[Tensor, ...]:
    """The transposed maps of a function that is linear in each input, at the other inputs."""
    if function is torch.matmul and min(values.dim() for values in inputs) > 1:
        first, second = inputs  # without running it again
        return (
            (signal @ second.mT).sum_to_size(first.shape),
            (first.mT @ signal).sum_to_size(second.shape),
        )
    with torch.enable_grad():
        probes = [values.detach().requires_grad_() for values in inputs]
        return torch.autograd.grad(function(*probes), probes, signal)


class SoftmaxRelevance(torch.autograd.Function):
    """Softmax by its Taylor expansion at the scores: R_i = x_i (R_i - s_i sum of all R).

    The constant of the expansion, s_j (1 - x_j + sum_k s_k x_k), takes its share like a bias.
    """

    @staticmethod
    def forward(
        ctx,
        scores: Tensor,
        function: Callable[[Tensor], Tensor],
        axis: int,
        state: PassState,
        name: str,
    ) -> Tensor:
        ctx.axis, ctx.state, ctx.name = axis, state, name
        shares = function(scores)
        ctx.save_for_backward(scores, shares)
        return shares

    @staticmethod
    def backward(ctx, relevance: Tensor) -> tuple[Tensor | None, ...]:
        scores, shares = ctx.saved_tensors
        state: PassState = ctx.state
        finite = scores.clamp(min=torch.finfo(scores.dtype).min)  # masked scores get 0, not NaN
        total = relevance.sum(ctx.axis, keepdim=True)
        result = torch.addcmul(relevance, shares, total, value=-1).mul_(finite)
        if state.bias_relevance == "uniform" or state.ledger is not None:
            constant = 1 - finite + (shares * finite).sum(ctx.axis, keepdim=True)
            absorbed = relevance * constant
            if state.bias_relevance == "uniform":
                real = (shares > 0).to(result.dtype)
                count = real.sum(ctx.axis, keepdim=True).clamp(min=1)
                result = result + absorbed.sum(ctx.axis, keepdim=True) / count * real
                absorbed = None
            if state.ledger is not None:
                entry = (relevance, result, absorbed, None)
                state.ledger.enter(ctx.name, "softmax", "taylor", *entry)
        return result.to(scores.dtype), None, None, None, None


class AttentionRelevance(torch.autograd.Function):
    """Attention of queries to keys in one step: what its two products and its softmax hand down.

    It keeps one matrix of scores instead of two, and neither books nor spreads anything.
    """

    @staticmethod
    def forward(
        ctx, query: Tensor, key: Tensor, value: Tensor, scale: float, state: PassState
    ) -> Tensor:
        ctx.scale, ctx.state = scale, state
        query = query * scale
        scores = query @ key.mT
        shares = torch.softmax(scores, -1)
        mixed = shares @ value
        ctx.save_for_backward(query, key, value, scores, shares, mixed)
        return mixed

    @staticmethod
    def backward(ctx, relevance: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, scores, shares, mixed = ctx.saved_tensors
        state: PassState = ctx.state
        tokens, all_queries = state.few_tokens(relevance), query
        if tokens is not None:
            relevance, query, scores, shares, mixed = (
                values[..., tokens, :] for values in (relevance, query, scores, shares, mixed)
            )
        signal = quotient(relevance, mixed, state.epsilon, 2)
        of_value = value * (shares.mT @ signal)
        # shares times what reaches them is their relevance, so this is the gradient of the softmax
        reaching = (signal / 2) @ value.mT
        signal = torch._softmax_backward_data(reaching, shares, -1, shares.dtype)
        # the stabiliser is that of the product, before it is scaled; s / stabilised s is
        # 1 - epsilon / (|s| + epsilon)
        epsilon = abs(state.epsilon * ctx.scale)
        signal.addcdiv_(signal, scores.abs().add_(epsilon), value=-epsilon)
        # laid out as what they are the relevance of, which may be views
        of_query = query * (signal @ key)
        of_key = key * (signal.mT @ query)
        if tokens is not None:
            of_query = torch.zeros_like(all_queries).index_copy_(-2, tokens, of_query)
        return of_query, of_key, of_value, None, None


class AffineRelevance(torch.autograd.Function):
    """scale * x + shift, each element by itself: the shift takes its share like a bias."""

    @staticmethod
    def forward(
        ctx,
        inputs: Tensor,
        scale: Tensor | float | None,
        shift: Tensor,
        state: PassState,
        name: str,
    ) -> Tensor:
        ctx.state, ctx.name, ctx.shape = state, name, inputs.shape
        scaled = inputs if scale is None else inputs * scale
        outputs = scaled + shift
        ctx.save_for_backward(scaled, outputs, shift)
        return outputs

    @staticmethod
    def backward(ctx, relevance: Tensor) -> tuple[Tensor | None, ...]:
        scaled, outputs, shift = ctx.saved_tensors
        state: PassState = ctx.state
        result, signal = relevance, None
        if state.bias_relevance == "absorb":
            signal = quotient(relevance, outputs, state.epsilon)
            result = scaled * signal
        if state.ledger is not None:
            absorbed = lost = None
            if signal is not None:
                # where a mask has put an infinity no relevance is left to book
                absorbed = (shift * signal).nan_to_num()
                lost = relevance - (outputs * signal).nan_to_num()
            entry = (relevance, result, absorbed, lost)
            state.ledger.enter(ctx.name, "affine", "epsilon", *entry)
        return result.sum_to_size(ctx.shape), None, None, None, None
