"""From texts to words and scores: tokens, attribution, and back to places in the text."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from salhub.data.text_sources import whole_text
from salhub.hub_faults import encoding_explained
from salhub.models.verbalizer.doubt import doubt_about
from salhub.models.verbalizer.modeling_verbalizer import SaliencyVerbalizerModel
from salhub.models.verbalizer.words import Words
from salhub.tokenizing import batches_of, token_limit

logger = logging.getLogger(__name__)

# Larger differences are worth a word: the steps are too few for this text.
_LARGE_DELTA = 0.05
# Classes that are told of beside the one explained.
_TOP_PREDICTIONS = 5
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
        predictions: The most likely classes with their probabilities, most likely first.
        other_label: The class that it is compared with, or None.
        convergence_delta: How far the scores' sum is from what they explain, or None.
        is_truncated: Whether the end of the text was left out, as too long for the classifier.
        doubt: Why the text is none that the classifier can know, see `doubt_about`, or None.
    """

    words: Words
    scores: np.ndarray
    class_label: int
    probability: float
    predictions: tuple[tuple[int, float], ...]
    other_label: int | None = None
    convergence_delta: float | None = None
    is_truncated: bool = False
    doubt: str | None = None

    @property
    def predicted(self) -> int:
        """The most likely class."""
        return self.predictions[0][0]


