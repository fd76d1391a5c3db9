"""The saliency map of some markers: high where the markers say that there is something to find.

Distances are exact and in mm, whatever the spacing, and every kind is differentiable in the
coordinates of the markers.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from scipy.spatial import ConvexHull, QhullError
from torch import Tensor

from salhub.models.sdl_seg.configuration_sdl_seg import SDLSegConfig

# As scipy cuts a Gaussian.
_TRUNCATE = 4.0
_SMALLEST = 1e-12


def saliency_map(
    markers: Tensor | ArrayLike,
    shape: Sequence[int],
    spacing: Sequence[float],
    config: SDLSegConfig | None = None,
) -> Tensor:
    """Turn markers into a map, as `config.saliency_kind` says.

    "edt_gauss": exp(-d^2 / 2 sigma_d^2) of the distance d to the nearest marker, smoothed by a
    Gaussian. "edt_linear": max(0, 1 - d / R), smoothed alike. "points": the sum of Gaussians at the
    markers. "hull": logistic of the signed distance to their convex hull; fewer than four markers,
    or such in a plane, have a hull without an inside, to which distances are measured all the same.
    All are divided by their maximum.

    Args:
        markers: Voxel coordinates (z, y, x), (K, 3); they may lie outside of the volume.
        shape: Voxels, (z, y, x).
        spacing: Voxel size in mm, (z, y, x).
        config: Gives the kind and its widths in mm; the default one if None.

    Returns:
        (D, H, W) in [0, 1], of the precision and on the device of the markers where they are a
        floating-point tensor, else float32; 0 everywhere without markers.

    Raises:
        ValueError: Coordinates that are not (K, 3) finite numbers, or the kind "none".

    Example:
        >>> saliency_map([[4, 8, 8]], (8, 16, 16), (3.0, 1.5, 1.5))[4, 8, 8].item()
        1.0

    Source:
        Kazemimoghadam et al. 2021 (arXiv 2105.02771): a distance transform coupled with a Gaussian
        filter; its exact form is ours.
    """
    config = SDLSegConfig() if config is None else config
    points = _as_points(markers)
    kind = config.saliency_kind
    if kind == "none":
        raise ValueError("saliency_kind='none' has no map; choose another kind.")
    if not len(points):
        return points.new_zeros(tuple(shape))
    steps = torch.as_tensor(np.asarray(spacing, dtype=np.float64), dtype=points.dtype)
    places = points * steps.to(points.device)
    axes = [
        torch.arange(size, dtype=points.dtype, device=points.device) * step
        for size, step in zip(shape, steps.tolist(), strict=True)
    ]
    if kind == "hull":
        found = torch.sigmoid(-_signed_hull_distance(places, axes) / config.hull_scale_mm)
    elif kind == "points":
        found = _sum_of_gaussians(places, axes, config.points_sigma_mm)
    else:
        squares = _nearest_squared(places, axes)
        if kind == "edt_gauss":
            found = torch.exp(squares / (-2 * config.sigma_d_mm**2))
        else:
            found = (1 - squares.clamp(min=_SMALLEST).sqrt() / config.linear_radius_mm).clamp(min=0)
        found = _smoothed(found, [config.sigma_g_mm / step for step in steps.tolist()])
    largest = found.amax()
    # Markers far outside leave nothing to divide by.
    return found / largest if float(largest.detach()) > _SMALLEST else torch.zeros_like(found)


def _as_points(markers: Tensor | ArrayLike) -> Tensor:
    points = markers if isinstance(markers, Tensor) else torch.as_tensor(np.asarray(markers))
    points = points if points.is_floating_point() else points.float()
    if not isinstance(markers, Tensor):
        points = points.float()
    if points.numel() == 0:
        return points.reshape(0, 3)
    if points.ndim != 2 or points.shape[1] != 3 or not bool(points.detach().isfinite().all()):
        raise ValueError(
            "markers must be finite voxel coordinates of shape (K, 3), (z, y, x) each, got shape "
            f"{tuple(points.shape)}."
        )
    return points


def _nearest_squared(places: Tensor, axes: Sequence[Tensor]) -> Tensor:
    """Squared distance to the nearest marker; few markers need no transform of the volume."""
    nearest = None
    for place in places:
        z, y, x = (((axis - one) ** 2) for axis, one in zip(axes, place, strict=True))
        squares = z[:, None, None] + (y[:, None] + x)
        nearest = squares if nearest is None else torch.minimum(nearest, squares)
    assert nearest is not None
    return nearest


def _sum_of_gaussians(places: Tensor, axes: Sequence[Tensor], sigma: float) -> Tensor:
    z, y, x = (
        torch.exp((axis - one[:, None]) ** 2 / (-2 * sigma**2))
        for axis, one in zip(axes, places.T, strict=True)
    )
    return torch.einsum("kz,ky,kx->zyx", z, y, x)


def _smoothed(field: Tensor, sigmas: Sequence[float]) -> Tensor:
    """A Gaussian along each axis; the border is repeated outside."""
    for axis, sigma in enumerate(sigmas):
        radius = int(_TRUNCATE * sigma + 0.5)
        if radius == 0:
            continue
        offsets = torch.arange(-radius, radius + 1, dtype=field.dtype, device=field.device)
        kernel = torch.exp(offsets**2 / (-2 * sigma**2))
        kernel = kernel / kernel.sum()
        lines = field.movedim(axis, -1)
        padded = F.pad(lines.reshape(1, -1, lines.shape[-1]), (radius, radius), mode="replicate")
        # A kernel has few taps: adding shifted copies is faster than a convolution of one channel.
        total = sum(
            tap * padded[0, :, start : start + lines.shape[-1]] for start, tap in enumerate(kernel)
        )
        field = total.reshape(lines.shape).movedim(-1, axis)
    return field


def _signed_hull_distance(places: Tensor, axes: Sequence[Tensor]) -> Tensor:
    """Distance to the convex hull in mm, negative inside."""
    points = places.detach().cpu().double().numpy()
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    try:
        hull = ConvexHull(points)
    except (QhullError, ValueError):
        # Flat: any point of a flat hull lies in a triangle of three of its points.
        count = len(places)
        triples = itertools.combinations_with_replacement(range(count), 3)
        corners = [t for t in triples if len(set(t)) == min(count, 3)]
        return _surface_distance(places, grid, corners)
    outside = None
    for corners, equation in zip(hull.simplices, hull.equations, strict=True):
        a, b, c = places[torch.as_tensor(corners, device=places.device).long()]
        normal = torch.linalg.cross(b - a, c - a)
        normal = normal / torch.linalg.vector_norm(normal)
        if float(normal.detach().cpu().double() @ torch.as_tensor(equation[:3])) < 0:
            normal = -normal
        height = (grid - a) @ normal
        outside = height if outside is None else torch.maximum(outside, height)
    assert outside is not None
    surface = _surface_distance(places, grid, hull.simplices)
    # Inside, the nearest point of the surface lies straight below a face.
    return torch.where(outside <= 0, outside, surface)


def _surface_distance(
    places: Tensor, grid: Tensor, triangles: Sequence[Sequence[int]] | np.ndarray
) -> Tensor:
    """Distance to the nearest of some triangles, whose corners may coincide."""
    nearest = None
    for i, j, k in triangles:
        a, b, c = places[int(i)], places[int(j)], places[int(k)]
        squares = _segment_squared(grid, a, b)
        if len({int(i), int(j), int(k)}) == 3:
            squares = torch.minimum(squares, _segment_squared(grid, b, c))
            squares = torch.minimum(squares, _segment_squared(grid, c, a))
            normal = torch.linalg.cross(b - a, c - a)
            size = normal @ normal
            # A triangle without an area is its sides.
            if float(size.detach()) > _SMALLEST:
                squares = torch.where(
                    _is_above(grid, a, b, c, normal),
                    ((grid - a) @ normal) ** 2 / size,
                    squares,
                )
        nearest = squares if nearest is None else torch.minimum(nearest, squares)
    assert nearest is not None
    return nearest.clamp(min=_SMALLEST).sqrt()


def _segment_squared(grid: Tensor, a: Tensor, b: Tensor) -> Tensor:
    along = b - a
    length = (along @ along).clamp(min=_SMALLEST)
    share = (((grid - a) @ along) / length).clamp(0, 1)
    return (grid - a - share[..., None] * along).square().sum(-1)


def _is_above(grid: Tensor, a: Tensor, b: Tensor, c: Tensor, normal: Tensor) -> Tensor:
    """Whether the foot of the perpendicular lies in the triangle."""
    sides = ((a, b), (b, c), (c, a))
    inward = [(grid - start) @ torch.linalg.cross(normal, end - start) >= 0 for start, end in sides]
    return inward[0] & inward[1] & inward[2]
