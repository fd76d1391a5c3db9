"""`salhub compress slim-llm`: two or three bits a weight on average, more where they matter."""

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from salhub.model_card import Facts
from salhub.models.slim_llm.arguments_slim_llm import SlimLLMArguments
from salhub.models.slim_llm.bit_allocation import (
    allocate_bits,
    allocate_by_error,
    group_means,
    swapped_bits,
    weight_salience,
)
from salhub.models.slim_llm.clip_training import train_clipping
from salhub.models.slim_llm.column_updates import (
    RangeSearch,
    expected_errors,
    quantized_columns,
)
from salhub.models.slim_llm.input_statistics import (
    InputStatistics,
    collected_inputs,
    damped,
    inverse_factor,
    relative_error,
)
from salhub.models.slim_llm.layer_report import CompressionReport, LayerReport
from salhub.models.slim_llm.layer_widths import LayerWidths, measured_widths
from salhub.models.slim_llm.output_matching import matched_weight, paired_statistics
from salhub.models.slim_llm.plots import bit_map_picture, divergence_picture
from salhub.models.slim_llm.quantization_slim_llm import SlimLLMQuantizationConfig
from salhub.models.slim_llm.refinement import refined
from salhub.quantization.decoder_blocks import (
    BlockInputs,
    StepwisePass,
    block_outputs,
    in_full_precision,
    linear_layers,
    pass_block,
    passed_with_inputs,
)
from salhub.quantization.learned_clipping import LearnedClipping
from salhub.quantization.quantized_weight import QuantizedWeight
from salhub.quantization.quantizer import packed_layers
from salhub.runner.blocks import CompressedBlock
from salhub.runner.language_model_compression import CompressionRecipe

logger = logging.getLogger(__name__)

BITS_NAME, DIVERGENCES_NAME = "bits.png", "divergences.png"
# What a block keeps of a layer beside its weight.
_DIVERGENCES, _SALIENCE = "divergences", "salience"
_OF_WIDTHS = "width_divergences"
_BITS_WORDS = (
    "Bits of each group of columns, one row per block: amber groups have one bit less than "
    "the others, blue groups one bit more."
)
_WIDTHS_WORDS = (
    "Bits of each layer, one row per block: amber layers have fewer bits than the mean, blue "
    "layers more."
)
_DIVERGENCES_WORDS = (
    "Change of the outputs of each layer if p groups get one bit less and p groups one bit "
    "more. Each curve is divided by its first value; the dot marks the chosen p."
)