def explain_texts(
    model: SaliencyVerbalizerModel,
    tokenizer: Any,
    texts: Sequence[str | tuple[str, str]],
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
        texts: The texts; a pair of them for classifiers of two, such as a premise and a
            hypothesis, whose words are those of both, joined by a line break.
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
    limit = token_limit(model.backbone, tokenizer)
    labels, others = (list(given or [None] * len(texts)) for given in (class_labels, other_labels))
    has_types = model.takes("token_type_ids")
    encodings = [
        _encode(tokenizer, text, limit, model.config.word_level, has_types) for text in texts
    ]
    lengths = [len(one["ids"]) for one in encodings]
    order = sorted(range(len(texts)), key=lengths.__getitem__)
    maps: dict[int, TextMap] = {}
    sizes = lengths if model.reads_last_token else [0] * len(lengths)
    for group in _groups(order, others, sizes, lengths, batch_size):
        batch = [encodings[place] for place in group]
        found = _explain_batch(
            model, tokenizer, batch, [labels[place] for place in group], others[group[0]]
        )
        maps.update(zip(group, found, strict=True))
    return [maps[place] for place in range(len(texts))]


def check_text(text: Any) -> None:
    """Raises TypeError for what is no text, and ValueError for one without any character."""
    if isinstance(text, tuple) and len(text) == 2:
        for one in text:
            check_text(one)
        return
    if not isinstance(text, str):
        raise TypeError(f"The input must be a text, got {type(text).__name__}.")
    if not text.strip():
        raise ValueError("The text is empty; there is nothing to explain.")
    whole_text(text, "The text")


def _groups(
    order: list[int], others: list[int | None], sizes: list[int], lengths: list[int], size: int
) -> list[list[int]]:
    """Texts that pass together: compared with the same class, and of the same of the sizes."""
    groups: list[list[int]] = []
    for kind in dict.fromkeys((others[place], sizes[place]) for place in order):
        own = [place for place in order if (others[place], sizes[place]) == kind]
        groups += batches_of(own, lengths, size)
    return groups


def _encode(
    tokenizer: Any,
    text: str | tuple[str, str],
    limit: int | None,
    word_level: bool,
    has_types: bool,
) -> dict[str, Any]:
    is_fast = getattr(tokenizer, "is_fast", False)
    texts = (text,) if isinstance(text, str) else text
    with encoding_explained(tokenizer):
        encoding = tokenizer(
            *texts,
            truncation=limit is not None,
            max_length=limit,
            return_offsets_mapping=is_fast,
            return_special_tokens_mask=True,
            verbose=False,
        )
    ids, special = encoding["input_ids"], np.array(encoding["special_tokens_mask"], dtype=bool)
    if is_fast:
        words = _words_of(encoding, texts, special, word_level)
        is_truncated = bool(encoding.encodings[0].overflowing)
    else:
        logger.warning(
            "The tokenizer does not report token positions, so tokens are explained instead "
            "of words; use a fast tokenizer."
        )
        words = _of_slow_tokens(tokenizer.convert_ids_to_tokens(ids), special)
        is_truncated = len(tokenizer(*texts, verbose=False)["input_ids"]) > len(ids)
    if not len(words):
        raise ValueError("The tokenizer knows no word of the text; there is nothing to explain.")
    if is_truncated:
        logger.warning("A text is longer than %d tokens and was cut at its end.", limit)
    types = encoding.get("token_type_ids") if has_types else None
    return {
        "ids": ids,
        "special": special,
        "types": types,
        "words": words,
        "is_truncated": is_truncated,
        "doubt": _doubt(tokenizer, ids, words),
    }


def _doubt(tokenizer: Any, ids: list[int], words: Words) -> str | None:
    tokens = (words.token_words >= 0).nonzero()[0]
    own, nothing = words.token_words[tokens], getattr(tokenizer, "unk_token_id", None)
    is_unknown = np.array(ids)[tokens] == (-1 if nothing is None else nothing)
    unknown = np.bincount(own, is_unknown, len(words)) > 0
    return doubt_about(words, tokenizer, unknown, np.bincount(own, minlength=len(words)))


def _words_of(
    encoding: Any, texts: tuple[str, ...], special: np.ndarray, word_level: bool
) -> Words:
    """The words of one text, or of two that are joined by a line break."""
    offsets = np.array(encoding["offset_mapping"])
    word_ids = encoding.word_ids() if word_level else None
    if len(texts) == 1:
        return Words.of_encoding(texts[0], offsets, word_ids, special)
    is_second = np.array([part == 1 for part in encoding.sequence_ids()])
    offsets[is_second] += len(texts[0]) + 1
    if word_ids is not None:
        later = 1 + max((one for one in word_ids if one is not None), default=0)
        pairs = zip(word_ids, is_second, strict=True)
        word_ids = [one if one is None else one + later * second for one, second in pairs]
    words = Words.of_encoding("\n".join(texts), offsets, word_ids, special)
    second = int((words.spans[:, 0] > len(texts[0])).argmax()) if is_second.any() else 0
    return replace(words, second=second)


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
    if all(one["types"] is not None for one in batch):
        inputs["token_type_ids"] = side_by_side([one["types"] for one in batch], 0)
    output = model(
        **inputs,
        baseline_token=getattr(tokenizer, f"{model.config.baseline}_token_id", None),
        class_labels=_chosen_classes(model, inputs, labels, other, batch),
        other_labels=None if other is None else [other] * len(batch),
    )
    deltas = output.convergence_delta
    probabilities = model.probabilities(output.logits).cpu()
    # By their logits, as probabilities of several classes may be rounded to 1.
    likely = output.logits.float().cpu().sort(descending=True, stable=True).indices
    likely = likely[:, :_TOP_PREDICTIONS]
    scores = output.saliency.double().cpu().numpy()
    return [
        _map(one, scores[row], output, probabilities[row], likely[row], deltas, row, other,
             model.config.merge)
        for row, one in enumerate(batch)
    ]  # fmt: skip


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
            names = ("input_ids", "attention_mask", "token_type_ids")
            logits = model.logits_of(**{name: inputs[name] for name in names if name in inputs})
            likely = logits.argmax(dim=-1).tolist()
        labels = [
            best if label is None else label for best, label in zip(likely, labels, strict=True)
        ]
    chosen = [int(label) for label in labels if label is not None]
    if other in chosen:
        text = batch[chosen.index(other)]["words"].text
        shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
        raise ValueError(
            f"The text '{shown}' is explained for the class '{model.id2label[other]}', which "
            "cannot be compared with itself; give another contrast, or class_labels."
        )
    return chosen


def _map(
    encoding: dict[str, Any],
    scores: np.ndarray,
    output: Any,
    probabilities: torch.Tensor,
    likely: torch.Tensor,
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
            "The scores of a text do not add up: they are off by %.2g logits; raise n_steps.", delta
        )
    return TextMap(
        words,
        merged,
        label,
        float(probabilities[label]),
        tuple((index, float(probabilities[index])) for index in likely.tolist()),
        other,
        delta,
        encoding["is_truncated"],
        encoding["doubt"],
    )
