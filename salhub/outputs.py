"""What the models return."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from transformers.utils import ModelOutput


@dataclass
class SaliencyOutput(ModelOutput):
    """What every saliency model returns.

    Args:
        saliency: How much each element matters; the shape depends on the task.
        logits: Raw scores of the explained model, where there is one, shape (B, C).
    """

    saliency: torch.Tensor | None = None
    logits: torch.Tensor | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        # As transformers does, which lists the fields anew for each of them.
        if value is not None and name in self.__dataclass_fields__:
            OrderedDict.__setitem__(self, name, value)
        object.__setattr__(self, name, value)


@dataclass
class ImageSaliencyOutput(SaliencyOutput):
    """Maps over the pixels of a picture.

    Args:
        saliency: float32 maps, shape (B, H, W), or (B, T, H, W) when T classes were asked for.
        logits: Raw class scores, shape (B, C).
        class_labels: The classes explained, int64, shape (B,) or (B, T).
        degenerate: True if a map is constant and shows nothing, bool, shape (B,) or (B, T).
        native_saliency: The map before it was resized, at the resolution of the layer.
        layer_maps: One map per layer, each (B, h, w) or (B, T, h, w), if you asked for them.
        class_similarity: Rank correlation with the map of a class at the other end of the network's
            ranking, float64 (B,), if you asked for it: at 1 the map does not depend on the class;
            NaN if one of the maps is constant.
        silent_layers: Names of the layers whose own map is constant and which the combined map
            leaves out: one tuple per picture, or per class of each picture; None for one layer.
    """

    class_labels: torch.Tensor | None = None
    degenerate: torch.Tensor | None = None
    native_saliency: torch.Tensor | None = None
    layer_maps: tuple[torch.Tensor, ...] | None = None
    class_similarity: torch.Tensor | None = None
    silent_layers: tuple | None = None
