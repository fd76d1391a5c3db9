"""Saliency maps after they are made: constant test, min-max, resize, smoothing, joining layers."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from salhub.errors import check_choice

COMBINATIONS = ("product", "sum", "plain_product")

# Spread below this share of a map's magnitude is rounding noise of float32 sums, not a pattern.
CONSTANT_TOLERANCE = 1e-5


def is_constant(maps: Tensor) -> Tensor:
    """True where a map says nothing: all positions equal, up to float32 rounding.

    Args:
        maps: Shape (..., H, W).

    Returns:
        Boolean tensor of shape (...).

    Example:
        >>> is_constant(torch.ones(2, 4, 4))
        tensor([True, True])
    """
    low, high = maps.amin((-2, -1)), maps.amax((-2, -1))
    return (high - low) <= CONSTANT_TOLERANCE * torch.maximum(low.abs(), high.abs())


def min_max(maps: Tensor) -> Tensor:
    """Stretches every map to [0, 1]; a constant map becomes zeros, never NaN.

    Args:
        maps: Shape (..., H, W).

    Returns:
        Same shape, each map with minimum 0 and maximum 1 (or all 0).

    Example:
        >>> min_max(torch.tensor([[[2.0, 4.0], [3.0, 2.0]]]))
        tensor([[[0.0000, 1.0000],
                 [0.5000, 0.0000]]])
    """
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    constant = is_constant(maps)[..., None, None]
    # Subtract halves first: high - low overflows for maps near the largest float.
    span = torch.where(constant, torch.ones_like(high), high / 2 - low / 2)
    return torch.where(constant, torch.zeros_like(maps), (maps / 2 - low / 2) / span)


def resize_maps(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize (corners not aligned).

    Args:
        maps: Shape (..., H, W).
        size: (height, width) in pixels.

    Returns:
        Shape (..., height, width).

    Raises:
        ValueError: When size is not two positive integers.

    Example:
        >>> resize_maps(torch.rand(2, 7, 7), (224, 224)).shape
        torch.Size([2, 224, 224])
    """
    height, width = _check_size(size)
    if tuple(maps.shape[-2:]) == (height, width):
        return maps
    planes = maps.reshape(-1, 1, *maps.shape[-2:])
    if maps.device.type != "cpu":
        resized = _bilinear(planes, (height, width))
    else:
        # One axis after the other: for the second, columns are channels of a layout in which the
        # kernel computes several at once.
        rows = _bilinear(planes, (planes.shape[-2], width))
        columns = rows.squeeze(1).unsqueeze(2).permute(0, 3, 1, 2)
        resized = _bilinear(columns, (height, 1)).permute(0, 2, 3, 1)
    return resized.reshape(*maps.shape[:-2], height, width)


