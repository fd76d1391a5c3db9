"""What a small CLIP is trained inside of: patches left out, and a teacher for what words mean."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPModel


class Embeddings(NamedTuple):
    """What pictures and captions come to, each of length 1.

    Args:
        images: float32 (B, D).
        texts: float32 (T, D).
        meanings: The captions' names as the teacher has them, in the space of the model, (T, D);
            None without a teacher.
        scale: What cosines are multiplied by to be logits, ().
    """

    images: Tensor
    texts: Tensor
    meanings: Tensor | None
    scale: Tensor


class TaughtCLIP(nn.Module):
    """A CLIP in training, and the linear map from its teacher's space into its own.

    Args:
        clip: The model.
        meanings: What the teacher makes of every name, (N, E); None for no teacher. The map begins
            as their first principal components.
    """

    def __init__(self, clip: CLIPModel, meanings: Tensor | None = None) -> None:
        super().__init__()
        self.clip = clip
        self.map = None
        if meanings is not None:
            self.register_buffer("meanings", meanings, persistent=False)
            size = clip.config.projection_dim
            self.map = nn.Linear(meanings.shape[1], size, bias=False)
            components = torch.linalg.svd(meanings, full_matrices=False).Vh[:size]
            with torch.no_grad():
                self.map.weight[: len(components)] = components

    def forward(
        self, pixel_values: Tensor, keep: Tensor | None, input_ids: Tensor, names: Tensor
    ) -> Embeddings:
        """Embed pictures and captions.

        Args:
            pixel_values: (B, 3, H, W).
            keep: Patches that are looked at, int64 (B, k); None for all.
            input_ids: Captions, (T, L).
            names: Which name each caption is of, int64 (T,).
        """
        clip: Any = self.clip
        images = features_of_kept_patches(clip, pixel_values, keep)
        texts = clip.get_text_features(input_ids=input_ids).pooler_output
        meanings = None
        if self.map is not None:
            meanings = F.normalize(self.map(self.meanings[names]).float(), dim=-1)
        units = [F.normalize(features.float(), dim=-1) for features in (images, texts)]
        return Embeddings(*units, meanings, clip.logit_scale.exp())


def features_of_kept_patches(
    clip: CLIPModel, pixel_values: Tensor, keep: Tensor | None = None
) -> Tensor:
    """Features of pictures of which some patches are left out, as if they were not there.

    Args:
        clip: The model.
        pixel_values: (B, 3, H, W).
        keep: Patches that are looked at, int64 (B, k); None for all.

    Returns:
        (B, D), of any length.

    Source: Li et al. 2023 (arXiv 2212.00794), section 3.1.
    """
    tower: Any = clip.vision_model
    states = tower.embeddings(pixel_values)
    if keep is not None:
        patches = states[:, 1:].gather(1, keep[..., None].expand(-1, -1, states.shape[2]))
        states = torch.cat([states[:, :1], patches], dim=1)
    states = tower.encoder(inputs_embeds=tower.pre_layrnorm(states)).last_hidden_state
    return clip.visual_projection(tower.post_layernorm(states[:, 0]))
