"""From texts to words and scores: tokens, attribution, and back to places in the text."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from salhub.models.verbalizer.modeling_verbalizer import SaliencyVerbalizerModel
from salhub.models.verbalizer.words import Words

logger = logging.getLogger(__name__)

# Above this, a tokenizer's limit only says that it has none.
_NO_LIMIT = 100_000
# Larger differences are worth a word: the steps are too few for this text.
_LARGE_DELTA = 0.05
# Characters of a text that an error message shows.
_SHOWN = 60


@dataclass(frozen=True)
class TextMap:
    """What a classifier thinks of a text, and which words made it think so.

    Args:
        words: The words, with their places in the text.
        scores: Of the words, in logits, float64 (n,).
        class_label: The class explained.
        probability: Of that class, in [0, 1].
        predicted: The most likely class.
        other_label: The class that it is compared with, or None.
        convergence_delta: How far the scores' sum is from what they explain, or None.
        is_truncated: Whether the end of the text was left out, as too long for the classifier.
    """

    words: Words
    scores: np.ndarray
    class_label: int
    probability: float
    predicted: int
    other_label: int | None = None
    convergence_delta: float | None = None
    is_truncated: bool = False


def explain_texts(
    model: SaliencyVerbalizerModel,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    class_labels: Sequence[int | None] | None = None,
    other_labels: Sequence[int | None] | None = None,
    batch_size: int = 32,
) -> list[TextMap]:
    """Score the words of texts; texts of similar length pass together.

    Where the classifier reads the last token of a row, only texts of equal length do, so that none
    is padded.

    Args:
        model: The verbalizer.
        tokenizer: Of its classifier.
        texts: The texts.
        class_labels: Class to explain of each; None for the most likely.
        other_labels: Class that each is compared with, or None.
        batch_size: Texts that pass together.

    Returns:
        One map a text, in their order.

    Raises:
        ValueError: A text without a word, or a class out of range.
        TypeError: Something that is no text.

    Example:
        >>> maps = explain_texts(model, tokenizer, ["a good film"])  # doctest: +SKIP
    """
    for text in texts:
        check_text(text)
    limit = length_limit(model, tokenizer)
    labels, others = (list(given or [None] * len(texts)) for given in (class_labels, other_labels))
    encodings = [_encode(tokenizer, text, limit, model.config.word_level) for text in texts]
    order = sorted(range(len(texts)), key=lambda place: len(encodings[place]["ids"]))
    maps: dict[int, TextMap] = {}
    sizes = [len(one["ids"]) if model.reads_last_token else 0 for one in encodings]
    for group in _groups(order, others, sizes, batch_size):
        batch = [encodings[place] for place in group]
        found = _explain_batch(
            model, tokenizer, batch, [labels[place] for place in group], others[group[0]]
        )
        maps.update(zip(group, found, strict=True))
    return [maps[place] for place in range(len(texts))]


def check_text(text: Any) -> None:
    """Raises TypeError for what is no text, and ValueError for one without any character."""
    if not isinstance(text, str):
        raise TypeError(f"A text is wanted, got {type(text).__name__}.")
    if not text.strip():
        raise ValueError("The text is empty; there is nothing to explain.")


def length_limit(model: SaliencyVerbalizerModel, tokenizer: Any) -> int | None:
    """Most tokens that the classifier takes, or None where there is no limit."""
    own = getattr(model.config.backbone_config, "max_position_embeddings", None)
    given = [limit for limit in (tokenizer.model_max_length, own) if limit]
    # XLNet says -1 where it has no limit.
    limits = [limit for limit in given if 0 < limit < _NO_LIMIT]
    return min(limits, default=None)


def _groups(
    order: list[int], others: list[int | None], sizes: list[int], size: int
) -> list[list[int]]:
    """Texts that pass together: compared with the same class, and of the same of the sizes."""
    groups: list[list[int]] = []
    for kind in dict.fromkeys((others[place], sizes[place]) for place in order):
        own = [place for place in order if (others[place], sizes[place]) == kind]
        groups += [own[begin : begin + size] for begin in range(0, len(own), size)]
    return groups


def _encode(tokenizer: Any, text: str, limit: int | None, word_level: bool) -> dict[str, Any]:
    is_fast = getattr(tokenizer, "is_fast", False)
    encoding = tokenizer(
        text,
        truncation=limit is not None,
        max_length=limit,
        return_offsets_mapping=is_fast,
        return_special_tokens_mask=True,
        verbose=False,
    )
    ids, special = encoding["input_ids"], np.array(encoding["special_tokens_mask"], dtype=bool)
    if is_fast:
        word_ids = encoding.word_ids() if word_level else None
        words = Words.of_encoding(text, np.array(encoding["offset_mapping"]), word_ids, special)
        is_truncated = bool(encoding.encodings[0].overflowing)
    else:
        logger.warning(
            "The tokenizer does not say where its tokens are in the text, so tokens are explained "
            "and not words; use a fast tokenizer."
        )
        words = _of_slow_tokens(tokenizer.convert_ids_to_tokens(ids), special)
        is_truncated = len(tokenizer(text, verbose=False)["input_ids"]) > len(ids)
    if not len(words):
        raise ValueError(
            "The text has no word that the tokenizer knows; there is nothing to explain."
        )
    if is_truncated:
        logger.warning("A text is longer than %d tokens; its end is left out.", limit)
    return {"ids": ids, "special": special, "words": words, "is_truncated": is_truncated}


def _of_slow_tokens(tokens: list[str], special: np.ndarray) -> Words:
    kept = [token for token, is_special in zip(tokens, special, strict=True) if not is_special]
    places = np.where(special, -1, np.cumsum(~special) - 1)
    words = Words.of_tokens(kept)
    return Words(words.text, words.spans, places)


def _explain_batch(
    model: SaliencyVerbalizerModel,
    tokenizer: Any,
    batch: list[dict[str, Any]],
    labels: list[int | None],
    other: int | None,
) -> list[TextMap]:
    length = max(len(one["ids"]) for one in batch)
    pad = tokenizer.pad_token_id or 0

    def side_by_side(rows: list[Any], fill: int) -> torch.Tensor:
        padded = [[*row, *[fill] * (length - len(row))] for row in rows]
        return torch.tensor(padded, device=model.device)

    ids = side_by_side([one["ids"] for one in batch], pad)
    mask = side_by_side([[1] * len(one["ids"]) for one in batch], 0)
    inputs = {
        "input_ids": ids,
        "attention_mask": mask,
        "special_tokens_mask": side_by_side([one["special"].astype(int) for one in batch], 1),
        "word_ids": side_by_side([one["words"].token_words for one in batch], -1),
    }
    output = model(
        **inputs,
        baseline_token=getattr(tokenizer, f"{model.config.baseline}_token_id", None),
        class_labels=_chosen_classes(model, inputs, labels, other, batch),
        other_labels=None if other is None else [other] * len(batch),
    )
    deltas = output.convergence_delta
    probabilities = model.probabilities(output.logits)
    scores = output.saliency.double().cpu().numpy()
    return [
        _map(one, scores[row], output, probabilities[row], deltas, row, other, model.config.merge)
        for row, one in enumerate(batch)
    ]


def _chosen_classes(
    model: SaliencyVerbalizerModel,
    inputs: dict[str, torch.Tensor],
    labels: list[int | None],
    other: int | None,
    batch: list[dict[str, Any]],
) -> list[int] | None:
    """The class of each text, the most likely where none was asked for."""
    if other is None and all(label is None for label in labels):
        return None
    if any(label is None for label in labels):
        with torch.no_grad():
            logits = model.logits_of(inputs["input_ids"], inputs["attention_mask"])
            likely = logits.argmax(dim=-1).tolist()
        labels = [
            best if label is None else label for best, label in zip(likely, labels, strict=True)
        ]
    chosen = [int(label) for label in labels if label is not None]
    if other in chosen:
        text = batch[chosen.index(other)]["words"].text
        shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
        raise ValueError(
            f"The text '{shown}' has the class '{model.id2label[other]}' itself, and a class "
            "cannot be compared with itself; give another contrast, or class_labels."
        )
    return chosen


def _map(
    encoding: dict[str, Any],
    scores: np.ndarray,
    output: Any,
    probabilities: torch.Tensor,
    deltas: torch.Tensor | None,
    row: int,
    other: int | None,
    merge: str,
) -> TextMap:
    words, label = encoding["words"], int(output.class_labels[row])
    merged = words.merged(scores[: len(encoding["ids"])], merge)
    delta = None if deltas is None else float(deltas[row])
    if delta is not None and delta > _LARGE_DELTA * max(abs(float(merged.sum())), 0.1):
        logger.warning(
            "The scores of a text miss what they explain by %.2g logits; raise n_steps.", delta
        )
    return TextMap(
        words,
        merged,
        label,
        float(probabilities[label]),
        int(probabilities.argmax()),
        other,
        delta,
        encoding["is_truncated"],
    )
