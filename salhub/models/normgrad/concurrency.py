"""One thread at a time on one network."""

import threading
from collections.abc import Generator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from torch import nn

_LOCKS: "WeakKeyDictionary[nn.Module, threading.RLock]" = WeakKeyDictionary()
_LOCKS_LOCK = threading.Lock()


@contextmanager
def exclusive_use(network: nn.Module) -> Generator[None]:
    """Waits until no other thread explains this network.

    The evaluation flags, and the parameters during a meta step, are exchanged for the time of a
    pass; a web page serves several people from one network.

    Args:
        network: The explained classifier.

    Example:
        >>> with exclusive_use(nn.Linear(2, 2)):
        ...     pass
    """
    with _LOCKS_LOCK:
        lock = _LOCKS.setdefault(network, threading.RLock())
    with lock:
        yield
