"""Mosaics of pictures whose classes are known: localisation ground truth without annotations."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mosaic:
    """Which pictures make up one mosaic, row by row.

    Attributes:
        members: Positions of the pictures in their data set, one a cell.
        class_labels: Class of each cell's picture, all distinct.
    """

    members: tuple[int, ...]
    class_labels: tuple[int, ...]


def confident_pictures(
    probabilities: Tensor, class_labels: Tensor, threshold: float = 0.9
) -> Tensor:
    """Positions of the pictures that the classifier gets right with enough probability.

    Args:
        probabilities: (N, C) softmax probabilities.
        class_labels: (N,) int64 true classes.
        threshold: Smallest accepted probability of the true class, in [0, 1].

    Returns:
        (M,) int64 positions in rising order.

    Raises:
        ValueError: If shapes do not match or the threshold is not a probability.

    Example:
        >>> confident_pictures(torch.tensor([[0.95, 0.05], [0.6, 0.4]]), torch.tensor([0, 0]))
        tensor([0])
    """
    if probabilities.ndim != 2 or class_labels.shape != probabilities.shape[:1]:
        raise ValueError(
            "probabilities must be (N, C) and class_labels (N,), got "
            f"{tuple(probabilities.shape)} and {tuple(class_labels.shape)}."
        )
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be a probability in [0, 1], got {threshold}.")
    top = probabilities.max(dim=1)
    accepted = (top.indices == class_labels) & (top.values >= threshold)
    return accepted.nonzero()[:, 0]


def draw_mosaics(
    candidates: Tensor,
    class_labels: Tensor,
    num_mosaics: int,
    *,
    grid_size: int = 2,
    seed: int = 0,
) -> list[Mosaic]:
    """Draw mosaics of pictures of distinct classes; a picture returns only when all were used.

    Args:
        candidates: (M,) int64 positions of usable pictures, e.g. from `confident_pictures`.
        class_labels: (N,) int64 class of every picture of the data set.
        num_mosaics: How many to draw.
        grid_size: Tiles on a side; a mosaic has grid_size**2 pictures.
        seed: Seed of the draw; the global random state is not touched.

    Returns:
        `num_mosaics` mosaics.

    Raises:
        ValueError: If the candidates show fewer classes than a mosaic has cells.

    Example:
        >>> len(draw_mosaics(torch.arange(8), torch.arange(8), 2))
        2
    """
    cells = grid_size**2
    num_classes = len(class_labels[candidates].unique())
    if grid_size < 1 or num_mosaics < 1:
        raise ValueError(
            f"grid_size and num_mosaics must be at least 1, got {grid_size} and {num_mosaics}."
        )
    if num_classes < cells:
        raise ValueError(
            f"a {grid_size}x{grid_size} mosaic needs confidently and correctly classified "
            f"pictures of {cells} classes, found {num_classes}; add pictures or lower the "
            "threshold."
        )
    generator = torch.Generator().manual_seed(seed)
    labels, queue, mosaics = class_labels.tolist(), [], []
    while len(mosaics) < num_mosaics:
        members = _take_distinct(queue, labels, cells)
        if members is None:
            order = torch.randperm(len(candidates), generator=generator)
            # What was left over goes first, so that every picture is used equally often.
            queue += [int(candidates[place]) for place in order]
        else:
            mosaics.append(Mosaic(members, tuple(labels[member] for member in members)))
    return mosaics


def assemble(tiles: Tensor) -> Tensor:
    """Lay n*n tiles out as one picture, row by row.

    Args:
        tiles: (n * n, C, h, w).

    Returns:
        (C, n * h, n * w), a copy.

    Raises:
        ValueError: If the number of tiles is not a square.

    Example:
        >>> assemble(torch.zeros(4, 3, 224, 224)).shape
        torch.Size([3, 448, 448])
    """
    side = round(len(tiles) ** 0.5) if tiles.ndim == 4 else 0
    if tiles.ndim != 4 or side < 1 or side * side != len(tiles):
        raise ValueError(f"tiles must be (n * n, C, h, w), got {tuple(tiles.shape)}.")
    rows = tiles.unflatten(0, (side, side)).permute(2, 0, 3, 1, 4)  # (C, n, h, n, w)
    return rows.flatten(3, 4).flatten(1, 2).contiguous()


def _take_distinct(queue: list[int], labels: list[int], cells: int) -> tuple[int, ...] | None:
    """Remove the first pictures of `cells` distinct classes from the queue, or None if too few."""
    members, seen = [], set()
    for picture in queue:
        if labels[picture] not in seen:
            members.append(picture)
            seen.add(labels[picture])
        if len(members) == cells:
            for member in members:
                queue.remove(member)
            return tuple(members)
    return None
