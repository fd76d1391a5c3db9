"""Configuration of salient relevance maps."""

from typing import Any, Literal

from salhub.config_fields import LARGEST_SIDE, ranged
from salhub.configuration import strict
from salhub.explaining.configuration_explained_classifier import (
    ExplainedClassifierConfig,
)
from salhub.models.salient_relevance.rules import RuleSet, rule_set

# Of normalised pixels, whose values are a few units.
_PIXELS = {"least": -(10**6), "most": 10**6}


@strict
class SalientRelevanceConfig(ExplainedClassifierConfig):
    """Settings of `SalientRelevanceForImageSaliency`: relevance rules, then context-aware saliency.

    Args:
        preset: Rules of all layer types: "deep_taylor" (z+ everywhere, z^B on the pixels),
            "sr_reference" (as in the code published with the paper, instabilities included),
            "epsilon_plus", "epsilon_plus_flat", "epsilon_gamma_box", "epsilon_alpha2_beta1_flat".
        first_rule: Rule of layers that read the pixels, instead of the preset's: "lrp_0",
            "epsilon", "z_plus", "alpha_beta", "gamma", "positive_weights", "flat", "w_square" or
            "z_box".
        convolution_rule: Rule of all other convolutions, instead of the preset's.
        linear_rule: Rule of linear layers, instead of the preset's.
        epsilon: Added to denominators with their own sign, so that none is zero.
        gamma: How much the rule "gamma" favours contributions with the sign of the output.
        alpha: Weight of positive contributions in rule "alpha_beta"; None is the preset's.
        beta: Weight of negative ones; alpha - beta must be 1.
        bias_relevance: How the relevance of biases is handled: "absorb" keeps it out of the map,
            "ignore" leaves biases out of the denominators, "uniform" spreads it over the layer's
            inputs, which conserves all of it. The constant of a softmax counts as a bias that is
            never ignored; a signal that is constant, such as a class token, keeps its share, or
            with "uniform" passes it to the signals next to it.
        start: Relevance of the explained class at the output: "logit" (its score), "one", or
            "softmax_contrast" (1, minus the softmax over all other classes).
        contrast: "others" subtracts, pixel by pixel, the map of the mean of all other classes,
            each started at 1 and scaled to sum 1 in magnitude; use it to tell classes apart when
            maps of positive rules are nearly the same for all of them. "none" does not subtract
            anything.
        input_low: Lowest possible pixel value of each channel after normalization, needed by
            "z_box".
        input_high: Highest possible pixel value of each channel.
        relevance_image: Picture of the relevance that the second stage reads: "pos_sum" (sum over
            channels, negative parts cut), "abs_sum" (sum of magnitudes) or "abs_rgb" (magnitudes
            as colours). None is "abs_rgb" for "sr_reference" and "pos_sum" otherwise.
        relevance_levels: Round that picture down to this number of levels, 256 in the published
            code; 0 does not round. None is 256 for "sr_reference" and 0 otherwise.
        context_max_side: Longer side at which the second stage works; None keeps the picture's own
            size.
        context_patch_size: Side of its patches in pixels.
        context_stride: Step between patches.
        context_neighbors: Number of most similar patches that are averaged (K).
        context_position_weight: How much far patches count as similar (c).
        context_scales: Scales at which patches are judged (r).
        context_query_scales: Scales of their candidates, relative to r.
        context_min_scale: Coarsest scale of a candidate.
        foci_threshold: Normalized saliency above which a pixel attracts its surroundings and
            `attended_mask` is true.
        use_center_prior: Multiply by a Gaussian centred on the picture.

    Raises:
        ValueError: An unknown name, or values that contradict each other.

    Example:
        >>> SalientRelevanceConfig(preset="epsilon_plus").rules.convolution.name
        'z_plus'

    Source: Li et al. 2019 (arXiv 1712.08268), and Achtibat et al. 2024 (arXiv 2402.05602) for
    attention and normalisation; Goferman et al. 2012 for the second stage, whose
    patch overlap, normalisation and border are open and documented at
    `salhub.context_aware_saliency`. Presets other than "sr_reference", the default
    `relevance_image`, `bias_relevance` and `contrast` are decisions of this library.
    """

    model_type = "salhub_salient_relevance"

    preset: str = "deep_taylor"
    first_rule: str | None = None
    convolution_rule: str | None = None
    linear_rule: str | None = None
    epsilon: float | int = ranged(1e-6, least=1e-30, most=10**6)
    gamma: float | int = ranged(0.25, above=0, most=10**6)
    alpha: float | int | None = ranged(None, least=1, most=10**6)
    beta: float | int | None = ranged(None, least=0, most=10**6)
    bias_relevance: Literal["absorb", "ignore", "uniform"] = "absorb"
    start: Literal["logit", "one", "softmax_contrast"] = "logit"
    contrast: Literal["none", "others"] = "none"
    input_low: list[float | int] | tuple[float | int, ...] | None = ranged(None, **_PIXELS)
    input_high: list[float | int] | tuple[float | int, ...] | None = ranged(None, **_PIXELS)
    relevance_image: Literal["pos_sum", "abs_sum", "abs_rgb"] | None = None
    relevance_levels: int | None = None
    context_max_side: int | None = ranged(224, least=1, most=2048)
    context_patch_size: int = ranged(7, least=1, most=128)
    context_stride: int = ranged(3, least=1, most=LARGEST_SIDE)
    context_neighbors: int = ranged(64, least=1, most=2**16)
    context_position_weight: float | int = ranged(3.0, least=0, most=10**6)
    context_scales: list[float | int] | tuple[float | int, ...] = ranged(
        (1.0, 0.8, 0.5, 0.3), above=0, most=1
    )
    context_query_scales: list[float | int] | tuple[float | int, ...] = ranged(
        (1.0, 0.5, 0.25), above=0, most=1
    )
    context_min_scale: float | int = ranged(0.2, least=0, most=1)
    foci_threshold: float | int = ranged(0.8, least=0, below=1)
    use_center_prior: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        """Make tuples lists, so that a saved configuration equals the one that was saved."""
        for name in ("input_low", "input_high", "context_scales", "context_query_scales"):
            if isinstance(getattr(self, name), tuple):
                setattr(self, name, list(getattr(self, name)))
        super().__post_init__(**kwargs)

    @property
    def rules(self) -> RuleSet:
        """The rule of every layer type."""
        return rule_set(
            self.preset,
            epsilon=self.epsilon,
            gamma=self.gamma,
            alpha=self.alpha,
            beta=self.beta,
            first_rule=self.first_rule,
            convolution_rule=self.convolution_rule,
            linear_rule=self.linear_rule,
        )

    @property
    def image_kind(self) -> str:
        """The relevance picture in force: "pos_sum", "abs_sum" or "abs_rgb"."""
        own = "abs_rgb" if self.preset == "sr_reference" else "pos_sum"
        return own if self.relevance_image is None else self.relevance_image

    @property
    def image_levels(self) -> int:
        """The number of levels in force, 0 for no rounding."""
        own = 256 if self.preset == "sr_reference" else 0
        return own if self.relevance_levels is None else self.relevance_levels

    def validate_rules(self) -> None:
        """Names must be known and numbers must conserve relevance."""
        rules = self.rules
        used = {rules.first.name, rules.convolution.name, rules.linear.name}
        for name, rule in (("alpha", "alpha_beta"), ("beta", "alpha_beta")):
            if getattr(self, name) is not None and rule not in used:
                raise ValueError(
                    f"{name}={getattr(self, name)} has no effect: no layer uses rule '{rule}'. Set "
                    "convolution_rule='alpha_beta', or leave it out."
                )

    def validate_start(self) -> None:
        """Other classes are subtracted once, and pictures have levels that files can hold."""
        if self.contrast == "others" and self.start == "softmax_contrast":
            raise ValueError(
                "contrast='others' and start='softmax_contrast' both subtract the other classes; "
                "use one of them."
            )
        if self.relevance_levels not in (None, 0) and not 2 <= self.relevance_levels <= 65536:
            raise ValueError(
                f"relevance_levels must be 0 or from 2 to 65536, got {self.relevance_levels}."
            )

    def validate_bounds(self) -> None:
        """Both bounds or none, one number a channel, low below high."""
        low, high = self.input_low, self.input_high
        if low is None and high is None:
            return
        if low is None or high is None or len(low) != len(high) or not low:
            raise ValueError(
                "input_low and input_high must both be given, one number per channel each, "
                f"got {low} and {high}."
            )
        if not all(a < b for a, b in zip(low, high, strict=True)):
            raise ValueError(f"input_low must be below input_high, got {low} and {high}.")

    def validate_context(self) -> None:
        """Settings of the second stage."""
        side = self.context_max_side
        if side is not None and side < self.context_patch_size:
            raise ValueError(
                f"context_max_side must be None or at least {self.context_patch_size}, got {side}."
            )
        for name in ("context_scales", "context_query_scales"):
            if not getattr(self, name):
                raise ValueError(f"{name} must be one or more numbers, got none.")
        if max(self.context_scales) * max(self.context_query_scales) < self.context_min_scale:
            raise ValueError(
                f"no scale reaches context_min_scale={self.context_min_scale}: context_scales are "
                f"{self.context_scales}."
            )
