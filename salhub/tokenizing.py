"""Tokenizers and the lengths of texts: what a network takes, and how much of it at once."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from salhub.hub import load, resolve

logger = logging.getLogger(__name__)

# Above this, a limit only says that there is none.
_NO_LIMIT = 10**9
_POSITIONS = frozenset({"position_embeddings", "embed_positions", "wpe"})
# Settings of networks that fill texts up to whole windows or blocks.
_WINDOWS = ("attention_window", "block_size")
_FILES = ("tokenizer*", "vocab*", "merges*", "*.model", "*.tiktoken", "tekken.json", "*.gguf")
# Padding and the like; whatever reads text has more tokens than that beside its special ones.
_FEWEST_TOKENS = 4
# Tokens that pass together, and the length above which a text counts by the square of its own.
TOKENS_TOGETHER, LONG = 16_384, 512
# Of a text that is classified, where nobody asks for more.
_LONGEST = 512


def load_tokenizer(name: Any, **hub_arguments: Any) -> Any:
    """Load the tokenizer that was saved with a model.

    Args:
        name: The model: a folder, a shipped name, or a Hub repository.
        **hub_arguments: As in `from_pretrained`.

    Raises:
        ValueError: There is no tokenizer with it.
    """
    from transformers import AutoTokenizer

    resolved = resolve(name, **hub_arguments)
    folder = Path(resolved.name, hub_arguments.get("subfolder") or "")
    if resolved.source == "folder" and not any(any(folder.glob(kind)) for kind in _FILES):
        raise ValueError(_lacking(folder))
    tokenizer = load(AutoTokenizer, name, **hub_arguments)
    refuse_empty(tokenizer, name)
    return tokenizer


def refuse_empty(tokenizer: Any, name: Any) -> None:
    """Refuse the tokenizer that transformers makes where a model comes without a vocabulary.

    Raises:
        ValueError: It knows special tokens only.
    """
    if not getattr(tokenizer, "is_fast", False):
        return
    special = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
    if len(tokenizer.get_vocab().keys() - special) < _FEWEST_TOKENS:
        raise ValueError(_lacking(name))


def _lacking(name: Any) -> str:
    return (
        f"'{name}' has no tokenizer, so every word would be unknown; save it with "
        "tokenizer.save_pretrained(...), or give tokenizer=..."
    )


def token_limit(network: nn.Module, tokenizer: Any) -> int | None:
    """Most tokens that a network takes, or None where there is no limit.

    Networks such as RoBERTa keep the first of their positions for padding, so that they take fewer
    tokens than they have positions; those that fill texts up to windows take whole windows.

    Args:
        network: Of transformers.
        tokenizer: Its tokenizer.

    Example:
        >>> from types import SimpleNamespace
        >>> from transformers import RobertaConfig, RobertaModel
        >>> sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
        >>> network = RobertaModel(RobertaConfig(vocab_size=9, num_hidden_layers=1, **sizes))
        >>> token_limit(network, SimpleNamespace(model_max_length=10**30))
        510
    """
    config = getattr(network, "config", None)
    given = [tokenizer.model_max_length, getattr(config, "max_position_embeddings", None)]
    # XLNet says -1 where it has no limit.
    limits = [limit for limit in (*given, *_positions(network)) if limit and 0 < limit < _NO_LIMIT]
    if not limits:
        return None
    limit = min(limits)
    for name in _WINDOWS:
        sizes = getattr(config, name, None) or 1
        size = max(sizes) if isinstance(sizes, list | tuple) else sizes
        limit -= limit % size if limit > size else 0
    return limit


def _positions(network: nn.Module) -> Iterator[int]:
    for name, module in network.named_modules():
        weight = getattr(module, "weight", None)
        if name.rpartition(".")[2] in _POSITIONS and weight is not None and weight.ndim == 2:
            padding = getattr(module, "padding_idx", None)
            first = 0 if padding is None else padding + 1
            yield len(weight) - getattr(module, "offset", first)


def most_tokens(network: nn.Module, tokenizer: Any, wanted: int | None = None) -> int:
    """Most tokens of a text that is learned or measured.

    Args:
        network: Of transformers.
        tokenizer: Its tokenizer.
        wanted: What a person asked for; None for as many as it takes, at most 512.

    Raises:
        ValueError: It takes fewer.
    """
    limit = token_limit(network, tokenizer)
    if wanted is not None and limit is not None and wanted > limit:
        raise ValueError(f"max_length is {wanted}, but the network accepts {limit}.")
    return wanted or min(_LONGEST, limit or _LONGEST)


def token_rows(tokenizer: Any, texts: Sequence[str], most: int) -> list[list[int]]:
    """Tokens of every text, one at least; how many are cut is said.

    Args:
        tokenizer: Of the network.
        texts: The texts.
        most: Tokens that are kept of each.
    """
    found = tokenizer(list(texts), verbose=False)["input_ids"]
    too_long = sum(len(ids) > most for ids in found)
    if too_long:
        logger.warning(
            "%d of %d texts have more than %d tokens and were cut.",
            too_long, len(found), most,
        )  # fmt: skip
        found = tokenizer(list(texts), truncation=True, max_length=most)["input_ids"]
    unknown = tokenizer.unk_token_id
    return [ids or [tokenizer.pad_token_id if unknown is None else unknown] for ids in found]


def batches_of(
    places: Sequence[int], lengths: Sequence[int], batch_size: int
) -> Iterator[list[int]]:
    """Cut texts into batches that stay in memory however long the texts are.

    Args:
        places: Of the texts, by rising length.
        lengths: Tokens of every text.
        batch_size: Most texts that pass together.

    Yields:
        Places; one alone where a text is too long for company.

    Example:
        >>> list(batches_of([0, 1, 2, 3], [10, 500, 9000, 9000], batch_size=8))
        [[0, 1], [2], [3]]
    """
    batch: list[int] = []
    for place in places:
        length = lengths[place]
        cost = (len(batch) + 1) * length * max(1, length / LONG)
        if batch and (len(batch) == batch_size or cost > TOKENS_TOGETHER):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch
