"""A copy of the explained network with batch normalisation folded in, for relevance passes only."""

import copy
import logging
import threading
from collections import Counter
from collections.abc import Callable

import torch
from accelerate.hooks import remove_hook_from_module
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from salhub.models.salient_relevance.propagation import ModulePath

logger = logging.getLogger(__name__)

# Folding only reorders float32 arithmetic: 1e-5 on EfficientNet-Lite0. More is a wrong fold.
MAX_LOGIT_DIFFERENCE = 1e-3
_WEIGHTED = (nn.modules.conv._ConvNd, nn.Linear)


class PrivateNetwork:
    """The network that relevance runs through; the user's own is never touched.

    Args:
        network: The classifier to copy.
        read_logits: Takes logits out of whatever the network returns.
        pixels: A picture to find out with which layer feeds which batch normalisation.

    Raises:
        ValueError: The copy does not compute what the network computes.
    """

    def __init__(
        self, network: nn.Module, read_logits: Callable[[object], Tensor], pixels: Tensor
    ) -> None:
        self.lock = threading.Lock()
        self.read_logits = read_logits
        self.network = copy_for_relevance(network)
        self.dtype = next((p.dtype for p in self.network.parameters()), torch.float32)
        pixels = pixels.to(self.dtype)
        with torch.no_grad():
            expected = read_logits(self.network(pixels))
            self.folded = fold_batch_norms(self.network, pixels)
            difference = (read_logits(self.network(pixels)) - expected).abs().amax()
        self.max_logit_difference = float(difference)
        if not self.max_logit_difference < MAX_LOGIT_DIFFERENCE * max(1.0, float(expected.std())):
            raise ValueError(
                "folding batch normalisation changed the logits by "
                f"{self.max_logit_difference:.2g}: the output of a convolution is used elsewhere "
                "too. This network cannot be explained by relevance; use NormGrad."
            )
        for parameter in self.network.parameters():
            if parameter.dim() == 4:  # convolutions run a third faster on a CPU in this layout
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        self.path = ModulePath.watch(self.network)
        logger.debug("folded %d batch normalisations", self.folded)

    def logits(self, pixels: Tensor) -> Tensor:
        """Run the copy."""
        self.path.stack.clear()
        return self.read_logits(self.network(pixels))


def copy_for_relevance(network: nn.Module) -> nn.Module:
    """A frozen float32 copy in evaluation mode, without hooks and parametrisations."""
    twin = copy.deepcopy(getattr(network, "_orig_mod", network))  # what torch.compile wraps
    _unwrap_compiled_parts(twin)
    for module in list(twin.modules()):
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(
                f"{type(network).__name__} holds scripted modules, whose operations cannot be "
                "seen; explain the module that was scripted instead."
            )
        remove_hook_from_module(module)
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):
                parametrize.remove_parametrizations(module, name)
    twin = twin.eval().requires_grad_(False)
    is_double = any(p.dtype == torch.float64 for p in twin.parameters())
    return twin if is_double else twin.float()


def _unwrap_compiled_parts(network: nn.Module) -> None:
    for name, child in list(network.named_children()):
        if hasattr(child, "_orig_mod"):
            setattr(network, name, child._orig_mod)
        _unwrap_compiled_parts(getattr(network, name))


def fold_batch_norms(network: nn.Module, pixels: Tensor) -> int:
    """Fold every batch normalisation into the convolution or linear layer that feeds it.

    Args:
        network: Changed in place; in evaluation mode.
        pixels: A picture to run once, (B, C, H, W).

    Returns:
        How many were folded. One that no single layer feeds stays, and is explained as an
        elementwise affine step.
    """
    pairs = _find_pairs(network, pixels)
    for layer, name, norm in pairs:
        _fold(layer, norm)
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, nn.Identity())
    return len(pairs)


def _find_pairs(network: nn.Module, pixels: Tensor) -> list[tuple[nn.Module, str, nn.Module]]:
    """(layer, name of the norm, norm) where the norm alone reads what the layer made."""
    makers: dict[int, nn.Module] = {}
    kept: list[Tensor] = []  # a freed tensor's id could be given to another one
    fed: list[tuple[nn.Module, str, nn.Module]] = []
    calls: Counter[nn.Module] = Counter()

    def made(module: nn.Module, arguments: tuple, output: Tensor) -> None:
        calls[module] += 1
        makers[id(output)] = module
        kept.append(output)

    def read(name: str) -> Callable:
        def hook(module: nn.Module, arguments: tuple) -> None:
            calls[module] += 1
            if arguments and id(arguments[0]) in makers:
                fed.append((makers[id(arguments[0])], name, module))

        return hook

    handles = []
    for name, module in network.named_modules():
        if isinstance(module, _WEIGHTED):
            handles.append(module.register_forward_hook(made))
        elif isinstance(module, _BatchNorm) and module.running_mean is not None:
            handles.append(module.register_forward_pre_hook(read(name)))
    try:
        network(pixels)
    finally:
        for handle in handles:
            handle.remove()
    return [pair for pair in fed if calls[pair[0]] == calls[pair[2]] == 1]


def _fold(layer: nn.Module, norm: nn.Module) -> None:
    """Set w to w s and b to (b - mean) s + beta, s = gamma / sqrt(var + eps), in float64."""
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    bias = (
        layer.weight.new_zeros(len(scale)).double() if layer.bias is None else layer.bias.double()
    )
    bias = (bias - norm.running_mean.double()) * scale
    if norm.bias is not None:
        bias = bias + norm.bias.double()
    dtype = layer.weight.dtype
    folded = layer.weight.double() * _along_outputs(layer, scale)
    layer.weight = nn.Parameter(folded.to(dtype), requires_grad=False)
    layer.bias = nn.Parameter(bias.to(dtype), requires_grad=False)


def _along_outputs(layer: nn.Module, scale: Tensor) -> Tensor:
    """The scale of every output channel, shaped like the layer's weight."""
    rest = (1,) * (layer.weight.dim() - 2)
    if not getattr(layer, "transposed", False):
        return scale.view(-1, 1, *rest)
    by_group = scale.view(layer.groups, 1, -1).expand(-1, layer.in_channels // layer.groups, -1)
    return by_group.reshape(layer.in_channels, -1, *rest)
