"""The maps that an evaluation measures: the whole family at several depths from few passes."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from salhub.models.normgrad.configuration_normgrad import NormGradConfig
from salhub.models.normgrad.layer_search import SaliencyLayer
from salhub.models.normgrad.methods import INPUT_LAYER, METHODS
from salhub.models.normgrad.modeling_normgrad import NormGradForImageSaliency
from salhub.ops.maps import combine_layers, layer_weights

logger = logging.getLogger(__name__)

NUM_DEPTHS = 3
COMBINATIONS = (("product", "uniform"), ("product", "linear"), ("sum", "uniform"))
# What defines the model's own map; its size, scale and smoothing for display are left out.
OWN_SETTINGS = (
    "method",
    "extract",
    "aggregate",
    "layers",
    "layer_weights",
    "layer_weighting",
    "combine",
    "product_eps",
    "virtual_identity",
    "relu_rule",
    "contrastive",
    "meta_step",
    "meta_negate",
)
INPUT_ONLY = {"grad_x_input"}  # at other layers it is linear_approx


@dataclass(frozen=True)
class MapName:
    """One map of the family: a method and the column of the tables it belongs to."""

    method: str
    depth: str

    def __str__(self) -> str:
        return f"{self.method}/{self.depth}"


@dataclass(frozen=True)
class GridPass:
    """Methods and layers of one call of `forward_grid`, and which column each layer fills."""

    methods: tuple[str, ...]
    columns: dict[str, str]  # layer -> column


def without_postprocessing(model: NormGradForImageSaliency, **settings: Any):
    """A model that shares the network, set to return raw maps in the picture's size.

    Args:
        model: The model under evaluation, left as it is.
        **settings: Fields of the configuration; the others have their defaults.
    """
    config = NormGradConfig(
        backbone_config=model.config.backbone_config,
        backbone=model.config.backbone,
        backbone_revision=model.config.backbone_revision,
        **settings,
    )
    measured = NormGradForImageSaliency(config, backbone=model.backbone)
    measured.reshape_transform = model.reshape_transform
    return measured


def choose_depths(layers: Sequence[SaliencyLayer], count: int = NUM_DEPTHS) -> list[str]:
    """The last block at each of the coarsest resolutions, shallow to deep.

    A network of one resolution, such as a vision transformer, gives evenly spaced blocks.

    Args:
        layers: From `model.saliency_layers()`.
        count: How many depths.
    """
    blocks = [layer for layer in layers if layer.name != INPUT_LAYER and layer.has_gradient]
    last_of_size = {layer.shape[1:]: layer.name for layer in blocks}
    if len(last_of_size) >= min(count, NUM_DEPTHS):
        return list(last_of_size.values())[-count:]
    names = [layer.name for layer in blocks]
    places = [round((index + 1) * len(names) / count) - 1 for index in range(count)]
    return list(dict.fromkeys(names[max(place, 0)] for place in places))


class Family:
    """Every method of the family that fits a network, at its depths, as one explainer.

    Methods that do not fit (no linear head, no rectifiers, no convolution) are left out and listed
    in `unfit` with the reason.

    Args:
        model: The model whose network is explained; its own settings play no part.
        pixel_values: Example pictures (1, 3, H, W), to find out what fits.
        depths: Layers, shallow to deep.
        is_empty: Make no map at all, where the model's own are wanted alone.

    Attributes:
        unfit: Why methods were left out, by name.
    """

    def __init__(
        self,
        model: NormGradForImageSaliency,
        pixel_values: Tensor,
        depths: Sequence[str],
        *,
        is_empty: bool = False,
    ) -> None:
        self.model = without_postprocessing(model)
        self.depths = list(depths)
        self.unfit: dict[str, str] = {}
        wanted = [] if is_empty else self._wanted_passes(tuple(pixel_values.shape[-2:]))
        self.passes = [found for one in wanted for found in self._fitting(one, pixel_values)]

    def __call__(self, pixel_values: Tensor, class_labels: Tensor) -> dict[str, Tensor]:
        """Maps (B, T, H, W) by "method/column"."""
        maps = {}
        for grid_pass in self.passes:
            maps.update(run_grid_pass(self.model, grid_pass, pixel_values, class_labels))
        return maps

    def _wanted_passes(self, image_size: tuple[int, int]) -> list[GridPass]:
        everywhere = tuple(
            name
            for name, method in METHODS.items()
            if method.relu_rule is None
            and method.virtual_identity
            and not method.use_head_weights
            and name not in INPUT_ONLY
        )
        with_input = {INPUT_LAYER: INPUT_LAYER} | {depth: depth for depth in self.depths}
        rectified = [name for name, method in METHODS.items() if method.relu_rule is not None]
        passes = [GridPass((*everywhere, *INPUT_ONLY), with_input)]
        passes += [GridPass((name,), with_input) for name in rectified]
        all_layers = self.model.saliency_layers(image_size, blocks_only=False)
        own = last_convolutions(all_layers, self.depths)
        if own:
            passes.append(GridPass(("norm_grad_proper",), own))
        pooled = [layer.name for layer in all_layers if layer.feeds_linear_head]
        if pooled:
            passes.append(GridPass(("cam",), {pooled[-1]: self.depths[-1]}))
        return passes

    def _fitting(self, grid_pass: GridPass, pixel_values: Tensor) -> Iterator[GridPass]:
        try:
            self.model.forward_grid(
                pixel_values, methods=grid_pass.methods, layers=list(grid_pass.columns)
            )
        except ValueError as reason:
            self.unfit |= dict.fromkeys(grid_pass.methods, str(reason))
            logger.info("left out %s: %s", ", ".join(grid_pass.methods), reason)
        else:
            yield grid_pass


def run_grid_pass(
    model: NormGradForImageSaliency, grid_pass: GridPass, pixel_values: Tensor, class_labels: Tensor
) -> dict[str, Tensor]:
    """Maps of one `forward_grid` call by "method/column"; CAMs at the pixels are left out."""
    outputs = model.forward_grid(
        pixel_values, class_labels, methods=grid_pass.methods, layers=list(grid_pass.columns)
    )
    return {
        str(MapName(method, grid_pass.columns[layer])): output.saliency
        for (method, layer), output in outputs.items()
        if _is_listed(method, layer) and output.saliency is not None
    }


def _is_listed(method: str, layer: str) -> bool:
    """At the pixels only gradient methods are of use; grad_x_input is of use only there."""
    if layer == INPUT_LAYER:
        return METHODS[method].layer == INPUT_LAYER
    return method not in INPUT_ONLY


def last_convolutions(layers: Sequence[SaliencyLayer], depths: Sequence[str]) -> dict[str, str]:
    """The last convolution inside each depth's block: convolution -> depth."""
    found = {}
    for depth in depths:
        inside = [
            layer.name
            for layer in layers
            if layer.is_convolution and layer.has_gradient and layer.name.startswith(f"{depth}.")
        ]
        if inside:
            found[inside[-1]] = depth
    return found


