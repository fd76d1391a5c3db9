"""An unlearned model as what has changed: the open weights only, for whoever has the original."""

import copy
import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from salhub.models.salun.weight_mask import WeightMask, read_known
from salhub.ops.tensor_files import write_tensors

FILE_NAME = "delta.safetensors"
_FORMAT = "salhub-weight-delta-1"


def state_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and bits of a model's parameters and buffers.

    Args:
        state: As of `model.state_dict()`.

    Example:
        >>> len(state_digest(nn.Linear(2, 1).state_dict()))
        64
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}\n".encode())
        digest.update(_bytes(tensor).numpy())
    return digest.hexdigest()


def save_delta(
    model: nn.Module, base_state: Mapping[str, Tensor], mask: WeightMask, folder: str | Path
) -> Path:
    """Write the open weights of a model, and its buffers, to `delta.safetensors`.

    Args:
        model: The changed model.
        base_state: The original, a copy of its `state_dict()`.
        mask: Which weights were open; all others are those of the original.
        folder: Where to; made when it does not exist. The mask is written there too.

    Returns:
        The file, which a reader sees whole or not at all.

    Raises:
        KeyError: The mask or the original is of another model.
        ValueError: A parameter has another shape or type, or a closed weight has moved.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> base = {name: value.clone() for name, value in model.state_dict().items()}
        >>> mask = WeightMask({"weight": torch.tensor([[True, False]])})
        >>> model.weight.data[0, 0] += 1
        >>> folder = save_delta(model, base, mask, "delta").parent  # doctest: +SKIP
    """
    mask = mask.for_model(model)
    _check_closed_unmoved(model, base_state, mask)
    opened = {
        name: parameter.detach()[mask.tensors[name]].cpu()
        for name, parameter in model.named_parameters()
    }
    buffers = {name: value.cpu().clone() for name, value in _saved_buffers(model).items()}
    digests = {"base": state_digest(base_state), "result": state_digest(model.state_dict())}
    mask.save_pretrained(folder)
    metadata = {"format": _FORMAT, **digests}
    return write_tensors(opened | buffers, Path(folder) / FILE_NAME, metadata)


@torch.no_grad()
def apply_delta(model: nn.Module, folder: str | Path) -> None:
    """Turn the original model into the changed one, in place and exactly.

    Args:
        model: The original; it is changed only if everything fits.
        folder: With `delta.safetensors` and `mask.safetensors`.

    Raises:
        FileNotFoundError: There is no delta, or no mask.
        KeyError: It is of a model with other parameters.
        ValueError: A file is damaged or no delta, or it is of another original.
    """
    path = Path(folder) / FILE_NAME
    tensors, metadata = read_known(path, _FORMAT, "delta")
    mask = WeightMask.from_pretrained(folder).for_model(model)
    if metadata.get("base") != state_digest(model.state_dict()):
        raise ValueError(
            f"{path} belongs to another model, because the weights differ; load the model "
            "that it was made from."
        )
    state = copy.deepcopy(model.state_dict())  # tied weights stay tied
    try:
        for name, parameter in model.named_parameters():
            state[name][mask.tensors[name]] = tensors[name].to(parameter.device)
        for name in _saved_buffers(model):
            state[name].copy_(tensors[name])
    except (KeyError, RuntimeError, IndexError):
        state = {}
    if state_digest(state) != metadata.get("result"):
        raise ValueError(
            f"{path} is damaged: the result differs from what was saved; save it again."
        )
    model.load_state_dict(state)


def _check_closed_unmoved(
    model: nn.Module, base_state: Mapping[str, Tensor], mask: WeightMask
) -> None:
    state = model.state_dict()
    if base_state.keys() != state.keys():
        names = sorted(base_state.keys() ^ state.keys())
        raise KeyError(
            f"base_state belongs to another model: '{names[0]}' is in only one of them; give the "
            "state_dict() of the original."
        )
    for name, parameter in model.named_parameters():
        base = base_state[name].to(parameter.device)
        if (base.shape, base.dtype) != (parameter.shape, parameter.dtype):
            raise ValueError(
                f"'{name}' is {parameter.dtype} of shape {tuple(parameter.shape)}, and was "
                f"{base.dtype} of shape {tuple(base.shape)}; give the original of this model."
            )
        closed = ~mask.tensors[name]
        if not torch.equal(_bytes(parameter[closed]), _bytes(base[closed])):
            raise ValueError(
                f"masked weights of '{name}' have changed, so a delta of the open weights "
                "would be incomplete; train with MaskedOptimizer, or save the whole model."
            )


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)


def _saved_buffers(model: nn.Module) -> dict[str, Tensor]:
    saved = model.state_dict(keep_vars=True)
    return {name: buffer for name, buffer in model.named_buffers() if name in saved}
