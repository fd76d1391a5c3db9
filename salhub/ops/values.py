"""Looking at the values of tensors, where there are any to look at."""

import torch
from torch import Tensor


def is_any(condition: Tensor) -> bool:
    """Whether a condition holds anywhere; False where nobody can know.

    Inside `torch.func.vmap`, in a graph that is being compiled and on the meta device there are no
    values to look at, and checks have to let things pass.

    Args:
        condition: bool, of any shape.

    Example:
        >>> is_any(torch.tensor([False, True])), is_any(torch.ones(2, device="meta") > 0)
        (True, False)
    """
    if torch.compiler.is_compiling():
        return False
    try:
        return bool(condition.any())
    except RuntimeError:
        return False
