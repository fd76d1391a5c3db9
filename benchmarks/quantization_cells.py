"""Cells of the table of quantized language models: a method, a width and a seed, measured once.

Each is measured in a process of its own, so that its peak of memory is its own.
"""

import importlib
import importlib.util
import math
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from scipy.stats import t
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.quantizers import register_quantizer
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

from salhub.data.documents import calibration_windows, encode_text, read_texts
from salhub.evaluation.language_model import perplexity
from salhub.models.apiq_saliency.arguments_apiq_saliency import ApiQSaliencyArguments
from salhub.models.apiq_saliency.quantization_apiq_saliency import (
    ApiQSaliencyQuantizationConfig,
    ApiQSaliencyQuantizer,
)
from salhub.models.apiq_saliency.recipe_apiq_saliency import ApiQSaliencyRecipe
from salhub.models.slim_llm.quantization_slim_llm import (
    SlimLLMQuantizationConfig,
    SlimLLMQuantizer,
)
from salhub.models.slim_llm.recipe_slim_llm import SlimLLMArguments, SlimLLMRecipe
from salhub.quantization.adapted_linear import mean_adapter_bits
from salhub.quantization.decoder_blocks import decoder_blocks, linear_layers
from salhub.results import peak_memory_mib
from salhub.runner.language_model_compression import mean_bits

FULL, ROUNDED, PLAIN, CLIPPED = "full precision", "RTN", "GPTQ", "GPTQ + clip search"
EQUAL, OURS, PUBLISHED = "GPTQ + clip search, equal bits", "SliM-LLM", "SliM-LLM, as published"
RANDOM, INVERTED = "SliM-LLM, random map", "SliM-LLM, inverted map"
HQQ, PLUS = "HQQ", "SliM-LLM+"
ROUND, ROUND_SYMMETRIC = "auto-round, 50 steps", "auto-round, 50 steps, symmetric"
TRAINED, REGULARIZED = "ApiQ, 16 windows", "ApiQ + saliency, 16 windows"
# Of each method the classes of its recipe, options, quantization settings and quantizer.
_RECIPES = {
    "slim_llm": (
        SlimLLMRecipe, SlimLLMArguments, SlimLLMQuantizationConfig, SlimLLMQuantizer,
    ),
    "apiq_saliency": (
        ApiQSaliencyRecipe,
        ApiQSaliencyArguments,
        ApiQSaliencyQuantizationConfig,
        ApiQSaliencyQuantizer,
    ),
}  # fmt: skip
# What is known of a cell, and in what.
MEASURES = {
    "perplexity": "",
    "bits": "bits",
    "bits_with_scales": "bits",
    "bits_with_adapters": "bits",
    "error": "fraction",
    "seconds": "s",
    "cpu_seconds": "s",
    "peak_memory": "MiB",
}


@dataclass(frozen=True)
class Source:
    """What all cells are measured on.

    Args:
        model: Folder or name of a causal language model.
        calibration: Text that methods may look at.
        test: Text whose first tokens are predicted.
        windows: Of the calibration.
        length: Tokens of each window, and of those that are predicted.
        test_tokens: How many are predicted.
        group_size: Columns that share a scale.
        equal_group_size: Group size at which uniform widths cost what mixed ones do.
        precision: Of products in float32 while a model is quantized, as
            `torch.set_float32_matmul_precision` takes it.
        threads: Of a cell.
        device: Where models lie.
    """

    model: str
    calibration: str
    test: str
    windows: int = 32
    length: int = 512
    test_tokens: int = 20_480
    group_size: int = 64
    equal_group_size: int = 56
    precision: str = "highest"
    threads: int = 1
    device: str = "cpu"

    def load(self, **keywords: Any) -> Any:
        """The model in full precision, as `from_pretrained` gives it."""
        loaded = AutoModelForCausalLM.from_pretrained(self.model, **keywords)
        return loaded.eval().to(self.device)


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Args:
        name: Of the row.
        options: Of the recipe, beside those that all methods share.
        recipe: Key of `_RECIPES`; None for what is no recipe of ours.
        seeds: How many it is measured with, 1 where the calibration text changes nothing.
        widths: Bits at which it is measured.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    recipe: str | None = "slim_llm"
    seeds: int = 5
    widths: tuple[int, ...] = (2, 3)


