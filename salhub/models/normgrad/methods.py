"""The published saliency methods as points of one grid: extract x aggregate x layer x ReLU rule."""

from dataclasses import dataclass

from salhub.errors import UnknownNameError, did_you_mean
from salhub.models.normgrad.extract_aggregate import check_pair

INPUT_LAYER = "input"


@dataclass(frozen=True)
class MapMethod:
    """How one saliency map is made from a layer's activation and gradient.

    Args:
        name: What a person calls it.
        extract: Parameters whose gradient is looked at, of `extract_aggregate.EXTRACTS`.
        aggregate: How a position's share becomes one number, of its `AGGREGATES`.
        layer: Where it is used when no layer is named: "input" (the pixels), "block" (the last
            block with a gradient), "summed" (the last whose channels do not cancel in the sum),
            "convolution" (the last convolution) or "features" (the maps that are averaged for the
            linear head).
        relu_rule: How gradients pass rectifiers: None (the true gradient), "deconvnet" or "guided".
        virtual_identity: False to look at the layer's own convolution instead of an imagined one.
        use_average_gradient: Average the gradient over the positions first (Grad-CAM).
        use_head_weights: Use the linear head's weights in place of the gradient (CAM).
        do_rectify: Set negative values of the map to 0.
    """

    name: str
    extract: str
    aggregate: str
    layer: str = "block"
    relu_rule: str | None = None
    virtual_identity: bool = True
    use_average_gradient: bool = False
    use_head_weights: bool = False
    do_rectify: bool = False

    @property
    def is_fixed(self) -> bool:
        """True where extract and aggregate are part of the definition and cannot be changed."""
        return self.use_average_gradient or self.use_head_weights or self.do_rectify

    @property
    def pair(self) -> tuple[str, str]:
        """(extract, aggregate)."""
        return self.extract, self.aggregate

    @property
    def is_of_identity(self) -> bool:
        """True where the map is that of `pair` with the layer's own gradient."""
        return self.virtual_identity and not (self.use_average_gradient or self.use_head_weights)


# Rebuffi et al. 2020, and the earlier methods that are points of its grid.
METHODS: dict[str, MapMethod] = {
    method.name: method
    for method in (
        MapMethod("norm_grad", "conv1x1", "norm"),
        MapMethod("norm_grad_selective", "scaling", "filter_norm"),
        MapMethod("norm_grad_proper", "conv1x1", "norm", "convolution", virtual_identity=False),
        MapMethod("gradient", "bias", "max_abs", "input"),
        # At the last block it would be constant in every network that averages there.
        MapMethod("gradient_sum", "bias", "sum", "input"),
        MapMethod("deconvnet", "bias", "max_abs", "input", relu_rule="deconvnet"),
        MapMethod("guided_backprop", "bias", "max_abs", "input", relu_rule="guided"),
        MapMethod("grad_x_input", "scaling", "sum", "input"),
        MapMethod("linear_approx", "scaling", "sum", "summed"),
        MapMethod("hires_cam", "scaling", "sum", "summed", do_rectify=True),
        MapMethod("cam", "scaling", "sum", "features", use_head_weights=True),
        MapMethod("grad_cam", "scaling", "sum", use_average_gradient=True, do_rectify=True),
        # Ours: Grad-CAM before its rectifier, which leaves nothing to compare for unlikely classes.
        MapMethod("grad_cam_signed", "scaling", "sum", use_average_gradient=True),
    )
}


def method_named(name: str) -> MapMethod:
    """Returns the method of that name.

    Raises:
        UnknownNameError: No method is called that.

    Example:
        >>> method_named("norm_grad").aggregate
        'norm'
    """
    if name not in METHODS:
        raise UnknownNameError(
            f"method must be one of {', '.join(METHODS)}, got {name!r}."
            f"{did_you_mean(name, METHODS)}"
        )
    return METHODS[name]


def method_of(name_or_pair: str | tuple[str, str]) -> MapMethod:
    """Returns a named method, or the unnamed one of an (extract, aggregate) pair.

    Args:
        name_or_pair: A key of `METHODS`, or a pair such as ("conv3x3", "max"), which is then
            called "conv3x3/max".

    Raises:
        ValueError: Unknown method, extract or aggregate.

    Example:
        >>> method_of(("conv3x3", "max")).name
        'conv3x3/max'
    """
    if isinstance(name_or_pair, str):
        return method_named(name_or_pair)
    if not isinstance(name_or_pair, tuple | list) or len(name_or_pair) != 2:
        raise TypeError(
            "a method is a name or an (extract, aggregate) pair, got "
            f"{type(name_or_pair).__name__} {name_or_pair!r}."
        )
    extract, aggregate = name_or_pair
    check_pair(extract, aggregate)
    return MapMethod(f"{extract}/{aggregate}", extract, aggregate)
