"""From the layers' own maps to what the model returns: joined, resized, smoothed, scaled."""

import logging
from collections.abc import Sequence
from itertools import compress

import torch
from torch import Tensor

from salhub.metrics.class_sensitivity import class_sensitivity
from salhub.models.normgrad.configuration_normgrad import NormGradConfig
from salhub.models.normgrad.saliency_pass import PassResult
from salhub.ops.maps import (
    combine_layers,
    gaussian_smooth,
    is_constant,
    layer_weights,
    min_max,
    normalized_weights,
    resize_maps,
)
from salhub.outputs import ImageSaliencyOutput

logger = logging.getLogger(__name__)

# Maps are smooth at this many places a side; ranking each pixel would take longer than the map.
_COMPARED_SIDE = 56
# Two maps of which this much agrees are taken for one by whoever looks at them.
ALIKE = 0.8


def finish_maps(
    config: NormGradConfig,
    maps: list[Tensor],
    depths: Sequence[int],
    image_size: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """Joins, resizes, smooths and scales; constant maps become zeros, in `maps` too.

    Args:
        config: The model's configuration.
        maps: One (B, T, h, w) a layer.
        depths: Place of each layer in the order of the forward pass.
        image_size: (height, width) of the pictures.

    Returns:
        Maps (B, T, height, width) in the configured size, and where they are constant, (B, T).
    """
    constant = [is_constant(one) for one in maps]
    for one, is_flat in zip(maps, constant, strict=True):
        one.masked_fill_(is_flat[..., None, None], 0.0)
    size = _output_size(config, maps, image_size)
    resized = [resize_maps(one, size) for one in maps]
    saliency = resized[0]
    if len(maps) > 1:
        weights = _weights(config, depths)
        saliency = combine_layers(resized, weights, config.combine, product_eps=config.product_eps)
    saliency = gaussian_smooth(saliency, config.smooth_sigma * max(size))
    if len(maps) == 1 and config.smooth_sigma == 0 and not _loses_values(maps[0], size):
        degenerate = constant[0]
    else:
        degenerate = is_constant(saliency)
        if bool(degenerate.any()):
            saliency = saliency.masked_fill(degenerate[..., None, None], 0.0)
    return (min_max(saliency) if config.normalize == "minmax" else saliency), degenerate


def _loses_values(native: Tensor, size: tuple[int, int]) -> bool:
    """True where resizing passes over some of the values, so that it may leave a constant."""
    return size[0] < native.shape[-2] or size[1] < native.shape[-1]


def _output_size(
    config: NormGradConfig, maps: list[Tensor], image_size: tuple[int, int]
) -> tuple[int, int]:
    if config.output_size == "input":
        return image_size
    if config.output_size == "native":
        return max((tuple(one.shape[-2:]) for one in maps), key=lambda size: size[0] * size[1])
    return tuple(config.output_size)


def _weights(config: NormGradConfig, depths: Sequence[int]) -> list[float]:
    if config.weighting in ("probe", "custom"):
        return normalized_weights(config.layer_weights, len(depths))
    by_depth = layer_weights(config.weighting, len(depths))
    ranks = sorted(depths)
    return [by_depth[ranks.index(depth)] for depth in depths]


def build_outputs(
    finished: tuple[Tensor, Tensor],
    native: Tensor | None,
    result: PassResult,
    *,
    keep_classes: bool,
) -> list[ImageSaliencyOutput]:
    """Packs what `finish_maps` gave, dropping the class axis unless it is to be kept.

    Args:
        finished: As of `finish_maps`, for one map or for several maps after one another.
        native: The same maps in the layers' own resolution.
        result: The pass they are of.
        keep_classes: Several classes were asked for.

    Returns:
        One output for each map of all pictures.
    """
    labels = drop_class_axis(result.class_labels, keep_classes)
    saliency, degenerate, own = (
        None if one is None else drop_class_axis(one, keep_classes).split(len(labels))
        for one in (*finished, native)
    )
    return [
        ImageSaliencyOutput(
            saliency=saliency[index],
            logits=result.scores,
            class_labels=labels,
            degenerate=degenerate[index],
            native_saliency=None if own is None else own[index],
        )
        for index in range(len(saliency))
    ]


def take_comparison(
    finished: tuple[Tensor, Tensor], maps: list[Tensor], result: PassResult
) -> tuple[Tensor, tuple[Tensor, Tensor], list[Tensor]]:
    """Tell the maps of the classes that were asked for from those they are compared with.

    Args:
        finished: As of `finish_maps`, (B, 2, height, width) and (B, 2).
        maps: One (B, 2, h, w) a layer.
        result: Of a pass that `compares`; its labels are cut to those asked for.

    Returns:
        How alike both maps are, float64 (B,), see `class_sensitivity`; and the other arguments
        with an axis of one class.
    """
    result.class_labels = result.class_labels[:, :1]
    step = [max(1, side // _COMPARED_SIDE) for side in finished[0].shape[-2:]]
    seen = finished[0][..., :: step[0], :: step[1]]
    similarity = class_sensitivity(seen[:, 0], seen[:, 1]).rho
    first, degenerate = (one[:, :1] for one in finished)
    return similarity, (first, degenerate), [one[:, :1] for one in maps]


def words_on_similarity(similarity: float | None, label: str) -> list[str]:
    """Say that a map hardly depends on the class, and what does; see `class_notes`."""
    if similarity is None or not similarity >= ALIKE:  # NaN: one of the maps says nothing
        return []
    return [
        "This map hardly depends on the class: the map of another class is nearly the same "
        f"(rank correlation {similarity:.2f}). To see what speaks for '{label}', use "
        "method='grad_cam'."
    ]


def silent_layers(layers: list[str], maps: list[Tensor], *, keep_classes: bool) -> tuple | None:
    """Name those of several layers that add nothing, as their own maps (B, T, h, w) are constant.

    Returns:
        A tuple of names a picture, or one a class of each picture; None for the map of one layer.
    """
    if len(maps) == 1:
        return None
    constant = torch.stack([is_constant(one) for one in maps], dim=-1).tolist()
    silent = [[tuple(compress(layers, one)) for one in picture] for picture in constant]
    return tuple(tuple(picture) if keep_classes else picture[0] for picture in silent)


def words_on_silent(layers: Sequence[str]) -> list[str]:
    """Say which layers a map has nothing of; see `layer_notes`."""
    if not layers:
        return []
    return [
        f"Nothing to show at {', '.join(layers)}: the gradient there is zero or the same "
        "everywhere, or the channels cancel, as before a LayerNorm. This map uses only the "
        "other layers."
    ]


def words_on_constant() -> list[str]:
    """Say why a map can be constant, and what to do; see `constant_notes`."""
    return [
        "Nothing to show at this layer: its gradient is zero or the same everywhere, the "
        "method removes negative values, or the channels cancel, as before a LayerNorm. "
        "Leave layers out, or set method='norm_grad'."
    ]


def warn_degenerate(outputs: dict[tuple[str, str], ImageSaliencyOutput]) -> None:
    """Count the maps that say nothing in the log; keys are a method and where it was used."""
    maps = torch.stack([output.degenerate for output in outputs.values()]).flatten(1)
    for (method, layers), count in zip(outputs, maps.sum(1).tolist(), strict=True):
        if count:
            logger.warning(
                "%d of %d maps of %s at %s are constant and were set to zero. %s",
                count,
                maps.shape[1],
                method,
                layers,
                *words_on_constant(),
            )


def asks_for_several(class_labels: Tensor | Sequence | int | None) -> bool:
    """True when the caller asked for several classes a picture, (B, T)."""
    return class_labels is not None and torch.as_tensor(class_labels).ndim == 2


def drop_class_axis(values: Tensor, keep_classes: bool) -> Tensor:
    """Removes the class axis of (B, 1, ...) where one class a picture was asked for."""
    return values if keep_classes else values.squeeze(1)