class LayerCombinations:
    """NormGrad at single layers and their combinations, from one pass.

    Args:
        model: The model whose network is explained.
        depths: Layers to combine, shallow to deep.
    """

    def __init__(self, model: NormGradForImageSaliency, depths: Sequence[str]) -> None:
        self.model = without_postprocessing(model)
        self.depths = list(depths)

    def __call__(self, pixel_values: Tensor, class_labels: Tensor) -> dict[str, Tensor]:
        """Maps (B, T, H, W): each layer, and `COMBINATIONS` of them."""
        outputs = self.model.forward_grid(
            pixel_values, class_labels, methods=["norm_grad"], layers=self.depths
        )
        singles = {depth: outputs["norm_grad", depth].saliency for depth in self.depths}
        maps = {f"norm_grad, {depth}": single for depth, single in singles.items()}
        for rule, weighting in COMBINATIONS:
            weights = layer_weights(weighting, len(singles))
            combined = combine_layers(list(singles.values()), weights, rule)
            maps[f"norm_grad, {rule}, {weighting}"] = combined
        return maps


def own_maps(model: NormGradForImageSaliency):
    """The model's own maps in the picture's size, before smoothing and scaling, as an explainer."""
    settings = {name: getattr(model.config, name) for name in OWN_SETTINGS}
    measured = without_postprocessing(model, **settings)
    return lambda pixel_values, class_labels: measured(pixel_values, class_labels).saliency
