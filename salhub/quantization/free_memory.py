"""Memory that is free and yet not given back to the system."""

import ctypes
from contextlib import suppress


def return_free_memory() -> None:
    """Give back what the C library keeps of freed tensors, where it is glibc.

    What stays of a block lies between the large tensors that its work took, so that their room is
    not given back by itself, and a process would grow with every block.
    """
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
