"""Telling whether a network is still the one that was copied."""

from collections.abc import Hashable, Iterator
from types import BuiltinFunctionType, FunctionType

import torch
from torch import Tensor, nn

from salhub.modeling import all_modules

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_SCALARS = (bool, int, float, str, torch.dtype, torch.Size, type(None))
_SETTINGS = (*_SCALARS, FunctionType, BuiltinFunctionType)
# What every module has; what of it matters is looked at by name.
_OWN_ATTRIBUTES = frozenset(vars(nn.Module()))


class NetworkState:
    """What a network was at one moment.

    Seen are edits of weights, also through `.data`, which no version counter counts; swapped
    tensors; settings of modules such as a stride; replaced modules; hooks that came or went.
    Values are compared with a copy of the weights: that is exact, and takes half as long as sums
    over them.

    Args:
        network: Any module; it is only read.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> state = NetworkState(layer)
        >>> layer.weight.data.neg_() is None, state.is_of(layer)
        (False, False)
    """

    def __init__(self, network: nn.Module) -> None:
        modules = all_modules(network)
        tensors = list(_tensors(modules))
        self._settings = tuple(_settings(modules))
        self._identities = _identities(tensors)
        # Bits, because a NaN does not even equal itself.
        self._values = [_bits(tensor) for tensor in tensors if _is_plain(tensor)]
        self._copies = [values.clone() for values in self._values]

    def is_of(self, network: nn.Module) -> bool:
        """Whether the network computes what it computed then."""
        modules = all_modules(network)
        if _identities(list(_tensors(modules))) != self._identities:
            return False
        if tuple(_settings(modules)) != self._settings:
            return False
        return _are_equal(self._values, self._copies)


def _tensors(modules: list[nn.Module]) -> Iterator[Tensor]:
    for module in modules:
        for values in (module._parameters, module._buffers, vars(module)):
            for value in values.values():
                if isinstance(value, Tensor):
                    yield value


def _identities(tensors: list[Tensor]) -> list[tuple]:
    return [
        (tensor.data_ptr() if _is_plain(tensor) else id(tensor), tensor.shape, _version(tensor))
        for tensor in tensors
    ]


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not (tensor.is_quantized or tensor.is_meta)


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _bits(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    return tensor.view(_BITS[tensor.element_size()])


def _are_equal(values: list[Tensor], copies: list[Tensor]) -> bool:
    pairs = list(zip(values, copies, strict=True))
    if all(value.device.type == "cpu" for value in values):
        return all(torch.equal(value, copy) for value, copy in pairs)
    by_device: dict[torch.device, list[Tensor]] = {}
    for value, copy in pairs:
        by_device.setdefault(value.device, []).append((value != copy).any())
    # One transfer a device.
    return not any(bool(torch.stack(differ).any()) for differ in by_device.values())


def _settings(modules: list[nn.Module]) -> Iterator[Hashable]:
    for module in modules:
        yield id(module), type(module), tuple(module._modules)
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            if hooks:
                yield tuple(id(hook) for hook in hooks.values())
        for key, value in vars(module).items():
            if key not in _OWN_ATTRIBUTES and _is_setting(value):
                yield key, value


def _is_setting(value: object) -> bool:
    if isinstance(value, _SETTINGS):
        return True
    return isinstance(value, tuple) and all(isinstance(item, _SCALARS) for item in value)
