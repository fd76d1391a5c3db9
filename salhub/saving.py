"""Before a model is saved: wrappers are taken off, and its configuration must build it again."""

import json
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils.modeling import get_state_dict_offloaded_model
from torch import Tensor, nn
from transformers import initialization as init

# Wrapper -> the attribute that holds what is inside.
_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)
# What tells in a name of a weight how a network was changed -> what to do about it.
_CHANGES = {
    r"lora_|base_layer|modules_to_save|adapter": (
        "it carries adapters; put them into its weights with merge_and_unload() first"
    ),
    r"parametrizations": (
        "it is parametrized; call torch.nn.utils.parametrize.remove_parametrizations first"
    ),
    r"_orig$|_mask$": "it is pruned; call torch.nn.utils.prune.remove first",
    r"_packed_params|zero_point|scale$": (
        "it is quantized; save the network as it was before quantization"
    ),
}
# Hyperparameters that no output in evaluation mode depends on.
_OF_TRAINING = re.compile(r"(, )?\b(inplace|momentum|padding_idx|scale_grad_by_freq|sparse)=[^,)]*")

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
            f"The weights of the model are not here ('{away}' is on the device 'meta'), so that it "
            "cannot be saved; load it without offloading first."
        )
    _refuse_mixed_precision(model, state)
    try:
        config = type(model.config).from_dict(json.loads(model.config.to_json_string()))
        with _without_memory():
            twin = type(model)(config)
    except Exception as error:
        raise ValueError(
            "The model cannot be saved, because its configuration does not build it again: "
            f"{' '.join(str(error).split())}"
        ) from error
    difference = _different_weight(state, twin.state_dict()) or _different_layer(model, twin)
    if difference is not None:
        raise ValueError(f"The model cannot be saved so that it loads again: {difference}.")


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
                f"The model cannot be saved so that it loads again: '{name}' is {value.dtype}, "
                f"while the model is {model.dtype}; bring all of it to one precision with "
                "model.to(dtype)."
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
                return f"it has '{name}', which its configuration does not build, as {advice}"
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
                f"'{name}' has shape {tuple(own)}, and its configuration builds {tuple(expected)}; "
                "change the configuration along with the network, such as num_labels for a head of "
                "more classes"
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
    for name, expected in built.named_modules():
        module = own.get(name)
        if module is None or not _computes_alike(module, expected):
            return (
                f"'{name}' is {_described(module)}, and its configuration builds "
                f"{_described(expected)}; change the configuration along with the network"
            )
    return None


def _computes_alike(module: nn.Module, expected: nn.Module) -> bool:
    kind, other = type(module), type(expected)
    if {kind, other} <= _NOTHING:  # in evaluation mode
        return True
    # A class derived from the one that is built may add whatever it likes but another forward.
    if kind is not other and not (issubclass(kind, other) and kind.forward is other.forward):
        return False
    is_torch = other.__module__.startswith("torch.nn.modules")
    if not is_torch or other.__module__.endswith((".container", ".dropout")):
        return True
    return _settings(module) == _settings(expected)


def _settings(module: nn.Module) -> str:
    return _OF_TRAINING.sub("", module.extra_repr())


def _described(module: nn.Module | None) -> str:
    if module is None:
        return "missing"
    settings = _settings(module) if type(module).__module__.startswith("torch.nn") else ""
    return f"{type(module).__name__}({settings})"
