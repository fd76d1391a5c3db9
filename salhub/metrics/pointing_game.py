"""Pointing game with the published benchmark's exact rules."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from salhub.metrics.checks import check_maps

TOLERANCE = 15.0  # pixels of the original picture


def boxes_to_mask(
    boxes: Sequence[Sequence[int]],
    picture_size: tuple[int, int],
    *,
    difficult: Sequence[bool] | None = None,
) -> Tensor | None:
    """Union of one class's boxes as a mask, or None when the class is skipped in this picture.

    Coordinates are those of the PASCAL VOC files: 1-based and inclusive; one is subtracted and
    both ends are filled. A class whose boxes are all difficult is skipped; otherwise its
    difficult boxes count like the others.

    Args:
        boxes: (left, top, right, bottom) of every box of the class.
        picture_size: (height, width) of the original picture.
        difficult: One flag a box; None means that none is difficult.

    Returns:
        (height, width) bool, or None.

    Raises:
        ValueError: If a box is empty or lies outside the picture, or the flags do not match.

    Example:
        >>> boxes_to_mask([(1, 1, 2, 2)], (3, 3)).sum().item()
        4
    """
    height, width = picture_size
    flags = [False] * len(boxes) if difficult is None else list(difficult)
    if not boxes or len(flags) != len(boxes):
        raise ValueError(
            f"boxes_to_mask needs at least one box and one difficult flag a box, got {len(boxes)} "
            f"boxes and {len(flags)} flags."
        )
    mask = torch.zeros(height, width, dtype=torch.bool)
    for left, top, right, bottom in boxes:
        if not (1 <= left <= right <= width and 1 <= top <= bottom <= height):
            raise ValueError(
                f"box {(left, top, right, bottom)} is not inside a picture of {width}x{height}; "
                "expected 1-based, inclusive (left, top, right, bottom)."
            )
        mask[top - 1 : bottom, left - 1 : right] = True
    return None if all(flags) else mask


def pointed_at(saliency: Tensor, picture_size: tuple[int, int] | None = None) -> tuple[int, int]:
    """Row and column of the first arg-max of one map, resized to the original picture's size.

    Args:
        saliency: (h, w).
        picture_size: (height, width) to resize to, bilinear; None keeps the map's size.

    Returns:
        (row, column) in pixels, 0-based.
    """
    saliency = check_maps(saliency[None])
    if picture_size is not None and tuple(picture_size) != tuple(saliency.shape[1:]):
        saliency = functional.interpolate(
            saliency[None], size=tuple(picture_size), mode="bilinear", align_corners=False
        )[0]
    flat = saliency.flatten()
    # torch.argmax does not promise the first of equal maxima; this does.
    first = int((flat == flat.max()).nonzero()[0])
    return divmod(first, saliency.shape[-1])


def pointing_hit(saliency: Tensor, mask: Tensor, *, tolerance: float = TOLERANCE) -> bool:
    """Whether the map's peak lies strictly closer than `tolerance` pixels to the object.

    Args:
        saliency: (h, w) map, resized to the mask's size before the peak is taken.
        mask: (height, width) bool, the object in the original picture.
        tolerance: Pixels; a mask pixel at exactly this distance is a miss.

    Returns:
        True for a hit. An empty mask is a miss.

    Raises:
        ValueError: If the map or the mask is not two-dimensional.

    Example:
        >>> saliency, mask = torch.zeros(40, 40), torch.zeros(40, 40, dtype=torch.bool)
        >>> saliency[0, 0], mask[0, 14] = 1.0, True
        >>> pointing_hit(saliency, mask)
        True

    Source:
        Zhang et al. 2016 (excitation backprop), with the rules of Fong et al. 2019's benchmark.
    """
    if saliency.ndim != 2 or mask.ndim != 2:
        raise ValueError(
            "pointing_hit takes one map (h, w) and one mask (height, width), got "
            f"{tuple(saliency.shape)} and {tuple(mask.shape)}."
        )
    row, column = pointed_at(saliency, tuple(mask.shape))
    rows, columns = mask.bool().nonzero(as_tuple=True)
    squared = (rows - row) ** 2 + (columns - column) ** 2
    return bool((squared < tolerance**2).any())


class PointingGame:
    """Hits and misses by class; the score is the mean over classes of hits / (hits + misses).

    A class that was never seen counts as 0, as in the published benchmark.

    Args:
        num_classes: Number of classes of the data set.

    Example:
        >>> game = PointingGame(num_classes=2)
        >>> game.add(0, True)
        >>> game.accuracy
        0.5
    """

    def __init__(self, num_classes: int) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}.")
        self.hits = torch.zeros(num_classes, dtype=torch.int64)
        self.misses = torch.zeros(num_classes, dtype=torch.int64)

    def add(self, class_index: int, hit: bool) -> None:
        """Count one picture and class."""
        if not 0 <= class_index < len(self.hits):
            raise ValueError(f"class_index must be in 0..{len(self.hits) - 1}, got {class_index}.")
        (self.hits if hit else self.misses)[class_index] += 1

    @property
    def class_accuracies(self) -> Tensor:
        """(num_classes,) float64 in [0, 1]."""
        return self.hits.double() / (self.hits + self.misses).clamp(min=1).double()

    @property
    def accuracy(self) -> float:
        """Mean over all classes, in [0, 1]."""
        return float(self.class_accuracies.mean())
