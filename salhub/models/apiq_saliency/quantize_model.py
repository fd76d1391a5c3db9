"""A model that is in memory, in few bits with adapters: ApiQ without a folder of a run."""

from dataclasses import dataclass
from os import PathLike
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from salhub.models.apiq_saliency.recipe_apiq_saliency import ApiQSaliencyRecipe
from salhub.quantization.adapted_linear import mean_adapter_bits
from salhub.results import peak_memory_mib
from salhub.runner.compression_in_memory import compress_in_memory
from salhub.runner.language_model_compression import mean_bits


@dataclass
class ApiQSaliencyOutput:
    """A quantized model with adapters, and a report of how it was made.

    Args:
        model: The model, packed; `save_pretrained` writes it as `from_pretrained` reads it.
        losses: Name of a block -> mean error of the outputs in every epoch; of several sets of
            layers, one after another, with mode="layer".
        regularizers: The same of the regularizer, without its factor.
        errors: Name of a block -> how far its outputs are from those of the full model, as a share
            of their size, on the calibration text.
        mean_bits: Bits of a packed weight.
        bits_per_weight: The same with scales, zeros and means.
        bits_with_adapters: The same with the adapters too; what to compare with other methods.
        seconds: Stage of the work -> how long it took: "ranges" (the first ranges), "training",
            "outputs" (passing the text through the finished block).
        peak_memory_mib: Most memory of this process so far, or None where it is not known.
    """

    model: PreTrainedModel
    losses: dict[str, list[list[float]]]
    regularizers: dict[str, list[list[float]]]
    errors: dict[str, float]
    mean_bits: float
    bits_per_weight: float
    bits_with_adapters: float
    seconds: dict[str, float]
    peak_memory_mib: float | None


def quantize_apiq_saliency(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    calibration: str | PathLike[str] | Tensor,
    *,
    bits: int = 2,
    group_size: int = 64,
    lora_r: int | None = None,
    reg_lambda: float = 0.01,
    **options: Any,
) -> ApiQSaliencyOutput:
    """Quantize a model in memory to 2, 3 or 4 bits per weight, and add adapters.

    It gives the same weights as `salhub compress apiq-saliency`. That command also saves each
    block as soon as it is done, measures the model and writes its card.

    Args:
        model: A causal language model of transformers, which is changed.
        tokenizer: Its tokenizer; None where `calibration` holds tokens.
        calibration: A text file, a table or the name of a data set, see `calibration_windows`; or
            tokens, int64 (S, L).
        bits: 2, 3 or 4.
        group_size: Columns that share a scale in each row.
        lora_r: Rank of the adapters, see `ApiQSaliencyArguments`.
        reg_lambda: Factor of the regularizer; 0 for plain ApiQ.
        **options: Further options of `ApiQSaliencyArguments`, such as `num_calibration_windows`,
            `context_length`, `joint_epochs`, `preset` and `seed`.

    Raises:
        ValueError: The model is quantized already or not finite, an option is out of its range, the
            calibration text is too short or has tokens that the model does not know, or the
            training leads to what is no number.
        TypeError: The model is not a decoder with one list of blocks of linear layers.

    Example:
        >>> from transformers import AutoModelForCausalLM, AutoTokenizer
        >>> name = "HuggingFaceTB/SmolLM2-135M"
        >>> base = AutoModelForCausalLM.from_pretrained(name)  # doctest: +SKIP
        >>> tokenizer = AutoTokenizer.from_pretrained(name)  # doctest: +SKIP
        >>> done = quantize_apiq_saliency(base, tokenizer, "text.txt", lora_r=8)  # doctest: +SKIP
        >>> done.model.save_pretrained("small")  # doctest: +SKIP

    Source: Cao and Aref 2025 (arXiv 2504.13932).
    """
    chosen = {"bits": bits, "group_size": group_size, "lora_r": lora_r, "reg_lambda": reg_lambda}
    recipe, packed = compress_in_memory(
        ApiQSaliencyRecipe,
        model,
        tokenizer,
        calibration,
        {**chosen, **options},
        "quantize_apiq_saliency",
    )
    with_scales = mean_bits(packed, with_scales=True)
    return ApiQSaliencyOutput(
        model=packed,
        losses={name: [one.losses for one in found] for name, found in recipe.histories.items()},
        regularizers={
            name: [one.regularizers for one in found] for name, found in recipe.histories.items()
        },
        errors={name: block["error/outputs"] for name, block in recipe.measures.items()},
        mean_bits=mean_bits(packed, with_scales=False),
        bits_per_weight=with_scales,
        bits_with_adapters=with_scales + mean_adapter_bits(packed),
        seconds=dict(recipe.seconds),
        peak_memory_mib=peak_memory_mib(),
    )
