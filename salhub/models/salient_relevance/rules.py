"""The redistribution rules of layer-wise relevance propagation, as data.

Every rule of the first group says how much input i contributed to output j of a layer, as the
product of a_i with a modified weight; relevance is handed down in proportion. Splitting inputs by
sign makes the positive part of a contribution exact for signed inputs too:
(a w)+ = a+ w+ + a- w-.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from salhub.errors import check_choice


@dataclass(frozen=True)
class Part:
    """One way of weighing contributions, and the share of the relevance that follows it.

    Args:
        for_positive: weight that multiplies inputs above zero.
        for_negative: weight that multiplies inputs below zero; the same object where the sign of
            the input does not matter.
        bias: bias counted among the contributions, or None.
        share: factor on the relevance that this part hands down.
        outputs: which outputs it serves, by the sign of their pre-activation: "all", "positive"
            (zero included) or "negative".
        complement: c where its denominator is c times the pre-activation minus the first part's
            denominator, which saves a convolution; None where it is not.
        sign: 1 or -1 where no contribution has the other sign, else None.
    """

    for_positive: Tensor
    for_negative: Tensor
    bias: Tensor | None
    share: float = 1.0
    outputs: str = "all"
    complement: float | None = None
    sign: int | None = None


@dataclass(frozen=True)
class Rule:
    """A rule by name with its numbers.

    Args:
        name: one of `RULES`.
        epsilon: stabiliser of the denominators, added with the sign of the denominator.
        gamma: how much positive contributions are favoured (rule "gamma").
        alpha, beta: weights of positive and negative contributions (rule "alpha_beta").
    """

    name: str
    epsilon: float
    gamma: float = 0.25
    alpha: float = 1.0
    beta: float = 0.0

    def parts(self, weight: Tensor, bias: Tensor | None) -> tuple[Part, ...]:
        """The modified weights of a layer; only for the rules of `CONTRIBUTION_RULES`."""
        return CONTRIBUTION_RULES[self.name](self, weight, bias)

    @property
    def adds_up(self) -> bool:
        """Whether the contributions of its parts add up to the layer's output."""
        return self.name == "alpha_beta" and self.beta > 0

    @property
    def label(self) -> str:
        """How audits and cards write the rule."""
        if self.name == "gamma":
            return f"gamma({self.gamma:g})"
        if self.name == "alpha_beta":
            return f"alpha{self.alpha:g}beta{self.beta:g}"
        return self.name


def _positive(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.clamp(min=0)


def _negative(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.clamp(max=0)


def _plain(rule: Rule, weight: Tensor, bias: Tensor | None) -> tuple[Part, ...]:
    return (Part(weight, weight, bias),)


def _alpha_beta(rule: Rule, weight: Tensor, bias: Tensor | None) -> tuple[Part, ...]:
    up, down = _positive(weight), _negative(weight)
    parts = (Part(up, down, _positive(bias), rule.alpha, sign=1),)
    if rule.beta:
        parts += (Part(down, up, _negative(bias), -rule.beta, sign=-1),)
    return parts


def _gamma(rule: Rule, weight: Tensor, bias: Tensor | None) -> tuple[Part, ...]:
    # Favouring what agrees with the sign of the output keeps |denominator| >= |pre-activation|;
    # favouring the positive everywhere would cancel at the negative outputs of linear bottlenecks.
    more_up = weight + rule.gamma * _positive(weight)
    more_down = weight + rule.gamma * _negative(weight)
    bias_up = None if bias is None else bias + rule.gamma * _positive(bias)
    bias_down = None if bias is None else bias + rule.gamma * _negative(bias)
    return (
        Part(more_up, more_down, bias_up, outputs="positive"),
        Part(more_down, more_up, bias_down, outputs="negative", complement=2 + rule.gamma),
    )


def _positive_weights(rule: Rule, weight: Tensor, bias: Tensor | None) -> tuple[Part, ...]:
    up = _positive(weight)
    return (Part(up, up, None),)


# rule name -> modified weights; the bias is handed in as None where it shall not count
CONTRIBUTION_RULES: dict[str, Callable[..., tuple[Part, ...]]] = {
    "lrp_0": _plain,
    "epsilon": _plain,
    "z_plus": _alpha_beta,
    "alpha_beta": _alpha_beta,
    "gamma": _gamma,
    "positive_weights": _positive_weights,
}
# of these, the ones whose weights are the layer's own
PLAIN_RULES = ("lrp_0", "epsilon")
# rules that look at the weights and the possible range of the inputs, not at the inputs
RANGE_RULES = ("z_box", "flat", "w_square")
RULES = (*CONTRIBUTION_RULES, *RANGE_RULES)
_ZERO_EPSILON = 1e-9


@dataclass(frozen=True)
class RuleSet:
    """Which rule serves which type of layer.

    first: layers that read the pixels. convolution and linear: all others of that type.
    """

    first: Rule
    convolution: Rule
    linear: Rule

    @property
    def derives_weights(self) -> bool:
        """Whether some layers are run with modified weights, which are kept."""
        rules = (self.first, self.convolution, self.linear)
        return any(r.name in CONTRIBUTION_RULES and r.name not in PLAIN_RULES for r in rules)

    def rule_for(self, layer_type: str, reads_pixels: bool) -> Rule:
        """The rule of a layer; a linear layer on the pixels counts as a first layer too."""
        if reads_pixels:
            return self.first
        return self.linear if layer_type == "linear" else self.convolution


# preset -> (first layer, convolutions, linear layers), and (alpha, beta)
PRESETS: dict[str, tuple[tuple[str, str, str], tuple[float, float]]] = {
    "deep_taylor": (("z_box", "z_plus", "z_plus"), (1.0, 0.0)),
    "sr_reference": (("lrp_0", "lrp_0", "positive_weights"), (1.0, 0.0)),
    "epsilon_plus": (("z_plus", "z_plus", "epsilon"), (1.0, 0.0)),
    "epsilon_plus_flat": (("flat", "z_plus", "epsilon"), (1.0, 0.0)),
    "epsilon_gamma_box": (("z_box", "gamma", "epsilon"), (1.0, 0.0)),
    "epsilon_alpha2_beta1_flat": (("flat", "alpha_beta", "epsilon"), (2.0, 1.0)),
}


def rule_set(
    preset: str = "deep_taylor",
    *,
    epsilon: float = 1e-6,
    gamma: float = 0.25,
    alpha: float | None = None,
    beta: float | None = None,
    first_rule: str | None = None,
    convolution_rule: str | None = None,
    linear_rule: str | None = None,
) -> RuleSet:
    """The rules of a preset, with single layer types overridden by name.

    Args:
        preset: one of `PRESETS`.
        epsilon: stabiliser of every denominator except those of rule "lrp_0" (1e-9).
        gamma: strength of rule "gamma".
        alpha, beta: of rule "alpha_beta", alpha - beta = 1; None takes the preset's own.
        first_rule, convolution_rule, linear_rule: names that replace the preset's.

    Raises:
        ValueError: for an unknown name, or alpha - beta other than 1.

    Example:
        >>> rule_set("epsilon_plus").linear.name
        'epsilon'
    """
    check_choice("preset", preset, PRESETS)
    names, (own_alpha, own_beta) = PRESETS[preset]
    alpha = own_alpha if alpha is None else alpha
    beta = own_beta if beta is None else beta
    if not (abs(alpha - beta - 1) <= 1e-6 and beta >= 0):
        raise ValueError(
            "alpha - beta must be 1 with beta >= 0, otherwise relevance is not conserved; "
            f"got alpha={alpha} and beta={beta}."
        )
    given = {"first_rule": first_rule, "convolution_rule": convolution_rule}
    given["linear_rule"] = linear_rule
    rules = []
    for (field, override), own in zip(given.items(), names, strict=True):
        name = own if override is None else override
        _check_rule(field, name)
        # z_plus is alpha 1, beta 0 by definition
        weights = (1.0, 0.0) if name == "z_plus" else (alpha, beta)
        stabiliser = _ZERO_EPSILON if name == "lrp_0" else epsilon
        rules.append(Rule(name, stabiliser, gamma, *weights))
    return RuleSet(*rules)


def _check_rule(field: str, name: str) -> None:
    check_choice(field, name, RULES)
    if name == "z_box" and field != "first_rule":
        raise ValueError(
            f"{field}='z_box' needs bounded inputs, and only pixels have bounds; use it as "
            "first_rule."
        )
