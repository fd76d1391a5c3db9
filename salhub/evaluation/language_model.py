"""What a causal language model costs and how well it predicts: perplexity, speed, bytes."""

import json
import math
import os
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessorList

from salhub.data.documents import check_tokens
from salhub.errors import require_extra
from salhub.evaluation.shared_rows import ranges, shared_batches
from salhub.modeling import refuse_broken_weights

# Logits that are in memory at once, so that a large vocabulary leaves room for the model.
_LOGITS_TOGETHER = 2**25
_HEADER_BYTES = 8
_SCALES = ("scale", "zero", "qzero", "mean", "absmax", "group_bits", "g_idx")
_WHOLE_NUMBERS = ("U8", "I8", "I16", "I32")
_EMBEDDINGS = ("embed", "lm_head", "wte", "wpe", "embed_out")


@dataclass(frozen=True, eq=False)
class Perplexity:
    """How well the tokens of a text were predicted.

    Args:
        losses: Sum of the cross-entropies of each window in nats, float64 (windows,).
        counts: Tokens that were predicted in each window, int64 (windows,).
        context: Tokens of a window.
        stride: Tokens from one window to the next.
        num_dropped: Tokens at the end of the text that fill no window.
    """

    losses: Tensor
    counts: Tensor
    context: int
    stride: int
    num_dropped: int

    @property
    def num_predicted(self) -> int:
        """Tokens that were predicted."""
        return int(self.counts.sum())

    @property
    def loss(self) -> float:
        """Mean cross-entropy of a predicted token, in nats."""
        return float(self.losses.sum() / self.counts.sum())

    @property
    def bits(self) -> float:
        """The same in bits."""
        return self.loss / math.log(2)

    @property
    def value(self) -> float:
        """The perplexity; infinite where it is larger than numbers are."""
        return _exp(self.loss)

    @property
    def standard_error(self) -> float:
        """Of `loss`, from window to window; NaN of a single one."""
        number = len(self.losses)
        if number < 2:
            return math.nan
        away = self.losses - self.counts * self.loss
        return math.sqrt(number / (number - 1) * float(away.square().sum())) / self.num_predicted

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of the perplexity, 95 %, by `standard_error`; None of a single window."""
        room = 1.96 * self.standard_error
        return None if math.isnan(room) else (_exp(self.loss - room), _exp(self.loss + room))

    @property
    def note(self) -> str:
        """How it was measured, in a sentence or two."""
        step = "that follow each other" if self.stride == self.context else f"every {self.stride}"
        left = (
            f" The last {self.num_dropped} tokens do not fill a window and are left out."
            if self.num_dropped
            else ""
        )
        return (
            f"{self.num_predicted} tokens predicted in {len(self.losses)} windows of "
            f"{self.context} tokens, {step}.{left}"
        )


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf


def next_token_losses(model: nn.Module, input_ids: Tensor) -> Tensor:
    """Cross-entropy of every token but the first, in nats.

    Args:
        model: A causal language model of transformers.
        input_ids: int64 (B, T).

    Returns:
        float32 (B, T - 1).
    """
    logits = model(input_ids=input_ids, use_cache=False).logits[:, :-1].float()
    losses = F.cross_entropy(logits.flatten(0, 1), input_ids[:, 1:].flatten(), reduction="none")
    return losses.view(len(input_ids), -1)


def perplexity(
    model: nn.Module,
    ids: Tensor,
    context: int = 512,
    stride: int | None = None,
    batch_size: int | None = None,
    *,
    progress: bool = False,
) -> Perplexity:
    """Measure how well a model predicts each token of a text from those before it.

    Without a stride the text is cut into windows, and all tokens but the first of each are
    predicted. With a stride every token of the text but the first is predicted once, and from the
    second window on from at least `context - stride` tokens; the last window ends with the text.

    Args:
        model: A causal language model of transformers; it runs in its own precision, and losses
            are added up in float64.
        ids: Tokens, int64 (n,); or windows that are cut already, (windows, length), whose length is
            the context.
        context: Tokens of a window.
        stride: Tokens from one window to the next, fewer than `context`.
        batch_size: Windows that pass at once; None for as many as keep the memory of the logits
            small.
        progress: Whether to show a bar.

    Raises:
        ValueError: The text is shorter than one window, has tokens that the model does not know, or
            the model takes fewer tokens; or an answer that is no number.

    Example:
        >>> perplexity(model, ids, context=512).value  # doctest: +SKIP
        28.7
    """
    if ids.ndim == 2:
        if stride is not None:
            raise ValueError(
                "stride needs one continuous text, but these tokens are already cut into windows."
            )
        context, ids = ids.shape[1], ids.flatten()
    _check_windows(len(ids), context, stride)
    _check_network(model, ids, context)
    starts = torch.arange(0, len(ids) - context + 1, stride or context)
    if stride is not None and starts[-1] + context < len(ids):
        starts = torch.cat([starts, torch.tensor([len(ids) - context])])
    # Place in each window of the first token that no window before it predicts.
    first = torch.ones_like(starts)
    if stride is not None:
        first[1:] = starts[:-1] + context - starts[1:]
    if batch_size is None:
        batch_size = max(1, _LOGITS_TOGETHER // (context * vocab_size_of(model)))
    device, windows = next(model.parameters()).device, ids.unfold(0, context, 1)
    places = torch.arange(1, context)

    def of_batch(rows: range) -> Tensor:
        batch = torch.tensor(rows)
        losses = next_token_losses(model, windows[starts[batch]].to(device))
        refuse_broken_weights(model, losses)
        is_new = places >= first[batch, None]
        return (losses.double().cpu() * is_new).sum(dim=1)

    with _evaluating(model):
        batches = ranges(len(starts), batch_size)
        found = shared_batches("perplexity", batches, of_batch, progress=progress)
    counts, dropped = context - first, len(ids) - int(starts[-1]) - context
    return Perplexity(found, counts, context, stride or context, dropped)


def _check_windows(number: int, context: int, stride: int | None) -> None:
    if context < 2:
        raise ValueError(f"context must be at least 2, got {context}.")
    if stride is not None and not 1 <= stride < context:
        raise ValueError(f"stride must be from 1 to {context - 1}, below context, got {stride}.")
    if number < context:
        raise ValueError(
            f"The text has {number} tokens, fewer than one window of {context}; give more text, or "
            "a smaller context."
        )


def _check_network(model: Any, ids: Tensor, context: int) -> None:
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and context > limit:
        raise ValueError(f"context is {context}, but the model accepts {limit} tokens.")
    check_tokens(ids, vocab_size_of(model), "The text")


def vocab_size_of(model: Any) -> int:
    """Tokens that a language model knows."""
    return model.config.get_text_config().vocab_size


@contextmanager
def _evaluating(model: nn.Module) -> Generator[None]:
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


@dataclass(frozen=True)
class DecodeSpeed:
    """How fast a model writes.

    Args:
        prefill: Tokens of a prompt that are read in a second.
        decode: Tokens that are written in a second after that, one after another.
        prompt_tokens: Tokens of the prompt.
        new_tokens: Tokens that were written.
        repeats: How often it was timed; the numbers are medians.
    """

    prefill: float
    decode: float
    prompt_tokens: int
    new_tokens: int
    repeats: int


def decode_speed(
    model: Any, *, prompt_tokens: int = 64, new_tokens: int = 64, repeats: int = 3
) -> DecodeSpeed:
    """Time greedy generation of one text by transformers.

    The prompt consists of any tokens, as time does not depend on them, and the end of a text stops
    nothing. What runs first is not timed.

    Args:
        model: A causal language model of transformers.
        prompt_tokens: Tokens of the prompt.
        new_tokens: Tokens to write.
        repeats: How often it is timed.

    Raises:
        ValueError: Fewer than one of these, or more tokens than the model takes.
    """
    given = {"prompt_tokens": prompt_tokens, "new_tokens": new_tokens, "repeats": repeats}
    for name, value in given.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    device = next(model.parameters()).device
    prompt = (torch.arange(prompt_tokens) % vocab_size_of(model))[None].to(device)
    _check_network(model, prompt, prompt_tokens + new_tokens + 1)
    config = GenerationConfig(
        max_new_tokens=new_tokens + 1, min_new_tokens=new_tokens + 1, do_sample=False, num_beams=1
    )
    mask, times = torch.ones_like(prompt), []
    with _evaluating(model):
        for _ in range(1 + repeats):
            # When the prompt was read, and after every token.
            stamps = [_now(device)]

            def noted(ids: Tensor, scores: Tensor, stamps: list[float] = stamps) -> Tensor:
                stamps.append(_now(device))
                return scores

            model.generate(
                input_ids=prompt,
                attention_mask=mask,
                generation_config=config,
                logits_processor=LogitsProcessorList([noted]),
            )
            times.append((stamps[1] - stamps[0], stamps[-1] - stamps[1]))
    prefill, decode = (median(column) for column in zip(*times[1:], strict=True))
    return DecodeSpeed(prompt_tokens / prefill, new_tokens / decode, **given)


def _now(device: torch.device) -> float:
    if device.type != "cpu":
        getattr(torch, device.type).synchronize(device)
    return time.perf_counter()


def model_bytes(path: str | os.PathLike[str]) -> dict[str, int]:
    """Bytes of the saved weights of a language model by what they are.

    Args:
        path: A folder with model*.safetensors, or one such file.

    Returns:
        "linears" (matrices, and packed ones), "scales" (what packed ones need to be unpacked),
        "embeddings" (the output layer among them), "others" (norms, biases and the files'
        headers), and "total", their sum, which is the size of the files.

    Raises:
        FileNotFoundError: There is no such file.
    """
    path = Path(path)
    files = sorted(path.glob("model*.safetensors")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise FileNotFoundError(
            f"There are no weights at {path}; give the folder with the weights."
        )
    sizes = dict.fromkeys(("linears", "scales", "embeddings", "others"), 0)
    for file in files:
        with file.open("rb") as opened:
            header = opened.read(int.from_bytes(opened.read(_HEADER_BYTES), "little"))
        sizes["others"] += _HEADER_BYTES + len(header)
        for name, tensor in json.loads(header).items():
            if name != "__metadata__":
                begin, end = tensor["data_offsets"]
                sizes[_kind_of_weight(name, tensor)] += end - begin
    return {**sizes, "total": sum(sizes.values())}


def _kind_of_weight(name: str, tensor: Mapping[str, Any]) -> str:
    *modules, own = name.split(".")
    if any(module.startswith(_EMBEDDINGS) for module in modules):
        return "embeddings"
    if own.removeprefix("weight_").startswith(_SCALES):
        return "scales"
    # Packed weights may be one long row, which a norm or a bias of whole numbers is not.
    is_packed = "weight" in own and (own != "weight" or tensor["dtype"] in _WHOLE_NUMBERS)
    return "linears" if len(tensor["shape"]) > 1 or is_packed else "others"


def harness_scores(
    model: Any,
    tokenizer: Any,
    tasks: list[str],
    *,
    limit: int | None = None,
    num_fewshot: int | None = None,
    batch_size: int = 1,
) -> dict[str, dict[str, Any]]:
    """Scores of a model by the package lm-eval, which fetches the data of its tasks.

    Args:
        model: A causal language model of transformers.
        tokenizer: Its tokenizer.
        tasks: Names of tasks as lm-eval calls them, such as "piqa".
        limit: Questions of each task; None for all.
        num_fewshot: Solved questions before each; None for as many as the task says.
        batch_size: Of lm-eval.

    Returns:
        Task -> what it measured.

    Raises:
        MissingExtraError: The package is not installed.
    """
    harness = require_extra("lm_eval", "harness")
    wrapper = require_extra("lm_eval.models.huggingface", "harness").HFLM
    found = harness.simple_evaluate(
        model=wrapper(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
        tasks=tasks,
        limit=limit,
        num_fewshot=num_fewshot,
    )
    return found["results"]
