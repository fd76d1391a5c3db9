"""Tests of the toy method, as CONTRIBUTING.md asks for them."""

import torch
from salhub.models.pixel_gradient.configuration_pixel_gradient import PixelGradientConfig
from salhub.models.pixel_gradient.modeling_pixel_gradient import PixelGradientForImageSaliency
from transformers import ResNetConfig

from tests.testers import AttributionTester, BatchTester, SavingTester


class TestPixelGradient(SavingTester, BatchTester, AttributionTester):
    model_class = PixelGradientForImageSaliency
    shipped = ("salhub/pixel-gradient-efficientnet-lite0",)

    def config(self):
        backbone = ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], num_labels=5, layer_type="basic"
        )
        return PixelGradientConfig(backbone_config=backbone)

    def inputs(self):
        generator = torch.Generator().manual_seed(0)
        return {
            "pixel_values": torch.randn(3, 3, 32, 32, generator=generator),
            "class_labels": torch.tensor([0, 4, 2]),
        }

    def bad_inputs(self):
        return [
            ({"pixel_values": torch.zeros(3, 32, 32)}, ValueError, "must have shape"),
            ({"class_labels": torch.tensor([0, 1, 5])}, ValueError, "class 5 is out of range"),
        ]
