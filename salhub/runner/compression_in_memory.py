"""A model that is in memory, compressed as a run does it, and without a folder of one."""

from collections.abc import Mapping
from os import PathLike
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from salhub.data.documents import check_no_columns
from salhub.runner.arguments import CIRCUMSTANCES
from salhub.runner.language_model_compression import CompressionRecipe

Kind = TypeVar("Kind", bound=CompressionRecipe)
# Options of a run without an effect on a model in memory.
_OF_RUNS = CIRCUMSTANCES | {
    "deterministic",
    "gguf_file",
    "num_test_tokens",
    "test_context_length",
    "test_data",
    "test_dataset_config_name",
    "test_text_column",
}


def compress_in_memory(
    kind: type[Kind],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    calibration: str | PathLike[str] | Tensor,
    settings: Mapping[str, Any],
    owner: str,
) -> tuple[Kind, PreTrainedModel]:
    """Compress a model that is in memory, in place.

    Args:
        kind: How.
        model: A causal language model of transformers, which is changed.
        tokenizer: Its tokenizer; None where `calibration` holds tokens.
        calibration: A text file, a table or the name of a data set, see `calibration_windows`; or
            tokens, int64 (S, L).
        settings: Options of the recipe.
        owner: The function that was called, for messages.

    Returns:
        The recipe, which knows how it went, and the model.

    Raises:
        ValueError: The calibration is none, or as the recipe says.
    """
    for name in settings:
        if name in _OF_RUNS:
            raise ValueError(
                f"{owner} has no option '{name}', because it saves and measures nothing; leave it "
                "out, or use salhub compress."
            )
    is_tokens = isinstance(calibration, Tensor)
    if is_tokens:
        options = {name: settings.get(name) for name in ("text_column", "dataset_config_name")}
        check_no_columns("calibration", "a tensor", **options)
    if is_tokens and (
        calibration.ndim != 2 or calibration.is_floating_point() or calibration.dtype == torch.bool
    ):
        raise ValueError(
            "calibration must be tokens of shape (windows, length), whole numbers, got "
            f"{calibration.dtype} of shape {tuple(calibration.shape)}."
        )
    if is_tokens and (not len(calibration) or calibration.shape[1] < 2):
        raise ValueError(
            f"calibration has the shape {tuple(calibration.shape)}; give one window or more of two "
            "tokens or more."
        )
    if tokenizer is None and not is_tokens:
        raise ValueError(
            "A calibration text needs the model's tokenizer; give the tokenizer, or give tokens."
        )
    given = {"calibration": "calibration" if is_tokens else str(calibration), **settings}
    recipe = kind(
        kind.arguments_class.from_settings({"output_dir": "", "model": "", **given}, owner=owner)
    )
    return recipe, recipe.compress(model, tokenizer, calibration.long() if is_tokens else None)
