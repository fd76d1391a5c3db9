"""What every torch operation means for relevance, by name."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

# Relevance of the output belongs to the input, element by element.
ACTIVATIONS = frozenset(
    {
        "relu", "relu6", "hardtanh", "leaky_relu", "rrelu", "prelu", "elu", "selu", "celu",
        "gelu", "silu", "mish", "softplus", "softsign", "hardswish", "hardshrink", "softshrink",
        "tanhshrink", "threshold", "logsigmoid", "clamp", "clamp_min", "clamp_max", "tanh",
        "sigmoid", "hardsigmoid",
    }
)  # fmt: skip
# Their outputs may be the constant factor of a product (squeeze-excite, x * sigmoid(x)).
GATES = frozenset({"sigmoid", "hardsigmoid", "tanh"})

# The output copies, selects or arranges inputs: autograd already sends relevance home. The largest
# of a pooling window takes all.
ROUTING = frozenset(
    {
        "reshape", "view", "view_as", "reshape_as", "flatten", "unflatten", "ravel", "permute",
        "transpose", "swapaxes", "movedim", "t", "T", "mT", "squeeze", "unsqueeze", "expand",
        "expand_as", "repeat", "repeat_interleave", "tile", "contiguous", "clone", "to", "float",
        "double", "type", "type_as", "cat", "concat", "concatenate", "stack", "hstack", "vstack",
        "dstack", "split", "chunk", "unbind", "tensor_split", "narrow", "select", "index_select",
        "getitem", "gather", "take_along_dim", "flip", "roll", "rot90", "pixel_shuffle",
        "pixel_unshuffle", "channel_shuffle", "pad", "constant_pad_nd", "dropout", "dropout1d",
        "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout", "feature_alpha_dropout",
        "unfold", "diagonal", "max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool1d",
        "adaptive_max_pool2d", "adaptive_max_pool3d", "max_pool1d_with_indices",
        "max_pool2d_with_indices", "max_pool3d_with_indices", "adaptive_max_pool1d_with_indices",
        "adaptive_max_pool2d_with_indices", "adaptive_max_pool3d_with_indices", "amax", "max",
        "cpu", "cuda",
    }
)  # fmt: skip
# Of these, the ones whose output is (or with another memory layout would be) a view of the input.
VIEWS = frozenset(
    {
        "reshape", "view", "view_as", "reshape_as", "flatten", "unflatten", "ravel", "permute",
        "transpose", "swapaxes", "movedim", "t", "T", "mT", "squeeze", "unsqueeze", "expand",
        "expand_as", "split", "chunk", "unbind", "tensor_split", "narrow", "select", "diagonal",
    }
)  # fmt: skip
# Linear with weights that are never negative: proportional to the values.
POOLING = frozenset(
    {
        "mean", "sum", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d",
        "adaptive_avg_pool2d", "adaptive_avg_pool3d", "interpolate", "upsample",
    }
)  # fmt: skip
ADDITION = frozenset({"add", "sub", "subtract", "rsub"})
PRODUCT = frozenset({"mul", "multiply", "div", "divide", "true_divide", "rdiv", "neg", "negative"})
MATRIX_PRODUCT = frozenset({"matmul", "mm", "rmatmul"})

_SPELLINGS = {
    "iadd": "add",
    "radd": "add",
    "isub": "sub",
    "imul": "mul",
    "rmul": "mul",
    "truediv": "div",
    "itruediv": "div",
    "rtruediv": "rdiv",
}


def operation_name(function: Callable) -> str:
    """The name of a torch function without decoration: `Tensor.__iadd__` and `add_` are "add"."""
    name = getattr(function, "__name__", type(function).__name__).strip("_")
    return _SPELLINGS.get(name, name)


def is_in_place(function: Callable) -> bool:
    """Whether the function is the in-place spelling, such as `add_` or `__iadd__`."""
    name = getattr(function, "__name__", "")
    if name.startswith("__"):
        return name.startswith("__i") and name not in ("__invert__", "__int__", "__index__")
    return name.endswith("_")


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
