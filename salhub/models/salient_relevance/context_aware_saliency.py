"""Context-aware saliency: what is unlike its surroundings, in any picture or heat map.

A patch is salient when even its most similar patches in the same picture, at the same and at
coarser scales, look different, and more so when those are near. There is nothing to learn and
nothing to download. The result is exact: the 64 nearest of several thousand candidates are found
for every patch, by blocked matrix products and a two-step selection, not by approximation.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from salhub.models.salient_relevance.distance_transform import distance_to_mask
from salhub.models.salient_relevance.patch_grids import (
    PatchGrid,
    PatchPyramid,
    mean_nearest_distance,
    resize,
)
from salhub.ops.lab_color import (
    relative_luminance_to_lightness,
    srgb_to_lab,
    srgb_to_linear,
)
from salhub.ops.maps import min_max

# Below this range a map is rounding noise, and min-max normalisation would blow it up to [0, 1].
_FLAT_RANGE = 1e-6


class ContextAwareSaliency(NamedTuple):
    """What `context_aware_saliency` returns; the batch axis is absent for a single picture.

    saliency: (B, H, W) float32 in [0, 1], drawn towards the foci of attention (S-hat).
    context_saliency: (B, H, W) float32 in [0, 1], mean over scales before the foci (S-bar).
    attended_mask: (B, H, W) bool, where `saliency` exceeds the foci threshold.
    degenerate: (B,) bool, True where the picture has no structure and the maps are all zero.
    """

    saliency: Tensor
    context_saliency: Tensor
    attended_mask: Tensor
    degenerate: Tensor


@dataclass(frozen=True)
class _Settings:
    max_side: int | None
    patch_size: int
    stride: int
    neighbors: int
    position_weight: float
    scales: tuple[float, ...]
    query_scales: tuple[float, ...]
    min_scale: float
    foci_threshold: float
    center_prior: bool
    color_space: str
    color_normalizer: float | None
    foci_normalizer: str
    chunk_size: int

    def __post_init__(self) -> None:
        for name in ("patch_size", "stride", "neighbors", "chunk_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.max_side is not None and self.max_side < self.patch_size:
            raise ValueError(f"max_side must be None or at least patch_size, got {self.max_side}.")
        if not (self.position_weight >= 0 and math.isfinite(self.position_weight)):
            raise ValueError(f"position_weight must be 0 or more, got {self.position_weight}.")
        if not 0 <= self.foci_threshold < 1:
            raise ValueError(f"foci_threshold must be in [0, 1), got {self.foci_threshold}.")
        if self.color_normalizer is not None and not self.color_normalizer > 0:
            raise ValueError(
                f"color_normalizer must be None or above 0, got {self.color_normalizer}."
            )
        self._check_choice("color_space", ("lab", "raw"))
        self._check_choice("foci_normalizer", ("max", "side"))
        for name in ("scales", "query_scales"):
            values = getattr(self, name)
            if not values or not all(0 < value <= 1 for value in values):
                raise ValueError(f"{name} must be one or more numbers in (0, 1], got {values}.")
        if max(self.scales) * max(self.query_scales) < self.min_scale:
            raise ValueError(
                f"no scale reaches min_scale={self.min_scale}: scales are {self.scales}."
            )

    def _check_choice(self, name: str, options: tuple[str, ...]) -> None:
        if getattr(self, name) not in options:
            raise ValueError(f"{name} must be one of {options}, got {getattr(self, name)!r}.")


def context_aware_saliency(
    image: Tensor,
    *,
    max_side: int | None = 224,
    patch_size: int = 7,
    stride: int = 3,
    neighbors: int = 64,
    position_weight: float = 3.0,
    scales: tuple[float, ...] = (1.0, 0.8, 0.5, 0.3),
    query_scales: tuple[float, ...] = (1.0, 0.5, 0.25),
    min_scale: float = 0.2,
    foci_threshold: float = 0.8,
    center_prior: bool = False,
    color_space: str = "lab",
    color_normalizer: float | None = None,
    foci_normalizer: str = "max",
    chunk_size: int = 256,
) -> ContextAwareSaliency:
    """Mark the regions of a picture or heat map that stand out from their context.

    Args:
        image: a photograph (3, H, W) or (B, 3, H, W), uint8 or floating point in [0, 1]; or a heat
            map (H, W), (1, H, W) or (B, 1, H, W) of any finite range, stretched to [0, 1] each.
        max_side: the picture is resized so that its larger side has this many pixels, and the maps
            are resized back; None works at the given size. The paper uses 250.
        patch_size: side of the square patches, the same at every scale (7 in the paper, which
            leaves open whether it shrinks with the scale).
        stride: distance of neighbouring patches (the paper says 50 % overlap; 3 of 7 here).
        neighbors: how many most similar patches are averaged, K; all when there are fewer.
        position_weight: how much distance makes a similar patch count less, c in equation 1.
        scales: scales r at which patches are judged.
        query_scales: candidates of a patch at scale r come from scales r * q for these q.
        min_scale: coarsest scale that may be used, relative to the picture.
        foci_threshold: normalised saliency above which a pixel is a focus of attention; the
            highest pixel is the focus where none is above.
        center_prior: multiply by a Gaussian, sigma a sixth of the height and of the width.
        color_space: "lab" compares in CIE L*a*b* (D65; a heat map counts as a grey picture),
            "raw" compares the given channels.
        color_normalizer: divisor that brings patch distances to [0, 1] (open in the paper); None
            takes the largest in the picture at that scale, a number makes pictures comparable.
        foci_normalizer: divisor of the distance to the nearest focus (open in the paper): "max" is
            the largest such distance in the picture, "side" its larger side.
        chunk_size: patches compared at a time; memory is about chunk_size * 0.1 MB at 224 pixels.

    Returns:
        `ContextAwareSaliency`, maps of the size of `image`. Between patch centres a map is linear,
        outside the outermost centres it keeps the nearest patch's value.

    Raises:
        ValueError: for values or shapes that cannot be used; the message names the accepted ones.
        TypeError: when `image` is not a tensor.

    Example:
        >>> picture = torch.full((3, 64, 64), 0.5)
        >>> picture[0, 20:32, 30:42] = 1.0
        >>> found = context_aware_saliency(picture, max_side=None)
        >>> bool(found.saliency[26, 36] > found.saliency[60, 5])
        True

    Source: Goferman, Zelnik-Manor and Tal, Context-Aware Saliency Detection, equations 1 to 4.
    """
    settings = _Settings(
        max_side=max_side,
        patch_size=patch_size,
        stride=stride,
        neighbors=neighbors,
        position_weight=position_weight,
        scales=tuple(scales),
        query_scales=tuple(query_scales),
        min_scale=min_scale,
        foci_threshold=foci_threshold,
        center_prior=center_prior,
        color_space=color_space,
        color_normalizer=color_normalizer,
        foci_normalizer=foci_normalizer,
        chunk_size=chunk_size,
    )
    picture = _as_batch(image)
    with torch.no_grad():
        found = _saliency(picture, settings)
    return found if image.dim() == 4 else ContextAwareSaliency(*(part[0] for part in found))


def _as_batch(image: Tensor) -> Tensor:
    """Check the picture and return it as (B, 1 or 3, H, W) float in [0, 1]."""
    if not isinstance(image, Tensor):
        raise TypeError(
            f"image must be a torch tensor, got {type(image).__name__}; convert it first."
        )
    shape = tuple(image.shape)
    if image.dim() not in (2, 3, 4) or 0 in shape:
        raise ValueError(f"image must be (H, W), (C, H, W) or (B, C, H, W), got shape {shape}.")
    picture = image.detach()
    picture = picture[(None,) * (4 - picture.dim())]
    channels = picture.shape[1]
    if channels not in (1, 3):
        hint = "put the channels first" if shape[-1] in (1, 3) else "use (B, 1, H, W) for heat maps"
        if channels == 4:
            hint = "an alpha channel has no saliency: composite the picture on a background first"
        raise ValueError(f"image must have 1 or 3 channels, got shape {shape}; {hint}.")
    picture = picture.float() / 255 if picture.dtype == torch.uint8 else picture.float()
    if not bool(picture.isfinite().all()):
        raise ValueError("image contains NaN or infinite values; replace them first.")
    low, high = float(picture.min()), float(picture.max())
    if channels == 3 and (low < -1e-4 or high > 1 + 1e-4):
        raise ValueError(
            f"a picture must be uint8 or in [0, 1], got values from {low:.4g} to {high:.4g}; "
            "undo the normalization, or divide by 255."
        )
    return min_max(picture) if channels == 1 else picture.clamp(0, 1)


def _saliency(picture: Tensor, settings: _Settings) -> ContextAwareSaliency:
    constant = (picture.flatten(2).amax(2) == picture.flatten(2).amin(2)).all(dim=1)
    features = _features(picture, settings)
    size = (features.shape[-2], features.shape[-1])
    pyramid = PatchPyramid(features, settings.patch_size, settings.stride)
    per_scale = [
        _upsample_grid(_grid_saliency(grid, candidates, settings), grid, size)
        for grid, candidates in pyramid.judged(
            settings.scales, settings.query_scales, settings.min_scale
        )
    ]
    normalised = torch.stack(per_scale)  # (scales, B, h, w)
    context = normalised.mean(dim=0)
    saliency = (normalised * (1 - _foci_distance(normalised, settings))).mean(dim=0)
    if settings.center_prior:
        saliency = saliency * _center_gaussian(saliency)
    saliency, context = (resize(m[:, None], picture.shape[-2:])[:, 0] for m in (saliency, context))
    saliency, flat = _stretch(saliency)
    degenerate = flat | constant
    keep = ~degenerate[:, None, None]
    saliency, context = (saliency * keep).float(), (context * keep).float()
    return ContextAwareSaliency(saliency, context, saliency > settings.foci_threshold, degenerate)


def _stretch(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Min-max normalise (B, h, w) saliency maps; those without structure become zero, and are told.

    Saliency has a unit (it is 1 - exp(-d) of normalised distances), hence the absolute threshold.
    """
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    flat = high - low <= _FLAT_RANGE
    return (maps - low) / torch.where(flat, torch.inf, high - low), flat[:, 0, 0]


