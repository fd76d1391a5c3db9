"""What modules keep in plain attributes between two passes, such as caches of tensors."""

import operator
from collections.abc import Generator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

from torch import Tensor, nn

from salhub.modeling import all_modules

# What every module has; hooks and parameters are looked after elsewhere.
_OWN_ATTRIBUTES = frozenset(vars(nn.Module())) - {"_buffers"}


@contextmanager
def unchanged_attributes(network: nn.Module) -> Generator[set[tuple[int, str]]]:
    """Puts back the tensors that modules store in themselves during a forward pass.

    A network may fill a cache in evaluation mode. Filled by our pass it would hold on to our graph
    or to the parameters of a meta step, and later passes of the user would take them from there.
    Caches that a module drops on `train()` start empty, for the same reason.

    Args:
        network: The network.

    Yields:
        A set that holds, when the pass is over, what it has changed: a module's id and the name of
        an attribute.

    Example:
        >>> import torch
        >>> class Caching(nn.ReLU):
        ...     pass
        >>> layer = Caching()
        >>> with unchanged_attributes(layer):
        ...     layer.cache = torch.ones(2)
        >>> hasattr(layer, "cache")
        False
    """
    before = [
        (module, _snapshot(module)) for module in all_modules(network) if _may_cache(type(module))
    ]
    for module, snapshot in before:
        if type(module).train is not nn.Module.train:
            _empty_caches(module, snapshot)
    changed: set[tuple[int, str]] = set()
    try:
        yield changed
    finally:
        for module, snapshot in before:
            if not snapshot.is_of(module):
                changed.update((id(module), name) for name in _restore(module, snapshot))


@lru_cache(maxsize=256)
def _may_cache(kind: type[nn.Module]) -> bool:
    # The layers of torch and the networks of salhub keep nothing, and they are most of a network.
    return not kind.__module__.startswith(("torch.nn.", "salhub."))


class _Snapshot(NamedTuple):
    """A module's attributes, and shallow copies of the containers among them."""

    attributes: dict[str, Any]
    contents: dict[str, Any]

    def is_of(self, module: nn.Module) -> bool:
        """Quick: nearly all modules of nearly all networks are as they were."""
        now = vars(module)
        if len(now) != len(self.attributes):
            return False
        if not all(map(operator.is_, now.values(), self.attributes.values())):
            return False
        return all(_is_alike(now[name], content) for name, content in self.contents.items())


def _snapshot(module: nn.Module) -> _Snapshot:
    attributes = vars(module).copy()
    contents = {
        name: value.copy()
        for name, value in attributes.items()
        if (type(value) is dict or type(value) is list) and name not in _OWN_ATTRIBUTES
    }
    return _Snapshot(attributes, contents)


def _is_alike(value: Any, content: Any) -> bool:
    if len(value) != len(content):
        return False
    if type(value) is dict:
        return all(map(operator.is_, value, content)) and all(
            map(operator.is_, value.values(), content.values())
        )
    return all(map(operator.is_, value, content))


def _empty_caches(module: nn.Module, snapshot: _Snapshot) -> None:
    for name, content in snapshot.contents.items():
        is_cache = name != "_buffers" and type(content) is dict and len(content) > 0
        if is_cache and all(isinstance(one, Tensor) for one in content.values()):
            vars(module)[name] = {}


def _restore(module: nn.Module, before: _Snapshot) -> list[str]:
    """Puts tensors back, and returns the names of all attributes that had changed."""
    now = vars(module)
    changed = [
        name
        for name in {**before.attributes, **now}
        if name not in _OWN_ATTRIBUTES and _differs(name, before, now)
    ]
    # Numbers that only count calls are the module's own business; those that describe a cache
    # must go back together with it.
    if not any(_holds_tensor(now.get(name)) or _held_tensor(name, before) for name in changed):
        return changed
    for name in changed:
        if name not in before.attributes:
            del now[name]
            continue
        value = now[name] = before.attributes[name]
        if name in before.contents:
            value.clear()
            (value.update if type(value) is dict else value.extend)(before.contents[name])
    return changed


def _differs(name: str, before: _Snapshot, now: dict[str, Any]) -> bool:
    if name not in before.attributes or name not in now:
        return True
    if now[name] is not before.attributes[name]:
        return True
    return name in before.contents and not _is_alike(now[name], before.contents[name])


def _held_tensor(name: str, before: _Snapshot) -> bool:
    return _holds_tensor(before.contents.get(name, before.attributes.get(name)))


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, dict):
        return any(isinstance(one, Tensor) for one in value.values())
    if isinstance(value, tuple | list):
        return any(isinstance(one, Tensor) for one in value)
    return isinstance(value, Tensor)
