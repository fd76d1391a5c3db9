"""One call of the model in order: the frozen pass, the mask, the prompted passes, and the terms."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from salhub.models.disa.losses import (
    cosine_logits,
    cross_interactive,
    directional,
    score_regularisation,
)
from salhub.models.disa.prompted_clip import ImageFeatures, encode_image
from salhub.models.disa.saliency_masking import (
    kept_patches,
    needs_of,
    patch_scores,
    shown_map,
)


def term_weights(config: Any) -> dict[str, float]:
    """What each term of a picture weighs in the sum."""
    return {
        "cross_entropy": 1.0,
        "score_regularisation": config.sr_weight,
        "cross_interactive": config.cir_weight,
        "directional": config.lambda_dir,
        "image_l1": config.image_l1_weight,
    }


def picture_loss(config: Any, terms: Mapping[str, Tensor]) -> Tensor:
    """The weighted sum of the terms that pictures own, (B,)."""
    weights = term_weights(config)
    return torch.stack([weights[name] * terms[name] for name in weights if name in terms]).sum(0)


class LossTerms:
    """What one batch needs, computed once, and only what the weights ask for.

    Args:
        model: A `DiSaForImageClassification`.
        pixel_values: (B, 3, H, W).
        texts: Prompted features of the classes, (K, D).
        class_names: The classes of the call, or None for those of the configuration.
        has_ids: Whether they were given as tokens, so that there are no frozen features of them.
    """

    def __init__(
        self,
        model: Any,
        pixel_values: Tensor,
        texts: Tensor,
        class_names: Sequence[str] | None,
        *,
        has_ids: bool,
    ) -> None:
        self.model, self.config = model, model.config
        self.pixels, self.texts = pixel_values, texts
        self._names, self._has_ids = class_names, has_ids
        self._labels: Tensor | None = None
        self._frozen: Tensor | None = None
        self._scores: Tensor | None = None
        self._keep: Tensor | None = None
        self._grid: tuple[int, int] | None = None
        self._full: Tensor | None = None
        self._masked: Tensor | None = None

    def set_labels(self, labels: Tensor) -> None:
        """Take the labels.

        Raises:
            TypeError: They are no whole numbers.
            ValueError: Another number than there are pictures, some that are no class, a single
                class, or classes as tokens where frozen texts are needed.
        """
        count = len(self.texts)
        if count == 1:
            raise ValueError("There is only one class; give at least two.")
        if not isinstance(labels, Tensor) or labels.shape != self.pixels.shape[:1]:
            shape = tuple(getattr(labels, "shape", ())) or type(labels).__name__
            raise ValueError(
                f"labels must be a tensor of one number per picture, ({len(self.pixels)},), "
                f"got {shape}."
            )
        if labels.is_floating_point() or labels.dtype == torch.bool:
            raise TypeError(f"labels must be whole numbers (class indices), got {labels.dtype}.")
        labels = labels.long()
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= count:
            raise ValueError(
                f"labels must be in [0, {count}), one index for each of the {count} classes, "
                f"got {low} to {high}."
            )
        config = self.config
        if self._has_ids and (config.sr_weight or config.cir_weight or config.text_l1_weight):
            raise ValueError(
                "These losses need frozen texts, which classes given as input_ids do not "
                "have; give class_names."
            )
        prototypes = self.model.prototypes
        if config.lambda_dir and (prototypes is None or len(prototypes) != count):
            have = "none" if prototypes is None else f"{len(prototypes)}"
            raise ValueError(
                f"The directional term needs a prototype of each of the {count} classes, but "
                f"there are {have}; call set_prototypes(compute_prototypes(...)), or set "
                "lambda_dir=0."
            )
        self._labels = labels

    def mask(
        self, ratio: float | None, frozen_embeds: Tensor | None, scores: Tensor | None
    ) -> None:
        """Make the frozen pass, and choose the patches that the masked pass sees.

        Raises:
            ValueError: A share out of its range, or features and scores of another shape.
        """
        config = self.config
        self._check_given(frozen_embeds, scores)
        if ratio is None:
            ratio = 0.0 if config.mask_schedule == "none" else config.mask_ratio
        elif not 0 <= ratio < 1:
            raise ValueError(f"mask_ratio must be at least 0 and below 1, got {ratio}.")
        is_masked = ratio > 0 and bool(config.cir_weight or config.single_pass)
        needs_scores = is_masked and scores is None
        kind = config.saliency
        is_drawn = kind == "random" and needs_scores
        needs_frozen = bool(config.sr_weight or config.cir_weight or config.image_l1_weight)
        self._frozen = frozen_embeds
        if (needs_frozen and frozen_embeds is None) or (needs_scores and not is_drawn):
            features = self._frozen_pass(kind if needs_scores else "random")
            self._frozen = F.normalize(features.image_embeds, dim=-1)
            if needs_scores:
                scores = self._scores_of(kind, features, self._labels)
        elif is_drawn:
            scores = torch.rand(
                len(self.pixels), self._grid_of_pixels()[0], device=self.pixels.device
            )
        if is_masked and scores is not None:
            self._scores = scores
            self._keep = kept_patches(scores, ratio)

    def _check_given(self, frozen_embeds: Tensor | None, scores: Tensor | None) -> None:
        count, (rows, columns) = len(self.pixels), self._grid_of_pixels()[1]
        size = self.config.base_config["projection_dim"]
        given = {
            "frozen_embeds": (frozen_embeds, (count, size)),
            "patch_scores": (scores, (count, rows * columns)),
        }
        for name, (value, shape) in given.items():
            if value is not None and tuple(value.shape) != shape:
                raise ValueError(f"{name} must have shape {shape}, got {tuple(value.shape)}.")

    def prompted_images(self) -> Tensor:
        """Prompted features of length 1, (B, D); of masked pictures with `single_pass`."""
        if self.config.single_pass and self._keep is not None:
            return self._masked_images()
        if self._full is None:
            self._full = self._prompted(None)
        return self._full

    def losses(self, logits: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, (), and each term, (B,), or () where no picture owns it."""
        config, labels = self.config, self._labels
        assert labels is not None
        images, scale = self.prompted_images(), self.model._scale()
        found = {"cross_entropy": F.cross_entropy(logits, labels, reduction="none")}
        frozen_texts = None
        if config.sr_weight or config.cir_weight or config.text_l1_weight:
            frozen_texts = self.model.encode_classes(self._names, prompted=False)
        if config.sr_weight:
            assert self._frozen is not None and frozen_texts is not None
            target = cosine_logits(self._frozen, frozen_texts, scale)
            found["score_regularisation"] = score_regularisation(
                target, logits, config.kl_reduction
            )
        if config.cir_weight:
            assert self._frozen is not None and frozen_texts is not None
            masked = images if self._keep is None else self._masked_images()
            left = cosine_logits(masked, frozen_texts, scale)
            right = cosine_logits(self._frozen, self.texts, scale)
            found["cross_interactive"] = cross_interactive(
                left, right, config.cir_stop_grad, config.kl_reduction
            )
        if config.lambda_dir:
            prototypes = self.model.prototypes.detach()
            found["directional"] = directional(
                images, prototypes[labels], prototypes.mean(0), config.direction
            )
        if config.image_l1_weight:
            assert self._frozen is not None
            found["image_l1"] = (images.float() - self._frozen.float()).abs().mean(-1)
        loss = picture_loss(config, found).mean()
        if config.text_l1_weight:
            assert frozen_texts is not None
            found["text_l1"] = (self.texts.float() - frozen_texts.float()).abs().mean()
            loss = loss + config.text_l1_weight * found["text_l1"]
        return loss, found

    def keep_mask(self) -> Tensor | None:
        """Patches that the masked pass saw, bool (B, N)."""
        if self._keep is None or self._scores is None:
            return None
        seen = torch.zeros_like(self._scores, dtype=torch.bool)
        return seen.scatter(1, self._keep, value=True)

    def saliency(self) -> Tensor | None:
        """The map that the mask was made of, (B, h, w)."""
        if self._scores is None:
            return None
        return shown_map(self._scores.float(), self._grid_of_pixels()[1])

    def saliency_of(self, classes: Tensor) -> Tensor:
        """The map of one class of each picture, (B, h, w)."""
        kind = self.config.saliency
        features = self._frozen_pass(kind)
        return shown_map(self._scores_of(kind, features, classes), features.grid)

    @torch.no_grad()
    def _frozen_pass(self, kind: str) -> ImageFeatures:
        clip = self.model.base_model_of_prompts
        return encode_image(clip, self.pixels, **needs_of(kind))

    @torch.no_grad()
    def _scores_of(self, kind: str, features: ImageFeatures, classes: Tensor | None) -> Tensor:
        own = None
        if kind not in ("cls", "random"):
            if self._has_ids:
                raise ValueError(
                    "This map needs frozen texts, which classes given as input_ids do not "
                    "have; give class_names, or set saliency='cls'."
                )
            own = self.model.encode_classes(self._names, prompted=False)[classes]
        return patch_scores(kind, features, own, self.config.saliency_temperature)

    def _masked_images(self) -> Tensor:
        if self._masked is None:
            self._masked = self._prompted(self._keep)
        return self._masked

    def _prompted(self, keep: Tensor | None) -> Tensor:
        features = encode_image(
            self.model.base_model_of_prompts,
            self.pixels,
            self.model.vision_prompts,
            keep=keep,
            mask_mode=self.config.mask_mode,
        )
        return F.normalize(features.image_embeds, dim=-1)

    def _grid_of_pixels(self) -> tuple[int, tuple[int, int]]:
        if self._grid is None:
            side = self.config.base_config["patch_size"]
            self._grid = (self.pixels.shape[2] // side, self.pixels.shape[3] // side)
        return self._grid[0] * self._grid[1], self._grid
