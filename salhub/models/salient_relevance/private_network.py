"""A copy of the explained network with batch normalisation folded in, for relevance passes only."""

import copy
import logging
import threading
from collections import Counter
from collections.abc import Callable, Generator, Hashable
from contextlib import contextmanager

import torch
from accelerate.hooks import remove_hook_from_module
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.overrides import TorchFunctionMode

from salhub.explaining.module_state import unchanged_attributes
from salhub.modeling import attribution_scope
from salhub.models.salient_relevance.module_path import ModulePath
from salhub.models.salient_relevance.torch_operations import tensors_in

logger = logging.getLogger(__name__)

# Share of the largest logit. Folding only reorders float32 arithmetic: 1e-6 on EfficientNet-Lite0.
MAX_LOGIT_DIFFERENCE = 1e-3
# The same network twice, in the precision of the user's: only what removes hooks may reorder.
_MAX_DIFFERENCE_BY_DTYPE = {torch.float16: 1e-2, torch.bfloat16: 5e-2}
# Bytes; where torch itself lets tensors begin.
_ALIGNMENT = 64
_WEIGHT_HOOKS = (WeightNorm, SpectralNorm, prune.BasePruningMethod)
_WEIGHTED = (nn.modules.conv._ConvNd, nn.Linear)


class PrivateNetwork:
    """The network that relevance runs through; the user's own is never changed.

    The copy is compared with the network it was made of, and again after folding; the engine
    compares its first relevance pass with the same logits. Weights that are the user's own bit for
    bit are then the user's own: they take no memory, and their edits need not be looked for.

    Args:
        network: The classifier to copy; run once on `pixels`, in evaluation mode.
        read_logits: Takes logits out of whatever the network returns.
        pixels: A picture to compare logits on.

    Raises:
        ValueError: The copy does not compute what the network computes.
    """

    def __init__(
        self, network: nn.Module, read_logits: Callable[[object], Tensor], pixels: Tensor
    ) -> None:
        self.lock = threading.Lock()
        self.read_logits = read_logits
        self.sample = pixels.detach().clone()
        with torch.no_grad():
            self.network = copy_for_relevance(network)
            self._compare_with_original(network)
            self.network = _in_full_precision(self.network)
            self.dtype = next((p.dtype for p in self.network.parameters()), torch.float32)
            pixels = pixels.to(self.dtype)
            self.expected = read_logits(self.network(pixels.clone())).clone()
            self.folded = fold_batch_norms(self.network, pixels.clone())
            found = read_logits(self.network(pixels.clone()))
            difference = relative_difference(found, self.expected)
        self.max_logit_difference = difference
        if not difference <= MAX_LOGIT_DIFFERENCE:
            raise ValueError(
                f"folding batch normalization changed the logits by {difference:.2g} of the "
                "largest, because the output of a convolution is used elsewhere too. "
                "Relevance cannot explain this network; use NormGrad."
            )
        for parameter in self.network.parameters():
            if parameter.dim() == 4:  # convolutions run a third faster on a CPU in this layout
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        self.shared = _share_weights(network, self.network)
        self.path = ModulePath.of(self.network)
        self.is_checked = False
        self._parts: tuple[Hashable, dict] = (None, {})
        logger.debug("folded %d batch normalisations", self.folded)

    def logits(self, pixels: Tensor) -> Tensor:
        """Run the copy."""
        return self.read_logits(self.network(pixels))

    def parts_cache(self, settings: Hashable) -> dict:
        """Modified weights under these settings; those of the settings before are let go."""
        if self._parts[0] != settings:
            self._parts = (settings, {})
        return self._parts[1]

    def forget_parts(self) -> None:
        """Let go of all modified weights."""
        self._parts = (None, {})

    def _compare_with_original(self, original: nn.Module) -> None:
        """Refuse a network whose hooks, or whatever else was not copied, shape its logits."""
        dtype = next((p.dtype for p in self.network.parameters()), torch.float32)
        pixels = self.sample.to(dtype)
        original = getattr(original, "_orig_mod", original)
        with (
            attribution_scope(original),
            torch.no_grad(),
            _uncompiled(original),
            unchanged_attributes(original) as changed,
        ):
            # A copy: a network may change what it is given.
            wanted = self.read_logits(original(pixels.clone())).clone()
        self.made_by_a_pass = frozenset(changed)
        if not bool(wanted.isfinite().all()):
            raise ValueError(
                f"{type(original).__name__} gives NaN or infinite logits for this picture, so "
                "there is no score to explain; check its weights and precision."
            )
        found = self.read_logits(self.network(pixels.clone()))
        difference = relative_difference(found, wanted)
        if difference <= _MAX_DIFFERENCE_BY_DTYPE.get(dtype, MAX_LOGIT_DIFFERENCE):
            return
        hooked = hooked_modules(original)
        if hooked:
            raise ValueError(
                f"the forward hook on {hooked[0]} changes the logits, and relevance cannot "
                "pass through a hook; remove the hook, move its code into the module's "
                "forward, or use NormGrad."
            )
        raise ValueError(
            f"a copy of {type(original).__name__} gives logits that differ by {difference:.2g} of "
            "the largest, so its output depends on more than weights and pixels (random numbers, "
            "the modules of another network); use NormGrad."
        )


def relative_difference(logits: Tensor, expected: Tensor) -> float:
    """Largest distance of two sets of logits, as a share of the largest expected one."""
    if logits.shape != expected.shape:
        return float("inf")
    distance = (logits.double() - expected.double()).abs().amax()
    return float(distance / expected.double().abs().amax().clamp(min=1e-30))


