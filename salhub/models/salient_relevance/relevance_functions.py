"""Backward passes that hand down relevance instead of gradients.

Each function computes its layer's ordinary output; called by autograd with the relevance of the
output, it returns the relevance of the inputs. One `torch.autograd.grad` over a network made of
these is a relevance pass, through any graph of sums, branches and reshapes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

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
        parts_cache: modified weights by (layer weight, rule), kept between passes.
    """

    epsilon: float
    bias_relevance: str
    ledger: Ledger | None = None
    parts_cache: dict[tuple[int, int, Rule, str], tuple[Part, ...]] = field(default_factory=dict)

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


def stabilise(values: Tensor, epsilon: float, sign: int | None = None) -> Tensor:
    """Move values away from zero by epsilon, in their own direction (zero goes up).

    Args:
        values: denominators.
        epsilon: how far.
        sign: 1 or -1 where no value can have the other sign, which takes one step less.
    """
    if sign is not None:
        return values + sign * epsilon
    return torch.copysign(values.new_tensor(epsilon), values).add_(values)


class PassThrough(torch.autograd.Function):
    """An elementwise function that relevance passes unchanged: activations, scaling."""

    @staticmethod
    def forward(ctx, inputs: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.shape = inputs.shape
        return function(inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, relevance: Tensor) -> tuple[Tensor, None]:
        return relevance.sum_to_size(ctx.shape), None


class GatedRelevance(torch.autograd.Function):
    """A product with a gate, which counts as a constant: the gated signal keeps its relevance."""

    @staticmethod
    def forward(ctx, signal: Tensor, gate: Tensor) -> Tensor:
        ctx.shape = signal.shape
        return signal * gate

    @staticmethod
    @once_differentiable
    def backward(ctx, relevance: Tensor) -> tuple[Tensor, None]:
        return relevance.sum_to_size(ctx.shape), None


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
    @once_differentiable
    def backward(ctx, relevance: Tensor) -> tuple[Tensor | None, ...]:
        total, *terms = ctx.saved_tensors
        state: PassState = ctx.state
        signal = relevance / stabilise(total, state.epsilon)
        shares = [
            (term if weight == 1 else weight * term) * signal
            for term, weight in zip(terms, ctx.weights, strict=True)
        ]
        if state.bias_relevance == "uniform" or state.ledger is not None:
            lost = relevance - signal * total
            if state.bias_relevance == "uniform":
                shares, lost = [share + lost / 2 for share in shares], None
            if state.ledger is not None:
                state.ledger.enter(ctx.name, "sum", "split", relevance, sum(shares), None, lost)
        shares = [share.sum_to_size(term.shape) for share, term in zip(shares, terms, strict=True)]
        return None, None, None, *shares


class PooledRelevance(torch.autograd.Function):
    """A mean or sum over positions: each position gets relevance in proportion to its value."""

    @staticmethod
    def forward(
        ctx, inputs: Tensor, pool: Callable[[Tensor], Tensor], state: PassState, name: str
    ) -> Tensor:
        ctx.pool, ctx.state, ctx.name = pool, state, name
        outputs = pool(inputs)
        ctx.save_for_backward(inputs, outputs)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx, relevance: Tensor) -> tuple[Tensor | None, ...]:
        inputs, outputs = ctx.saved_tensors
        state: PassState = ctx.state
        signal = relevance / stabilise(outputs, state.epsilon)
        result = inputs * transpose_of(ctx.pool, inputs, signal)
        if state.bias_relevance == "uniform" or state.ledger is not None:
            lost = relevance - signal * outputs
            if state.bias_relevance == "uniform":
                ones = ctx.pool(torch.ones_like(inputs))
                result, lost = result + transpose_of(ctx.pool, inputs, lost / ones), None
            if state.ledger is not None:
                entry = (relevance, result, None, lost)
                state.ledger.enter(ctx.name, "pooling", "proportional", *entry)
        return result, None, None, None


def transpose_of(function: Callable[[Tensor], Tensor], inputs: Tensor, signal: Tensor) -> Tensor:
    """The transposed map of a linear function."""
    with torch.enable_grad():
        probe = torch.zeros_like(inputs).requires_grad_()
        return torch.autograd.grad(function(probe), probe, signal)[0]


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
        ctx.save_for_backward(outputs, shift)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx, relevance: Tensor) -> tuple[Tensor | None, ...]:
        outputs, shift = ctx.saved_tensors
        state: PassState = ctx.state
        result, signal = relevance, None
        if state.bias_relevance == "absorb":
            signal = relevance / stabilise(outputs, state.epsilon)
            result = (outputs - shift) * signal
        if state.ledger is not None:
            absorbed = None if signal is None else shift * signal
            lost = None if signal is None else relevance - outputs * signal
            entry = (relevance, result, absorbed, lost)
            state.ledger.enter(ctx.name, "affine", "epsilon", *entry)
        return result.sum_to_size(ctx.shape), None, None, None, None
