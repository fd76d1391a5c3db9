"""Perplexity, speed and size of any causal language model, on a text of your own."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoModelForCausalLM

from salhub.data.documents import (
    check_no_columns,
    encode_documents,
    encode_text,
    is_token_file,
    read_texts,
    read_tokens,
)
from salhub.errors import ModelNotFoundError
from salhub.evaluation.language_model import (
    DecodeSpeed,
    Perplexity,
    decode_speed,
    model_bytes,
    perplexity,
    vocab_size_of,
)
from salhub.evaluation.shared_rows import measured_once
from salhub.hub import bundled_model, load, resolve
from salhub.results import Results, Table, measured

SHARES_ROWS = True
_CONTEXT = 512


def evaluate(
    model: Any,
    tokenizer: Any,
    data_path: str | os.PathLike[str],
    *,
    text_column: str | int | None = None,
    dataset_config_name: str | None = None,
    part: str | None = None,
    as_documents: bool = False,
    context: int | None = None,
    stride: int | None = None,
    max_tokens: int | None = None,
    batch_size: int | None = None,
    speed_tokens: int = 64,
    progress: bool = False,
    seed: int = 0,
) -> Results:
    """Measure how well a model predicts a text, how fast it writes, and what its file weighs.

    Args:
        model: A causal language model of transformers or of ours.
        tokenizer: Its tokenizer.
        data_path: A text file, a table or the name of a data set, see `read_texts`; or a file of
            tokens, see `read_tokens`.
        text_column, dataset_config_name: Of the data, as of `read_texts`.
        part: "train", "validation" or "test" of data with parts; the last that there is by default.
        as_documents: Whether a token for the end stands behind every document, as in the training
            of `salhub train tiny-llama`; or else the text is encoded as it is, as one.
        context: Tokens of a window; 512 by default, or as many as the model takes.
        stride: Tokens from one window to the next; None for windows that follow each other.
        max_tokens: Only so many tokens are taken, from the beginning.
        batch_size: Windows that pass at once; None for as many as fit into a little memory.
        speed_tokens: Tokens that are read, and as many that are written, to time the model; fewer
            where it takes fewer, and 0 not to time it.
        progress: Whether to show a bar.
        seed: Recorded; nothing is drawn.

    Returns:
        `Results` with "perplexity", "loss", "loss/standard_error", "bits_per_byte" of a text,
        "speed/prefill", "speed/decode", "bytes/KIND" and "share_of_embeddings" of a model that was
        loaded from a file, and the tables of the card.

    Raises:
        FileNotFoundError, MissingExtraError, ValueError: As of `read_texts`, `read_tokens` and
            `perplexity`.

    Example:
        >>> results = evaluate(model, tokenizer, "wiki.test.raw", max_tokens=20480)
        ... # doctest: +SKIP
    """
    if max_tokens is not None and max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, got {max_tokens}.")
    limit = getattr(model.config, "max_position_embeddings", None) or _CONTEXT
    if context is None:
        context = min(_CONTEXT, limit)
    column = None if text_column is None else str(text_column)
    data = {"text_column": column, "dataset_config_name": dataset_config_name, "part": part}
    tokens, facts = _tokens(model, tokenizer, data_path, data, as_documents)
    results = Results.of_model(model, facts["name"], seed)
    taken = tokens.flatten()[:max_tokens] if max_tokens is not None else tokens
    with measured(results):
        found = perplexity(model, taken, context, stride, batch_size, progress=progress)
        results.data = {
            **facts,
            "num_tokens": tokens.numel(),
            "max_tokens": max_tokens,
            "num_predicted": found.num_predicted,
            "context": found.context,
            "stride": found.stride,
        }
        _add_perplexity(results, found, facts.get("num_bytes", 0) / tokens.numel())
        number = min(speed_tokens, (limit - 1) // 2)
        speed = _speed(model, number) if number else None
        _add_costs(results, speed, _saved_bytes(model))
    return results


def _speed(model: Any, number: int) -> DecodeSpeed:
    def measure() -> dict[str, Any]:
        return asdict(decode_speed(model, prompt_tokens=number, new_tokens=number))

    return DecodeSpeed(**measured_once("speed", measure))


def add_base(
    results: Results,
    base_model: str | None,
    tokenizer: Any,
    data_path: str | os.PathLike[str],
    **settings: Any,
) -> None:
    """Measure the model that a compressed one was made of, on the same text.

    Args:
        results: What `evaluate` found of the compressed model; "perplexity/before" and a row are
            added, unless the base does not come with salhub: nothing is fetched for it.
        base_model: Name of the base; None where it is not known.
        tokenizer, data_path, **settings: As `evaluate` was given them.
    """
    base = _bundled(base_model)
    if base is None:
        return
    untimed = {**settings, "speed_tokens": 0, "progress": False}
    found = evaluate(base, tokenizer, data_path, **untimed).metric("perplexity")
    results.add_metric("perplexity/before", found.value, interval=found.interval, n=found.n)
    low, high = found.interval or (found.value, found.value)
    row = [f"that of {base_model}", f"{found.value:.2f} [{low:.2f}, {high:.2f}]"]
    results.tables[0].rows.insert(1, row)


def _bundled(name: str | None) -> Any:
    if name is None or bundled_model(name) is None:
        return None
    return load(AutoModelForCausalLM, name).eval()


def folder_of(model: Any) -> Path | None:
    """The folder that a model was loaded from; None of one that was made here."""
    name, commit = model.config.name_or_path, getattr(model.config, "_commit_hash", None)
    where = {"revision": commit} if commit else {}
    try:
        return resolve(name, **where).snapshot(**where) if name else None
    except (FileNotFoundError, ModelNotFoundError):
        return None


def _tokens(
    model: Any,
    tokenizer: Any,
    data_path: str | os.PathLike[str],
    data: dict[str, Any],
    as_documents: bool,
) -> tuple[Tensor, dict[str, Any]]:
    """Tokens, and what a results file says of where they come from."""
    if is_token_file(data_path):
        check_no_columns(Path(data_path).name, "a file of tokens", **data)
        return read_tokens(data_path, vocab_size_of(model)), {"name": Path(data_path).name}
    texts = read_texts(data_path, **data)
    facts: dict[str, Any] = {"name": texts.name, "num_bytes": len(texts.whole.encode())}
    if texts.part:
        facts["part"] = texts.part
    else:
        check_no_columns(texts.name, "a text", part=data["part"])
    if not as_documents:
        return encode_text(texts.whole, tokenizer), facts
    documents = texts.documents
    # The end of a document counts as a byte.
    facts["num_bytes"] = sum(len(text.encode()) + 1 for text in documents)
    return encode_documents(documents, tokenizer), {**facts, "num_documents": len(documents)}


def _add_perplexity(results: Results, found: Perplexity, bytes_per_token: float) -> None:
    number = found.num_predicted
    results.add_metric("perplexity", found.value, interval=found.interval, n=number)
    results.add_metric("loss", found.loss, n=number, unit="nats")
    results.add_metric("loss/standard_error", found.standard_error, n=len(found.losses))
    low, high = found.interval or (found.value, found.value)
    rows: list[list[Any]] = [["perplexity", f"{found.value:.2f} [{low:.2f}, {high:.2f}]"]]
    if bytes_per_token:
        bits = found.bits / bytes_per_token
        results.add_metric("bits_per_byte", bits, n=number, unit="bits")
        rows.append(["bits per byte", f"{bits:.3f}"])
    note = (
        f"On {results.data['name']}: {found.note} In brackets: 95 % interval over windows. "
        "Perplexities of different tokenizers are not comparable; bits per byte are."
    )
    results.tables.append(Table("Prediction", note, ["what", "value"], rows))


def _add_costs(results: Results, speed: DecodeSpeed | None, sizes: dict[str, int]) -> None:
    rows: list[list[Any]] = []
    notes = []
    if speed is not None:
        results.add_metric("speed/prefill", speed.prefill, n=speed.repeats, unit="tokens/s")
        results.add_metric("speed/decode", speed.decode, n=speed.repeats, unit="tokens/s")
        rows.append(["tokens read per second", f"{speed.prefill:.0f}"])
        rows.append(["tokens written per second", f"{speed.decode:.0f}"])
        notes.append(
            f"One text at a time, with a prompt of {speed.prompt_tokens} tokens and "
            f"{speed.new_tokens} tokens written greedily; medians of {speed.repeats}."
        )
    for kind, size in sizes.items():
        results.add_metric(f"bytes/{kind}", size, unit="bytes")
        rows.append([f"bytes of the file, {kind}", size])
    if sizes:
        share = sizes["embeddings"] / sizes["total"]
        results.add_metric("share_of_embeddings", share, unit="fraction")
    if rows:
        results.tables.append(Table("Cost", " ".join(notes), ["what", "value"], rows))


def _saved_bytes(model: Any) -> dict[str, int]:
    """Of the files that a model was loaded from; nothing of one that was made here."""
    folder = folder_of(model)
    try:
        return {} if folder is None else model_bytes(folder)
    except FileNotFoundError:
        return {}
