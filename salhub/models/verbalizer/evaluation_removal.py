"""What a classifier says when the named words are gone, or when nothing else is left."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from salhub.models.verbalizer.explaining import TextMap
from salhub.models.verbalizer.modeling_verbalizer import SaliencyVerbalizerModel
from salhub.tokenizing import batches_of, token_limit

_TEXTS_TOGETHER = 64


@dataclass(frozen=True)
class Removal:
    """Drops of the probability of the explained class, one a text.

    Args:
        comprehensiveness: Without the named words; large where they mattered.
        sufficiency: With the named words alone; small where they are enough.

    Source: DeYoung et al., "ERASER: A Benchmark to Evaluate Rationalized NLP Models", 2020
        (arXiv 1911.03429), equations 1 and 2.
    """

    comprehensiveness: np.ndarray
    sufficiency: np.ndarray


def removal_drops(
    model: SaliencyVerbalizerModel,
    tokenizer: Any,
    maps: Sequence[TextMap],
    named: Sequence[Sequence[int]],
) -> Removal:
    """Remove the named words of texts, and everything else, and ask the classifier again.

    Args:
        model: The verbalizer.
        tokenizer: Of its classifier.
        maps: The texts, with the classes that are explained.
        named: Words that are named of each.
    """
    limit = token_limit(model.backbone, tokenizer)
    without, alone = [], []
    for one, words in zip(maps, named, strict=True):
        keywords = {"truncation": limit is not None, "max_length": limit, "verbose": False}
        ids = np.array(tokenizer(one.words.text, **keywords)["input_ids"])
        is_named = np.isin(one.words.token_words, list(words))
        is_frame = one.words.token_words < 0
        without.append(ids[~is_named].tolist())
        alone.append(ids[is_named | is_frame].tolist())
    labels = [one.class_label for one in maps]
    full = np.array([one.probability for one in maps])
    return Removal(
        full - _probabilities(model, tokenizer, without, labels),
        full - _probabilities(model, tokenizer, alone, labels),
    )


@torch.no_grad()
def _probabilities(
    model: SaliencyVerbalizerModel, tokenizer: Any, rows: list[list[int]], labels: list[int]
) -> np.ndarray:
    pad = tokenizer.pad_token_id or 0
    # An empty text is one token of padding that nothing hides.
    rows = [row or [pad] for row in rows]
    lengths = [len(row) for row in rows]
    found = np.zeros(len(rows))
    order = sorted(range(len(rows)), key=lengths.__getitem__)
    for places in batches_of(order, lengths, _TEXTS_TOGETHER):
        part, length = [rows[place] for place in places], lengths[places[-1]]
        ids = torch.tensor([row + [pad] * (length - len(row)) for row in part])
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in part])
        logits = model.backbone(
            input_ids=ids.to(model.device), attention_mask=mask.to(model.device)
        ).logits
        chosen = torch.tensor([labels[place] for place in places], device=logits.device)
        found[places] = model.probabilities(logits).gather(1, chosen[:, None])[:, 0].cpu()
    return found


def random_groups(
    groups: Sequence[Sequence[int]], num_words: int, generator: np.random.Generator
) -> list[tuple[int, ...]]:
    """Draw phrases elsewhere in a text, as many and as long, with the same gaps.

    Args:
        groups: Words of the phrases that are named.
        num_words: Words of the text.
        generator: For the draw.

    Returns:
        Phrases that share no word, except where a text has no room for that.
    """
    taken: set[int] = set()
    drawn = []
    for group in sorted(groups, key=lambda one: one[0] - one[-1]):
        shape = [word - group[0] for word in group]
        starts = generator.permutation(num_words - shape[-1])
        free = [start for start in starts if not taken & {start + step for step in shape}]
        start = int(free[0] if free else starts[0])
        drawn.append(tuple(start + step for step in shape))
        taken.update(drawn[-1])
    return drawn
