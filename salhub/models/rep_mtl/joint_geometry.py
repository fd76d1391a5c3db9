"""One geometry for pictures and all their labels: resized, cropped and mirrored together."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from salhub.models.rep_mtl.configuration_rep_mtl import Task


def mirrored(
    images: Tensor, labels: Mapping[str, Tensor], tasks: Sequence[Task], flips: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mirror some pictures, and all their dense labels, from left to right.

    Of normals the x component changes its sign; depths stay as they are.

    Args:
        images: (B, C, H, W).
        labels: Task -> its labels, (B, ...).
        tasks: Says which of them are dense, and which are normals.
        flips: Which pictures, bool (B,).

    Example:
        >>> tasks, normals = [Task("n", "normals")], torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)
        >>> _, found = mirrored(torch.zeros(1, 3, 1, 1), {"n": normals}, tasks, torch.ones(1) > 0)
        >>> found["n"].flatten().tolist()
        [-1.0, 0.0, 0.0]
    """
    found = {}
    for task in tasks:
        if task.name not in labels:
            continue
        own = labels[task.name]
        if task.dense:
            turned = own.flip(-1)
            if task.type == "normals":
                turned = turned * torch.tensor([-1, 1, 1], device=own.device).view(3, 1, 1)
            own = torch.where(flips.view(-1, *[1] * (own.ndim - 1)), turned, own)
        found[task.name] = own
    return torch.where(flips.view(-1, 1, 1, 1), images.flip(-1), images), found


def cropped(
    images: Tensor, labels: Mapping[str, Tensor], tasks: Sequence[Task], boxes: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cut a box out of each picture and its dense labels, and enlarge it to the size of before.

    Pictures are interpolated, labels take the nearest value. Depths are divided by the enlargement,
    as of a camera that is nearer.

    Args:
        images: (B, C, H, W), uint8 or floating point.
        labels: Task -> its labels, (B, ...).
        tasks: Says which of them are dense.
        boxes: left, top and side of each box as shares of the picture, in [0, 1], (B, 3).
    """
    left, top, side = boxes.unbind(1)
    device = images.device

    def centers(start: Tensor, size: int) -> Tensor:
        middle = (torch.arange(size, device=device) + 0.5) / size
        return 2 * (start[:, None] + side[:, None] * middle) - 1

    height, width = images.shape[-2:]
    x, y = centers(left, width), centers(top, height)
    grid = torch.stack(
        [x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], -1
    ).float()

    def sampled(values: Tensor, mode: str) -> Tensor:
        found = F.grid_sample(
            values.double() if mode == "nearest" else values.float(),
            grid.double() if mode == "nearest" else grid,
            mode=mode,
            padding_mode="border",
            align_corners=False,
        )
        return (found if values.is_floating_point() else found.round()).to(values.dtype)

    found = {}
    for task in tasks:
        if task.name not in labels:
            continue
        own = labels[task.name]
        if task.dense:
            maps = own if own.ndim == 4 else own[:, None]
            maps = sampled(maps, "nearest")
            own = maps if own.ndim == 4 else maps[:, 0]
            if task.type == "depth":
                own = own * side.view(-1, 1, 1).to(own.dtype)
        found[task.name] = own
    return sampled(images, "bilinear"), found


def resized(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Dense labels of another size, each pixel that of the nearest one: (B, H, W) or (B, C, H, W).

    Values are never mixed, so that classes stay classes and what does not count stays so.
    """
    maps = labels if labels.ndim == 4 else labels[:, None]
    rows, columns = (
        ((torch.arange(new, device=labels.device) + 0.5) * old / new).floor().long()
        for new, old in zip(size, maps.shape[-2:], strict=True)
    )
    maps = maps[:, :, rows[:, None], columns]
    return maps if labels.ndim == 4 else maps[:, 0]
