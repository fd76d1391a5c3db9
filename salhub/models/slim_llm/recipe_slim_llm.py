"""`salhub compress slim-llm`: two or three bits a weight on average, more where they matter."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from salhub.models.slim_llm.bit_allocation import (
    Salience,
    allocate_bits,
    group_means,
    swapped_bits,
    weight_salience,
)
from salhub.models.slim_llm.column_updates import (
    Backbone,
    RangeSearch,
    SearchWeights,
    quantized_columns,
)
from salhub.models.slim_llm.group_scales import BinaryScale
from salhub.models.slim_llm.input_statistics import (
    InputStatistics,
    collected_inputs,
    inverse_factor,
)
from salhub.models.slim_llm.quantization_slim_llm import SlimLLMQuantizationConfig
from salhub.quantization.decoder_blocks import linear_layers, pass_block
from salhub.quantization.quantized_weight import QuantizedWeight
from salhub.runner.arguments import check_count, check_positive
from salhub.runner.language_model_compression import CompressionArguments, CompressionRecipe

Allocation = Literal["salience", "uniform", "random", "inverted"]
Preset = Literal["recommended", "reference"]
_NOT_UNIFORM_BELOW = 3


@dataclass(kw_only=True)
class SlimLLMArguments(CompressionArguments):
    """Options of `SlimLLMRecipe`; those that are None are as the preset has them.

    Args:
        preset: "reference" is what was published; "recommended" adds centered one-bit groups, and
            at two bits a search that counts errors by salience, at three and four bits leave to
            keep all groups alike.
        allocation: Which groups get a bit less and more: by "salience" as published, or, to
            compare with, none ("uniform"), as many at "random", or the opposite ("inverted").
        salience: What salience divides by, see `weight_salience`.
        allow_uniform: Whether a layer may keep all its groups alike where that is best.
        search_weights: What an error counts in the search of a range, see `RangeSearch`.
        salience_weight: What salient weights count in it, with search_weights="mask".
        error_norm: The power of an error in it.
        search_range: How far a range is stretched and shrunk; 0 for no search.
        search_steps: Steps either way.
        binary_scale: The scale of groups of one bit, see `group_scales`.
        backbone: "gptq", or "rtn" where columns are only rounded.
        damping: Share of its mean that is added to the diagonal of the Hessian.
        num_search_rows: Most rows of the inputs on which bits are allocated.
    """

    preset: Preset = "recommended"
    allocation: Allocation = "salience"
    salience: Salience = "cholesky"
    allow_uniform: bool | None = None
    search_weights: SearchWeights | None = None
    salience_weight: float = 1.0
    error_norm: float | None = None
    search_range: float = 0.1
    search_steps: int = 50
    binary_scale: BinaryScale | None = None
    backbone: Backbone = "gptq"
    damping: float = 0.01
    num_search_rows: int = 4096

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in self._preset_values().items():
            if getattr(self, name) is None:
                setattr(self, name, value)

    def _preset_values(self) -> dict[str, Any]:
        published = {
            "allow_uniform": False,
            "search_weights": "mask",
            "error_norm": 2.4,
            "binary_scale": "abs",
        }
        if self.preset == "reference":
            return published
        if self.bits < _NOT_UNIFORM_BELOW:
            return {
                "allow_uniform": False,
                "search_weights": "salience",
                "error_norm": 2.0,
                "binary_scale": "centered",
            }
        return {**published, "allow_uniform": True, "binary_scale": "centered"}

    def validate(self) -> None:
        """Check the options of SliM-LLM, and those of every compression."""
        super().validate()
        for name in ("search_steps", "num_search_rows"):
            check_count(name, getattr(self, name))
        for name in ("salience_weight", "damping"):
            check_positive(name, getattr(self, name))
        if self.error_norm is not None:
            check_positive("error_norm", self.error_norm)
        if not 0 <= self.search_range < 1:
            raise ValueError(f"search_range must be in [0, 1), got {self.search_range}.")


class SlimLLMRecipe(CompressionRecipe):
    """Gives salient groups of columns more bits and others fewer, at the same mean.

    Example:
        >>> arguments = SlimLLMArguments(output_dir="out", model="m", calibration="text.txt")
        >>> SlimLLMRecipe(arguments).arguments.search_weights
        'salience'

    Source: Huang et al. 2024 (arXiv 2405.14917).
    """

    name = "slim-llm"
    arguments_class = SlimLLMArguments

    def quantization_config(self) -> SlimLLMQuantizationConfig:
        options = self.arguments
        return SlimLLMQuantizationConfig(bits=options.bits, group_size=options.group_size)

    @torch.no_grad()
    def quantize(
        self, block: nn.Module, name: str
    ) -> tuple[Mapping[str, QuantizedWeight], dict[str, Tensor], dict[str, float]]:
        layers = linear_layers(block)
        options, inputs = self.arguments, self.inputs
        with collected_inputs(
            layers, most_rows=options.num_search_rows, num_sequences=len(inputs.hidden)
        ) as statistics:
            for batch in inputs.batches():
                pass_block(block, batch, inputs.keywords)
        unseen = layers.keys() - {layer for one in statistics for layer in one.layers}
        if unseen:
            raise ValueError(
                f"no calibration text passed through {name}.{min(unseen)}, as in a mixture of "
                "experts; such layers cannot be quantized by what goes into them."
            )
        found: dict[str, QuantizedWeight] = {}
        tensors: dict[str, Tensor] = {}
        measures: dict[str, float] = {}
        for one in statistics:
            self._quantize_together(one, layers, name, found, tensors, measures)
        return found, tensors, measures

    def _quantize_together(
        self,
        statistics: InputStatistics,
        layers: Mapping[str, nn.Linear],
        block_name: str,
        found: dict[str, QuantizedWeight],
        tensors: dict[str, Tensor],
        measures: dict[str, float],
    ) -> None:
        """Quantize the layers that read the same inputs."""
        options, names = self.arguments, statistics.layers
        factor, is_dead = inverse_factor(
            statistics.hessian, options.damping, f"{block_name}.{names[0]}"
        )
        weights = [layers[name].weight.masked_fill(is_dead, 0) for name in names]
        bits = []
        for name, weight in zip(names, weights, strict=True):
            widths, divergences = self._bits(weight, statistics.rows, factor)
            bits.append(widths)
            if divergences is not None:
                tensors[f"{name}.divergences"] = torch.tensor(divergences, dtype=torch.float64)
        written = quantized_columns(
            weights, bits, factor, options.group_size, self._search(), backbone=options.backbone
        )
        for name, layer, weight in zip(
            names, [layers[name] for name in names], written, strict=True
        ):
            found[name] = weight
            measures[f"error/{name}"] = relative_error(
                layer.weight, weight.dequantize(), statistics.moments
            )

    def _bits(
        self, weight: Tensor, rows: Tensor, factor: Tensor
    ) -> tuple[Tensor, list[float] | None]:
        options = self.arguments
        salience = group_means(
            weight_salience(weight, factor, options.salience), options.group_size
        )
        if options.allocation == "uniform":
            return torch.full((len(salience),), options.bits, dtype=torch.uint8), None
        allocated = allocate_bits(
            weight,
            rows,
            salience,
            options.bits,
            options.group_size,
            allow_uniform=bool(options.allow_uniform),
            binary_scale=options.binary_scale,
        )
        divergences = [float("nan") if one is None else one for one in allocated.divergences]
        if options.allocation == "salience":
            return allocated.group_bits, divergences
        # As many swapped as salience would, but others.
        swappable = len(salience) - (weight.shape[1] % options.group_size > 0)
        other = torch.rand(len(salience)) if options.allocation == "random" else -salience
        bits = swapped_bits(other, options.bits, allocated.num_swapped, swappable=swappable)
        return bits, divergences

    def _search(self) -> RangeSearch:
        options = self.arguments
        return RangeSearch(
            weights=options.search_weights,
            salience_weight=options.salience_weight,
            norm=options.error_norm,
            search_range=options.search_range,
            search_steps=options.search_steps,
            binary_scale=options.binary_scale,
        )


def relative_error(weight: Tensor, written: Tensor, moments: Tensor) -> float:
    """‖X(Ŵ - W)ᵀ‖ / ‖XWᵀ‖ on the calibration inputs.

    Args:
        weight, written: float32 (n, m).
        moments: Σ x xᵀ of the inputs, (m, m).
    """

    def energy(matrix: Tensor) -> float:
        return float(((matrix @ moments) * matrix).sum().double())

    whole = energy(weight)
    return (max(energy(written - weight), 0.0) / whole) ** 0.5 if whole > 0 else 0.0
