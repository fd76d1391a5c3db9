"""Sentences as vectors of any encoder that AutoModel loads."""

import logging
from typing import Any

import numpy as np
import torch

from salhub.errors import IntegrityError, ModelNotFoundError
from salhub.hub_faults import encoding_explained
from salhub.modeling import load_trained, refuse_broken_weights
from salhub.tokenizing import batches_of, load_tokenizer, token_limit

logger = logging.getLogger(__name__)

# Of encoders that name no limit.
_USUAL_LIMIT = 512


class SentenceEncoder:
    """An encoder with its tokenizer.

    Args:
        name: A folder or a Hub repository.
        pooling: "mean" over the tokens, or the state of the first one, "cls".
        device: Where it runs.
        option: Of whoever names it, for the message where it is not found.

    Raises:
        ModelNotFoundError: It is neither there nor on the Hub, or has no safetensors weights.
        IntegrityError: A file of it is damaged.
        ValueError: It has no tokenizer, lacks weights, or needs code of its own.
    """

    def __init__(
        self, name: str, pooling: str = "mean", device: Any = "cpu", option: str = "encoder"
    ) -> None:
        # Imported with this module, they would register it half-way through its own import.
        from transformers import AutoModel

        try:
            self.tokenizer = load_tokenizer(name)
            # What is built on the first token for other tasks is not read.
            network = load_trained(AutoModel, name, "sentence encoder", unused=("pooler.",))
        except IntegrityError:
            raise
        except OSError as error:
            raise ModelNotFoundError(
                f"The sentence encoder '{name}' cannot be loaded: "
                f"{' '.join(str(error).split())} Choose another one with {option}=..."
            ) from error
        self.model, self.pooling = network.eval().to(device), pooling

    @torch.no_grad()
    def __call__(self, sentences: list[str], batch_size: int = 64) -> np.ndarray:
        """Vectors of length 1.

        Args:
            sentences: N sentences; those that are equal are encoded once.
            batch_size: Sentences that pass together; those of similar length do.

        Returns:
            float64 (N, D).

        Raises:
            ValueError: Weights that are no numbers, naming the first.
        """
        distinct = list(dict.fromkeys(sentences))
        longest = token_limit(self.model, self.tokenizer) or _USUAL_LIMIT
        with encoding_explained(self.tokenizer):
            rows = self.tokenizer(distinct, truncation=True, max_length=longest)
        lengths = [len(ids) for ids in rows["input_ids"]]
        num_full = sum(length >= longest for length in lengths)
        if num_full:
            logger.warning(
                "%d sentences were cut to %d tokens, the limit of the encoder.", num_full, longest
            )
        order = sorted(range(len(distinct)), key=lengths.__getitem__)
        vectors: dict[str, np.ndarray] = {}
        for places in batches_of(order, lengths, batch_size):
            batch = {name: [values[place] for place in places] for name, values in rows.items()}
            found = self._encode(self.tokenizer.pad(batch, return_tensors="pt"))
            vectors |= zip((distinct[place] for place in places), found, strict=True)
        return np.stack([vectors[sentence] for sentence in sentences])

    def _encode(self, tokens: Any) -> np.ndarray:
        tokens = tokens.to(self.model.device)
        states = self.model(**tokens).last_hidden_state.double()
        if self.pooling == "cls":
            pooled = states[:, 0]
        else:
            mask = tokens["attention_mask"][..., None].to(states.dtype)
            pooled = (states * mask).sum(1) / mask.sum(1).clamp(min=1)
        refuse_broken_weights(self.model, pooled)
        return torch.nn.functional.normalize(pooled, dim=-1).cpu().numpy()
