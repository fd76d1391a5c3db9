"""Maps of a saliency model of the hub, to drive a contour."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from salhub.hub import load
from salhub.modeling import load_trained
from salhub.processing import map_to_picture


class SaliencyNetwork:
    """A saliency model with its image processor.

    Args:
        name: A folder, a shipped name or a Hub repository of an image saliency model.
        device: Where it runs.

    Raises:
        ModelNotFoundError: Nothing of that name was found.
        ValueError: It gives no maps of pictures.
    """

    def __init__(self, name: str, device: Any = "cpu") -> None:
        # Imported with this module, they would register it half-way through its own import.
        from transformers import AutoImageProcessor, AutoModel

        self.name = name
        self.model = load_trained(AutoModel, name, "saliency model").eval().to(device)
        self.image_processor = load(AutoImageProcessor, name)
        if not hasattr(self.model, "class_notes"):
            raise ValueError(
                f"'{name}' gives no saliency of pictures; choose a model of the task "
                "image-saliency, such as 'salhub/normgrad-efficientnet-lite0'."
            )

    def __call__(self, pixel_values: Tensor) -> Tensor:
        """Maps in [0, 1] of pictures in 0..255, (B, C, H, W) -> (B, H, W)."""
        size = pixel_values.shape[-2:]
        shown = pixel_values.detach().expand(-1, 3, -1, -1).clamp(0, 255).round().byte()
        arrays = [np.ascontiguousarray(one) for one in shown.permute(0, 2, 3, 1).cpu().numpy()]
        inputs = self.image_processor(arrays, return_tensors="pt").to(self.model.device)
        saliency = self.model(**inputs).saliency
        maps = map_to_picture(saliency, self.image_processor, [tuple(size)] * len(arrays))
        return torch.from_numpy(np.stack(maps)).to(pixel_values.device)
