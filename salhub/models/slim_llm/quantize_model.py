"""A model that is in memory, in few bits: SliM-LLM without a folder of a run."""

from dataclasses import dataclass
from os import PathLike
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from salhub.models.slim_llm.layer_report import LayerReport
from salhub.models.slim_llm.presets import Preset
from salhub.models.slim_llm.recipe_slim_llm import SlimLLMRecipe
from salhub.quantization.quantizer import packed_layers
from salhub.results import peak_memory_mib
from salhub.runner.compression_in_memory import compress_in_memory
from salhub.runner.language_model_compression import mean_bits


@dataclass
class SlimLLMOutput:
    """A quantized model, and a report of how it was made.

    Args:
        model: The model, packed; `save_pretrained` writes it as `from_pretrained` reads it.
        layers: Name of a layer -> its bits, its search and its error.
        mean_bits: Bits of a packed weight, on average.
        bits_per_weight: The same with scales, zeros and means.
        packed_bytes: Of the packed layers.
        seconds: Stage of the work -> how long it took: "inputs" (passing the calibration text, and
            its second moments), "bits" (the search of the bits), "weights" (ranges and columns),
            "outputs" (passing it through the finished block).
        peak_memory_mib: Most memory of this process so far, or None where it is not known.
    """

    model: PreTrainedModel
    layers: dict[str, LayerReport]
    mean_bits: float
    bits_per_weight: float
    packed_bytes: int
    seconds: dict[str, float]
    peak_memory_mib: float | None


def quantize_slim_llm(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    calibration: str | PathLike[str] | Tensor,
    *,
    bits: float = 2,
    group_size: int = 64,
    preset: Preset = "recommended",
    **options: Any,
) -> SlimLLMOutput:
    """Quantize a model in memory to 2, 3 or 4 bits per weight on average, more where they matter.

    It gives the same weights as `salhub compress slim-llm`. That command also saves each block as
    soon as it is done, measures the model and writes its card.

    Args:
        model: A causal language model of transformers, which is changed.
        tokenizer: Its tokenizer; None where `calibration` holds tokens.
        calibration: A text file, a table or the name of a data set, see `calibration_windows`; or
            tokens, int64 (S, L).
        bits: 2, 3 or 4 on average, see `SlimLLMArguments`.
        group_size: Columns that share a scale in each row.
        preset: See `SlimLLMArguments`.
        **options: Further options of `SlimLLMArguments`, such as `num_calibration_windows`,
            `context_length`, `seed` and `quantize_embeddings`.

    Raises:
        ValueError: The model is quantized already or not finite, an option is out of its range, or
            the calibration text is too short or has tokens that the model does not know.
        TypeError: The model is not a decoder with one list of blocks of linear layers.

    Example:
        >>> from transformers import AutoModelForCausalLM, AutoTokenizer
        >>> name = "HuggingFaceTB/SmolLM2-135M"
        >>> base = AutoModelForCausalLM.from_pretrained(name)  # doctest: +SKIP
        >>> tokenizer = AutoTokenizer.from_pretrained(name)  # doctest: +SKIP
        >>> done = quantize_slim_llm(base, tokenizer, "text.txt", bits=3)  # doctest: +SKIP
        >>> done.model.save_pretrained("small")  # doctest: +SKIP

    Source: Huang et al. 2024 (arXiv 2405.14917).
    """
    settings = {"bits": bits, "group_size": group_size, "preset": preset, **options}
    recipe, packed = compress_in_memory(
        SlimLLMRecipe, model, tokenizer, calibration, settings, "quantize_slim_llm"
    )
    layers = packed_layers(packed).values()
    return SlimLLMOutput(
        model=packed,
        layers=dict(recipe.report(packed).layers),
        mean_bits=mean_bits(packed, with_scales=False),
        bits_per_weight=mean_bits(packed, with_scales=True),
        packed_bytes=sum(
            one.numel() * one.element_size() for layer in layers for one in layer.buffers()
        ),
        seconds=dict(recipe.seconds),
        peak_memory_mib=peak_memory_mib(),
    )
