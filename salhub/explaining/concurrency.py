"""One thread at a time on one network."""

import threading
from collections.abc import Generator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from torch import nn

from salhub.saving import unwrapped

_LOCKS: "WeakKeyDictionary[nn.Module, threading.RLock]" = WeakKeyDictionary()
_LOCKS_LOCK = threading.Lock()


@contextmanager
def exclusive_use(network: nn.Module) -> Generator[None]:
    """Waits until no other thread explains this network.

    The evaluation flags, and the parameters during a meta step, are exchanged for the time of a
    pass; a web page serves several people, and several methods, from one network. Every method
    holds this around whatever runs or reads the network. A meta step must not run beside other use
    of the module: code that does not take this lock, such as a training loop in another thread,
    would see the stepped parameters.

    Args:
        network: The explained classifier; a compiled one counts as the one that was compiled.

    Example:
        >>> with exclusive_use(nn.Linear(2, 2)):
        ...     pass
    """
    network = unwrapped(network)
    with _LOCKS_LOCK:
        lock = _LOCKS.setdefault(network, threading.RLock())
    with lock:
        yield