def _features(picture: Tensor, settings: _Settings) -> Tensor:
    """The channels in which patches are compared, at working size, in double precision."""
    # |p|^2 + |q|^2 - 2 p.q cancels in float32 where patches are nearly equal; MPS has no float64
    picture = picture.to(torch.float32 if picture.device.type == "mps" else torch.float64)
    height, width = picture.shape[-2:]
    if settings.max_side is not None and max(height, width) != settings.max_side:
        factor = settings.max_side / max(height, width)
        size = (max(1, round(height * factor)), max(1, round(width * factor)))
        picture = resize(picture, size).clamp(0, 1)
    if settings.color_space == "raw":
        return picture
    if (
        picture.shape[1] == 1
    ):  # a grey picture has a* = b* = 0, so L* alone gives the same distances
        return relative_luminance_to_lightness(srgb_to_linear(picture))
    return srgb_to_lab(picture)


def _grid_saliency(grid: PatchGrid, candidates: list[PatchGrid], settings: _Settings) -> Tensor:
    """S = 1 - exp(-mean of the K smallest d) of every patch (equation 3), (B, rows, cols)."""
    distance = mean_nearest_distance(
        grid,
        candidates,
        neighbors=settings.neighbors,
        position_weight=settings.position_weight,
        normalizer=settings.color_normalizer,
        chunk_size=settings.chunk_size,
    )
    return 1 - torch.exp(-distance)