def _share_weights(original: nn.Module, private: nn.Module) -> frozenset[int]:
    """Give the copy the weights themselves where nothing has changed them; ids of the originals."""
    original = getattr(original, "_orig_mod", original)
    own = dict(original.named_parameters(remove_duplicate=False))
    shared = set()
    for name, parameter in private.named_parameters():
        source = own.get(name)
        if source is not None and _are_alike(source, parameter):
            parameter.data = source.data
            shared.add(id(source))
    return frozenset(shared)


def _are_alike(source: nn.Parameter, parameter: nn.Parameter) -> bool:
    if not type(source) is type(parameter) is nn.Parameter or source.is_inference():
        return False
    if source.layout != torch.strided or source.is_meta or source.is_quantized:
        return False
    # Weights as they are read from a file may begin anywhere; products then round in another order.
    if source.device.type == "cpu" and source.data_ptr() % _ALIGNMENT:
        return False
    kinds = [(p.dtype, p.device, p.shape, p.stride()) for p in (source, parameter)]
    return kinds[0] == kinds[1] and torch.equal(source, parameter)


@contextmanager
def _uncompiled(network: nn.Module) -> Generator[None]:
    """Run compiled parts as plain code, so that one comparison costs no compilation."""
    if not any(hasattr(module, "_orig_mod") for module in network.modules()):
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def hooked_modules(network: nn.Module) -> list[str]:
    """Names and types of modules with forward hooks, those that only make weights left out."""
    return [
        f"'{name}' ({type(module).__name__})" if name else f"the {type(module).__name__}"
        for name, module in network.named_modules()
        if module._forward_hooks
        or any(not isinstance(h, _WEIGHT_HOOKS) for h in module._forward_pre_hooks.values())
    ]


def copy_for_relevance(network: nn.Module) -> nn.Module:
    """A frozen copy in evaluation mode, without hooks and parametrisations."""
    network = getattr(network, "_orig_mod", network)  # what torch.compile wraps
    # results of old-style weight_norm and pruning have a graph, which cannot be copied
    derived = {
        id(value): value.detach().clone()
        for module in network.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    twin = copy.deepcopy(network, derived)
    _unwrap_compiled_parts(twin)
    for module in list(twin.modules()):
        remove_hook_from_module(module)
        _keep_made_weights(module)
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
        if parametrize.is_parametrized(module):
            _give_own_class(module)
            for name in list(module.parametrizations):
                parametrize.remove_parametrizations(module, name)
    return twin.eval().requires_grad_(False)


def _keep_made_weights(module: nn.Module) -> None:
    """Turn weights that hooks make before every forward into plain parameters."""
    for hook in list(module._forward_pre_hooks.values()):
        if isinstance(hook, WeightNorm):
            remove_weight_norm(module, hook.name)
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(module, hook.name)
        elif isinstance(hook, prune.BasePruningMethod):
            prune.remove(module, hook._tensor_name)


def _give_own_class(module: nn.Module) -> None:
    """Part a copied module from the class that it shares with the one it was copied from."""
    # removing a parametrisation deletes a property of the class, which would break the original
    shared = type(module)
    own = {key: v for key, v in vars(shared).items() if key not in ("__dict__", "__weakref__")}
    module.__class__ = type(shared.__name__, shared.__bases__, own)


def _in_full_precision(network: nn.Module) -> nn.Module:
    is_double = any(p.dtype == torch.float64 for p in network.parameters())
    return network if is_double else network.float()


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


class _Readers(TorchFunctionMode):
    """Counts the operations that read each of the tensors whose ids are keys of `watched`."""

    def __init__(self, watched: dict[int, nn.Module]) -> None:
        super().__init__()
        self.watched = watched
        self.counts: Counter[int] = Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if tensors_in((result,)):  # not a question such as that for the shape
            read = {id(tensor) for tensor in tensors_in((*args, *kwargs.values()))}
            self.counts.update(read & self.watched.keys())
        return result


def _find_pairs(network: nn.Module, pixels: Tensor) -> list[tuple[nn.Module, str, nn.Module]]:
    """(layer, name of the norm, norm) where the norm alone reads what the layer made."""
    makers: dict[int, nn.Module] = {}
    kept: list[Tensor] = []  # a freed tensor's id could be given to another one
    fed: list[tuple[nn.Module, str, nn.Module, int]] = []
    readers = _Readers(makers)
    calls: Counter[nn.Module] = Counter()

    def made(module: nn.Module, arguments: tuple, output: Tensor) -> None:
        calls[module] += 1
        makers[id(output)] = module
        kept.append(output)

    def read(name: str) -> Callable:
        def hook(module: nn.Module, arguments: tuple) -> None:
            calls[module] += 1
            if arguments and id(arguments[0]) in makers:
                fed.append((makers[id(arguments[0])], name, module, id(arguments[0])))

        return hook

    handles = []
    for name, module in network.named_modules():
        if isinstance(module, _WEIGHTED):
            handles.append(module.register_forward_hook(made))
        elif isinstance(module, _BatchNorm) and module.running_mean is not None:
            handles.append(module.register_forward_pre_hook(read(name)))
    try:
        with readers:
            network(pixels)
    finally:
        for handle in handles:
            handle.remove()
    return [
        (layer, name, norm)
        for layer, name, norm, output in fed
        if calls[layer] == calls[norm] == 1 and readers.counts[output] == 1
    ]


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
