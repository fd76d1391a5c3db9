"""Everything about a model that a call must leave alone."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn


def state_of(model: nn.Module) -> dict[str, Any]:
    """What can be compared before and after."""
    modules = dict(model.named_modules())
    return {
        "training": {name: module.training for name, module in modules.items()},
        "hooks": {
            name: [
                len(hooks) for key, hooks in sorted(vars(module).items()) if _are_hooks(key, hooks)
            ]
            for name, module in modules.items()
        },
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "grad": {name: p.grad is None for name, p in model.named_parameters()},
        "values": {name: float(p.double().sum()) for name, p in model.state_dict().items()},
        "attributes": {name: sorted(vars(module)) for name, module in modules.items()},
        "random": torch.get_rng_state().tolist(),
        "grad_mode": torch.is_grad_enabled(),
    }


def _are_hooks(name: str, value: Any) -> bool:
    # transformers notes beside them that it has put some there.
    return "_hooks" in name and not isinstance(value, bool)


class DeliberateError(Exception):
    """Raised inside a model by a test."""


@contextmanager
def failing_part(model: nn.Module, call: Callable[[], Any]) -> Iterator[None]:
    """Make the part of the model that `call` calls last raise."""
    leaves = [module for module in model.modules() if not list(module.children())]
    called: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]), ExitStack() as stack:
        for leaf in leaves:
            stack.enter_context(_replaced_forward(leaf, partial(_note, called, leaf)))
        call()

    def fail(*_, **__):
        raise DeliberateError

    with _replaced_forward(called[-1], fail):
        yield


def _note(called: list[nn.Module], leaf: nn.Module, *inputs: Any, **keywords: Any) -> Any:
    called.append(leaf)
    return type(leaf).forward(leaf, *inputs, **keywords)


@contextmanager
def _replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    module.forward = forward
    try:
        yield
    finally:
        vars(module).pop("forward", None)