# Adapters of a higher rank would cost a model of this size a bit a weight and more.
_TRAINED = {"lora_r": 4, "weight_epochs": 0, "joint_epochs": 3, "output_epochs": 0}
# The two are compared over all seeds on half of the text, as a training takes longest of all.
_HALF = {**_TRAINED, "num_calibration_windows": 16}
_FLOAT = {**_TRAINED, "mixed_precision": "no"}
METHODS = {
    one.name: one
    for one in (
        Method(FULL, recipe=None, seeds=1, widths=(16,)),
        Method(CLIPPED, {"preset": "gptq-clip"}),
        Method(OURS),
        Method(PUBLISHED, {"preset": "reference"}),
        Method(RANDOM, {"allocation": "random"}),
        Method(INVERTED, {"allocation": "inverted"}),
        Method(EQUAL, {"preset": "gptq-clip"}, widths=(2,)),
        Method(PLAIN, {"preset": "gptq"}),
        Method(ROUNDED, {"preset": "rtn"}, seeds=1),
        Method(PLUS, {"preset": "plus"}),
        Method(
            "SliM-LLM+, ranges searched first, 16 windows",
            {
                "preset": "plus",
                "initial_ranges": "search",
                "clip_learning_rate": 0.05,
                "num_calibration_windows": 16,
            },
            seeds=1,
        ),
        Method("ApiQ", {**_TRAINED, "reg_lambda": 0.0}, "apiq_saliency", seeds=1),
        Method("ApiQ + saliency", _TRAINED, "apiq_saliency", seeds=1),
        Method(
            "ApiQ, float32",
            {**_FLOAT, "reg_lambda": 0.0},
            "apiq_saliency",
            seeds=1,
            widths=(2,),
        ),
        Method(
            "ApiQ + saliency, factor 0.1, float32",
            {**_FLOAT, "reg_lambda": 0.1},
            "apiq_saliency",
            seeds=1,
            widths=(2,),
        ),
        Method(TRAINED, {**_HALF, "reg_lambda": 0.0}, "apiq_saliency"),
        Method(REGULARIZED, _HALF, "apiq_saliency"),
        # What helps: the first ranges alone, a larger factor, or a regularizer without saliency.
        Method(
            "ApiQ + saliency in first ranges only, 16 windows",
            {**_HALF, "reg_lambda": 1e-9},
            "apiq_saliency",
            seeds=3,
            widths=(2,),
        ),
        Method(
            "ApiQ + saliency, factor 0.1, 16 windows",
            {**_HALF, "reg_lambda": 0.1},
            "apiq_saliency",
            seeds=3,
            widths=(2,),
        ),
        Method(
            "ApiQ + regularizer without saliency, 16 windows",
            {**_HALF, "saliency": "none"},
            "apiq_saliency",
            seeds=3,
            widths=(2,),
        ),
        # The regularizer alone: ranges that start as published know nothing of the saliency.
        Method(
            "ApiQ, wide first ranges, 16 windows",
            {**_HALF, "initial_ranges": "wide", "reg_lambda": 0.0},
            "apiq_saliency",
            seeds=2,
            widths=(2,),
        ),
        Method(
            "ApiQ + saliency, wide first ranges, 16 windows",
            {**_HALF, "initial_ranges": "wide"},
            "apiq_saliency",
            seeds=2,
            widths=(2,),
        ),
        Method("SliM-LLM, uniform bits", {"allocation": "uniform"}, seeds=3),
        Method("SliM-LLM, bits by divergence", {"objective": "divergence"}, seeds=3),
        Method("SliM-LLM, outputs not matched", {"match_outputs": False}, seeds=3),
        Method("SliM-LLM, codes not refined", {"refinements": 0}, seeds=3),
        Method(
            "SliM-LLM, ranges within 10 %",
            {"search_range": 0.1, "search_stretch": 0.1, "search_steps": 50},
            seeds=3,
        ),
        Method(HQQ, recipe=None, seeds=1),
        # A quarter of its own 200 steps a block, which take an hour of a core.
        Method(ROUND, {"iters": 50, "sym": False}, recipe=None, seeds=1, widths=(2,)),
        Method(ROUND_SYMMETRIC, {"iters": 50, "sym": True}, recipe=None, seeds=1, widths=(2,)),
    )
}


