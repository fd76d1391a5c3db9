"""The calls of zennit and Captum that our relevance propagation is compared with."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.folded_lite import StackedSum, fold

IMAGE_SIZE = 224
# Our preset -> the composite of zennit with the same rules.
COMPOSITES = {
    "epsilon_plus": "EpsilonPlus",
    "epsilon_plus_flat": "EpsilonPlusFlat",
    "epsilon_alpha2_beta1_flat": "EpsilonAlpha2Beta1Flat",
    "epsilon_gamma_box": "EpsilonGammaBox",
    "deep_taylor": "z+ with z^B, put together by hand",
}


def zennit_network(backbone: nn.Module) -> nn.Sequential:
    """The folded classifier with zennit's own sums."""
    from zennit.layer import Sum

    return fold(backbone, IMAGE_SIZE, Sum)


def captum_network(backbone: nn.Module) -> nn.Sequential:
    """The folded classifier of plain torch modules."""
    return fold(backbone, IMAGE_SIZE, StackedSum)


def zennit_relevance(
    network: nn.Module, composite: Any, pixels: Tensor, label: int
) -> Callable[[], Tensor]:
    """Relevance of a class at the pixels; zennit's hooks stay on the network from here on.

    Args:
        network: Given to nobody else.
        composite: Of zennit.
        pixels: (1, 3, H, W).
        label: The class; relevance starts with its score.
    """
    from zennit.attribution import Gradient

    attributor = Gradient(model=network, composite=composite)
    attributor.__enter__()

    def start(scores: Tensor) -> Tensor:
        return scores.detach() * nn.functional.one_hot(torch.tensor([label]), scores.shape[1])

    return lambda: attributor(pixels, start)[1]


def zennit_composite(preset: str, low: Tensor, high: Tensor) -> Any:
    """The composite with the rules of one of our presets.

    Args:
        preset: A key of `COMPOSITES`.
        low: Lowest pixel, (1, 3, 1, 1).
        high: Highest pixel, (1, 3, 1, 1).
    """
    from zennit import composites

    bounds = {"low": _padded(low), "high": _padded(high)}
    if preset == "deep_taylor":
        return _deep_taylor(**bounds)
    kind = getattr(composites, COMPOSITES[preset])
    return kind(**bounds) if preset == "epsilon_gamma_box" else kind()


def _deep_taylor(low: Tensor, high: Tensor) -> Any:
    from zennit.composites import SpecialFirstLayerMapComposite, layer_map_base
    from zennit.rules import ZBox, ZPlus
    from zennit.types import Convolution, Linear

    layers = [*layer_map_base(), (Convolution, ZPlus()), (Linear, ZPlus())]
    return SpecialFirstLayerMapComposite(layers, [(Convolution, ZBox(low=low, high=high))])


def _padded(bound: Tensor) -> Tensor:
    """A bound of the first convolution's own input, whose padding is 0 and nothing else."""
    full = bound.expand(1, 3, IMAGE_SIZE, IMAGE_SIZE)
    return nn.functional.pad(full, (0, 1, 0, 1))


class PlainNetwork(nn.Module):
    """Seeded convolutions, ReLU, pooling and linear layers; no sums, 64 x 64 pixels, 10 classes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for inputs, outputs in ((3, 32), (32, 64), (64, 64)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Linear(64 * 8 * 8, 64), nn.ReLU(), nn.Linear(64, 10))
        self.eval().requires_grad_(False)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Logits (B, 10)."""
        # As a function: Captum has no rule for the module.
        return self.classifier(self.features(pixel_values).flatten(1))


def captum_relevance(network: nn.Module, pixels: Tensor, label: int) -> Callable[[], Tensor]:
    """Captum's LRP with its default rule, epsilon everywhere; it starts with the score."""
    from captum.attr import LRP

    method = LRP(network)
    pixels = pixels.clone().requires_grad_()
    return lambda: method.attribute(pixels, target=label)
