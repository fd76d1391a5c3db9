"""Telling whether a network is still the one that was copied."""

from collections.abc import Hashable, Iterator
from functools import lru_cache
from types import BuiltinFunctionType, FunctionType

import torch
from torch import Tensor, nn

_BITS = {1: torch.int8, 2: torch.int16}
_SCALARS = (bool, int, float, str, torch.dtype, torch.Size, type(None))
_FUNCTIONS = (FunctionType, BuiltinFunctionType)


def fingerprint(network: nn.Module) -> tuple:
    """Changes whenever what the network computes may have changed.

    Seen are edits of weights, also through `.data`, which no version counter counts; swapped
    tensors; settings of modules such as a stride; replaced modules; hooks that came or went.

    Args:
        network: Any module; it is only read.

    Returns:
        A tuple to compare with that of an earlier moment.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> before = fingerprint(layer)
        >>> layer.weight.data = layer.weight.data.flip(0)
        >>> fingerprint(layer) == before
        False
    """
    tensors = [*network.parameters(), *network.buffers()]
    identities = tuple(
        (t.data_ptr() if _is_plain(t) else id(t), t.dtype, _version(t)) for t in tensors
    )
    with torch.no_grad():
        by_device: dict[torch.device, list[Tensor]] = {}
        for tensor in tensors:
            if _is_plain(tensor) and tensor.numel():
                by_device.setdefault(tensor.device, []).append(_checksum(tensor.detach()))
        # One transfer a device.
        values = tuple(tuple(torch.stack(group).tolist()) for group in by_device.values())
    return identities, values, tuple(_settings(network))


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not (tensor.is_quantized or tensor.is_meta)


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _checksum(tensor: Tensor) -> Tensor:
    """Sum of the bits of all values, each times an odd number of its place: sees every one."""
    # bits, because sums of floats miss small edits and a NaN does not even equal itself
    bits = tensor.reshape(-1).view(_BITS.get(tensor.element_size(), torch.int32))
    size = 1 << (bits.numel() - 1).bit_length()
    return (bits * _place_numbers(size, bits.dtype, bits.device)[: bits.numel()]).sum()


@lru_cache(maxsize=32)
def _place_numbers(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Fixed pseudo-random odd numbers, which lose no bit of what they multiply."""
    generator = torch.Generator().manual_seed(0)
    limits = torch.iinfo(dtype)
    numbers = torch.randint(limits.min, limits.max, (size,), generator=generator, dtype=dtype)
    return (numbers | 1).to(device)


def _settings(network: nn.Module) -> Iterator[Hashable]:
    for name, module in network.named_modules():
        yield name, id(module), type(module)
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            if hooks:
                yield tuple(id(hook) for hook in hooks.values())
        for key, value in vars(module).items():
            if key != "training" and _is_setting(value):
                yield key, value


def _is_setting(value: object) -> bool:
    if isinstance(value, (*_SCALARS, *_FUNCTIONS)):
        return True
    return isinstance(value, tuple) and all(isinstance(item, _SCALARS) for item in value)
