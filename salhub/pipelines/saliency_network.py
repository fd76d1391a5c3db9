"""Maps of a saliency model of the hub, for methods that need where to look."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from salhub.pipelines import pipeline
from salhub.pipelines.image_saliency import ImageSaliencyPipeline

# Of a map, single pixels may stand far out of all others.
_HIGHEST = 99.5


class SaliencyNetwork:
    """A saliency model that is shown whole pictures.

    Args:
        name: A folder, a shipped name or a Hub repository of an image saliency model.
        device: Where it runs.

    Raises:
        ModelNotFoundError: Nothing of that name was found.
        ValueError: It gives no maps of pictures.
    """

    def __init__(self, name: str, device: Any = "cpu") -> None:
        self.name = name
        self.explain = pipeline(name, device=device)
        if not isinstance(self.explain, ImageSaliencyPipeline):
            raise ValueError(
                f"'{name}' does not compute saliency maps of pictures; choose a model of the "
                "task image-saliency, such as 'salhub/normgrad-efficientnet-lite0'."
            )

    def __call__(self, pixel_values: Tensor) -> Tensor:
        """Maps in [0, 1] of pictures in 0..255, (B, C, H, W) -> (B, H, W)."""
        shown = pixel_values.detach().expand(-1, 3, -1, -1).clamp(0, 255).round().byte()
        arrays = shown.permute(0, 2, 3, 1).cpu().numpy()
        results = self.explain([Image.fromarray(np.ascontiguousarray(one)) for one in arrays])
        maps = np.stack([result.saliency for result in results]).clip(min=0)
        highest = np.percentile(maps, _HIGHEST, axis=(1, 2), keepdims=True)
        maps = np.clip(maps / np.maximum(highest, 1e-12), 0, 1)
        return torch.from_numpy(maps).to(pixel_values.device)
