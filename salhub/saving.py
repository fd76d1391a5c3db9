"""Before a model is saved: wrappers are taken off, and its configuration must build it again."""

import dis
import functools
import inspect
import json
import logging
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from numbers import Number
from types import BuiltinFunctionType, FunctionType, MethodType, NoneType
from typing import Any

import torch
from accelerate.utils.modeling import get_state_dict_offloaded_model
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init

logger = logging.getLogger(__name__)

# Wrapper -> the attribute that holds what is inside.
_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)
# What tells in a name of a weight how a network was changed -> what to do about it.
_CHANGES = {
    r"lora_|base_layer|modules_to_save|adapter": (
        "it has adapters; merge them with merge_and_unload() first"
    ),
    r"parametrizations": (
        "it is parametrized; call torch.nn.utils.parametrize.remove_parametrizations first"
    ),
    r"_orig$|_mask$": "it is pruned; call torch.nn.utils.prune.remove first",
    r"_packed_params|zero_point|scale$": (
        "it is quantized; save the network as it was before quantization"
    ),
}
# What a network keeps of its calls and its origin, and what no output depends on.
_UNREAD = re.compile(
    r"cache|loss|num_labels|name_or_path|attn_implementation|gradient_checkpointing|"
    r"^training$|^_is_|^_auto_class$|_call_impl$"
)
# The same of the layers of torch.
_UNREAD_OF_TORCH = re.compile(r"^(inplace|padding_idx|scale_grad_by_freq|sparse)$")
# What only training reads.
_OF_TRAINING = re.compile(r"drop|^momentum$")
# Who puts hooks on modules that change no answer.
_HARMLESS = ("accelerate.", "salhub.", "transformers.")
_PLAIN = (Number, str, bytes, NoneType, torch.dtype)
_FUNCTIONS = (FunctionType, BuiltinFunctionType, MethodType, functools.partial)
_COMPARED = (*_PLAIN, *_FUNCTIONS, tuple, list)
_MISSING = object()
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)

_NOTHING = {nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d}


def inner_name(module: nn.Module) -> str | None:
    """The attribute of a wrapper that holds the network itself; None for what is no wrapper.

    Example:
        >>> inner_name(nn.DataParallel(nn.ReLU())), inner_name(nn.ReLU())
        ('module', None)
    """
    if "_orig_mod" in module._modules:  # of torch.compile
        return "_orig_mod"
    return "module" if isinstance(module, _PARALLEL) else None


def unwrapped(network: Any) -> Any:
    """The network inside wrappers that change how it is run, and not what it gives.

    Args:
        network: Perhaps of `torch.compile`, `DataParallel` or `DistributedDataParallel`.

    Example:
        >>> layer = nn.ReLU()
        >>> unwrapped(nn.DataParallel(layer)) is layer
        True
    """
    while (name := inner_name(network)) is not None:
        network = getattr(network, name)
    return network


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """The state of a network, under the names it has without the wrappers of its parts.

    Weights that Accelerate has put elsewhere are fetched. Those that two names share, though the
    configuration does not tie them, are copied, as they are two when the network is built again.
    """
    state = model.state_dict()
    if any(map(_is_away, state.values())) and any(map(_is_fetched, model.modules())):
        state = get_state_dict_offloaded_model(model)
    wrappers = {name: inner_name(module) for name, module in model.named_modules()}
    if any(wrappers.values()):
        state = {_plain_name(name, wrappers): value for name, value in state.items()}
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    seen: set[tuple] = set()
    for name, value in state.items():
        is_declared = name in tied or name in tied.values()
        if is_declared or not isinstance(value, Tensor) or value.is_meta or not value.numel():
            continue
        place = (value.device, value.data_ptr(), value.dtype, value.shape, value.stride())
        if place in seen:
            state[name] = value.clone()
        seen.add(place)
    return state


def _is_fetched(module: nn.Module) -> bool:
    return hasattr(module, "_hf_hook")


def check_rebuilds(model: Any, state: Mapping[str, Tensor]) -> None:
    """Refuse to save a model that its configuration would not build again.

    What is to be written is read back, and a model is built of it on the meta device, where that
    costs neither memory nor arithmetic.

    Args:
        model: A model of salhub.
        state: Its state, see `plain_state`.

    Raises:
        ValueError: Its configuration builds other weights or other layers, or none at all; or its
            weights are not here.
    """
    away = next((name for name, value in state.items() if _is_away(value)), None)
    if away is not None:
        raise ValueError(
            f"The model cannot be saved, because its weights are not in memory ('{away}' is "
            "on the device 'meta'); load it without offloading first."
        )
    _refuse_mixed_precision(model, state)
    try:
        config = type(model.config).from_dict(json.loads(model.config.to_json_string()))
        with _without_memory():
            twin = type(model)(config)
    except Exception as error:
        raise ValueError(
            "The model cannot be saved, because its configuration cannot rebuild it: "
            f"{' '.join(str(error).split())}"
        ) from error
    difference = _different_weight(state, twin.state_dict()) or _different_layer(model, twin)
    if difference is not None:
        raise ValueError(f"The model cannot be saved in a form that loads again: {difference}.")


