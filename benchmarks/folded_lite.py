"""EfficientNet-Lite as relevance packages want it: batch norm folded, padding and sums as modules.

zennit splits relevance only at its own `Sum` module, and folds batch normalisation only where it
stands right behind a plain convolution; Captum takes plain torch modules only. The network computed
here is the same as the shipped one.
"""

import copy

import torch
from torch import Tensor, nn


class FoldedBlock(nn.Module):
    """An inverted residual block with an explicit sum.

    Args:
        layers: Its convolutions and activations.
        add: Sums a stack (..., 2) of both branches, or None without a skip connection.
    """

    def __init__(self, layers: list[nn.Module], add: nn.Module | None):
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.add = add

    def forward(self, hidden_states: Tensor) -> Tensor:
        """The block's output."""
        outputs = self.layers(hidden_states)
        if self.add is None:
            return outputs
        return self.add(torch.stack([hidden_states, outputs], dim=-1))


class StackedSum(nn.Module):
    """What `zennit.layer.Sum` computes, for when zennit is absent."""

    def forward(self, stacked: Tensor) -> Tensor:
        """Sum over the last axis."""
        return stacked.sum(-1)


def fold(network: nn.Module, image_size: int, add: type[nn.Module] = StackedSum) -> nn.Sequential:
    """Copy a network with batch normalisation folded into the convolutions.

    Args:
        network: `EfficientNetLiteForImageClassification`.
        image_size: Side of the pictures; the padding of each layer is fixed for it.
        add: Module that sums the branches of a block.
    """
    stem, size = _folded(network.stem, image_size)
    modules = list(stem)
    for block in network.blocks:
        layers = []
        for part in (block.expand, block.depthwise, block.project):
            if not isinstance(part, nn.Identity):
                folded, size = _folded(part, size)
                layers += folded
        modules.append(FoldedBlock(layers, add() if block.use_residual else None))
    head, size = _folded(network.head, size)
    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), copy.deepcopy(network.classifier)]
    return nn.Sequential(*modules, *head, *tail).eval().requires_grad_(False)


def _folded(part: nn.Module, size: int) -> tuple[list[nn.Module], int]:
    """Modules of a convolution, its normalisation and activation; and the side of the output."""
    old, norm = part.convolution, part.normalization
    left, right, top, bottom = old.same_padding(size, size)
    is_even = (left, top) == (right, bottom)
    new = nn.Conv2d(
        old.in_channels,
        old.out_channels,
        old.kernel_size,
        old.stride,
        padding=(top, left) if is_even else 0,
        groups=old.groups,
    )
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    with torch.no_grad():
        new.weight.copy_(old.weight.double() * scale[:, None, None, None])
        new.bias.copy_(norm.bias.double() - norm.running_mean.double() * scale)
    modules = [] if is_even else [nn.ZeroPad2d((left, right, top, bottom))]
    modules.append(new)
    if not isinstance(part.activation, nn.Identity):
        modules.append(copy.deepcopy(part.activation))
    return modules, -(-size // old.stride[0])
