"""Compression of a causal language model, one block after another, on calibration text."""

import logging
import math
import time
from abc import abstractmethod
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModelForCausalLM

from salhub.data.documents import (
    calibration_windows,
    check_tokens,
    encode_text,
    is_token_file,
    read_texts,
    read_tokens,
)
from salhub.data.tables import is_table_file
from salhub.evaluation.language_model import Perplexity, model_bytes, perplexity, vocab_size_of
from salhub.hub import bundled_model, canonical_name, load
from salhub.loading_keywords import gguf_explained, gguf_place
from salhub.model_card import Facts
from salhub.quantization.decoder_blocks import (
    BlockInputs,
    block_outputs,
    check_blocks,
    decoder_blocks,
    first_inputs,
    in_full_precision,
    linear_layers,
)
from salhub.quantization.free_memory import return_free_memory
from salhub.quantization.packed_linear import PackedLinear
from salhub.quantization.quantized_weight import QuantizedWeight
from salhub.quantization.quantizer import (
    PackedWeightsConfig,
    check_embedding,
    describe_packed,
    one_block_unpacked,
    pack_embedding,
    packed_layers,
    refuse_quantized,
)
from salhub.results import Results, peak_memory_mib
from salhub.runner.batches import mixed_seed
from salhub.runner.blocks import CompressedBlock
from salhub.runner.compression_arguments import CompressionArguments
from salhub.runner.compression_report import error_table, size_table
from salhub.runner.recipe import BlockRecipe
from salhub.runner.sources import ALL, MODEL
from salhub.tokenizing import load_tokenizer

logger = logging.getLogger(__name__)

# Of a quantized weight, what a block of a run keeps.
_PARTS = ("codes", "group_bits", "scales", "zeros", "means")
_LARGEST_SCALE = torch.finfo(torch.float16).max
# What a block keeps beside its weights: how long each stage of the work on it took.
_SECONDS = "seconds/"
_USAGE = """
from transformers import AutoModelForCausalLM, AutoTokenizer

import salhub  # without it, transformers cannot read the packed weights

model = AutoModelForCausalLM.from_pretrained("{model}")
tokenizer = AutoTokenizer.from_pretrained("{model}")
inputs = tokenizer("The film", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=20)[0]))
"""


