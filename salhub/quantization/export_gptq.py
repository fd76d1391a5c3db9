"""Folders in the layout of GPTQ, with a map of the widths of the layers."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from salhub.quantization.export_checks import FUSED
from salhub.quantization.packed_linear import PackedLinear
from salhub.quantization.quantizer import packed_layers

_WORD = 32


class _GptqWeights(nn.Module):
    """The tensors of a linear layer as GPTQ calls and orders them."""

    def __init__(self, layer: PackedLinear) -> None:
        super().__init__()
        weight, width = layer.to_quantized(), layer.widths[0]
        self.register_buffer("qweight", pack_words(weight.codes.T, width))
        self.register_buffer("qzeros", pack_words(weight.zeros, width).T.contiguous())
        self.register_buffer("scales", weight.scales.T.contiguous())
        self.register_buffer("g_idx", weight.column_groups.to(torch.int32))
        self.bias = layer.bias


def pack_words(codes: Tensor, width: int) -> Tensor:
    """Pack codes that follow each other down the columns into words of 32 bits.

    The first code is in the lowest bits, and codes of 3 bits may lie in two words.

    Args:
        codes: uint8 (rows, n), the rows divisible by 32.
        width: Bits of a code.

    Returns:
        int32 (rows * width / 32, n).

    Example:
        >>> pack_words(torch.full((32, 1), 5, dtype=torch.uint8), 3).flatten().tolist()
        [1840700269, -613566757, -1227133514]
    """
    places = torch.arange(width, dtype=torch.uint8, device=codes.device)
    # (rows, width, n), the bits in the order in which they lie.
    bits = (codes[:, None] >> places[:, None]) & 1
    words = bits.reshape(-1, _WORD, codes.shape[1]).long()
    powers = 2 ** torch.arange(_WORD, device=codes.device)
    # Above 2**31 - 1 they stand for numbers below 0.
    return (words * powers[:, None]).sum(dim=1).to(torch.int32)


def gptq_settings(model: nn.Module) -> dict[str, Any]:
    """What config.json and quantize_config.json say of the packed layers.

    The width that most weights have is the rule, and `dynamic` says where it is another one, or
    where a layer is not packed. vLLM matches it with the names of layers that it has put together,
    so the rules fit those too.

    Args:
        model: Its packed layers have one width each.
    """
    layers = packed_layers(model)
    counts: Counter[int] = Counter()
    for layer in layers.values():
        counts[layer.widths[0]] += layer.in_features * layer.out_features
    bits = counts.most_common(1)[0][0]
    dynamic: dict[str, dict[str, int]] = {}
    for name, layer in layers.items():
        if layer.widths[0] != bits:
            dynamic[f"+:{_rule(name)}"] = {"bits": layer.widths[0]}
    head = model.get_output_embeddings()
    for name, part in model.named_modules():
        if isinstance(part, nn.Linear) and name not in layers and part is not head:
            dynamic[f"-:{_rule(name)}"] = {}
    return {
        "quant_method": "gptq",
        # Zeros as they are; "gptq" has each of them less one.
        "checkpoint_format": "gptq_v2",
        "bits": bits,
        "group_size": next(iter(layers.values())).group_size,
        "sym": all(layer.is_symmetric for layer in layers.values()),
        "desc_act": False,
        "lm_head": False,
        "pack_dtype": "int32",
        "dynamic": dynamic,
    }


def _rule(name: str) -> str:
    """A pattern for a layer by its own name, and by that of what it may be put into."""
    parent, _, own = name.rpartition(".")
    found = next((parts for parts in FUSED if own in parts), None)
    # The first part depends on what stands around the model.
    place = re.escape(parent.partition(".")[2])
    if found is None:
        return rf".*\.{place}\.{re.escape(own)}$"
    names = "|".join(re.escape(one) for one in (*found, FUSED[found]))
    return rf".*\.{place}\.({names})$"


def write_gptq(model: PreTrainedModel, folder: Path) -> None:
    """Write a model in the layout of GPTQ.

    Args:
        model: Its packed layers have one width each; it cannot be used afterwards.
        folder: Where to.
    """
    settings = gptq_settings(model)
    for name, layer in packed_layers(model).items():
        model.set_submodule(name, _GptqWeights(layer))
    # What is left is an embedding in few bits.
    model.dequantize()
    model.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    described = {**config, "quantization_config": settings}
    path.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    text = json.dumps(settings, indent=2) + "\n"
    (folder / "quantize_config.json").write_text(text, encoding="utf-8")
