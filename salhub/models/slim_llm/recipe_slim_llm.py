"""`salhub compress slim-llm`: two or three bits a weight on average, more where they matter."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from salhub.model_card import Facts
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
from salhub.models.slim_llm.layer_report import CompressionReport, LayerReport
from salhub.models.slim_llm.layer_widths import LayerWidths, measured_widths
from salhub.models.slim_llm.plots import bit_map_picture, divergence_picture
from salhub.models.slim_llm.presets import BASELINES, Allocation, Preset, preset_values
from salhub.models.slim_llm.quantization_slim_llm import SlimLLMQuantizationConfig
from salhub.quantization.decoder_blocks import linear_layers, pass_block
from salhub.quantization.quantized_weight import QuantizedWeight
from salhub.quantization.quantizer import packed_layers
from salhub.runner.arguments import check_count, check_positive, check_share
from salhub.runner.blocks import CompressedBlock
from salhub.runner.language_model_compression import CompressionArguments, CompressionRecipe

logger = logging.getLogger(__name__)

Granularity = Literal["group", "module"]
BITS_NAME, DIVERGENCES_NAME = "bits.png", "divergences.png"
# What a block keeps of a layer beside its weight.
_DIVERGENCES, _SALIENCE = "divergences", "salience"
_OF_WIDTHS = "width_divergences"
_BITS_WORDS = (
    "The bits of each group of columns, a row for each block: amber groups have a bit less than "
    "the others, blue ones a bit more."
)
_DIVERGENCES_WORDS = (
    "How far the outputs of each layer are from what they were with p groups a bit lower and p a "
    "bit higher; each curve is divided by its first value, and the dot is the p that was taken."
)


@dataclass(kw_only=True)
class SlimLLMArguments(CompressionArguments):
    """Options of `SlimLLMRecipe`; those that are None are as the preset has them.

    Args:
        bits: The mean; 2, 3 or 4, and with bits_granularity="module" any number from 2 to 4, such
            as 2.25 or 3.5. There, a mean of exactly 2 or 4 leaves no choice: all layers have that
            width.
        bits_granularity: "group" gives widths to groups of columns, as published; "module" gives
            one of 2, 3 and 4 to each layer, the same to layers that read the same inputs, as other
            programs want it, see `measured_widths`. The mean is then at most `bits`, as near as
            layers of these sizes can come.
        symmetric: Whether zeros are fixed at 2^(width - 1), as other programs want it; where a
            layer has one width. See `group_scales`.
        preset: "recommended" is SliM-LLM as we found it best: centered one-bit groups, at two bits
            a search that counts errors by salience, and at three and four bits leave to keep all
            groups of a layer alike. "reference" is SliM-LLM as published. Three more are there to
            compare with, and give all groups the same bits: "rtn" rounds each weight, "gptq" lets
            later columns make up for earlier ones, and "gptq-clip" searches the ranges as well.
        allocation: Which groups get a bit less and more: by "salience" as published, or, to
            compare with, none ("uniform"), as many at "random", or the opposite ("inverted").
        salience: What salience divides by: "cholesky" as released, or "hinv" as published; see
            `weight_salience`.
        allow_uniform: Whether a layer may keep all its groups alike where that is best.
        search_weights: What an error counts in the search of a range: "mask" counts salient weights
            `salience_weight` times, "salience" all by their salience, and "none" all alike.
        salience_weight: What salient weights count in it, with search_weights="mask".
        error_norm: The power of an error in it.
        search_range: How far a range is stretched and shrunk; 0 for no search.
        search_steps: Steps either way.
        binary_scale: The scale of groups of one bit: "centered" around their mean, or "abs" as
            released; see `group_scales`.
        backbone: "gptq", or "rtn" where columns are only rounded.
        damping: Share of its mean that is added to the diagonal of the Hessian.
        num_search_rows: Most rows of the inputs on which bits are allocated.

    Raises:
        ValueError: An option contradicts what a preset to compare with is.

    Example:
        >>> options = SlimLLMArguments(output_dir="out", model="m", calibration="t.txt", bits=3)
        >>> options.allow_uniform, options.resolved().allow_uniform
        (None, True)
    """

    bits: float = 2
    bits_granularity: Granularity = "group"
    symmetric: bool = False
    preset: Preset = "recommended"
    allocation: Allocation | None = None
    salience: Salience = "cholesky"
    allow_uniform: bool | None = None
    search_weights: SearchWeights | None = None
    salience_weight: float = 1.0
    error_norm: float | None = None
    search_range: float | None = None
    search_steps: int = 50
    binary_scale: BinaryScale | None = None
    backbone: Backbone | None = None
    damping: float = 0.01
    num_search_rows: int = 4096

    def __post_init__(self) -> None:
        if isinstance(self.bits, float) and self.bits.is_integer():
            self.bits = int(self.bits)
        super().__post_init__()

    def resolved(self) -> "SlimLLMArguments":
        """The same with what the preset has in the place of None."""
        values = preset_values(self.preset, self.bits)
        missing = {name: value for name, value in values.items() if getattr(self, name) is None}
        return replace(self, **missing)

    def changed(self) -> dict[str, tuple[Any, Any]]:
        """Options that were given and are not as in the preset -> both values, the given first."""
        given = {
            name: (getattr(self, name), value)
            for name, value in preset_values(self.preset, self.bits).items()
        }
        return {name: both for name, both in given.items() if both[0] not in (None, both[1])}

    def validate(self) -> None:
        """Check the options of SliM-LLM, and those of every compression."""
        super().validate()
        for name in ("search_steps", "num_search_rows"):
            check_count(name, getattr(self, name))
        for name in ("salience_weight", "damping"):
            check_positive(name, getattr(self, name))
        if self.error_norm is not None:
            check_positive("error_norm", self.error_norm)
        if self.search_range is not None:
            check_share("search_range", self.search_range)
        if self.preset in BASELINES:
            for name, (given, value) in self.changed().items():
                raise ValueError(
                    f"preset={self.preset} means {name}={_word(value)}, and {name}={_word(given)} "
                    "was given; leave one of them out."
                )
        allocation = self.allocation or preset_values(self.preset, self.bits)["allocation"]
        if self.bits_granularity == "module" and allocation != "salience":
            raise ValueError(
                f"allocation={allocation} is of groups, and bits_granularity is module; leave out "
                "one of them, or the preset that means it."
            )
        if self.symmetric and self.bits_granularity != "module" and allocation != "uniform":
            raise ValueError(
                "symmetric needs one width a layer; give bits_granularity=module, or "
                "allocation=uniform."
            )

    def check_bits(self) -> None:
        """Refuse a mean of bits that cannot be kept."""
        if self.bits_granularity == "module":
            if not 2 <= self.bits <= 4:
                raise ValueError(f"bits must be from 2 to 4, got {self.bits}.")
        elif isinstance(self.bits, float) and 2 < self.bits < 4:
            raise ValueError(
                f"bits must be 2, 3 or 4, got {self.bits}; give bits_granularity=module for a "
                "mean between them."
            )
        else:
            super().check_bits()


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


class SlimLLMRecipe(CompressionRecipe):
    """Quantizes a language model to 2, 3 or 4 bits a weight on average, more where it matters.

    Beside the model it leaves layers.json with the bits, the search and the error of each layer,
    and two pictures of them.

    Example:
        >>> arguments = SlimLLMArguments(output_dir="out", model="m", calibration="text.txt")
        >>> SlimLLMRecipe(arguments).settings.search_weights
        'salience'

    Source: Huang et al. 2024 (arXiv 2405.14917).
    """

    name = "slim-llm"
    arguments_class = SlimLLMArguments
    optional_files = (DIVERGENCES_NAME,)

    def __init__(self, arguments: SlimLLMArguments) -> None:
        super().__init__(arguments)
        self.settings = arguments.resolved()

    def learned_options(self) -> dict[str, Any]:
        values = preset_values(self.arguments.preset, self.arguments.bits)
        resolved = {name: getattr(self.settings, name) for name in values}
        return {**super().learned_options(), **resolved}

    def take_model(self, model: Any, tokenizer: Any, windows: Tensor | None = None) -> Any:
        for name, (given, value) in self.arguments.changed().items():
            logger.warning(
                "%s is %s as given, where preset=%s has %s.",
                name,
                given,
                self.arguments.preset,
                value,
            )
        self.searched: dict[str, dict[str, Tensor]] = {}
        return super().take_model(model, tokenizer, windows)

    def quantization_config(self) -> SlimLLMQuantizationConfig:
        options = self.arguments
        return SlimLLMQuantizationConfig(bits=options.bits, group_size=options.group_size)

    def prepare(self, model: nn.Module, accelerator: Any) -> None:
        super().prepare(model, accelerator)
        options = self.arguments
        self.layer_widths: LayerWidths | None = None
        if options.bits_granularity == "module":
            if options.bits in (2, 4):
                logger.warning("A mean of %s bits gives every layer that width.", options.bits)
            self.layer_widths = measured_widths(
                self.blocks,
                self.inputs,
                options.bits,
                options.group_size,
                most_rows=options.num_search_rows,
                symmetric=options.symmetric,
            )
            self.inputs = self.first_inputs(model)

    @torch.no_grad()
    def quantize(
        self, block: nn.Module, name: str
    ) -> tuple[Mapping[str, QuantizedWeight], dict[str, Tensor], dict[str, float]]:
        layers = linear_layers(block)
        options, inputs = self.settings, self.inputs
        with (
            self.timed("inputs"),
            collected_inputs(
                layers, most_rows=options.num_search_rows, num_sequences=len(inputs.hidden)
            ) as statistics,
        ):
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
        options, names = self.settings, statistics.layers
        with self.timed("inputs"):
            factor, is_dead = inverse_factor(
                statistics.hessian, options.damping, f"{block_name}.{names[0]}"
            )
        weights = [layers[name].weight.masked_fill(is_dead, 0) for name in names]
        bits = []
        with self.timed("bits"):
            for name, weight in zip(names, weights, strict=True):
                place = f"{block_name}.{name}"
                widths, divergences, salience = self._bits(place, weight, statistics.rows, factor)
                bits.append(widths)
                tensors[f"{name}.{_SALIENCE}"] = salience
                if self.layer_widths is not None:
                    tensors[f"{name}.{_OF_WIDTHS}"] = self.layer_widths.divergences[place]
                if divergences is not None:
                    tensors[f"{name}.{_DIVERGENCES}"] = torch.tensor(
                        divergences, dtype=torch.float64
                    )
        with self.timed("weights"):
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
        self, name: str, weight: Tensor, rows: Tensor, factor: Tensor
    ) -> tuple[Tensor, list[float] | None, Tensor]:
        """The bits of each group, D(p) where they were searched, and the salience."""
        options = self.settings
        salience = group_means(
            weight_salience(weight, factor, options.salience), options.group_size
        )
        if self.layer_widths is not None or options.allocation == "uniform":
            width = options.bits if self.layer_widths is None else self.layer_widths.widths[name]
            return torch.full((len(salience),), width, dtype=torch.uint8), None, salience
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
            return allocated.group_bits, divergences, salience
        # As many swapped as salience would, but others.
        swappable = len(salience) - (weight.shape[1] % options.group_size > 0)
        other = torch.rand(len(salience)) if options.allocation == "random" else -salience
        bits = swapped_bits(other, options.bits, allocated.num_swapped, swappable=swappable)
        return bits, divergences, salience

    def _search(self) -> RangeSearch:
        options = self.settings
        return RangeSearch(
            weights=options.search_weights,
            salience_weight=options.salience_weight,
            norm=options.error_norm,
            search_range=options.search_range,
            search_steps=options.search_steps,
            binary_scale=options.binary_scale,
            symmetric=options.symmetric,
        )

    def take_block(self, model: nn.Module, name: str, block: CompressedBlock) -> None:
        super().take_block(model, name, block)
        for key, tensor in block.tensors.items():
            layer, _, kind = key.rpartition(".")
            if kind in (_DIVERGENCES, _SALIENCE, _OF_WIDTHS):
                self.searched.setdefault(f"{name}.{layer}", {})[kind] = tensor

    def report(self, model: nn.Module) -> CompressionReport:
        """What was decided about each layer of the finished model."""
        options = self.arguments
        errors = {
            f"{block}.{key.removeprefix('error/')}": value
            for block, measures in self.measures.items()
            for key, value in measures.items()
        }
        layers = {}
        for name, layer in packed_layers(model).items():
            searched = self.searched[name]
            found = searched.get(_DIVERGENCES, torch.empty(0)).tolist()
            layers[name] = LayerReport(
                group_bits=list(layer.widths),
                num_swapped=sum(bits < options.bits for bits in layer.widths) if found else 0,
                salience=searched[_SALIENCE].tolist(),
                divergences=[None if math.isnan(one) else one for one in found],
                width_divergences=searched.get(_OF_WIDTHS, torch.empty(0)).tolist(),
                error=errors[name],
            )
        return CompressionReport(self.base_model, options.bits, options.group_size, layers)

    def export(self, model: Any, folder: Path) -> None:
        super().export(model, folder)
        report = self.report(model)
        report.save(folder)
        bit_map_picture(report).save(folder / BITS_NAME)
        divergences = divergence_picture(report)
        if divergences is not None:
            divergences.save(folder / DIVERGENCES_NAME)

    def card_facts(self) -> Facts:
        pictures = {BITS_NAME: _BITS_WORDS}
        if (self.run.folder / DIVERGENCES_NAME).is_file():
            pictures[DIVERGENCES_NAME] = _DIVERGENCES_WORDS
        return replace(super().card_facts(), pictures=pictures)


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
