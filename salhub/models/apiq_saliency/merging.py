"""Adapters added to the weights beside them, which are then rounded again."""

import logging
from dataclasses import dataclass
from statistics import mean

import torch
from transformers import PreTrainedModel

from salhub.errors import check_choice
from salhub.quantization.adapted_linear import AdaptedPackedLinear, adapted_layers
from salhub.quantization.learned_clipping import LearnedClipping
from salhub.quantization.packed_linear import PackedLinear
from salhub.quantization.quantizer import describe_packed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MergeReport:
    """What it costs to merge adapters.

    Args:
        bits: Of the merged weights.
        errors: Name of a layer -> norm of what rounding changed, as a share of that of the weight.
        losses: Name of a layer -> the same as a share of what the adapter had added; from 1 on the
            weight without the adapter would be as near.
    """

    bits: int
    errors: dict[str, float]
    losses: dict[str, float]

    @property
    def error(self) -> float:
        """Mean of `errors`."""
        return mean(self.errors.values())

    @property
    def loss(self) -> float:
        """Mean of `losses`."""
        return mean(self.losses.values())

    def __str__(self) -> str:
        return (
            f"Merged {len(self.errors)} adapters into weights of {self.bits} bits: rounding "
            f"changed the weights by {100 * self.error:.1f} % of their size, which is "
            f"{100 * self.loss:.1f} % of what the adapters had added."
        )


@torch.no_grad()
def merge_adapters(model: PreTrainedModel, bits: int = 4) -> MergeReport:
    """Add the adapters to their weights and round the sums again, in place.

    An adapter often adds less than half a step of two bits, which rounding to two bits would lose;
    a step of four bits is a fifth of that. The ranges are searched again, and symmetric layers
    stay symmetric. `model.dequantize()` merges without rounding.

    Args:
        model: A model with adapters, made by `salhub compress apiq-saliency`.
        bits: Bits of the merged weights, from 2 to 5.

    Returns:
        What it cost, which is also logged.

    Raises:
        ValueError: There are no adapters, or `bits` is out of range.

    Example:
        >>> print(merge_adapters(model))  # doctest: +SKIP
        Merged 210 adapters into weights of 4 bits: rounding changed …
    """
    check_choice("bits", bits, [2, 3, 4, 5])
    layers = adapted_layers(model)
    if not layers:
        raise ValueError(
            "The model has no adapters of its own; to merge adapters of peft, call "
            "dequantize() on the model below them and merge with peft."
        )
    errors, losses = {}, {}
    for name, layer in layers.items():
        merged, error, size = _merged(layer, bits)
        model.set_submodule(name, merged)
        errors[name] = error
        losses[name] = error / size if size > 0 else 0.0
    config = model.config.quantization_config
    config.lora_r, config.bits = None, bits
    describe_packed(model, config)
    report = MergeReport(bits, errors, losses)
    lost = sum(loss >= 1 for loss in losses.values())
    if lost:
        logger.warning(
            "%s In %d of %d layers rounding changed the weights more than the adapter did; "
            "merge with more bits.",
            report,
            lost,
            len(losses),
        )
    else:
        logger.info("%s", report)
    return report


def _merged(layer: AdaptedPackedLinear, bits: int) -> tuple[PackedLinear, float, float]:
    """The layer, and the sizes of its error and of what the adapter added, as shares of it."""
    added = layer.adapter_weight()
    weight = layer.to_quantized().dequantize() + added
    clipping = LearnedClipping(weight, layer.group_size, bits, symmetric=layer.is_symmetric)
    clipping.search()
    stored = clipping.quantized()
    whole = float(weight.norm())
    error = float((stored.dequantize() - weight).norm())
    packed = PackedLinear.from_quantized(stored, layer.bias, layer.inference)
    return packed.train(layer.training), error / whole, float(added.norm()) / whole
