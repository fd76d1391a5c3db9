"""An unlearned model as what has changed: the open weights only, for whoever has the original."""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from salhub.models.salun.weight_mask import WeightMask

FILE_NAME = "delta.safetensors"
_FORMAT = "salhub-weight-delta-1"


def state_digest(model: nn.Module) -> str:
    """SHA-256 over names, shapes and bits of all parameters and buffers of a model.

    Example:
        >>> len(state_digest(nn.Linear(2, 1)))
        64
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def save_delta(model: nn.Module, mask: WeightMask, base_digest: str, folder: str | Path) -> Path:
    """Write the open weights of a model, and its buffers, to `delta.safetensors`.

    Args:
        model: The changed model.
        mask: Which weights were open; all others are those of the original.
        base_digest: `state_digest` of the original.
        folder: Where to; made when it does not exist. The mask is written there too.

    Returns:
        The file, which a reader sees whole or not at all.

    Raises:
        KeyError, ValueError: The mask is of another model.
    """
    mask = mask.for_model(model)
    folder = Path(folder)
    mask.save_pretrained(folder)
    tensors = {
        name: parameter.detach()[mask.tensors[name]].cpu()
        for name, parameter in model.named_parameters()
    }
    tensors |= {name: value.cpu().clone() for name, value in _saved_buffers(model).items()}
    metadata = {"format": _FORMAT, "base": base_digest, "result": state_digest(model)}
    target, draft = folder / FILE_NAME, folder / f".{FILE_NAME}.draft"
    save_file(tensors, draft, metadata=metadata)
    draft.replace(target)
    return target


@torch.no_grad()
def apply_delta(model: nn.Module, folder: str | Path) -> None:
    """Turn the original model into the changed one, in place and exactly.

    Args:
        model: The original; it is changed only if everything fits.
        folder: With `delta.safetensors` and `mask.safetensors`.

    Raises:
        FileNotFoundError: There is no delta.
        ValueError: The file is damaged or no delta, or it is of another original.
    """
    path = Path(folder) / FILE_NAME
    if not path.is_file():
        raise FileNotFoundError(f"There is no delta at {path}.")
    mask = WeightMask.from_pretrained(folder).for_model(model)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}.") from None
    if metadata.get("format") != _FORMAT:
        raise ValueError(f"{path} is a safetensors file, but no delta that salhub has written.")
    if metadata["base"] != state_digest(model):
        raise ValueError(
            f"{path} changes another model than this one: the weights differ; load the model that "
            "it was made of."
        )
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        parameter[mask.tensors[name]] = tensors[name].to(parameter.device)
    for name, buffer in _saved_buffers(model).items():
        buffer.copy_(tensors[name])
    if state_digest(model) != metadata["result"]:
        model.load_state_dict(before)
        raise ValueError(f"{path} is damaged: the result is not what was saved.")


def _saved_buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    saved = model.state_dict(keep_vars=True)
    return {name: buffer for name, buffer in model.named_buffers() if name in saved}
