"""Compression of a causal language model, one block after another, on calibration text."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from salhub.data.documents import calibration_windows, check_tokens, encode_text, read_texts
from salhub.evaluation.language_model import Perplexity, model_bytes, perplexity, vocab_size_of
from salhub.hub import load
from salhub.quantization.decoder_blocks import (
    BlockInputs,
    block_outputs,
    decoder_blocks,
    first_inputs,
    in_full_precision,
    linear_layers,
)
from salhub.quantization.packed_linear import PackedLinear
from salhub.quantization.quantized_weight import QuantizedWeight
from salhub.quantization.quantizer import PackedWeightsConfig, describe_packed, packed_layers
from salhub.results import Results
from salhub.runner.arguments import RunArguments, check_count
from salhub.runner.blocks import CompressedBlock
from salhub.runner.recipe import BlockRecipe
from salhub.runner.sources import ALL
from salhub.tokenizing import load_tokenizer

# Of a quantized weight, what a block of a run keeps.
_PARTS = ("codes", "group_bits", "scales", "zeros", "means")


@dataclass(kw_only=True)
class CompressionArguments(RunArguments):
    """What every compression of a language model takes.

    Args:
        model: A causal language model: a folder, a shipped name, or a Hub repository.
        calibration: Text that the model is compressed on: a file, a table or the name of a data
            set, or a file of tokens, see `calibration_windows`.
        text_column: Column with the documents; None to find it by its heading.
        dataset_config_name: The configuration of a data set on the Hub.
        num_calibration_windows: Windows of tokens drawn from it by the seed.
        context_length: Tokens of a window.
        batch_size: Windows that pass through a block together.
        bits: Bits of a weight, on average.
        group_size: Columns that share a scale in each row.
        test_data: Text that perplexity is measured on before and after; None for none.
        test_context_length: Tokens of a window of it.
        num_test_tokens: Tokens of it that are measured; None for all.
    """

    model: str
    calibration: str
    text_column: str | None = None
    dataset_config_name: str | None = None
    num_calibration_windows: int = 128
    context_length: int = 2048
    batch_size: int = 4
    bits: int = 2
    group_size: int = 64
    test_data: str | None = None
    test_context_length: int = 512
    num_test_tokens: int | None = None

    def validate(self) -> None:
        """Check the options of compression, and those of every run."""
        super().validate()
        for name in (
            "num_calibration_windows",
            "context_length",
            "batch_size",
            "group_size",
            "test_context_length",
        ):
            check_count(name, getattr(self, name))
        if self.num_test_tokens is not None:
            check_count("num_test_tokens", self.num_test_tokens)
        if self.bits not in (2, 3, 4):
            raise ValueError(f"bits must be 2, 3 or 4, got {self.bits}.")


class CompressionRecipe(BlockRecipe):
    """Quantizes the linear layers of every block; embeddings, norms and the head stay as they are.

    Each block is compressed for what the compressed blocks before it give. One block at a time is
    held in float32.
    """

    arguments_class = CompressionArguments
    metric_words = {
        "bits": "A weight takes {} on average",
        "bits_with_scales": "With scales and zeros it takes {}",
        "error": "The outputs of the layers differ by {} of their size on the calibration text",
        "bytes": "The weights take {}",
        "perplexity/before": "The perplexity on the test text was {}",
        "perplexity/after": "Now it is {}",
    }
    sources = {
        "model": "model*.safetensors",
        "calibration": ALL,
        "test_data": ALL,
    }

    def build_model(self) -> nn.Module:
        options = self.arguments
        model = load(AutoModelForCausalLM, options.model).eval()
        if getattr(model.config, "quantization_config", None) is not None:
            raise ValueError(
                f"{options.model} is quantized already; give the model as it was before."
            )
        self.tokenizer = load_tokenizer(options.model)
        self.measures: dict[str, dict[str, float]] = {}
        self.blocks = decoder_blocks(model)
        self._check_layers(model)
        self.windows = calibration_windows(
            options.calibration,
            self.tokenizer,
            num_windows=options.num_calibration_windows,
            length=options.context_length,
            seed=options.seed,
            text_column=options.text_column,
            dataset_config_name=options.dataset_config_name,
        )
        check_tokens(self.windows, vocab_size_of(model), options.calibration)
        self.test_tokens = self._read_test_tokens()
        return model

    def _read_test_tokens(self) -> Tensor | None:
        options = self.arguments
        if options.test_data is None:
            return None
        text = read_texts(options.test_data, text_column=options.text_column, part=None)
        tokens = encode_text(text.whole, self.tokenizer)[: options.num_test_tokens]
        if len(tokens) < options.test_context_length:
            raise ValueError(
                f"test_data has {len(tokens)} tokens, fewer than test_context_length, "
                f"{options.test_context_length}; give more text, or a smaller test_context_length."
            )
        return tokens

    def _check_layers(self, model: nn.Module) -> None:
        size = self.arguments.group_size
        for block_name, block in self.blocks.items():
            for name, layer in linear_layers(block).items():
                if layer.in_features < size:
                    raise ValueError(
                        f"group_size is {size}, and {block_name}.{name} has "
                        f"{layer.in_features} columns; give a smaller group_size."
                    )
                if layer.weight.is_meta:
                    continue
                if not torch.isfinite(layer.weight).all():
                    raise ValueError(
                        f"the weight of {block_name}.{name} is not finite; give a whole model."
                    )

    def prepare(self, model: nn.Module, accelerator: Any) -> None:
        self.before = self._perplexity(model)
        self.inputs: BlockInputs = first_inputs(
            model, self.windows, batch_size=self.arguments.batch_size
        )

    def block_names(self, model: nn.Module) -> Sequence[str]:
        return list(self.blocks)

    def compress_block(self, model: nn.Module, name: str) -> CompressedBlock:
        with torch.no_grad():
            block = in_full_precision(self.blocks[name])
        found, tensors, measures = self.quantize(block, name)
        for layer, weight in found.items():
            tensors |= {f"{layer}.{part}": getattr(weight, part) for part in _PARTS}
        return CompressedBlock(tensors, measures)

    @abstractmethod
    def quantize(
        self, block: nn.Module, name: str
    ) -> tuple[Mapping[str, QuantizedWeight], dict[str, Tensor], dict[str, float]]:
        """Quantize the layers of a block.

        Args:
            block: A copy in float32, which may be changed; its inputs are `self.inputs`.
            name: Of the block.

        Returns:
            Layer -> its weight; further tensors that are kept; and numbers for the log.
        """

    @torch.no_grad()
    def take_block(self, model: nn.Module, name: str, block: CompressedBlock) -> None:
        original = self.blocks[name]
        working = in_full_precision(original)
        for layer, linear in linear_layers(working).items():
            parts = {part: block.tensors[f"{layer}.{part}"] for part in _PARTS}
            weight = QuantizedWeight(group_size=self.arguments.group_size, **parts)
            linear.weight.data = weight.dequantize()
            bias = original.get_submodule(layer).bias
            original.set_submodule(layer, PackedLinear.from_quantized(weight, bias))
        self.inputs.hidden = block_outputs(working, self.inputs)
        self.measures[name] = block.measures

    def finish(self, model: Any) -> nn.Module:
        del self.inputs
        return describe_packed(model, self.quantization_config())

    @abstractmethod
    def quantization_config(self) -> PackedWeightsConfig:
        """What config.json says of the packed layers, which are filled in."""

    def _perplexity(self, model: nn.Module) -> Perplexity | None:
        if self.test_tokens is None:
            return None
        return perplexity(model, self.test_tokens, self.arguments.test_context_length)

    @torch.no_grad()
    def evaluate(self, model: Any, accelerator: Any, results: Results) -> None:
        options, layers = self.arguments, packed_layers(model)
        results.data = {
            "name": Path(options.calibration).name,
            "num_windows": len(self.windows),
            "context_length": self.windows.shape[1],
        }
        weights = {name: layer.in_features * layer.out_features for name, layer in layers.items()}
        for name, with_scales in (("bits", False), ("bits_with_scales", True)):
            spent = sum(
                layer.to_quantized().bits_per_weight(with_scales) * weights[place]
                for place, layer in layers.items()
            )
            results.add_metric(name, spent / sum(weights.values()), n=len(layers), unit="bits")
        errors = [value for block in self.measures.values() for value in block.values()]
        results.add_mean("error", errors, unit="fraction")
        results.add_metric("bytes", model_bytes(self.run.folder)["total"], unit="bytes")
        if self.before is not None:
            after = self._perplexity(model)
            results.data |= {"test": Path(options.test_data).name, "measured": after.note}
            for name, found in (("before", self.before), ("after", after)):
                results.add_metric(
                    f"perplexity/{name}",
                    found.value,
                    interval=found.interval,
                    n=found.num_predicted,
                )

    def export(self, model: Any, folder: Path) -> None:
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
