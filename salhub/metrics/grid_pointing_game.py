"""Grid pointing game: does the map of a class light up the tile that shows this class?"""

from dataclasses import dataclass

import torch
from torch import Tensor

from salhub.metrics.checks import check_indices, check_maps, is_constant


@dataclass(frozen=True)
class GridPointingGame:
    """Scores of maps on mosaics, one entry a map.

    Attributes:
        mass: (N,) float64 in [0, 1], positive mass in the right tile / all positive mass.
        hit: (N,) bool, the first arg-max of the map lies in the right tile.
        empty: (N,) bool, the map is constant or has no positive value: it points nowhere. Its mass
            is 0 and its hit is False, so an explanation cannot gain by staying silent.
    """

    mass: Tensor
    hit: Tensor
    empty: Tensor


def grid_pointing_game(saliency: Tensor, cells: Tensor, grid_size: int = 2) -> GridPointingGame:
    """Score maps of grid_size x grid_size mosaics; a map without preference scores 1/grid_size**2.

    Args:
        saliency: (N, H, W) maps of mosaics, H and W divisible by `grid_size`. Signed maps are
            allowed: negative values carry no mass.
        cells: (N,) int64, the tile that shows the explained class, counted row by row from 0.
        grid_size: Tiles on a side.

    Returns:
        `GridPointingGame` of N entries. Maps that are constant or nowhere positive are scored 0
        and counted in `empty`; none is dropped.

    Raises:
        TypeError: If `saliency` or `cells` is not a tensor.
        ValueError: If the maps do not divide into the grid, or a cell lies outside it.

    Example:
        >>> saliency = torch.zeros(1, 4, 4)
        >>> saliency[0, 0, 3] = 1.0
        >>> grid_pointing_game(saliency, torch.tensor([1])).mass.item()
        1.0

    Source:
        Boehle, Fritz, Schiele 2021 (Convolutional Dynamic Alignment Networks), localisation metric.
    """
    saliency = check_maps(saliency)
    count, height, width = saliency.shape
    if isinstance(grid_size, bool) or not isinstance(grid_size, int) or grid_size < 1:
        raise ValueError(f"grid_size must be a whole number of at least 1, got {grid_size}.")
    if height % grid_size or width % grid_size:
        raise ValueError(
            f"maps of {height}x{width} do not divide into a {grid_size}x{grid_size} grid; "
            "resize them to a multiple of grid_size."
        )
    check_indices(cells, count, "cells", "map")
    if (cells >= grid_size**2).any():
        raise ValueError(f"cells must lie in 0..{grid_size**2 - 1}, got {cells.tolist()}.")
    cells = cells.to(saliency.device, torch.int64)
    tiles = saliency.double().clamp(min=0)
    tiles = tiles.unflatten(2, (grid_size, -1)).unflatten(1, (grid_size, -1))
    tile_mass = tiles.sum(dim=(2, 4)).flatten(1)  # (N, grid_size**2), row by row
    total = tile_mass.sum(dim=1)
    empty = is_constant(saliency) | (total <= 0)
    mass = tile_mass.gather(1, cells[:, None])[:, 0] / total.clamp(
        min=torch.finfo(total.dtype).tiny
    )
    mass = mass.masked_fill(empty, 0.0)
    peak = saliency.flatten(1).argmax(dim=1)
    row, column = (peak // width) * grid_size // height, (peak % width) * grid_size // width
    hit = (row * grid_size + column == cells) & ~empty
    return GridPointingGame(mass=mass, hit=hit, empty=empty)
