"""Weighted layers whose backward pass is a relevance rule."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from salhub.models.salient_relevance.linear_maps import Layer, LinearMap
from salhub.models.salient_relevance.normalisation import NormalisationMap
from salhub.models.salient_relevance.relevance_functions import PassState, quotient, stabilise
from salhub.models.salient_relevance.rules import CONTRIBUTION_RULES, PLAIN_RULES, Part, Rule


class LayerRelevance(torch.autograd.Function):
    """A convolution or linear layer whose backward pass is its relevance rule."""

    @staticmethod
    def forward(ctx, inputs: Tensor, step: "LayerStep") -> Tensor:
        outputs = step.run(inputs)
        ctx.step = step
        ctx.save_for_backward(inputs, outputs)
        return outputs

    @staticmethod
    def backward(ctx, relevance: Tensor) -> tuple[Tensor, None]:
        inputs, outputs = ctx.saved_tensors
        return ctx.step.hand_down(inputs, outputs, relevance), None


class PlainRelevance(torch.autograd.Function):
    """A layer whose outputs are the denominators, where nobody asks what becomes of the rest."""

    @staticmethod
    def forward(
        ctx, inputs: Tensor, layer: Layer | NormalisationMap, epsilon: float, state: PassState
    ) -> Tensor:
        outputs = layer.apply(inputs, layer.weight, layer.bias)
        ctx.layer, ctx.epsilon, ctx.state = layer, epsilon, state
        ctx.save_for_backward(inputs, outputs)
        return outputs

    @staticmethod
    def backward(ctx, relevance: Tensor) -> tuple[Tensor | None, ...]:
        inputs, outputs = ctx.saved_tensors
        tokens = ctx.state.few_tokens(relevance) if isinstance(ctx.layer, LinearMap) else None
        if tokens is None:
            return _hand_down(ctx, inputs, outputs, relevance), None, None, None
        chosen = (values[..., tokens, :] for values in (inputs, outputs, relevance))
        result = torch.zeros_like(inputs).index_copy_(-2, tokens, _hand_down(ctx, *chosen))
        return result, None, None, None


def _hand_down(ctx, inputs: Tensor, outputs: Tensor, relevance: Tensor) -> Tensor:
    signal = quotient(relevance, outputs, ctx.epsilon)
    return ctx.layer.transpose(signal, ctx.layer.weight, inputs).mul_(inputs)


def layer_relevance(
    inputs: Tensor,
    layer: Layer | NormalisationMap,
    rule: Rule,
    state: PassState,
    bounds: tuple[Tensor, Tensor] | None = None,
    support: Tensor | None = None,
) -> Tensor:
    """Run a layer, so that its backward pass is its rule; arguments as of `LayerStep`."""
    counts_bias = layer.bias is None or state.bias_relevance != "ignore"
    if rule.name in PLAIN_RULES and counts_bias and not state.accounts:
        return PlainRelevance.apply(inputs, layer, rule.epsilon, state)
    return LayerRelevance.apply(inputs, LayerStep(layer, rule, state, bounds, support))


@dataclass
class LayerStep:
    """One weighted layer in one pass: its rule, and what several classes can share.

    Args:
        layer: the map.
        rule: how relevance is redistributed.
        state: shared by the pass.
        bounds: lowest and highest possible inputs, (1, in, ...) each, for rule "z_box".
        support: (1, 1, ...), 0 where inputs are padding; None when all are real.
    """

    layer: Layer | NormalisationMap
    rule: Rule
    state: PassState
    bounds: tuple[Tensor, Tensor] | None = None
    support: Tensor | None = None
    kept: dict[int | str, Tensor] = field(default_factory=dict)
    split: tuple[Tensor, ...] | None = None

    @functools.cached_property
    def parts(self) -> tuple[Part, ...]:
        """The modified weights."""
        return self.state.parts(self.layer, self.rule)

    def run(self, inputs: Tensor) -> Tensor:
        """The layer's ordinary output."""
        layer = self.layer
        if not (self.rule.adds_up and self._counts_bias):
            return layer.apply(inputs, layer.weight, layer.bias)
        # positive and negative contributions are needed on the way back: they are the output too
        parts, signs = self.parts, self._signs(inputs)
        sums = [self._contributions(part, signs, inputs) for part in parts]
        total = sums[0] + sums[1]
        for index, part in enumerate(parts):
            self.kept[index] = sums[index].add_(part.sign * self.rule.epsilon)
        return total

    def hand_down(self, inputs: Tensor, outputs: Tensor, relevance: Tensor) -> Tensor:
        """Relevance of the inputs, from that of the outputs."""
        if self.rule.name in CONTRIBUTION_RULES:
            result, absorbed, lost = self._by_contribution(inputs, outputs, relevance)
        elif self.rule.name == "z_box":
            result, absorbed, lost = self._by_box(inputs, relevance)
        else:
            result, absorbed, lost = self._by_weights(inputs, relevance)
        if self.state.bias_relevance == "uniform":
            gone = [share for share in (absorbed, lost) if share is not None]
            if gone:
                result = result + self.layer.spread(sum(gone), inputs, self.support)
            absorbed = lost = None
        if self.state.is_last:
            self.kept.clear()  # memory that the layers below can use
        if self.state.ledger is not None:
            kind, label = self.layer.layer_type, self.rule.label
            entry = (relevance, result, absorbed, lost)
            self.state.ledger.enter(self.layer.name, kind, label, *entry)
        return result

    def _by_contribution(
        self, inputs: Tensor, outputs: Tensor, relevance: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        signs = self._signs(inputs)
        absorbed, lost = None, relevance if self.state.accounts else None
        chosen_by_sign = self._by_sign(self.parts, inputs, outputs, relevance)
        served: list[tuple[Part, Tensor]] = []
        for index, part in enumerate(self.parts):
            chosen = chosen_by_sign[part.outputs]
            if chosen is None:
                continue
            denominator = self._denominator(index, signs, inputs, outputs)
            served.append((part, self._divide(chosen, denominator)))
            if self.state.accounts:
                signal = part.share * served[-1][1]
                # what the epsilon moved is not a contribution
                lost = lost - (denominator - denominator.sign() * self.rule.epsilon) * signal
                absorbed = self._book_bias(part, signal, absorbed)
        return self._hand_back(served, signs, inputs), absorbed, lost

    def _divide(self, relevance: Tensor, denominator: Tensor) -> Tensor:
        if len(self.parts) > 1 or self.state.accounts or not self.state.is_last:
            return relevance / denominator
        return torch.div(relevance, denominator, out=denominator)  # which nobody asks for again

    def _book_bias(self, part: Part, signal: Tensor, absorbed: Tensor | None) -> Tensor | None:
        if part.bias is None:
            return absorbed
        share = self.layer.align_bias(part.bias) * signal
        return share if absorbed is None else absorbed + share

    def _by_sign(
        self, parts: tuple[Part, ...], inputs: Tensor, outputs: Tensor, relevance: Tensor
    ) -> dict[str, Tensor | None]:
        """The relevance of all outputs, the positive and the negative ones; None where it is 0."""
        if all(part.outputs == "all" for part in parts):
            return {"all": relevance}
        if not self._counts_bias:
            outputs = self._once("signs", lambda: self.layer.apply(inputs, self.layer.weight))
        # the backward pass of a ReLU: relevance where -outputs > 0, many times faster than a mask
        negative = torch.ops.aten.threshold_backward(relevance, -outputs, 0)
        if bool(negative.abs().amax() != 0):
            return {"positive": relevance - negative, "negative": negative}
        # behind a ReLU negative outputs carry no relevance, and their part can be skipped
        return {"positive": relevance, "negative": None}

    @property
    def _counts_bias(self) -> bool:
        return self.layer.bias is None or self.state.bias_relevance != "ignore"

    def _signs(self, inputs: Tensor) -> tuple[Tensor, Tensor] | None:
        """Positive and negative part, or None when nothing is negative (as behind a ReLU)."""
        if all(part.for_positive is part.for_negative for part in self.parts):
            return None  # and nobody asks
        if self.split is None:
            is_signed = bool(inputs.amin() < 0)
            self.split = (inputs.clamp(min=0), inputs.clamp(max=0)) if is_signed else ()
        return self.split or None

    def _once(self, key: int | str, compute: Callable[[], Tensor]) -> Tensor:
        if key not in self.kept:
            self.kept[key] = compute()
        return self.kept[key]

    def _denominator(
        self, index: int, signs: tuple[Tensor, Tensor] | None, inputs: Tensor, outputs: Tensor
    ) -> Tensor:
        """Stabilised sum of a part's contributions to every output, bias included."""
        part = self.parts[index]
        if part.complement is None or not self._counts_bias:
            return self._once(
                index,
                lambda: stabilise(
                    outputs
                    if part.for_positive is self.layer.weight and self._counts_bias
                    else self._contributions(part, signs, inputs),
                    self.rule.epsilon,
                    part.sign,
                ),
            )
        first = self._denominator(0, signs, inputs, outputs)
        # never above zero in exact arithmetic: rounding must not turn its sign
        return self._once(
            index,
            lambda: (
                (part.complement * outputs - first + first.sign() * self.rule.epsilon)
                .clamp_(max=0)
                .sub_(self.rule.epsilon)
            ),
        )

    def _contributions(
        self, part: Part, signs: tuple[Tensor, Tensor] | None, inputs: Tensor
    ) -> Tensor:
        if signs is None or part.for_positive is part.for_negative:
            return self.layer.apply(inputs, part.for_positive, part.bias)
        total = self.layer.apply(signs[0], part.for_positive, part.bias)
        return total.add_(self.layer.apply(signs[1], part.for_negative))

    def _hand_back(
        self,
        served: list[tuple[Part, Tensor]],
        signs: tuple[Tensor, Tensor] | None,
        inputs: Tensor,
    ) -> Tensor:
        """The inputs times what all parts' signals hand down to them."""

        def gather(field: str) -> Tensor:
            total = None
            for part, signal in served:
                weight = getattr(part, field)
                total = self.layer.transpose(signal, weight, inputs, scale=part.share, onto=total)
            return total

        if signs is None or all(part.for_positive is part.for_negative for part, _ in served):
            return gather("for_positive").mul_(inputs)
        upper = gather("for_positive").mul_(signs[0])
        return upper.addcmul_(gather("for_negative"), signs[1])

    def _by_box(self, inputs: Tensor, relevance: Tensor) -> tuple[Tensor, None, Tensor | None]:
        """z^B: contributions a w - l w+ - h w-, written as (a - l) w+ + (a - h) w-.

        No term of the second form is negative for inputs within bounds, so nothing cancels.
        """
        up, down = self.layer.weight.clamp(min=0), self.layer.weight.clamp(max=0)
        above, below = inputs - self.bounds[0], inputs - self.bounds[1]
        denominator = self._once(
            "box",
            lambda: stabilise(
                self.layer.apply(above, up).add_(self.layer.apply(below, down)),
                self.rule.epsilon,
                sign=1,
            ),
        )
        signal = relevance / denominator
        result = self.layer.transpose(signal, up, inputs).mul_(above)
        result.addcmul_(self.layer.transpose(signal, down, inputs), below)
        return result, None, self._epsilon_share(signal, denominator)

    def _epsilon_share(self, signal: Tensor, denominator: Tensor) -> Tensor | None:
        return signal * denominator.sign() * self.rule.epsilon if self.state.accounts else None

    def _by_weights(self, inputs: Tensor, relevance: Tensor) -> tuple[Tensor, None, Tensor | None]:
        """Rules "flat" and "w_square": a real input counts 1, or its squared weight."""
        if self.rule.name == "flat":
            return self.layer.spread(relevance, inputs, self.support), None, None
        squared = self.layer.weight.square()
        real = torch.ones_like(inputs[:1]) if self.support is None else self.support
        real = real.expand_as(inputs[:1])
        denominator = stabilise(self.layer.apply(real, squared), self.rule.epsilon)
        signal = relevance / denominator
        result = self.layer.transpose(signal, squared, inputs) * real
        return result, None, self._epsilon_share(signal, denominator)
