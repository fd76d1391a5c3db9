"""Small networks to explain: plain ones with every kind of rectifier, and of transformers."""

import torch
import torch.nn.functional as F
import transformers
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode


class Operators(TorchDispatchMode):
    """Counts the operators that are run."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


class InPlaceAdd(nn.Module):
    """A residual block that adds and rectifies in place."""

    def __init__(self, channels: int):
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1, groups=2)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.convolution(x)
        y += x
        return self.activation(y)


class SmallNet(nn.Module):
    """Two strided convolutions, two blocks, global average, linear head: logits (B, 5)."""

    def __init__(self, block=None):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.activation = nn.ReLU()
        self.blocks = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(inplace=True)),
                block or InPlaceAdd(8),
            ]
        )
        self.last = nn.Conv2d(8, 10, 3, stride=2, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(10, 5)

    def forward(self, pixel_values):
        x = self.activation(self.stem(pixel_values))
        for block in self.blocks:
            x = block(x)
        x = F.relu(self.last(x))
        return self.classifier(self.pool(x).flatten(1))


class RectifierNet(nn.Module):
    """convolution, rectifier, convolution, rectifier, linear over all positions."""

    def __init__(self, rectify, modules=()):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 6, 3, padding=1)
        self.rectifiers = nn.ModuleList(modules)
        self.rectify = rectify
        self.classifier = nn.Linear(6 * 8 * 8, 4)

    def forward(self, pixel_values):
        rectify = [*self.rectifiers] or [self.rectify, self.rectify]
        x = rectify[0](self.first(pixel_values))
        x = rectify[1](self.second(x))
        return self.classifier(x.flatten(1))


class FullyConvolutional(nn.Module):
    """Logits at every position, (B, 4, h, w)."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU())
        self.classifier = nn.Conv2d(6, 4, 1)

    def forward(self, pixel_values):
        return self.classifier(self.features(pixel_values))


def spread_weights(network: nn.Module) -> nn.Module:
    """Weights of a scale at which signals survive; the libraries' initial ones nearly vanish."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            fan_in = parameter[0].numel()
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data.copy_(noise * (2.0 / fan_in) ** 0.5)
        else:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data.add_(0.1 * noise)
    return network.eval()


TINY_TRANSFORMER = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 64,
    "patch_size": 16,
    "num_labels": 5,
}


def _resnet():
    config = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 12, 16],
        depths=[1, 1, 2],
        layer_type="basic",
        num_labels=5,
    )
    return transformers.ResNetForImageClassification(config)


def _convnext():
    config = transformers.ConvNextConfig(
        hidden_sizes=[8, 12, 16], depths=[1, 1, 2], num_stages=3, num_labels=5
    )
    return transformers.ConvNextForImageClassification(config)


def _mobilenet_v2():
    config = transformers.MobileNetV2Config(depth_multiplier=0.25, output_stride=16, num_labels=5)
    return transformers.MobileNetV2ForImageClassification(config)


def _swin():
    config = transformers.SwinConfig(
        embed_dim=8,
        depths=[1, 2],
        num_heads=[1, 2],
        window_size=4,
        image_size=64,
        patch_size=4,
        num_labels=5,
    )
    return transformers.SwinForImageClassification(config)


def _vit():
    return transformers.ViTForImageClassification(transformers.ViTConfig(**TINY_TRANSFORMER))


def _deit():
    return transformers.DeiTForImageClassification(transformers.DeiTConfig(**TINY_TRANSFORMER))


# name -> (builder, default layer, its grid for 64 pixels)
FAMILIES = {
    "resnet": (_resnet, "resnet.encoder.stages.2", (4, 4)),
    "convnext": (_convnext, "convnext.encoder.stages.2", (4, 4)),
    "mobilenet_v2": (_mobilenet_v2, "mobilenet_v2.layer.15", (4, 4)),
    "vit": (_vit, "vit.layers.1", (4, 4)),
    "deit": (_deit, "deit.layers.1", (4, 4)),
    "swin": (_swin, "swin.encoder.layers.1", (8, 8)),
}


def family(name: str) -> nn.Module:
    """A network of a transformers family with a tiny configuration and random weights."""
    torch.manual_seed(0)
    return spread_weights(FAMILIES[name][0]())