def _upsample_grid(values: Tensor, grid: PatchGrid, size: tuple[int, int]) -> Tensor:
    """Min-max normalise a scale's (B, rows, cols) map and read it at every pixel of the picture."""
    values = _stretch(values)[0]
    pixel_y, pixel_x = (
        (torch.arange(side, device=values.device, dtype=torch.float32) + 0.5) / max(size)
        for side in size
    )
    by_row = _linear_weights(pixel_y, grid.centre_y).to(values)
    by_col = _linear_weights(pixel_x, grid.centre_x).to(values)
    return by_row @ values @ by_col.T


def _linear_weights(positions: Tensor, knots: Tensor) -> Tensor:
    """Matrix (positions, knots) of linear interpolation, constant outside the outermost knots."""
    if len(knots) == 1:
        return torch.ones(len(positions), 1, device=positions.device)
    share = (positions - knots[0]) / (knots[1] - knots[0])
    share = share.clamp(0, len(knots) - 1)
    index = torch.arange(len(knots), device=positions.device)
    return (1 - (share[:, None] - index).abs()).clamp(min=0)


def _foci_distance(normalised: Tensor, settings: _Settings) -> Tensor:
    """Normalised distance of every pixel to the nearest focus of attention of its scale."""
    top = normalised.flatten(2).amax(dim=2)[..., None, None]
    attended = (normalised > settings.foci_threshold) | (normalised == top)
    distance = distance_to_mask(attended).to(normalised)
    if settings.foci_normalizer == "side":
        return (distance / max(normalised.shape[-2:])).clamp(max=1)
    return distance / distance.flatten(2).amax(dim=2)[..., None, None].clamp(min=1)


def _center_gaussian(like: Tensor) -> Tensor:
    factors = []
    for side in like.shape[-2:]:
        offset = torch.arange(side, device=like.device, dtype=like.dtype) + 0.5 - side / 2
        factors.append(torch.exp(-0.5 * (offset / (side / 6)).square()))
    return factors[0][:, None] * factors[1][None, :]
