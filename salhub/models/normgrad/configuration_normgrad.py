"""Configuration of the extract/aggregate family."""

import dataclasses
from typing import Any, Literal

from salhub.config_fields import LARGEST_SIDE, ranged
from salhub.configuration import strict
from salhub.explaining.configuration_explained_classifier import (
    ExplainedClassifierConfig,
)
from salhub.models.normgrad.extract_aggregate import Aggregate, Extract
from salhub.models.normgrad.methods import MapMethod, method_named
from salhub.ops.maps import normalized_weights

# What is saved belongs together: details to their method, layers too (Grad-CAM is near chance where
# NormGrad is at its best), and weights to their layers.
_METHOD_FIELDS = frozenset({"extract", "aggregate", "relu_rule", "virtual_identity"})
_WEIGHT_FIELDS = frozenset({"layer_weights", "layer_weighting"})


@strict
class NormGradConfig(ExplainedClassifierConfig):
    """Settings of `NormGradForImageSaliency`: which saliency method, where, and how it is shown.

    `method` names a published method and fills `extract`, `aggregate`, `relu_rule` and
    `virtual_identity`; a field set beside it wins, and one that contradicts it is refused.

    Args:
        method: Published method: "norm_grad", "norm_grad_selective", "norm_grad_proper",
            "gradient", "gradient_sum", "deconvnet", "guided_backprop", "grad_x_input",
            "linear_approx", "hires_cam", "cam", "grad_cam", "grad_cam_signed".
        extract: Imagined layer whose parameter gradient is used: "bias", "scaling", "conv1x1",
            "conv3x3" or "conv3x3_depthwise".
        aggregate: How a position's share becomes one number: "sum", "norm", "filter_norm", "max",
            "max_abs" or "abs_sum".
        layers: Names of the layers, as in `model.saliency_layers()`; "input" is the pixels. None
            chooses one by probing the network. If you load a saved model with another `method`,
            its layers and other method settings are reset unless you give them too.
        layer_weights: One weight (w_j) per layer, 0 or more; scaled to sum 1.
        layer_weighting: "uniform", "linear" (deeper layers weigh more), "probe" (accuracy of a
            linear probe, see `fit_layer_weights`) or "custom" (`layer_weights` as given). None is
            "custom" with `layer_weights` and "uniform" without.
        combine: How several layers are combined: "product" (the published weighted geometric
            mean), "sum" or "plain_product".
        product_eps: Added to each layer's map before a product; 0 is the published rule, where a
            zero in one layer gives a zero in the result.
        virtual_identity: True uses an imagined identity layer after each layer, False the layer's
            own convolution.
        relu_rule: How gradients pass rectifiers: None (true gradient), "deconvnet" or "guided".
        contrastive: Explain the class against the mean of all others.
        meta_step: Step size (eps) of one gradient step on the network, per picture, before the map
            is made; 0 is none. The published code uses 1e-4 to 2.5e-3.
        meta_negate: Increase the loss in the meta step instead of decreasing it.
        output_size: "input" (the picture's size), "native" (the layer's) or (height, width).
        normalize: None, or "minmax" to stretch each map to [0, 1].
        smooth_sigma: Gaussian smoothing, as a fraction of the map's longer side; 0 is none. The
            published pointing game uses 0.02 for maps at the input.

    Raises:
        ValueError: An unknown name, or fields that contradict each other.

    Example:
        >>> NormGradConfig(method="norm_grad", layers=["blocks.10", "blocks.15"]).recipe.extract
        'conv1x1'

    Source: Rebuffi et al. 2020 (arXiv 2004.02866). `product_eps`, `contrastive`, "probe" by
    leave-one-out ridge regression and per-picture `meta_step` are decisions of this library.
    """

    model_type = "salhub_normgrad"

    method: str = "norm_grad"
    extract: Extract | None = None
    aggregate: Aggregate | None = None
    layers: list[str] | tuple[str, ...] | str | None = None
    layer_weights: list[float | int] | tuple[float | int, ...] | None = ranged(
        None, least=0, most=10**6
    )
    layer_weighting: Literal["uniform", "linear", "probe", "custom"] | None = None
    combine: Literal["product", "sum", "plain_product"] = "product"
    product_eps: float | int = ranged(0.0, least=0, most=1)
    virtual_identity: bool | None = None
    relu_rule: Literal["deconvnet", "guided"] | None = None
    contrastive: bool = False
    meta_step: float | int = ranged(0.0, least=0, most=1000)
    meta_negate: bool = False
    output_size: str | list[int] | tuple[int, int] = ranged("input", least=1, most=LARGEST_SIDE)
    normalize: Literal["minmax"] | None = None
    smooth_sigma: float | int = ranged(
        0.0, least=0, most=1, hint="it is a fraction of the map's longer side (published: 0.02)"
    )

    def __post_init__(self, **kwargs: Any) -> None:
        """Accepts one layer as a plain string and tuples for lists."""
        if isinstance(self.layers, str | tuple):
            self.layers = [self.layers] if isinstance(self.layers, str) else list(self.layers)
        if isinstance(self.layer_weights, tuple):
            self.layer_weights = list(self.layer_weights)
        if isinstance(self.output_size, tuple):
            self.output_size = list(self.output_size)
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As for every one; what was saved for another method or other layers is dropped."""
        saved = config_dict.get("method", cls.method)
        forgotten: frozenset[str] = frozenset()
        if kwargs.get("method", saved) != saved:
            forgotten = _METHOD_FIELDS | {"layers"}
        if "layers" in kwargs or "layers" in forgotten:
            forgotten |= _WEIGHT_FIELDS
        config_dict = {key: value for key, value in config_dict.items() if key not in forgotten}
        return super().from_dict(config_dict, **kwargs)

    @property
    def recipe(self) -> MapMethod:
        """The method with every field filled in."""
        named = method_named(self.method)
        given = {
            name: getattr(self, name)
            for name in ("extract", "aggregate", "relu_rule", "virtual_identity")
            if getattr(self, name) is not None
        }
        if given.get("virtual_identity") is False:
            given["layer"] = "convolution"
        return dataclasses.replace(named, **given)

    @property
    def weighting(self) -> str:
        """The layer weighting in force: "uniform", "linear", "probe" or "custom"."""
        if self.layer_weighting is not None:
            return self.layer_weighting
        return "uniform" if self.layer_weights is None else "custom"

    def validate_method(self) -> None:
        """The method and the fields beside it must be known and agree."""
        named = method_named(self.method)
        for name in ("extract", "aggregate"):
            given, own = getattr(self, name), getattr(named, name)
            if named.is_fixed and given not in (None, own):
                raise ValueError(
                    f"method '{self.method}' is defined by {name}='{own}', got '{given}'; leave "
                    f"{name} out, or start from method='linear_approx'."
                )
        if named.relu_rule is not None and self.relu_rule not in (None, named.relu_rule):
            raise ValueError(
                f"method '{self.method}' is defined by relu_rule='{named.relu_rule}', got "
                f"'{self.relu_rule}'; leave relu_rule out, or start from method='gradient'."
            )
        if named.use_head_weights and self.relu_rule is not None:
            raise ValueError("method 'cam' uses no gradient, so relu_rule must be None.")

    def validate_virtual_identity(self) -> None:
        """The layer's own convolution fixes what is extracted."""
        named = method_named(self.method)
        if not named.virtual_identity and self.virtual_identity:
            raise ValueError(
                f"method '{self.method}' uses the layer's own convolution, which contradicts "
                "virtual_identity=True; use method='norm_grad'."
            )
        proper = self.virtual_identity is False or not named.virtual_identity
        if not proper:
            return
        if named.extract != "conv1x1":
            raise ValueError(
                "virtual_identity=False uses the layer's own convolution, which method "
                f"'{self.method}' does not use; choose method='norm_grad'."
            )
        if self.extract is not None:
            raise ValueError(
                "virtual_identity=False extracts the layer's own convolution; "
                f"extract='{self.extract}' contradicts it; leave it out."
            )

    def validate_layers(self) -> None:
        """Layer names must be distinct, and weights must match them."""
        if self.layers is not None:
            if not self.layers or not all(self.layers):
                raise ValueError(f"layers must name at least one layer, got {self.layers!r}.")
            if len(set(self.layers)) != len(self.layers):
                raise ValueError(f"layers names a layer twice: {self.layers!r}.")
        self._check_weights()
        if self.product_eps > 0 and self.combine == "sum":
            raise ValueError("product_eps has no effect with combine='sum'; leave it at 0.")

    def _check_weights(self) -> None:
        if self.combine == "plain_product" and self.weighting != "uniform":
            raise ValueError(
                "combine='plain_product' does not support layer weights; use "
                "combine='product' for a weighted product."
            )
        if self.layer_weights is None:
            if self.layer_weighting == "custom":
                raise ValueError("layer_weighting='custom' needs layer_weights.")
            return
        if self.weighting in ("uniform", "linear"):
            raise ValueError(
                f"layer_weights contradicts layer_weighting='{self.layer_weighting}'; give one of "
                "the two."
            )
        if self.layers is None:
            raise ValueError("layer_weights needs layers, one weight for each.")
        normalized_weights(self.layer_weights, len(self.layers))

    def validate_meta_step(self) -> None:
        """A direction without a step is a mistake."""
        if self.meta_negate and self.meta_step == 0:
            raise ValueError("meta_negate needs meta_step above 0.")

    def validate_output(self) -> None:
        """The size of the returned map is a word, or two sides."""
        size = self.output_size
        is_size = not isinstance(size, str) and len(size) == 2
        if not is_size and size not in ("input", "native"):
            raise ValueError(
                f"output_size must be 'input', 'native' or (height, width) in pixels, got {size!r}."
            )
