"""Sentences as vectors of any encoder that AutoModel loads."""

import logging
from typing import Any

import numpy as np
import torch

from salhub.errors import ModelNotFoundError
from salhub.hub import load

logger = logging.getLogger(__name__)


class SentenceEncoder:
    """An encoder with its tokenizer.

    Args:
        name: A folder or a Hub repository.
        pooling: "mean" over the tokens, or the state of the first one, "cls".
        device: Where it runs.

    Raises:
        ModelNotFoundError: It is neither there nor on the Hub.
    """

    def __init__(self, name: str, pooling: str = "mean", device: Any = "cpu") -> None:
        # Imported with this module, they would register it half-way through its own import.
        from transformers import AutoModel, AutoTokenizer

        try:
            self.tokenizer = load(AutoTokenizer, name)
            self.model = load(AutoModel, name).eval().to(device)
        except OSError as error:
            raise ModelNotFoundError(
                f"The sentence encoder '{name}' is not here and could not be fetched; give a "
                "folder with encoder=..., or allow the network."
            ) from error
        self.pooling = pooling

    @torch.no_grad()
    def __call__(self, sentences: list[str], batch_size: int = 64) -> np.ndarray:
        """Vectors of length 1.

        Args:
            sentences: N sentences; those that are equal are encoded once.
            batch_size: Sentences that pass together; those of similar length do.

        Returns:
            float64 (N, D).
        """
        distinct = sorted(set(sentences), key=lambda sentence: (len(sentence), sentence))
        parts = [
            self._encode(distinct[start : start + batch_size])
            for start in range(0, len(distinct), batch_size)
        ]
        vectors = dict(zip(distinct, np.concatenate(parts), strict=True))
        return np.stack([vectors[sentence] for sentence in sentences])

    def _encode(self, sentences: list[str]) -> np.ndarray:
        longest = min(self.tokenizer.model_max_length, _positions(self.model))
        tokens = self.tokenizer(
            sentences, padding=True, truncation=True, max_length=longest, return_tensors="pt"
        ).to(self.model.device)
        num_full = int((tokens["attention_mask"].sum(1) >= longest).sum())
        if num_full:
            logger.warning(
                "%d sentences were cut to %d tokens, all that is read.", num_full, longest
            )
        states = self.model(**tokens).last_hidden_state.double()
        if self.pooling == "cls":
            pooled = states[:, 0]
        else:
            mask = tokens["attention_mask"][..., None].to(states.dtype)
            pooled = (states * mask).sum(1) / mask.sum(1).clamp(min=1)
        return torch.nn.functional.normalize(pooled, dim=-1).cpu().numpy()


def _positions(model: Any) -> int:
    return getattr(model.config, "max_position_embeddings", None) or 512
