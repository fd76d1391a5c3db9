"""Accuracy of any text classifier on labelled texts that it has not learned."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from salhub.data.labelled_texts import LabelledTexts, Layout, read_labelled_texts
from salhub.evaluation.held_out import evaluate_held_out, names_of_classes
from salhub.evaluation.shared_rows import shared_batches
from salhub.results import Results
from salhub.tokenizing import batches_of, most_tokens, token_rows

SHARES_ROWS = True


def evaluate(
    model: Any,
    tokenizer: Any,
    data_path: str | os.PathLike[str],
    *,
    text_column: str | int | None = None,
    label_column: str | int | None = None,
    layout: Layout | None = None,
    class_names: Sequence[str] = (),
    dataset_config_name: str | None = None,
    max_length: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
) -> Results:
    """Measure how often the true class of a text is the most likely one.

    Args:
        model: A text classifier of transformers or of ours.
        tokenizer: Its tokenizer.
        data_path: Labelled texts, see `read_labelled_texts`, of which those are left out that the
            model has learned, see `held_out`.
        text_column, label_column, layout, class_names, dataset_config_name: Of the data, as of
            `read_labelled_texts`.
        max_length: Most tokens of a text, as in training; None for as many as the model takes, at
            most 512.
        batch_size: Texts that pass through the model at once.
        seed: Seed of the bootstrap.

    Returns:
        `Results` with "accuracy/test", "accuracy/class/NAME" and the tables of the card.

    Raises:
        FileNotFoundError, ValueError: As of `read_labelled_texts` and `held_out`.

    Example:
        >>> results = evaluate(model, tokenizer, "reviews.csv")  # doctest: +SKIP
    """
    texts = check_data(
        data_path,
        text_column=text_column,
        label_column=label_column,
        layout=layout,
        class_names=class_names,
        dataset_config_name=dataset_config_name,
    )
    texts = texts.in_order_of(names_of_classes(model))
    most = most_tokens(model, tokenizer, max_length)

    def logits_of(places: Tensor) -> Tensor:
        own = [texts.texts[place] for place in places.tolist()]
        return classify_rows(model, tokenizer, token_rows(tokenizer, own, most), batch_size)

    return evaluate_held_out(model, texts, "texts", seed, logits_of)[0]


def check_data(
    data_path: str | os.PathLike[str],
    *,
    text_column: str | int | None = None,
    label_column: str | int | None = None,
    layout: Layout | None = None,
    class_names: Sequence[str] = (),
    dataset_config_name: str | None = None,
    **_others: Any,
) -> LabelledTexts:
    """Read the texts to measure on, for which no model is needed.

    Args:
        data_path, text_column, label_column, layout, class_names, dataset_config_name: As of
            `evaluate`.

    Raises:
        FileNotFoundError, ValueError: As of `read_labelled_texts`.
    """
    return read_labelled_texts(
        data_path,
        text_column=None if text_column is None else str(text_column),
        label_column=None if label_column is None else str(label_column),
        layout=layout,
        class_names=[str(name) for name in class_names],
        dataset_config_name=dataset_config_name,
    )


@torch.no_grad()
def classify_rows(
    model: nn.Module, tokenizer: Any, rows: Sequence[Sequence[int]], batch_size: int
) -> Tensor:
    """Logits of tokens, float32 (n, K) on the CPU; its batches are shared, see `shared_batches`.

    Args:
        model: In evaluation mode.
        tokenizer: Its tokenizer, which fills up the shorter texts of a batch.
        rows: Tokens of each text.
        batch_size: Texts that pass at once, one after another where nothing can fill them up.
    """
    config: Any = model.config
    if tokenizer.pad_token is None or getattr(config, "pad_token_id", None) is None:
        batch_size = 1
    lengths = [len(row) for row in rows]
    order = sorted(range(len(rows)), key=lengths.__getitem__)
    device = next(model.parameters()).device

    def of_batch(batch: list[int]) -> Tensor:
        if len(batch) == 1:
            ids = torch.tensor([rows[batch[0]]])
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        else:
            listed = {"input_ids": [rows[place] for place in batch]}
            padded = tokenizer.pad(listed, return_tensors="pt")
            inputs = {name: padded[name] for name in ("input_ids", "attention_mask")}
        return model(**{name: one.to(device) for name, one in inputs.items()}).logits.float().cpu()

    batches = [list(batch) for batch in batches_of(order, lengths, batch_size)]
    found = shared_batches("texts", batches, of_batch)
    return found[torch.tensor([place for batch in batches for place in batch]).argsort()]