class SlimLLMRecipe(CompressionRecipe):
    """Quantizes a language model to 2, 3 or 4 bits per weight on average, more where they matter.

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
        return {**super().learned_options(), **self.arguments.resolved_values()}

    def take_model(self, model: Any, tokenizer: Any, windows: Tensor | None = None) -> Any:
        for name, (given, value) in self.arguments.changed().items():
            logger.warning(
                "You set %s to %s, while preset=%s uses %s.",
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
        self.plain_inputs: BlockInputs | None = None
        self._plain_outputs: Tensor | None = None
        self.layer_widths: LayerWidths | None = None
        if options.bits_granularity == "module":
            if options.bits in (2, 4):
                logger.warning("With a mean of %s bits, every layer has that width.", options.bits)
            self.layer_widths = measured_widths(
                self.blocks,
                self.inputs,
                options.bits,
                options.group_size,
                most_rows=options.num_search_rows,
                symmetric=options.symmetric,
            )
            self.inputs = self.first_inputs(model)
        if self.settings.clip_epochs or self.settings.match_outputs:
            # What blocks in full precision give, which is what the others are to give.
            self.plain_inputs = self.first_inputs(model)

    @torch.no_grad()
    def quantize(
        self, block: nn.Module, name: str
    ) -> tuple[Mapping[str, QuantizedWeight], dict[str, Tensor], dict[str, float]]:
        options, layers = self.settings, linear_layers(block)
        found: dict[str, QuantizedWeight] = {}
        tensors: dict[str, Tensor] = {}
        measures: dict[str, float] = {}
        bits: dict[str, Tensor] = {}
        wanted: dict[str, tuple[Tensor, Tensor]] = {}
        for one, cross in self._statistics(block, layers, name):
            weights, widths, factor = self._allocated(one, cross, layers, name, tensors)
            wanted |= {
                layer: (weight, one.moments)
                for layer, weight in zip(one.layers, weights, strict=True)
            }
            if options.clip_epochs:
                bits |= dict(zip(one.layers, widths, strict=True))
                continue
            with self.timed("weights"):
                written = quantized_columns(
                    weights,
                    widths,
                    factor,
                    options.group_size,
                    self._search(),
                    backbone=options.backbone,
                )
                if options.refinements:
                    hessian = damped(one.hessian, options.damping)
                    written = [
                        refined(*pair, hessian, options.refinements)
                        for pair in zip(weights, written, strict=True)
                    ]
            found |= dict(zip(one.layers, written, strict=True))
            if cross is not None:  # what comes after them reads what they give now
                for layer in one.layers:
                    layers[layer].weight.data = found[layer].dequantize()
        if options.clip_epochs:
            with self.timed("weights"):
                found, losses = self._trained(block, bits)
            measures |= {"loss/first": losses[0], "loss/last": losses[-1]}
        for layer, (weight, moments) in wanted.items():
            written = found[layer].dequantize()
            measures[f"error/{layer}"] = relative_error(weight, written, moments)
        return found, tensors, measures

    def _statistics(
        self, block: nn.Module, layers: Mapping[str, nn.Linear], name: str
    ) -> Iterator[tuple[InputStatistics, Tensor | None]]:
        """Of layers that read the same; where outputs are matched, with C of `matched_weight`."""
        options, inputs = self.settings, self.inputs
        if options.match_outputs:
            assert self.plain_inputs is not None
            with self.timed("inputs"):
                steps = StepwisePass(block, inputs)
                self._plain_outputs, plain = passed_with_inputs(
                    block, self.plain_inputs, [together[0] for together in steps.groups]
                )
            for together in steps.groups:
                with self.timed("inputs"):
                    pair = paired_statistics(
                        together,
                        steps.layer_inputs(together[0]),
                        plain.pop(together[0]),
                        most_rows=options.num_search_rows,
                        num_sequences=len(inputs.hidden),
                    )
                yield pair
            with self.timed("outputs"):
                self.passed_block = block, steps.outputs()
            return
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
                f"no calibration text passed through {name}.{min(unseen)}, as in a mixture "
                "of experts; such layers cannot be quantized from their inputs."
            )
        yield from ((one, None) for one in statistics)

    def _trained(
        self, block: nn.Module, bits: Mapping[str, Tensor]
    ) -> tuple[dict[str, QuantizedWeight], list[float]]:
        """The layers of a block with ranges that are trained, and the losses."""
        options, inputs = self.settings, self.inputs
        layers = {
            name: LearnedClipping(
                layer.weight.detach(),
                options.group_size,
                bits[name],
                symmetric=options.symmetric,
            )
            for name, layer in linear_layers(block).items()
        }
        if options.initial_ranges == "search":
            for layer in layers.values():
                layer.search()
        self._plain_outputs = block_outputs(block, self.plain_inputs)
        targets = [self._plain_outputs]
        if options.aug_loss:
            targets.append(block_outputs(block, inputs))
        losses = train_clipping(
            block,
            layers,
            inputs,
            targets,
            epochs=options.clip_epochs,
            learning_rate=options.clip_learning_rate,
        )
        return {name: layer.quantized() for name, layer in layers.items()}, losses

    def _allocated(
        self,
        statistics: InputStatistics,
        cross: Tensor | None,
        layers: Mapping[str, nn.Linear],
        block_name: str,
        tensors: dict[str, Tensor],
    ) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """The weights and bits of layers that read the same inputs, and U of these."""
        options, names = self.settings, statistics.layers
        with self.timed("inputs"):
            factor, is_dead = inverse_factor(
                statistics.hessian, options.damping, f"{block_name}.{names[0]}"
            )
        weights = [layers[name].weight.masked_fill(is_dead, 0) for name in names]
        if cross is not None:
            scaled = cross * (2 / statistics.num_sequences)
            weights = [matched_weight(weight, scaled, factor) for weight in weights]
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
        return weights, bits, factor

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
        swappable = len(salience) - (weight.shape[1] % options.group_size > 0)
        allow_uniform = bool(options.allow_uniform)
        if options.objective == "error":
            errors = expected_errors(
                weight, options.bits, factor, options.group_size, self._search()
            )
            order = errors[0] - errors[2]
            allocated = allocate_by_error(
                errors, options.bits, swappable=swappable, allow_uniform=allow_uniform
            )
        else:
            order = salience
            allocated = allocate_bits(
                weight,
                rows,
                salience,
                options.bits,
                options.group_size,
                allow_uniform=allow_uniform,
                binary_scale=options.binary_scale,
            )
        divergences = [float("nan") if one is None else one for one in allocated.divergences]
        if options.allocation == "salience":
            return allocated.group_bits, divergences, salience
        # As many swapped as are best, but others.
        other = torch.rand(len(order)) if options.allocation == "random" else -order
        bits = swapped_bits(other, options.bits, allocated.num_swapped, swappable=swappable)
        return bits, divergences, salience

    def _search(self) -> RangeSearch:
        options = self.settings
        return RangeSearch(
            weights=options.search_weights,
            salience_weight=options.salience_weight,
            norm=options.error_norm,
            search_range=options.search_range,
            search_stretch=options.search_stretch,
            search_steps=options.search_steps,
            binary_scale=options.binary_scale,
            symmetric=options.symmetric,
        )

    def take_block(self, model: nn.Module, name: str, block: CompressedBlock) -> None:
        if self.plain_inputs is not None:
            outputs, self._plain_outputs = self._plain_outputs, None
            if outputs is None:  # the block was read and not compressed
                plain = in_full_precision(self.blocks[name])
                with torch.no_grad():
                    outputs = block_outputs(plain, self.plain_inputs)
            self.plain_inputs.move_on(outputs)
        super().take_block(model, name, block)
        for key, tensor in block.tensors.items():
            layer, _, kind = key.rpartition(".")
            if kind in (_DIVERGENCES, _SALIENCE, _OF_WIDTHS):
                self.searched.setdefault(f"{name}.{layer}", {})[kind] = tensor

    def finish(self, model: Any) -> nn.Module:
        self.plain_inputs = None
        return super().finish(model)

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
        return CompressionReport(self.base_model, self.bits_reached, options.group_size, layers)

    def export(self, model: Any, folder: Path) -> None:
        super().export(model, folder)
        report = self.report(model)
        report.save(folder)
        bit_map_picture(report).save(folder / BITS_NAME)
        divergences = divergence_picture(report)
        if divergences is not None:
            divergences.save(folder / DIVERGENCES_NAME)

    def card_facts(self) -> Facts:
        is_module = self.arguments.bits_granularity == "module"
        pictures = {BITS_NAME: _WIDTHS_WORDS if is_module else _BITS_WORDS}
        if (self.run.folder / DIVERGENCES_NAME).is_file():
            pictures[DIVERGENCES_NAME] = _DIVERGENCES_WORDS
        return replace(super().card_facts(), pictures=pictures)
