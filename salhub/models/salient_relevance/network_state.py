"""Telling whether a network is still the one that was copied."""

from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from salhub.modeling import all_modules

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_SETTINGS = (
    bool,
    int,
    float,
    str,
    torch.dtype,
    type(None),
    FunctionType,
    BuiltinFunctionType,
    MethodType,
)
# What every module has; what of it matters is looked at by name.
_OWN_ATTRIBUTES = frozenset(vars(nn.Module()))
_DEEPEST = 4

# A module's id and the name of an attribute.
Attribute = tuple[int, str]


class NetworkState:
    """What a network was at one moment.

    Seen are edits of weights, also through `.data`, which no version counter counts; swapped or
    reshaped tensors; replaced modules and methods; hooks that came or went; and what modules hold
    in attributes: numbers, names, functions, tensors, and lists and dictionaries of them. Values
    are compared with a copy of the tensors: that is exact, and takes half as long as sums over
    them. An object of another kind counts as the same as long as it is the same object.

    Args:
        network: Any module; it is only read.
        made_by_a_pass: Attributes that a forward pass sets, such as a counter or a kept feature
            map; they are not looked at.
        shared: Ids of parameters that the copy shares. Who reads nothing but them sees their edits
            as they are made; what is derived from them is of their values at `keep_shared`.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> state = NetworkState(layer)
        >>> layer.weight.data.neg_() is None, state.is_of(layer)
        (False, False)
    """

    def __init__(
        self,
        network: nn.Module,
        made_by_a_pass: frozenset[Attribute] = frozenset(),
        shared: frozenset[int] = frozenset(),
    ) -> None:
        self._ignored = made_by_a_pass
        look = _Look(network, made_by_a_pass)
        # Kept alive: the id of an object that is gone may be given to another one.
        self._settings, self._objects = look.settings, look.objects
        self._identities = _identities(look.tensors)
        # Bits, because a NaN does not even equal itself.
        plain = [tensor for tensor in look.tensors if _is_plain(tensor)]
        self._values = [_bits(tensor) for tensor in plain if id(tensor) not in shared]
        self._copies = [_copy(values) for values in self._values]
        self._shared_values = [_bits(tensor) for tensor in plain if id(tensor) in shared]
        self._shared_copies: list[Tensor | bytearray] | None = None

    def keep_shared(self) -> bool:
        """Keep the values of shared weights from now on; whether they were not kept so far."""
        if self._shared_copies is not None:
            return False
        self._shared_copies = [_copy(values) for values in self._shared_values]
        return True

    def is_of(self, network: nn.Module, with_shared: bool = True) -> bool:
        """Whether the network computes what it computed then.

        Args:
            network: Only read.
            with_shared: Whether to look for edits of kept values of shared weights, too.
        """
        look = _Look(network, self._ignored)
        if look.settings != self._settings or _identities(look.tensors) != self._identities:
            return False
        if not _are_equal(self._values, self._copies):
            return False
        if not with_shared or self._shared_copies is None:
            return True
        return _are_equal(self._shared_values, self._shared_copies)


class _Look:
    """The tensors and settings of a network, in the order of its modules."""

    def __init__(self, network: nn.Module, ignored: frozenset[Attribute]) -> None:
        self.tensors: list[Tensor] = []
        self.settings: list[Any] = []
        self.objects: list[Any] = []
        for module in all_modules(network):
            self._take(module, ignored)

    def _take(self, module: nn.Module, ignored: frozenset[Attribute]) -> None:
        self.objects.append(module)
        self.settings.append((id(module), type(module), tuple(module._modules)))
        for named in (module._parameters, module._buffers):
            self.tensors += [value for value in named.values() if value is not None]
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            if hooks:
                self.settings.append(tuple(map(self._same, hooks.values())))
        # Tensors that torch's own modules keep beside their parameters are made of these, as by
        # weight_norm before every pass.
        with_tensors = not type(module).__module__.startswith("torch.nn.")
        for key in sorted(vars(module).keys() - _OWN_ATTRIBUTES):
            value = vars(module)[key]
            if (id(module), key) in ignored:
                continue
            if _is_a(value, _SETTINGS):
                self.settings.append((key, value))
            elif with_tensors or not _is_a(value, Tensor):
                self.settings.append((key, self._describe(value)))

    def _describe(self, value: Any, depth: int = 0) -> Any:
        if _is_a(value, _SETTINGS):
            return value
        if _is_a(value, Tensor):
            self.tensors.append(value)
            return "tensor"
        if depth < _DEEPEST and _is_a(value, (list, tuple)):
            return type(value), tuple(self._describe(item, depth + 1) for item in value)
        if depth < _DEEPEST and _is_a(value, dict):
            items = (
                (self._same(key), self._describe(item, depth + 1)) for key, item in value.items()
            )
            return type(value), tuple(items)
        return self._same(value)

    def _same(self, value: Any) -> Any:
        """Stands for an object that is compared by what it is."""
        if _is_a(value, (str, int)):
            return value
        self.objects.append(value)
        return id(value)


def _is_a(value: Any, kinds: type | tuple[type, ...]) -> bool:
    """As `isinstance`, which asks configurations of transformers for their class, in Python."""
    return issubclass(type(value), kinds)


def _identities(tensors: list[Tensor]) -> list[tuple]:
    return [
        (
            *((tensor.data_ptr(), tensor.stride()) if _is_plain(tensor) else (id(tensor),)),
            tensor.dtype,
            tensor.shape,
            _version(tensor),
        )
        for tensor in tensors
    ]


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not (tensor.is_quantized or tensor.is_meta)


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _bits(tensor: Tensor) -> Tensor | memoryview:
    tensor = tensor.detach()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    tensor = tensor.resolve_neg()
    if tensor.device.type == "cpu" and tensor.is_contiguous():
        # The comparison of Python's own bytes is several times faster than torch's.
        return memoryview(tensor.view(-1).view(torch.uint8).numpy())
    return tensor.view(_BITS[tensor.element_size()])


def _copy(values: Tensor | memoryview) -> Tensor | bytearray:
    return values.clone() if isinstance(values, Tensor) else bytearray(values)


def _are_equal(values: list[Tensor | memoryview], copies: list[Tensor | bytearray]) -> bool:
    by_device: dict[torch.device, list[Tensor]] = {}
    for value, copy in zip(values, copies, strict=True):
        if not isinstance(value, Tensor):
            if copy != value:
                return False
        elif value.device.type == "cpu":
            if not torch.equal(value, copy):
                return False
        else:
            by_device.setdefault(value.device, []).append((value != copy).any())
    # One transfer a device.
    return not any(bool(torch.stack(differ).any()) for differ in by_device.values())