def _is_away(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_meta


def _refuse_mixed_precision(model: Any, state: Mapping[str, Tensor]) -> None:
    """Loading gives all weights one precision, but for those that transformers keeps in float32."""
    kept = [
        part
        for module in model.modules()
        for name in ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict")
        for part in getattr(module, name, None) or ()
    ]
    for name, value in state.items():
        is_float = isinstance(value, Tensor) and value.is_floating_point()
        if not is_float or value.dtype == model.dtype:
            continue
        if value.dtype != torch.float32 or not any(part in name for part in kept):
            raise ValueError(
                f"The model cannot be saved in a form that loads again: '{name}' is "
                f"{value.dtype}, while the model is {model.dtype}; convert all of it to one "
                "precision with model.to(dtype)."
            )


def _plain_name(name: str, wrappers: Mapping[str, str | None]) -> str:
    kept, place = [], ""
    for part in name.split("."):
        if wrappers.get(place) != part:
            kept.append(part)
        place = f"{place}.{part}" if place else part
    return ".".join(kept)


@contextmanager
def _without_memory() -> Generator[None]:
    random = torch.get_rng_state()
    try:
        with (
            torch.device("meta"),
            init.no_init_weights(),
            init.meta_device_safe_creation_ops(),
        ):
            yield
    finally:
        torch.set_rng_state(random)


def _different_weight(state: Mapping[str, Tensor], built: Mapping[str, Tensor]) -> str | None:
    for name in [*(state.keys() - built.keys()), *(built.keys() - state.keys())]:
        for pattern, advice in _CHANGES.items():
            if name in state and re.search(pattern, name):
                return f"it has '{name}', which its configuration does not build, because {advice}"
    foreign = next((name for name in state if name not in built), None)
    if foreign is not None:
        return (
            f"it has '{foreign}', which its configuration does not build; change the configuration "
            "along with the network, or save the network's state_dict yourself"
        )
    for name in state:
        own, expected = (getattr(one[name], "shape", ()) for one in (state, built))
        if own != expected:
            return (
                f"'{name}' has shape {tuple(own)}, but its configuration builds "
                f"{tuple(expected)}; change the configuration along with the network, such "
                "as num_labels for a head of more classes"
            )
    lacking = next((name for name in built if name not in state), None)
    if lacking is not None:
        return (
            f"its configuration builds '{lacking}', which it does not have; change the "
            "configuration along with the network"
        )
    return None


def _different_layer(model: nn.Module, built: nn.Module) -> str | None:
    wrappers = {name: inner_name(module) for name, module in model.named_modules()}
    own = {
        _plain_name(name, wrappers): module
        for name, module in model.named_modules()
        if wrappers[name] is None
    }
    twins = dict(built.named_modules())
    for name, module in model.named_modules():
        hook = _foreign_hook(module, twins.get(_plain_name(name, wrappers)))
        if hook is not None:
            return (
                f"{_title(name)} has the hook {hook}, which cannot be saved; remove it "
                "first, with the handle returned when you registered it"
            )
    of_training = []
    for name, expected in twins.items():
        module = own.get(name)
        if module is None or not _is_of_kind(module, expected):
            return (
                f"{_title(name)} is {_described(module)}, but its configuration builds "
                f"{_described(expected)}; change the configuration along with the network"
            )
        for attribute, found, wanted in _differences(module, expected):
            words = (
                f"'{attribute}' of {_title(name)} ({type(module).__name__}) is {found}, and its "
                f"configuration builds {wanted}"
            )
            if type(module) not in _NOTHING and not _OF_TRAINING.search(attribute):
                return f"{words}; change the configuration along with the network"
            of_training.append(words)
    if of_training:
        logger.warning(
            "%s; this is not saved, and matters if you train the model further.%s",
            of_training[0], f" In {len(of_training)} places." if of_training[1:] else "",
        )  # fmt: skip
    return None


def _foreign_hook(module: nn.Module, expected: nn.Module | None) -> str | None:
    """The first hook of a module that may change what it gives, and that its twin lacks."""
    known = [] if expected is None else [*map(_origin, _hooks(expected))]
    for origin in map(_origin, _hooks(module)):
        if origin in known:
            known.remove(origin)
        elif not origin.startswith(_HARMLESS):
            return origin
    return None


def _hooks(module: nn.Module) -> list[Any]:
    of_accelerate = [hook for hook in (vars(module).get("_hf_hook"),) if hook is not None]
    return [*module._forward_pre_hooks.values(), *module._forward_hooks.values(), *of_accelerate]


def _origin(function: Any) -> str:
    function = getattr(function, "func", function)  # of partial
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def _is_of_kind(module: nn.Module, expected: nn.Module) -> bool:
    kind, other = type(module), type(expected)
    if {kind, other} <= _NOTHING:  # in evaluation mode
        return True
    # What is put into a list runs with the rest of it.
    if isinstance(expected, _CONTAINERS) and [*module._modules] != [*expected._modules]:
        return False
    # A class derived from the one that is built may add whatever it likes but other calculations.
    return kind is other or (
        issubclass(kind, other)
        and all(getattr(kind, name) is getattr(other, name) for name in _own_methods(other))
    )


def _differences(module: nn.Module, expected: nn.Module) -> Generator[tuple[str, str, str]]:
    """Attributes that differ from those of a twin: name, value and the value of the twin."""
    if type(module) in _NOTHING:
        rates = [getattr(one, "p", 0.0) for one in (module, expected)]
        if rates[0] != rates[1]:
            yield "p", str(rates[0]), str(rates[1])
        return
    kind, built = type(expected), vars(expected)
    ignored = _written_while_running(kind)
    for name, value in vars(module).items():
        if name in ignored or _UNREAD.search(name):
            continue
        if _is_torch(kind) and _UNREAD_OF_TORCH.search(name):
            continue
        if name == "forward":  # of which Accelerate keeps the one that it found
            value = vars(module).get("_original_forward", vars(module).get("_old_forward", value))
        elif name not in built and hasattr(PreTrainedModel, name):
            continue
        wanted = built.get(name, getattr(kind, name, _MISSING))
        if wanted is not _MISSING and not _is_alike(value, wanted):
            yield name, _shown(value), _shown(wanted)


@lru_cache(maxsize=1024)
def _written_while_running(kind: type) -> frozenset[str]:
    """Attributes that methods of a class assign, such as the size of the last picture."""
    methods = map(inspect.unwrap, _own_methods(kind).values())
    steps = (step for method in methods for step in dis.get_instructions(method.__code__))
    return frozenset(step.argval for step in steps if step.opname == "STORE_ATTR") - {"forward"}


def _own_methods(kind: type) -> dict[str, FunctionType]:
    """Methods by which a network computes, and not those that all of them have."""
    bases = [base for base in kind.__mro__ if base not in PreTrainedModel.__mro__]
    return {
        name: method
        for base in reversed(bases)
        for name, method in vars(base).items()
        if isinstance(method, FunctionType) and name not in ("__init__", "_init_weights")
    }


def _is_alike(value: Any, wanted: Any) -> bool:
    """Whether two values say the same, as far as they are numbers, words or functions."""
    if value is wanted or not all(isinstance(one, _COMPARED) for one in (value, wanted)):
        return True
    if isinstance(value, _FUNCTIONS) and isinstance(wanted, _FUNCTIONS):
        return _is_same_function(value, wanted)
    if isinstance(value, tuple | list) and isinstance(wanted, tuple | list):
        return len(value) == len(wanted) and all(map(_is_alike, value, wanted))
    return value == wanted or (value != value and wanted != wanted)


def _is_same_function(one: Any, other: Any) -> bool:
    one = getattr(one, "_torchdynamo_orig_callable", one)  # compiled
    if isinstance(one, functools.partial) and isinstance(other, functools.partial):
        parts = [[f.func, f.args, sorted(f.keywords.items())] for f in (one, other)]
        return _is_alike(*parts)
    codes = [getattr(f, "__code__", f) for f in (one, other)]
    inner = [[getattr(f, n, None) for n in ("__wrapped__", "__defaults__")] for f in (one, other)]
    return codes[0] == codes[1] and _is_alike(*inner)


def _is_torch(kind: type) -> bool:
    return kind.__module__.startswith("torch.nn.")


def _title(name: str) -> str:
    return f"'{name}'" if name else "the model itself"


def _shown(value: Any) -> str:
    return _origin(value) if isinstance(value, _FUNCTIONS) else repr(value)[:60]


def _described(module: nn.Module | None) -> str:
    if module is None:
        return "missing"
    settings = module.extra_repr() if _is_torch(type(module)) else ""
    return f"{type(module).__name__}({settings})"