@dataclass(frozen=True, order=True)
class Cell:
    """One measurement.

    Args:
        bits: On average, without scales.
        seed: That draws the calibration text.
        method: A key of `METHODS`.
    """

    bits: int
    seed: int
    method: str

    def metric(self, measure: str) -> str:
        """What a number of it is called in the results."""
        return f"cell/{self.bits}/{self.method}/{self.seed}/{measure}"


def cells(bits: tuple[int, ...], seeds: int, only: tuple[str, ...] = ()) -> list[Cell]:
    """All that is to be measured: what matters most first, one seed after another.

    Args:
        bits: Widths.
        seeds: How many.
        only: Names of methods; all by default.
    """
    return [
        Cell(width, seed, method.name)
        for seed in range(seeds)
        for method in METHODS.values()
        for width in method.widths
        if (width in bits or method.name == FULL)
        and seed < method.seeds
        and (not only or method.name in only)
    ]


def measure(cell: Cell, source: Source) -> dict[str, float]:
    """Measure a cell in a process of its own."""
    return in_own_process(measure_here, cell, source)


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a new process."""
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawned) as pool:
        return pool.submit(function, *arguments).result()


def measure_here(cell: Cell, source: Source) -> dict[str, float]:
    """Measure a cell in this process; what is missing of `MEASURES` does not exist."""
    torch.set_num_threads(source.threads)
    method = METHODS[cell.method]
    if method.name == FULL:
        return _scored(source.load(), source)
    if method.name == HQQ:
        return _by_hqq(cell, source)
    if method.name in (ROUND, ROUND_SYMMETRIC):
        return _by_auto_round(cell, source)
    return _by_recipe(cell, source)


def why_not(method: Method) -> str | None:
    """Why a method cannot be measured here, or None."""
    if method.name == HQQ and importlib.util.find_spec("hqq") is None:
        return "hqq is not installed; pip install 'salhub[bench]'"
    if method.name in (ROUND, ROUND_SYMMETRIC) and importlib.util.find_spec("auto_round") is None:
        return "auto-round is not installed; pip install auto-round, in an environment of its own"
    return None


# --- our recipes ----------------------------------------------------------------------------------


def recipe_of(cell: Cell, source: Source) -> Any:
    """The recipe that makes the model of a cell."""
    method = METHODS[cell.method]
    size = source.equal_group_size if method.name == EQUAL else source.group_size
    kind, arguments_class, config, quantizer = _RECIPES[str(method.recipe)]
    # As long as no model of it ships, nothing else makes it known.
    if config.method not in AUTO_QUANTIZER_MAPPING:
        register_quantizer(config.method)(quantizer)
    arguments = {
        "output_dir": "unused",
        "model": source.model,
        "calibration": source.calibration,
        "num_calibration_windows": source.windows,
        "context_length": source.length,
        "bits": cell.bits,
        "group_size": size,
        "seed": cell.seed,
        **method.options,
    }
    if method.recipe == "apiq_saliency" and source.precision == "medium":
        # "medium" allows products in bfloat16, and torch makes none of it for some processors.
        arguments.setdefault("mixed_precision", "bf16")
    return kind(arguments_class.from_settings(arguments))


def _by_recipe(cell: Cell, source: Source) -> dict[str, float]:
    model, tokenizer = source.load(), tokenizer_of(source)
    torch.set_float32_matmul_precision(source.precision)
    recipe, began, used = recipe_of(cell, source), time.perf_counter(), time.process_time()
    model = recipe.compress(model, tokenizer)
    spent = {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - used,
        "peak_memory": peak_memory_mib() or math.nan,
    }
    torch.set_float32_matmul_precision("highest")
    widths = {
        "bits": mean_bits(model, with_scales=False),
        "bits_with_scales": mean_bits(model, with_scales=True),
    }
    if adapters := mean_adapter_bits(model):
        widths["bits_with_adapters"] = widths["bits_with_scales"] + adapters
    errors = [
        error
        for block in recipe.measures.values()
        for name, error in block.items()
        if name.startswith("error/")
    ]
    return {**widths, **spent, "error": statistics.fmean(errors), **_scored(model, source)}


# --- others ---------------------------------------------------------------------------------------


def _by_hqq(cell: Cell, source: Source) -> dict[str, float]:
    quantizer = importlib.import_module("hqq.core.quantize").Quantizer
    model = source.load(dtype=torch.float32)
    began, used = time.perf_counter(), time.process_time()
    bits, stored, count = 0, 0, 0
    for layer in _layers(model):
        codes, meta = quantizer.quantize(
            layer.weight.data,
            nbits=cell.bits,
            group_size=source.group_size,
            axis=1,
            device=source.device,
            compute_dtype=torch.float32,
        )
        layer.weight.data = quantizer.dequantize(codes, meta).view_as(layer.weight)
        count += layer.weight.numel()
        bits += 8 * codes.numel() * codes.element_size()
        # In half precision, as the others are counted.
        stored += 16 * (meta["scale"].numel() + meta["zero"].numel())
    spent = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - used}
    widths = {"bits": bits / count, "bits_with_scales": (bits + stored) / count}
    return {
        **widths,
        **spent,
        "peak_memory": peak_memory_mib() or math.nan,
        **_scored(model, source),
    }


def _by_auto_round(cell: Cell, source: Source) -> dict[str, float]:
    auto_round = importlib.import_module("auto_round").AutoRound
    model, tokenizer = source.load(dtype=torch.float32), tokenizer_of(source)
    windows = calibration_windows(
        source.calibration, tokenizer, source.windows, source.length, cell.seed
    )
    rows = [{"input_ids": one, "attention_mask": torch.ones_like(one)} for one in windows]
    options = METHODS[cell.method].options
    began, used = time.perf_counter(), time.process_time()
    found = auto_round(
        model,
        tokenizer,
        bits=cell.bits,
        group_size=source.group_size,
        dataset=torch.utils.data.DataLoader(rows, batch_size=8),
        seqlen=source.length,
        nsamples=source.windows,
        device_map=source.device,
        seed=cell.seed,
        **options,
    ).quantize()
    spent = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - used}
    stored = 16 + (0 if options["sym"] else cell.bits)
    return {
        "bits": cell.bits,
        "bits_with_scales": cell.bits + stored / source.group_size,
        **spent,
        "peak_memory": peak_memory_mib() or math.nan,
        **_scored(found[0], source),
    }


def _layers(model: nn.Module) -> list[nn.Linear]:
    return [
        layer for block in decoder_blocks(model).values() for layer in linear_layers(block).values()
    ]


# --- the score ------------------------------------------------------------------------------------


@torch.no_grad()
def _scored(model: nn.Module, source: Source) -> dict[str, float]:
    """The perplexity, in float32 whatever the model is stored in."""
    # transformers' own `float` refuses packed models.
    found = perplexity(nn.Module.float(model), test_ids(source), source.length)
    return {"perplexity": found.value}


def test_ids(source: Source) -> Tensor:
    """The tokens that are predicted, int64 (n,)."""
    text = read_texts(source.test, part=None).whole
    return encode_text(text, tokenizer_of(source))[: source.test_tokens]


def tokenizer_of(source: Source) -> Any:
    """The tokenizer of the model."""
    return AutoTokenizer.from_pretrained(source.model)


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean of values of several seeds and its 95 % interval by Student's t; NaN of a single one.

    Example:
        >>> interval([1.0, 2.0, 3.0])[0]
        2.0
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.nan, math.nan
    room = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - room, mean + room


Measure = Callable[[Cell, Source], dict[str, float]]
