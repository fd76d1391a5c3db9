"""Adapters beside packed weights, taken apart: a model without them, and a folder of peft."""

from pathlib import Path

from transformers import PreTrainedModel

from salhub.ops.tensor_files import write_tensors
from salhub.quantization.adapted_linear import adapted_layers
from salhub.quantization.quantizer import describe_packed

ADAPTER_FOLDER = "adapter"


def write_peft(model: PreTrainedModel, folder: Path) -> None:
    """Write a model without its adapters to a folder, and them to its folder `adapter`.

    Args:
        model: Some of its layers have adapters, all of one rank; they lose them.
        folder: Where to write.
    """
    import peft
    from peft.utils import SAFETENSORS_WEIGHTS_NAME

    layers = adapted_layers(model)
    tensors = {
        f"base_model.model.{name}.{key}.weight": getattr(layer, key).detach().cpu().contiguous()
        for name, layer in layers.items()
        for key in ("lora_A", "lora_B")
    }
    first = next(iter(layers.values()))
    settings = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=first.lora_r,
        lora_alpha=first.lora_alpha,
        target_modules=sorted({name.rpartition(".")[2] for name in layers}),
    )
    for name, layer in layers.items():
        model.set_submodule(name, layer.to_packed())
    config = model.config.quantization_config
    config.lora_r = None
    describe_packed(model, config).save_pretrained(folder)
    settings.save_pretrained(folder / ADAPTER_FOLDER)
    write_tensors(tensors, folder / ADAPTER_FOLDER / SAFETENSORS_WEIGHTS_NAME, {"format": "pt"})
