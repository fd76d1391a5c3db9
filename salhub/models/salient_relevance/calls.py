"""Reading the arguments of calls of torch functions."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from salhub.models.salient_relevance.operations import ACTIVATIONS, is_in_place, operation_name


def tensors_in(values: tuple) -> Iterator[Tensor]:
    """Tensors among arguments, also inside lists such as that of `torch.cat`."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_in(tuple(value))


def share_memory(first: Tensor, second: Tensor) -> bool:
    """Whether one is a view of the other, or both are of a third."""
    return first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()


def follow_replacements(value: Any, replacements: dict[int, Tensor]) -> Any:
    """Follow in-place operations: the tensor that the code means now."""
    if isinstance(value, list | tuple) and not isinstance(value, torch.Size):
        return type(value)(follow_replacements(item, replacements) for item in value)
    while isinstance(value, Tensor) and replacements.get(id(value), value) is not value:
        value = replacements[id(value)]
    return value


def first_operand(
    func: Callable, args: tuple, kwargs: dict
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The tensor a call works on, and the call as a function of it."""
    if args:
        return args[0], lambda x: func(x, *args[1:], **kwargs)
    rest = {key: value for key, value in kwargs.items() if key not in ("input", "self")}
    return kwargs.get("input", kwargs.get("self")), lambda x: func(x, **rest)


def operands(args: tuple, kwargs: dict) -> tuple[Any, Any]:
    """Both sides of a sum or product, by position or by name."""
    named = [kwargs[key] for key in ("input", "self", "other") if key in kwargs]
    first, second = (*args, *named)[:2]
    return first, second


def changes_input(func: Callable, args: tuple, kwargs: dict) -> bool:
    """Whether the call is one that works in place."""
    if is_in_place(func) or kwargs.get("inplace"):
        return True
    # `inplace` is the only flag of torch.nn.functional's activations, and may come by position
    return operation_name(func) in ACTIVATIONS and any(value is True for value in args[1:])
