"""What modules keep in plain attributes between two passes, such as caches of tensors."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

# What every module has; hooks and parameters are looked after elsewhere.
_OWN_ATTRIBUTES = frozenset(vars(nn.Module())) - {"_buffers"}


@contextmanager
def unchanged_attributes(network: nn.Module) -> Generator[None]:
    """Puts back the tensors that modules store in themselves during a forward pass.

    A network may fill a cache in evaluation mode. Filled by our pass it would hold on to our graph
    or to the parameters of a meta step, and later passes of the user would take them from there.
    Caches that a module drops on `train()` start empty, for the same reason.

    Args:
        network: The network.

    Example:
        >>> import torch
        >>> layer = nn.ReLU()
        >>> with unchanged_attributes(layer):
        ...     layer.cache = torch.ones(2)
        >>> hasattr(layer, "cache")
        False
    """
    before = [(module, _snapshot(module)) for module in network.modules()]
    for module, attributes in before:
        if type(module).train is not nn.Module.train:
            _empty_caches(module, attributes)
    try:
        yield
    finally:
        for module, attributes in before:
            _restore(module, attributes)


def _snapshot(module: nn.Module) -> dict[str, tuple[Any, Any]]:
    """Attribute to its value and, for containers, a shallow copy of what is in it."""
    return {
        name: (value, value.copy() if type(value) in (dict, list) else None)
        for name, value in vars(module).items()
        if name not in _OWN_ATTRIBUTES
    }


def _empty_caches(module: nn.Module, attributes: dict[str, tuple[Any, Any]]) -> None:
    for name, (value, content) in attributes.items():
        is_cache = name != "_buffers" and type(value) is dict and len(value) > 0
        if is_cache and all(isinstance(one, Tensor) for one in content.values()):
            vars(module)[name] = {}


def _restore(module: nn.Module, before: dict[str, tuple[Any, Any]]) -> None:
    after = {name: one for name, one in vars(module).items() if name not in _OWN_ATTRIBUTES}
    changed = [name for name in {**before, **after} if _differs(name, before, after)]
    # Numbers that only count calls are the module's own business; those that describe a cache
    # must go back together with it.
    if not any(_holds_tensor(after.get(name)) or _was_tensor(name, before) for name in changed):
        return
    for name in changed:
        if name not in before:
            del vars(module)[name]
            continue
        value, content = before[name]
        vars(module)[name] = value
        if type(value) is dict:
            value.clear()
            value.update(content)
        elif type(value) is list:
            value[:] = content


def _differs(name: str, before: dict[str, tuple[Any, Any]], after: dict[str, Any]) -> bool:
    if name not in before or name not in after:
        return True
    value, content = before[name]
    if after[name] is not value:
        return True
    if content is None:
        return False
    if len(value) != len(content):
        return True
    if type(value) is dict:
        return any(key not in content or content[key] is not one for key, one in value.items())
    return any(one is not other for one, other in zip(value, content, strict=True))


def _was_tensor(name: str, before: dict[str, tuple[Any, Any]]) -> bool:
    if name not in before:
        return False
    value, content = before[name]
    return _holds_tensor(value if content is None else content)


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, dict):
        return any(isinstance(one, Tensor) for one in value.values())
    if isinstance(value, tuple | list):
        return any(isinstance(one, Tensor) for one in value)
    return isinstance(value, Tensor)