def _bilinear(planes: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(planes, size=size, mode="bilinear", align_corners=False)


def gaussian_smooth(maps: Tensor, sigma: float) -> Tensor:
    """Gaussian smoothing; the border is continued by its last value.

    Args:
        maps: Shape (..., H, W).
        sigma: Standard deviation in pixels; 0 returns the maps unchanged.

    Returns:
        Same shape.

    Raises:
        ValueError: For a negative or non-finite sigma.

    Example:
        >>> gaussian_smooth(torch.rand(1, 64, 64), sigma=1.5).shape
        torch.Size([1, 64, 64])
    """
    if not math.isfinite(sigma) or sigma < 0:
        raise ValueError(f"sigma must be a finite number of pixels, 0 or more, got {sigma}.")
    if sigma == 0:
        return maps
    rows = _smoothing_matrix(maps.shape[-2], sigma, maps)
    columns = _smoothing_matrix(maps.shape[-1], sigma, maps)
    return rows @ maps @ columns.T


def _smoothing_matrix(size: int, sigma: float, like: Tensor) -> Tensor:
    """(size, size) matrix of a 1-D Gaussian filter; weights that fall outside go to the border."""
    radius = max(1, math.ceil(4 * sigma))
    offsets = torch.arange(-radius, radius + 1, device=like.device)
    weights = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    weights = weights / weights.sum()
    positions = torch.arange(size, device=like.device)[:, None]
    sources = (positions + offsets).clamp(0, size - 1)
    matrix = torch.zeros(size, size, dtype=torch.float64, device=like.device)
    matrix.scatter_add_(1, sources, weights.expand(size, -1))
    return matrix.to(like.dtype)


def layer_weights(weighting: str, count: int) -> list[float]:
    """Weights of `count` layers from shallow to deep, summing to 1.

    Args:
        weighting: "uniform" (all equal) or "linear" (proportional to 1, 2, ..., count).
        count: Number of layers, 1 or more.

    Returns:
        `count` floats.

    Raises:
        ValueError: For another weighting or no layers.

    Example:
        >>> layer_weights("linear", 3)
        [0.16666666666666666, 0.3333333333333333, 0.5]

    Source: "linear" is in the code published with Rebuffi et al. 2020; here it is normalised.
    """
    if count < 1:
        raise ValueError(f"count must be 1 or more layers, got {count}.")
    check_choice("weighting", weighting, ("uniform", "linear"))
    raw = [1.0] * count if weighting == "uniform" else [index + 1.0 for index in range(count)]
    return [value / sum(raw) for value in raw]


def normalized_weights(weights: Sequence[float], count: int) -> list[float]:
    """Checks a person's own layer weights and scales them to sum 1.

    Args:
        weights: One number per layer, 0 or more, at least one positive.
        count: Number of layers.

    Returns:
        `count` floats.

    Raises:
        ValueError: When the number, the sign or the sum is wrong.

    Example:
        >>> normalized_weights([1, 3], 2)
        [0.25, 0.75]
    """
    values = [float(weight) for weight in weights]
    if len(values) != count:
        raise ValueError(f"layer_weights needs one number per layer ({count}), got {len(values)}.")
    if not all(math.isfinite(value) and value >= 0 for value in values) or sum(values) <= 0:
        raise ValueError(
            f"layer_weights must be finite, 0 or more, with at least one positive, got {values}."
        )
    return [value / sum(values) for value in values]


def combine_layers(
    maps: Sequence[Tensor],
    weights: Sequence[float],
    rule: str = "product",
    *,
    product_eps: float = 0.0,
) -> Tensor:
    """Joins the maps of several layers, each first stretched to [0, 1].

    Args:
        maps: One tensor (..., H, W) per layer, all of one shape.
        weights: One weight per layer, summing to 1 (see `layer_weights`); "plain_product" takes
            none and ignores them.
        rule: "product" (weighted geometric mean, prod_j m_j^w_j), "sum" (sum_j w_j m_j) or
            "plain_product" (prod_j m_j).
        product_eps: Added to every map before a product so that one layer's zero does not erase
            the others; 0 is the published rule.

    Returns:
        Shape (..., H, W).

    Raises:
        ValueError: For an unknown rule, differing shapes or a wrong number of weights.

    Example:
        >>> combine_layers([torch.rand(1, 8, 8), torch.rand(1, 8, 8)], [0.5, 0.5]).shape
        torch.Size([1, 8, 8])

    Source: Rebuffi et al. 2020; "sum" and "plain_product" are in the code published with it.
    """
    check_choice("combine", rule, COMBINATIONS)
    if len({tuple(layer.shape) for layer in maps}) != 1:
        raise ValueError(
            f"maps must have the same shape, got {[tuple(layer.shape) for layer in maps]}."
        )
    scaled = [min_max(layer) for layer in maps]
    if rule == "plain_product":
        return torch.stack([layer + product_eps for layer in scaled]).prod(0)
    weights = normalized_weights(weights, len(scaled))
    if rule == "sum":
        return sum(weight * layer for weight, layer in zip(weights, scaled, strict=True))
    powers = [
        (layer + product_eps) ** weight for layer, weight in zip(scaled, weights, strict=True)
    ]
    return torch.stack(powers).prod(0)


def _check_size(size: tuple[int, int]) -> tuple[int, int]:
    values = tuple(size)
    if len(values) != 2 or not all(isinstance(value, int) and value > 0 for value in values):
        raise ValueError(f"size must be (height, width) in whole pixels above 0, got {size!r}.")
    return values
