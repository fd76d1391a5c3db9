"""Prompts for some classes as a plain classifier: an image encoder and one matrix."""

import os
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from salhub.models.disa.prompted_clip import encode_image
from salhub.onnx_export import export_logits


class PromptedClassifier(nn.Module):
    """What is left of prompts when the classes stay: no tokenizer, and no text encoder.

    Args:
        clip: The CLIP, whose image encoder is used as it is.
        vision_prompts: (J, n, d), or None.
        weight: Features of the classes, of length 1, times the scale, (K, D).
        class_names: Their names.

    Example:
        >>> classifier = model.export_classifier()  # doctest: +SKIP
        >>> classifier(pixel_values).shape  # doctest: +SKIP
        torch.Size([1, 2])
    """

    def __init__(
        self, clip: Any, vision_prompts: Tensor | None, weight: Tensor, class_names: list[str]
    ) -> None:
        super().__init__()
        self.vision_model = clip.vision_model
        self.visual_projection = clip.visual_projection
        self.class_names = class_names
        kept = None if vision_prompts is None else vision_prompts.detach().clone()
        self.vision_prompts = None if kept is None else nn.Parameter(kept, requires_grad=False)
        self.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)

    @property
    def image_size(self) -> int:
        """Side of the pictures in pixels."""
        return self.vision_model.config.image_size

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Scores of pictures (B, 3, H, W) for the classes, float32 (B, K)."""
        features = encode_image(self, pixel_values, self.vision_prompts)
        return F.linear(F.normalize(features.image_embeds.float(), dim=-1), self.weight.float())

    def export_onnx(self, path: str | os.PathLike[str], *, opset: int = 18) -> Path:
        """Write an ONNX file, see `export_logits`; pictures have the size that CLIP was made for.

        Raises:
            MissingExtraError: `onnx` or `onnxscript` is not installed.
            ValueError: The file would be larger than the 2 GiB that ONNX holds.
        """
        with torch.no_grad():
            return export_logits(self, path, image_size=self.image_size, opset=opset)
