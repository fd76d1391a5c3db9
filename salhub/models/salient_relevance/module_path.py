"""Which module of a network is running."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass
class ModulePath:
    """Which module of the network is running, kept by hooks on the private copy."""

    stack: list[tuple[str, nn.Module]]

    @classmethod
    def watch(cls, network: nn.Module) -> "ModulePath":
        """Follow the modules of a network that belongs to us."""
        path = cls([])
        for name, module in network.named_modules():
            module.register_forward_pre_hook(path._enter(name))
            module.register_forward_hook(path._leave)
        return path

    def _enter(self, name: str) -> Callable:
        return lambda module, arguments: self.stack.append((name, module))

    def _leave(self, module: nn.Module, arguments: Any, output: Any) -> None:
        self.stack.pop()

    @property
    def name(self) -> str:
        """Dotted path of the running module."""
        return self.stack[-1][0] if self.stack else ""

    def describe(self) -> str:
        """Path and type for messages."""
        if not self.stack:
            return "the network"
        name, module = self.stack[-1]
        return f"'{name}' ({type(module).__name__})" if name else f"the {type(module).__name__}"