class CompressionRecipe(BlockRecipe):
    """Quantizes the linear layers of every block; embeddings, norms and the head stay as they are.

    Each block is compressed for what the compressed blocks before it give. One block at a time is
    held in float32.
    """

    arguments_class = CompressionArguments
    metric_words = {
        "bits": "A weight takes {} on average",
        "bits_with_scales": "With scales and zeros it takes {}",
        "error": "The outputs of the layers change by {} of their size on the calibration text",
        "bytes": "The weights take {}",
        "share_of_16_bits": "That is {} of their size at 16 bits",
        "share_of_embeddings": "Embedding and head are not packed and take {} of the file",
        "peak_memory": "Peak memory was {}",
        "perplexity/before": "The perplexity on the test text was {}",
        "perplexity/after": "Now it is {}",
    }
    sources = {
        "model": MODEL,
        "calibration": ALL,
        "test_data": ALL,
    }

    def build_model(self) -> nn.Module:
        name = self.arguments.model
        if self.arguments.gguf_file is not None and bundled_model(name) is not None:
            raise ValueError(f"{name} comes with salhub, without a GGUF file; leave gguf_file out.")
        place, where = gguf_place(name, self.arguments.gguf_file)
        with gguf_explained(name, where):
            config = load(AutoConfig, place, **where)
            tokenizer = load_tokenizer(place, **where)
        if type(config) not in AutoModelForCausalLM._model_mapping:
            raise TypeError(
                f"{name} is a model of type '{config.model_type}', which is not a decoder; "
                "give a causal language model such as LlamaForCausalLM, Qwen2ForCausalLM or "
                "MistralForCausalLM."
            )
        present = getattr(config, "quantization_config", None)
        if present:
            raise ValueError(
                f"{name} is already quantized with "
                f"{present.get('quant_method', 'few bits')}; give the original model."
            )
        # transformers unpacks GGUF to float32, and the embeddings would be saved so.
        precision = {"dtype": torch.float16} if where else {}
        with gguf_explained(name, where):
            model = load(AutoModelForCausalLM, place, **where, **precision)
        return self.take_model(model.eval(), tokenizer)

    def take_model(self, model: Any, tokenizer: Any, windows: Tensor | None = None) -> Any:
        """Make ready to compress a model, and refuse one that cannot be.

        Args:
            model: The model, in evaluation mode.
            tokenizer: Its tokenizer.
            windows: Tokens to calibrate on, int64 (S, L); by default what the options say.

        Returns:
            The model.
        """
        options = self.arguments
        refuse_quantized(model)
        lengths = {"context_length": options.context_length if windows is None else None}
        lengths["the length of the windows"] = None if windows is None else windows.shape[1]
        if options.test_data is not None:
            lengths["test_context_length"] = options.test_context_length
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        for what, length in lengths.items():
            if None not in (length, limit) and length > limit:
                raise ValueError(
                    f"{what} is {length}, but the model accepts {limit} tokens; give {limit} or "
                    "less."
                )
        self.tokenizer = tokenizer
        self.measures: dict[str, dict[str, float]] = {}
        self.seconds: dict[str, float] = {}
        self._block_seconds: dict[str, float] = {}
        # The block that was quantized last, in float32, and what it gives as it is.
        self.passed_block: tuple[nn.Module, Tensor] | None = None
        self.blocks = decoder_blocks(model)
        self.num_weights = sum(one.numel() for one in model.parameters())
        check_blocks(model)
        widest = self._check_layers(model)
        if options.quantize_embeddings:
            check_embedding(model)
        if windows is None:
            windows = calibration_windows(
                options.calibration,
                tokenizer,
                num_windows=options.num_calibration_windows,
                length=options.context_length,
                seed=options.seed,
                text_column=options.text_column,
                dataset_config_name=options.dataset_config_name,
            )
        self.windows = windows
        check_tokens(windows, vocab_size_of(model), str(options.calibration))
        # Of a short text the same windows are drawn again and again.
        num_tokens = windows.unique(dim=0).numel()
        if num_tokens < widest[1]:
            logger.warning(
                "The calibration windows have %d tokens that are not repeated, fewer than the %d "
                "columns of %s, too few to measure how the columns interact; use more text, more "
                "windows, or longer ones.",
                num_tokens,
                widest[1],
                widest[0],
            )
        self.test_tokens = self._read_test_tokens(vocab_size_of(model))
        return model

    def compress(self, model: Any, tokenizer: Any, windows: Tensor | None = None) -> Any:
        """Compress a model that is in memory, in place; nothing is written.

        It does what a run does, with the same result.

        Args:
            model, tokenizer, windows: As of `take_model`.

        Returns:
            The model, packed.
        """
        self.take_model(model.eval(), tokenizer, windows)
        names, seed = list(self.block_names(model)), self.arguments.seed
        with torch.random.fork_rng(devices=[]):
            self.prepare(model, None)
            bar = tqdm(names, desc=f"{self.verb} {self.name}", unit="block")
            for index, name in enumerate(bar):
                torch.manual_seed(mixed_seed(seed, index))
                block = self.compress_block(model, name)
                torch.manual_seed(mixed_seed(seed, index, 1))
                self.take_block(model, name, block)
                bar.set_postfix(error=f"{max(_errors(block.measures), default=0):.3f}")
            return self.finish(model)

    def _read_test_tokens(self, vocab_size: int) -> Tensor | None:
        options = self.arguments
        if options.test_data is None:
            return None
        if is_token_file(options.test_data):
            tokens = read_tokens(options.test_data, vocab_size).flatten()
        else:
            path = Path(options.test_data)
            is_plain = path.is_file() and not is_table_file(path)
            own, column = options.test_text_column, None if is_plain else options.text_column
            config_name = options.test_dataset_config_name
            if config_name is None and options.test_data == options.calibration:
                config_name = options.dataset_config_name
            text = read_texts(
                options.test_data,
                text_column=own or column,
                dataset_config_name=config_name,
                part=None,
                prefix="" if own is None and column is not None else "test_",
            )
            tokens = encode_text(text.whole, self.tokenizer)
        tokens = tokens[: options.num_test_tokens]
        if len(tokens) < options.test_context_length:
            raise ValueError(
                f"test_data has {len(tokens)} tokens, fewer than test_context_length, "
                f"{options.test_context_length}; give more text, or a smaller test_context_length."
            )
        return tokens

    def _check_layers(self, model: nn.Module) -> tuple[str, int]:
        """Refuse layers that cannot be compressed; the widest one and its columns."""
        size = self.arguments.group_size
        columns: dict[str, int] = {}
        for block_name, block in self.blocks.items():
            for name, layer in linear_layers(block).items():
                columns[f"{block_name}.{name}"] = layer.in_features
                if layer.in_features < size:
                    raise ValueError(
                        f"group_size is {size}, and {block_name}.{name} has "
                        f"only {layer.in_features} columns; give a smaller group_size."
                    )
                if layer.weight.is_meta:
                    continue
                largest = float(layer.weight.detach().abs().max())
                if not math.isfinite(largest):
                    raise ValueError(
                        f"the weight of {block_name}.{name} is not finite; give an intact model."
                    )
                if largest > _LARGEST_SCALE:
                    raise ValueError(
                        f"the weight of {block_name}.{name} reaches {largest:g}, but scales "
                        "are stored in half precision; give a model with smaller weights."
                    )
        narrow = [name for name, count in columns.items() if count % size]
        if narrow:
            logger.warning(
                "group_size is %d, which does not divide the %d columns of %s; this affects "
                "%d of %d layers. Their last group is narrower and has the mean bits of its "
                "layer.",
                size,
                columns[narrow[0]],
                narrow[0],
                len(narrow),
                len(columns),
            )
        return max(columns.items(), key=lambda one: one[1])

    @contextmanager
    def timed(self, stage: str) -> Generator[None]:
        """Count the time of what runs inside as that of a stage of the work on a block."""
        began = time.perf_counter()
        yield
        spent = time.perf_counter() - began
        self._block_seconds[stage] = self._block_seconds.get(stage, 0.0) + spent

    def prepare(self, model: nn.Module, accelerator: Any) -> None:
        self.before = self._perplexity(model)
        self.inputs: BlockInputs = self.first_inputs(model)

    def first_inputs(self, model: nn.Module) -> BlockInputs:
        """What goes into the first block."""
        return first_inputs(model, self.windows, batch_size=self.arguments.batch_size)

    def block_names(self, model: nn.Module) -> Sequence[str]:
        return list(self.blocks)

    def compress_block(self, model: nn.Module, name: str) -> CompressedBlock:
        self._block_seconds, self.passed_block = {}, None
        with torch.no_grad():
            block = in_full_precision(self.blocks[name])
        found, tensors, measures = self.quantize(block, name)
        for layer, weight in found.items():
            tensors |= {f"{layer}.{part}": getattr(weight, part) for part in _PARTS}
        # Kept with the block, so that a run that goes on knows what the time before it was spent
        # on; in the log, two runs would differ.
        for stage, seconds in self._block_seconds.items():
            tensors[_SECONDS + stage] = torch.tensor(seconds, dtype=torch.float64)
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
        (working, outputs), self.passed_block = self.passed_block or (None, None), None
        if working is None:
            working = in_full_precision(original)
        for layer, linear in linear_layers(working).items():
            parts = {part: block.tensors[f"{layer}.{part}"] for part in _PARTS}
            weight = QuantizedWeight(group_size=self.arguments.group_size, **parts)
            packed = self.packed_layer(original.get_submodule(layer), weight, block, layer)
            dense = packed.to_linear().weight.data
            # What is kept of a block decides.
            if outputs is not None and not torch.equal(linear.weight, dense):
                outputs = None
            linear.weight.data = dense
            original.set_submodule(layer, packed)
        self._block_seconds = {}
        with self.timed("outputs"):
            self.inputs.move_on(block_outputs(working, self.inputs) if outputs is None else outputs)
        spent = {
            key.removeprefix(_SECONDS): float(value)
            for key, value in block.tensors.items()
            if key.startswith(_SECONDS)
        }
        for stage, seconds in (*spent.items(), *self._block_seconds.items()):
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        self.measures[name] = block.measures
        del working
        return_free_memory()

    def packed_layer(
        self, plain: nn.Module, weight: QuantizedWeight, block: CompressedBlock, name: str
    ) -> PackedLinear:
        """The layer that takes the place of a plain one.

        Args:
            plain: The plain one.
            weight: What it holds.
            block: All that is kept of the block, such as further parts of the layer.
            name: Of the layer in the block.
        """
        return PackedLinear.from_quantized(weight, plain.bias)

    def finish(self, model: Any) -> nn.Module:
        del self.inputs
        config = self.quantization_config()
        if self.arguments.quantize_embeddings:
            pack_embedding(model, config)
        bits = round(mean_bits(model, with_scales=False), 3)
        self.bits_reached = int(bits) if bits.is_integer() else bits
        return describe_packed(model, config)

    @abstractmethod
    def quantization_config(self) -> PackedWeightsConfig:
        """What config.json says of the packed layers, which are filled in."""

    def _perplexity(self, model: nn.Module) -> Perplexity | None:
        if self.test_tokens is None:
            return None
        with one_block_unpacked(self.blocks.values()):
            return perplexity(model, self.test_tokens, self.arguments.test_context_length)

    @torch.no_grad()
    def evaluate(self, model: Any, accelerator: Any, results: Results) -> None:
        options, layers = self.arguments, packed_layers(model)
        results.data = {
            "name": Path(options.calibration).name,
            "num_windows": len(self.windows),
            "context_length": self.windows.shape[1],
        }
        for name, with_scales in (("bits", False), ("bits_with_scales", True)):
            bits = mean_bits(model, with_scales=with_scales)
            results.add_metric(name, bits, n=len(layers), unit="bits")
        errors = [error for block in self.measures.values() for error in _errors(block)]
        results.add_mean("error", errors, unit="fraction")
        sizes = model_bytes(self.run.folder)
        results.add_metric("bytes", sizes["total"], unit="bytes")
        share = sizes["total"] / (2 * self.num_weights)
        results.add_metric("share_of_16_bits", share, unit="fraction")
        if not options.quantize_embeddings:
            share = sizes["embeddings"] / sizes["total"]
            results.add_metric("share_of_embeddings", share, unit="fraction")
        peak = peak_memory_mib()
        if peak is not None:
            results.add_metric("peak_memory", peak, unit="MiB")
        for stage, seconds in self.seconds.items():
            results.add_metric(f"seconds/{stage}", seconds, n=len(self.measures), unit="s")
        results.tables += [size_table(sizes, 2 * self.num_weights), error_table(self.measures)]
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

    @property
    def base_model(self) -> str | None:
        """What is compressed, by a name that others know; None of a folder."""
        name = self.arguments.model
        return None if not name or Path(name).exists() else canonical_name(name)

    def card_facts(self) -> Facts:
        options = self.arguments
        return Facts(
            summary=f"{Path(options.model).name} at {self.bits_reached} bits per weight on "
            f"average, made by `salhub compress {self.name}`. Import salhub before you load the "
            "model: it registers the packed weights with transformers, and without it loading "
            "fails.",
            example=_USAGE,
            pipeline_tag="text-generation",
            base_model=self.base_model,
        )


def _errors(measures: Mapping[str, float]) -> list[float]:
    return [value for name, value in measures.items() if name.startswith("error/")]


def mean_bits(model: nn.Module, *, with_scales: bool) -> float:
    """Bits of a packed weight on average.

    Args:
        model: With packed layers.
        with_scales: Whether scales, zeros and means are counted beside the codes.
    """
    layers = packed_layers(model).values()
    sizes = [layer.in_features * layer.out_features for layer in layers]
    bits = [layer.to_quantized().bits_per_weight(with_scales) for layer in layers]
    return sum(size * one for size, one in zip(sizes, bits, strict=True)) / sum(sizes)
