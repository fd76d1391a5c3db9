"""How many rows of a text pass a classifier at once, so that no text takes all memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from salhub.tokenizing import LONG, TOKENS_TOGETHER

# What stays in the cache of a processor.
_ROWS_IN_CACHE, _TOKENS_IN_CACHE = 64, 4096
# Tokens of a pass that nobody weighs, long texts by the square of their length.
_SURE_TO_FIT = 2048
# Lengths at which a pass is weighed, of texts that are longer than the second.
_WEIGHED = (256, 512)
# What a pass takes beside what it keeps for its gradient, and what it may take of what is free.
_BESIDE, _MOST_OF_FREE = 1.5, 0.5
_CONTROL_GROUP = Path("/sys/fs/cgroup")


def usual_rows(num_tokens: int, device: torch.device) -> int:
    """Rows of so many tokens that pass at once where memory does not matter."""
    if device.type != "cpu":
        return max(1, TOKENS_TOGETHER // num_tokens)
    return max(1, min(_ROWS_IN_CACHE, _TOKENS_IN_CACHE // num_tokens))


def is_sure_to_fit(num_rows: int, num_tokens: int) -> bool:
    """Whether a pass is so small that no network runs out of memory."""
    return num_rows * num_tokens * max(1, num_tokens / LONG) <= _SURE_TO_FIT


def rows_that_fit(classify: Callable[[Tensor], Tensor], vectors: Tensor, network: nn.Module) -> int:
    """Rows whose gradients memory has room for, at least 1.

    What a pass keeps is weighed at two short lengths; it grows by the square of the length at most.

    Args:
        classify: Takes word vectors (1, T, D), and gives logits.
        vectors: Of texts, (B, T, D).
        network: Whose weights are there anyway.

    Raises:
        ValueError: Not even one row fits; the length that does is named.
    """
    length, free = vectors.shape[1], _MOST_OF_FREE * free_bytes(vectors.device)
    first, second = (min(length, one) for one in _WEIGHED)
    known = {
        one.untyped_storage().data_ptr() for one in (*network.parameters(), *network.buffers())
    }
    low, high = (_bytes_kept(classify, vectors[:1, :one], known) for one in (first, second))
    square = max(0.0, (high / second - low / first) / max(second - first, 1))
    single = high / second - square * second

    def needed(tokens: int) -> float:
        return _BESIDE * (single * tokens + square * tokens**2)

    if needed(length) <= free:
        return int(max(1, free // max(needed(length), 1)))
    fitting, beyond = 1, length
    while beyond - fitting > 1:
        middle = (fitting + beyond) // 2
        fitting, beyond = (middle, beyond) if needed(middle) <= free else (fitting, middle)
    gigabytes = needed(length) / 2**30
    raise ValueError(
        f"The text has {length} tokens. Explaining it takes about {gigabytes:.1f} GiB, but "
        f"only {free / 2**30:.1f} GiB are free, enough for {fitting} tokens: shorten the "
        f"text, or set tokenizer.model_max_length = {fitting} to cut off its end."
    )


def free_bytes(device: torch.device) -> int:
    """Memory that nobody uses, on an accelerator or for this process."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    free = int(psutil.virtual_memory().available)
    try:  # What a container may use, which the system's own numbers do not say.
        limit = int((_CONTROL_GROUP / "memory.max").read_text())
        return min(free, limit - int((_CONTROL_GROUP / "memory.current").read_text()))
    except (OSError, ValueError):
        return free


def _bytes_kept(classify: Callable[[Tensor], Tensor], vectors: Tensor, known: set[int]) -> int:
    """Bytes that a pass keeps for its gradient, beside those that are known."""
    kept: dict[int, int] = {}

    def weigh(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def same(packed: Any) -> Any:
        return packed

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(weigh, same):
        logits = classify(vectors.detach().clone().requires_grad_())
    del logits
    return sum(kept.values())
