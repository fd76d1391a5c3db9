"""Features of classes by both text encoders, kept until something they depend on changes."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from salhub.models.disa.class_texts import (
    check_apart,
    checked_names,
    frozen_texts,
    longest_texts,
    prompted_texts,
    tokens_of,
)
from salhub.models.disa.prompt_model import PromptModel
from salhub.models.disa.prompted_clip import encode_text

_MOST_CACHED = 16


class ClassFeatures(PromptModel):
    """Prompts that give features of any classes."""

    def set_classes(self, names: Sequence[str]) -> None:
        """Set the classes of later calls; any names will do.

        Raises:
            TypeError: One text instead of a list.
            ValueError: No names, one twice, one that is too long, or two that CLIP reads alike.
        """
        names = checked_names(names)
        self.check_classes(names)
        self.config.class_names = names

    def check_classes(self, names: Sequence[str], *, frozen: bool = False) -> None:
        """Refuse names that CLIP cannot read whole, or cannot tell apart.

        Args:
            names: The classes.
            frozen: Whether the frozen CLIP is to read them as well, in the longest sentences.

        Raises:
            ValueError: A name is too long, or two are read alike.
        """
        check_apart(self._ids_of(prompted_texts(names, self.config), names), names)
        if frozen:
            texts, of = longest_texts(self.tokenizer, names, self.config)
            self._ids_of(texts, of)

    def encode_classes(
        self, names: Sequence[str] | None = None, *, prompted: bool = True
    ) -> Tensor:
        """Features of classes, of length 1, (K, D); kept until names, prompts or CLIP change.

        Args:
            names: The classes; those of the configuration by default.
            prompted: With the prompts; otherwise the mean over templates or descriptions by the
                frozen CLIP, without gradient.
        """
        if names is not None or self.config.class_names is None:
            names = self._names(names)
        else:
            names = self.config.class_names
        texts = prompted_texts(names, self.config) if prompted else frozen_texts(names, self.config)
        learns = prompted and self._learns(self.text_prompts)
        key = (_frozen(texts), prompted, self.config.text_ensemble, *self._versions(prompted))
        if not learns and key in self._features:
            return self._features[key]
        if prompted:
            ids = self._prompted_ids(texts, names)
            found = F.normalize(self._prompted_text(ids).float(), dim=-1)
        else:
            found = self._frozen_classes(texts, names)
        found = found.to(self.dtype)
        if not learns:
            if len(self._features) >= _MOST_CACHED:
                self._features.pop(next(iter(self._features)))
            self._features[key] = found.detach()
        return found

    def _names(self, names: Sequence[str] | None) -> list[str]:
        if names is None:
            raise ValueError(
                'There are no classes to choose from; give class_names=["cat", "dog"], or call '
                "set_classes(...) first."
            )
        return checked_names(names)

    def _prompted_text(self, input_ids: Tensor) -> Tensor:
        clip = self.base_model_of_prompts
        return encode_text(clip, input_ids.to(clip.device), self.text_prompts)

    @torch.no_grad()
    def _frozen_classes(self, texts: list[list[str]], names: Sequence[str]) -> Tensor:
        clip = self.base_model_of_prompts
        flat = [text for own in texts for text in own]
        of = [name for name, own in zip(names, texts, strict=True) for _ in own]
        ids = self._ids_of(flat, of).to(clip.device)
        features = encode_text(clip, ids).float()
        if self.config.text_ensemble == "mean_normalized":
            features = F.normalize(features, dim=-1)
        sizes = [len(own) for own in texts]
        return F.normalize(torch.stack([part.mean(0) for part in features.split(sizes)]), dim=-1)

    def _prompted_ids(self, texts: list[str], names: Sequence[str]) -> Tensor:
        """Tokens of the classes, which every step of a training reads again."""
        key = tuple(texts)
        if self._read is None or self._read[0] != key:
            ids = self._ids_of(texts, names)
            check_apart(ids, names)
            self._read = key, ids
        return self._read[1]

    def _ids_of(self, texts: Sequence[str], names: Sequence[str]) -> Tensor:
        assert self.config.base_config is not None
        limit = self.config.base_config["max_position_embeddings"]
        return tokens_of(self.tokenizer, texts, names, limit)

    def _learns(self, prompts: Tensor | None) -> bool:
        return prompts is not None and prompts.requires_grad and torch.is_grad_enabled()

    def _versions(self, prompted: bool) -> tuple:
        """What changes whenever a feature of a class would."""
        clip = self.base_model_of_prompts
        tensors = [*clip.text_model.parameters(), clip.text_projection.weight]
        if prompted and self.text_prompts is not None:
            tensors.append(self.text_prompts)
        changes = sum(0 if one.is_inference() else one._version for one in tensors)
        places = tuple(one.data_ptr() for one in tensors[-2:])
        is_inference = torch.is_inference_mode_enabled()
        return id(clip), clip.dtype, str(clip.device), changes, places, is_inference


def _frozen(texts: list[Any]) -> tuple:
    return tuple(tuple(one) if isinstance(one, list) else one for one in texts)
