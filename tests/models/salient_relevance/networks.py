"""Small networks to hand relevance through."""

import torch
import torch.nn.functional as F
from torch import nn


class Flat(nn.Module):
    """One layer whose outputs are the logits."""

    def __init__(self, layer: nn.Module, before: nn.Module | None = None):
        super().__init__()
        self.before = before or nn.Identity()
        self.layer = layer

    def forward(self, pixel_values):
        return self.layer(self.before(pixel_values)).flatten(1)


class Residual(nn.Module):
    """x + f(x), spelled as asked: "add", "inplace", "method", "functional"."""

    def __init__(self, channels: int, spelling: str = "add", bias: bool = True):
        super().__init__()
        self.spelling = spelling
        self.branch = nn.Conv2d(channels, channels, 3, padding=1, bias=bias)

    def forward(self, x):
        y = self.branch(x)
        if self.spelling == "add":
            return x + y
        if self.spelling == "inplace":
            y += x
        elif self.spelling == "method":
            y.add_(x)
        else:
            y = torch.add(x, y)
        return y


class SmallNet(nn.Module):
    """Stem, batch norm, ReLU, maximum pooling, residual, average pooling, linear: (B, 4)."""

    def __init__(self, bias: bool = True, spelling: str = "add", norm: bool = True):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=bias)
        self.norm = nn.BatchNorm2d(6) if norm else nn.Identity()
        self.activation = nn.ReLU(inplace=spelling == "inplace")
        self.block = Residual(6, spelling, bias)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=bias)
        self.classifier = nn.Linear(6, 4, bias=bias)

    def forward(self, pixel_values):
        x = F.max_pool2d(self.activation(self.norm(self.stem(pixel_values))), 2)
        x = F.relu(self.block(x))
        x = F.relu6(self.depthwise(x))
        return self.classifier(x.mean((2, 3)))


class Gated(nn.Module):
    """Squeeze-excite: channels scaled by a sigmoid of their mean."""

    def __init__(self, channels: int = 4, learned: bool = True):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.squeeze = nn.Conv2d(channels, channels, 1)
        self.classifier = nn.Linear(channels, 3)
        self.learned = learned
        self.fixed_gate = None

    def forward(self, pixel_values):
        x = F.silu(self.stem(pixel_values))
        gate = self.fixed_gate
        if self.learned:
            gate = torch.sigmoid(self.squeeze(F.adaptive_avg_pool2d(x, 1)))
        return self.classifier((x * gate).mean((2, 3)))


def trained(network: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights, and running statistics as after training."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.4
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator) * 0.1)
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
            if module.affine:
                module.weight.data.abs_().add_(0.5)
    return network.eval()
