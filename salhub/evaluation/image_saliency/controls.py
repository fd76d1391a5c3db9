"""Explainers that know neither network nor class: what a real one must beat."""

import torch
from torch import Tensor
from torch.nn import functional

from salhub.evaluation.image_saliency.scores import InOrder

RANDOM_MAP = "random map (control)"
RANDOM_DISC = "random disc (control)"


class _Draws(InOrder):
    """Numbers that follow each other in the order of the calls, each for as many classes.

    Args:
        seed: Of the numbers.
        shape: Of those for one class.
    """

    def __init__(self, seed: int, *shape: int) -> None:
        self._seed, self._shape = seed, shape
        self._generator, self._drawn = torch.Generator().manual_seed(seed), 0

    def draw(self, class_labels: Tensor) -> Tensor:
        """Those of call `number`."""
        if self.number < self._drawn:
            self._generator, self._drawn = torch.Generator().manual_seed(self._seed), 0
        self.number += 1
        while self._drawn < self.number:
            found = torch.rand(*class_labels.shape, *self._shape, generator=self._generator)
            self._drawn += 1
        return found


class RandomMaps(_Draws):
    """Smooth random maps.

    Args:
        seed: Of the maps; they follow each other in the order of the calls.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed, 7, 7)

    def __call__(self, pixel_values: Tensor, class_labels: Tensor) -> Tensor:
        """Maps (B, T, H, W)."""
        size = pixel_values.shape[-2:]
        coarse = self.draw(class_labels)
        return functional.interpolate(coarse, size=size, mode="bilinear", align_corners=False)


class RandomDiscs(_Draws):
    """Maps that fall off with the distance from a random point.

    Taken in their order, pixels form one compact area about that point, as large at every step as
    that of the map it is compared with.

    Args:
        seed: Of the points; they follow each other in the order of the calls.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed, 2)

    def __call__(self, pixel_values: Tensor, class_labels: Tensor) -> Tensor:
        """Maps (B, T, H, W)."""
        height, width = pixel_values.shape[-2:]
        centers = self.draw(class_labels)
        down = torch.arange(height)[:, None] - centers[..., :1, None] * height
        right = torch.arange(width) - centers[..., 1:, None] * width
        return 1 - torch.sqrt(down**2 + right**2) / max(height, width)
