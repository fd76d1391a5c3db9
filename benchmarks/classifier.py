"""The network and photos that everybody explains: the shipped EfficientNet-Lite0."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

import salhub

EXPLAINER = "normgrad-efficientnet-lite0"


class LogitsOnly(nn.Module):
    """A classifier as the other packages expect it: pictures in, logits out.

    Args:
        backbone: A transformers image classifier.
    """

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Logits (B, classes)."""
        return self.backbone(pixel_values).logits


def load_classifier() -> tuple[nn.Module, Any]:
    """Return the shipped classifier and its image processor."""
    pipeline = salhub.pipeline(EXPLAINER)
    return pipeline.model.backbone, pipeline.image_processor


def own_copy(backbone: nn.Module, *, frozen: bool = False) -> LogitsOnly:
    """Return a copy for one peer, because some leave hooks on what they are given.

    Args:
        backbone: The classifier.
        frozen: Switch off its parameters' gradients, as the fastest way to call a peer.
    """
    return LogitsOnly(copy.deepcopy(backbone)).eval().requires_grad_(not frozen)


# Named, so that samples of other kinds do not change what is measured.
_PHOTOS = ("astronaut", "cat", "coffee", "rocket")


def sixteen_photos(image_processor: Any) -> Tensor:
    """The bundled photos, each as it is, mirrored, upside down and both; (16, 3, 224, 224)."""
    photos = [salhub.load_image(f"sample:{name}") for name in _PHOTOS]
    upright = image_processor(images=photos, return_tensors="pt")["pixel_values"]
    flips = [upright.flip(axes) if axes else upright for axes in ((), (3,), (2,), (2, 3))]
    return torch.cat(flips)


def relative_difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest absolute difference of two maps as a share of the range of the second.

    Example:
        >>> relative_difference(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 2.0]))
        0.5
    """
    ours, theirs = ours.detach().double().flatten(), theirs.detach().double().flatten()
    return float((ours - theirs).abs().max() / (theirs.max() - theirs.min()))
