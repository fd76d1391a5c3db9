"""Folders of compressed-tensors, which packs them itself."""

from pathlib import Path

from torch import nn
from transformers import PreTrainedModel

from salhub.errors import require_extra
from salhub.quantization.quantizer import packed_layers


def write_compressed_tensors(model: PreTrainedModel, folder: Path) -> None:
    """Write a model in the format pack-quantized.

    Args:
        model: Its packed layers have one width each; it is dense afterwards.
        folder: Where to.
    """
    compressors = require_extra("compressed_tensors.compressors", "export")
    quantization = require_extra("compressed_tensors.quantization", "export")
    weights = {name: layer.to_quantized() for name, layer in packed_layers(model).items()}
    groups: dict[tuple[int, bool], list[str]] = {}
    for name, layer in packed_layers(model).items():
        groups.setdefault((layer.widths[0], layer.is_symmetric), []).append(name)
    model.dequantize()
    schemes = {}
    for (width, symmetric), names in sorted(groups.items()):
        arguments = quantization.QuantizationArgs(
            num_bits=width,
            type="int",
            symmetric=symmetric,
            strategy="group",
            group_size=weights[names[0]].group_size,
        )
        schemes[f"group_{len(schemes)}"] = quantization.QuantizationScheme(
            targets=names, weights=arguments
        )
    linear = {name for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    config = quantization.QuantizationConfig(
        config_groups=schemes, format="pack-quantized", ignore=sorted(linear - weights.keys())
    )
    quantization.apply_quantization_config(model, config, show_progress=False)
    for name, weight in weights.items():
        layer, middle = model.get_submodule(name), 2 ** (weight.group_bits.int() - 1)
        layer.weight_scale.copy_(weight.scales)
        # Codes are signed there.
        layer.weight_zero_point.copy_(weight.zeros.int() - middle)
    compressor = compressors.ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(str(folder))
