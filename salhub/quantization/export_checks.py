"""What of a model packed in few bits has a place in the formats of other programs."""

from collections.abc import Iterator

from torch import nn

from salhub.quantization.packed_linear import PackedLinear
from salhub.quantization.quantizer import packed_layers

# Layers that other programs put together, and what they call them then.
FUSED = {
    ("q_proj", "k_proj", "v_proj"): "qkv_proj",
    ("gate_proj", "up_proj"): "gate_up_proj",
}
_WIDTHS = (2, 3, 4)
# Of gptqmodel, which has words of 32 bits along both sides of a matrix.
_GPTQ_GROUPS = (16, 32, 64, 128, 256, 512, 1024)
_WORD = 32
_OTHERWISE = "compress it with bits_granularity=module, or export it with format 'dense'"


def check_exportable(model: nn.Module, format: str) -> None:
    """Refuse a model with a layer that a format cannot hold, or that is read wrongly from it.

    Args:
        model: Has packed layers.
        format: "compressed-tensors" or "gptq".

    Raises:
        ValueError: It says which layer, and why.
    """
    layers = packed_layers(model)
    for name, layer in layers.items():
        for fault, advice in _faults(layer, format):
            raise ValueError(f"{name} cannot be written as {format}: {fault}; {advice}.")
    for parts in _fused_layers(model):
        found = {name: layers[name].widths[0] if name in layers else "no packed" for name in parts}
        if len(set(found.values())) > 1:
            words = ", ".join(f"{name} has {width} bits" for name, width in found.items())
            raise ValueError(
                f"Programs that read {format} merge {len(found)} layers and use the bits of "
                f"the first for all, but {words}; {_OTHERWISE}."
            )


def _faults(layer: PackedLinear, format: str) -> Iterator[tuple[str, str]]:
    widths, size = sorted(set(layer.widths)), layer.group_size
    if type(layer) is not PackedLinear:
        # Of a subclass that adds something to the weight.
        yield (
            "it has an adapter, which would be lost",
            "merge the adapters first, or export it with format 'dense', which adds them",
        )
    if 1 in widths:
        yield "it has groups of one bit, which are stored around a mean", _OTHERWISE
    if len(widths) > 1:
        yield (
            f"its groups have {', '.join(map(str, widths))} bits, but the format allows one width",
            _OTHERWISE,
        )
    if widths[0] not in _WIDTHS:
        yield f"it has {widths[0]} bits, but the format allows 2, 3 or 4", _OTHERWISE
    if layer.in_features % size:
        yield (
            f"its last group is narrower, because {layer.in_features} columns are not "
            f"divisible by {size}",
            "compress it with a group_size that divides them, or export it with format 'dense'",
        )
    if format == "gptq":
        if size not in _GPTQ_GROUPS:
            yield (
                f"its group_size is {size}, but the format allows "
                f"{', '.join(map(str, _GPTQ_GROUPS))}",
                "compress it with one of them, or export it with format 'dense'",
            )
        if layer.in_features % _WORD or layer.out_features % _WORD:
            yield (
                f"it is {layer.out_features} x {layer.in_features}, but both must be "
                f"divisible by {_WORD}",
                "export it with format 'dense'",
            )
    elif not layer.is_symmetric:
        yield (
            "it is asymmetric, and no release of transformers and compressed-tensors loads "
            "such folders",
            "compress it with symmetric=true, or export it with format 'dense'",
        )


def _fused_layers(model: nn.Module) -> Iterator[list[str]]:
    """Names of the linear layers that other programs put together."""
    for parent, module in model.named_modules():
        children = dict(module.named_children())
        for parts in FUSED:
            if parts[0] in children:
                yield [f"{parent}.{part}" for part in parts if part in children]
