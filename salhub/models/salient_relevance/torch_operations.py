"""What every torch operation means for relevance, by name."""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

# Relevance of the output belongs to the input, element by element.
ACTIVATIONS = frozenset(
    {
        "relu", "relu6", "hardtanh", "leaky_relu", "rrelu", "prelu", "elu", "selu", "celu",
        "gelu", "silu", "mish", "softplus", "softsign", "hardswish", "hardshrink", "softshrink",
        "tanhshrink", "threshold", "logsigmoid", "clamp", "clamp_min", "clamp_max", "clip", "tanh",
        "sigmoid", "hardsigmoid", "erf", "abs", "absolute", "square", "pow", "nan_to_num",
    }
)  # fmt: skip
# Their outputs may be the constant factor of a product (squeeze-excite, x * sigmoid(x)).
GATES = frozenset({"sigmoid", "hardsigmoid", "tanh", "erf"})
# Their outputs may scale a signal, as a constant or in an activation of several steps; no more.
NORMALISERS = frozenset(
    {
        "rsqrt", "sqrt", "reciprocal", "var", "std", "norm", "linalg_norm", "linalg_vector_norm",
        "exp", "expm1", "log", "log1p",
    }
)  # fmt: skip
# Divide a signal by its own size, and multiply it with constants: element by element for relevance.
SCALINGS = frozenset({"rms_norm", "normalize", "local_response_norm"})

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
        "cpu", "cuda", "split_with_sizes", "swapdims", "moveaxis", "broadcast_to", "tril", "triu",
        "where", "masked_fill", "min", "amin", "topk", "sort", "masked_select", "take",
    }
)  # fmt: skip
# Of these, the ones that put constants beside what they copy, or in its place.
JOINING = frozenset(
    {"cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack", "where", "masked_fill"}
)
PADDING = frozenset({"pad", "constant_pad_nd"})
# The larger or smaller of two signals takes all; beside a constant they are activations.
EXTREMES = frozenset({"maximum", "minimum", "fmax", "fmin"})
# Of what routes, all whose output is (or in another memory layout would be) a view of the input.
VIEWS = frozenset(
    {
        "reshape", "view", "view_as", "reshape_as", "flatten", "unflatten", "ravel", "permute",
        "transpose", "swapaxes", "movedim", "t", "T", "mT", "squeeze", "unsqueeze", "expand",
        "expand_as", "split", "chunk", "unbind", "tensor_split", "narrow", "select", "diagonal",
    }
)  # fmt: skip
# Of what routes, all after which every element is still in its place.
UNMOVED = frozenset(
    {
        "clone", "contiguous", "to", "float", "double", "type", "type_as", "dropout", "where",
        "masked_fill",
    }
)  # fmt: skip
# Convolutions run channels last, where a view that was possible may need a copy.
COPYING = {"view": Tensor.reshape, "view_as": Tensor.reshape_as}
# Linear with weights that are never negative: proportional to the values.
POOLING = frozenset(
    {
        "mean", "sum", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d",
        "adaptive_avg_pool2d", "adaptive_avg_pool3d", "interpolate", "upsample", "nansum", "cumsum",
        "fold",
    }
)  # fmt: skip
ADDITION = frozenset({"add", "sub", "subtract", "rsub"})
PRODUCT = frozenset({"mul", "multiply", "div", "divide", "true_divide", "rdiv", "neg", "negative"})
MATRIX_PRODUCT = frozenset(
    {"matmul", "mm", "rmatmul", "bmm", "mv", "dot", "inner", "outer", "einsum", "tensordot"}
)

_SEQUENCES = (list, tuple)
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


# What a tensor is like: neither relevance nor memory is touched.
_GETTER = "__get__"
QUESTIONS = frozenset(
    [
        *(
            getattr(getattr(Tensor, name), _GETTER)
            for name in ("shape", "dtype", "device", "ndim", "requires_grad", "is_cuda")
        ),
        Tensor.size, Tensor.dim, Tensor.numel, Tensor.stride, Tensor.is_floating_point,
        Tensor.__len__,
    ]
)  # fmt: skip


@functools.lru_cache(maxsize=1024)
def operation_name(function: Callable) -> str:
    """The name of a torch function without decoration: `Tensor.__iadd__` and `add_` are "add"."""
    name = getattr(function, "__name__", type(function).__name__).strip("_")
    return _SPELLINGS.get(name, name)


@functools.lru_cache(maxsize=1024)
def is_in_place(function: Callable) -> bool:
    """Whether the function is the in-place spelling, such as `add_` or `__iadd__`."""
    name = getattr(function, "__name__", "")
    if name.startswith("__"):
        return name.startswith("__i") and name not in ("__invert__", "__int__", "__index__")
    return name.endswith("_")


def tensors_in(values: Iterable) -> list[Tensor]:
    """Tensors among arguments, also inside lists such as that of `torch.cat`."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, _SEQUENCES):
            found += tensors_in(value)
    return found


def signals_in(values: Iterable) -> list[Tensor]:
    """Of the tensors among arguments, those with a gradient."""
    found: list[Tensor] = []
    for value in values:  # not by `tensors_in`: this is asked of every call
        if isinstance(value, Tensor):
            if value.requires_grad:
                found.append(value)
        elif isinstance(value, _SEQUENCES):
            found += signals_in(value)
    return found


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


def as_function_of_signals(
    func: Callable, args: tuple, kwargs: dict
) -> tuple[list[Tensor], Callable[..., Any]]:
    """The signals (tensors with a gradient) of a call, and the call as a function of them."""

    def fill(value: Any, given: Iterator[Tensor]) -> Any:
        if isinstance(value, Tensor):
            return next(given) if value.requires_grad else value
        if type(value) in (list, tuple):
            return type(value)(fill(item, given) for item in value)
        return value

    def call(*signals: Tensor) -> Any:
        given = iter(signals)
        if changes_input(func, args, kwargs):
            given = (signal.clone() for signal in signals)
        filled = fill(args, given)
        return func(*filled, **{key: fill(value, given) for key, value in kwargs.items()})

    return signals_in((*args, *kwargs.values())), call


def operands(args: tuple, kwargs: dict) -> tuple[Any, Any]:
    """Both sides of a sum or product, by position or by name."""
    named = [kwargs[key] for key in ("input", "self", "other") if key in kwargs]
    first, second = (*args, *named)[:2]
    return first, second


def softmax_axis(args: tuple, kwargs: dict[str, Any], scores: Tensor) -> int:
    """The axis of a call of softmax; functional calls without one choose it by the old rule."""
    axis = kwargs.get("dim", args[1] if len(args) > 1 else None)
    if axis is None:
        return 0 if scores.dim() in (0, 1, 3) else 1
    return axis


@functools.lru_cache(maxsize=1024)
def can_change_input(function: Callable) -> bool:
    """Whether some calls of the function work in place without a keyword that says so."""
    return is_in_place(function) or operation_name(function) in ACTIVATIONS


def changes_input(func: Callable, args: tuple, kwargs: dict) -> bool:
    """Whether the call is one that works in place."""
    if is_in_place(func) or kwargs.get("inplace"):
        return True
    # `inplace` is the only flag of torch.nn.functional's activations, and may come by position
    return operation_name(func) in ACTIVATIONS and any(value is True for value in args[1:])
