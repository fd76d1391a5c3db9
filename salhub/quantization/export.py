"""Models packed in few bits as folders that other programs load, without salhub."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from salhub.errors import check_choice, require_extra
from salhub.files import draft
from salhub.hub import load
from salhub.quantization.adapted_linear import adapted_layers
from salhub.quantization.export_checks import check_exportable
from salhub.quantization.export_compressed_tensors import write_compressed_tensors
from salhub.quantization.export_gptq import write_gptq
from salhub.quantization.export_peft import write_peft
from salhub.quantization.quantizer import packed_layers
from salhub.tokenizing import load_tokenizer

ExportFormat = Literal["compressed-tensors", "gptq", "peft", "dense"]
# Format -> the package that it needs.
_PACKAGES = {"compressed-tensors": "compressed_tensors", "peft": "peft"}
ExportType = Literal["float32", "float16", "bfloat16"]


def export_model(
    name: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    format: ExportFormat,
    dtype: ExportType | None = None,
) -> Path:
    """Write a quantized model, with its tokenizer, as other programs take it.

    "compressed-tensors" is loaded by transformers and vLLM where the package compressed-tensors is
    installed; it takes symmetric layers of one width each. "gptq" is the layout of GPTQ, with a map
    of the widths, for gptqmodel. "dense" has no packed weights any more, is as large as a plain
    model, and is loaded by everything. "peft" takes the adapters out of a model of ApiQ: the folder
    is the model without them, which salhub loads, and its folder `adapter` is what
    `peft.PeftModel.from_pretrained` puts on it, to be trained on.

    Args:
        name: What was quantized with salhub: a folder, a shipped name, or a Hub repository.
        folder: Where to write; a new or an empty folder.
        format: See above.
        dtype: Of what is not packed, of scales in compressed-tensors, and of all weights of
            "dense"; None for that of the model. bfloat16 rounds scales and weights to eight bits.

    Returns:
        The folder.

    Raises:
        FileExistsError: There is something in `folder`.
        MissingExtraError: The package compressed-tensors or peft is wanted and not installed.
        ValueError: A layer of the model has no place in this format, or the model is not quantized.

    Example:
        >>> export_model("small", "served", "compressed-tensors")  # doctest: +SKIP
    """
    target = Path(folder)
    check_choice("format", format, get_args(ExportFormat))
    check_choice("dtype", dtype, [*get_args(ExportType), None])
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} already exists; choose a new folder.")
    if format in _PACKAGES:
        require_extra(_PACKAGES[format], "export")
    _check_kind(name)
    tokenizer = load_tokenizer(name)
    model = load(AutoModelForCausalLM, name, dtype=dtype or "auto").eval()
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ValueError(
            f"{name} has an adapter, which this format cannot hold; merge it first, or "
            "export the model below it."
        )
    if not packed_layers(model):
        raise ValueError(f"{name} has no packed weights; give a model quantized with salhub.")
    if format == "peft" and not adapted_layers(model):
        raise ValueError(
            f"{name} has no adapters of its own; give a model made by salhub compress "
            "apiq-saliency."
        )
    if format not in ("dense", "peft"):
        check_exportable(model, format)
    with draft(target) as path, torch.no_grad():
        _WRITERS[format](model, path)
        tokenizer.save_pretrained(path)
    return target


def _check_kind(name: str | os.PathLike[str]) -> None:
    try:
        config = load(AutoConfig, name)
    except ValueError:  # an adapter has none, and is refused once its model is loaded
        return
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise ValueError(
            f"{name} is a model of type '{config.model_type}', but only language models are "
            "exported; give one that salhub compress quantized."
        )


def _write_dense(model: PreTrainedModel, folder: Path) -> None:
    model.dequantize()
    model.save_pretrained(folder)


_WRITERS: dict[str, Callable[[Any, Path], None]] = {
    "compressed-tensors": write_compressed_tensors,
    "gptq": write_gptq,
    "peft": write_peft,
    "dense": _write_dense,
}
