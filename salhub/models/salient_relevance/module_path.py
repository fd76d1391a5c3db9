"""Which module of a network is running."""

import sys
from dataclasses import dataclass

from torch import nn

_CALL = nn.Module.__call__.__code__


@dataclass
class ModulePath:
    """Which module of a network is running, read off the call stack: hooks slow down every module.

    Args:
        names: of the modules, by id.
    """

    names: dict[int, str]

    @classmethod
    def of(cls, network: nn.Module) -> "ModulePath":
        """The modules of a network that is kept alive elsewhere."""
        return cls({id(module): name for name, module in network.named_modules()})

    def _running(self) -> nn.Module | None:
        frame = sys._getframe()
        while frame is not None:
            if frame.f_code is _CALL and id(frame.f_locals["self"]) in self.names:
                return frame.f_locals["self"]
            frame = frame.f_back
        return None

    @property
    def name(self) -> str:
        """Dotted path of the running module."""
        return self.names.get(id(self._running()), "")

    def describe(self) -> str:
        """Path and type for messages."""
        module = self._running()
        if module is None:
            return "the network"
        name, kind = self.names[id(module)], type(module).__name__
        return f"'{name}' ({kind})" if name else f"the {kind}"
