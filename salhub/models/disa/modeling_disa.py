"""DiSa: learned vectors among the tokens of a frozen CLIP, and the losses that they descend."""

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.utils import ModelOutput

from salhub.errors import check_choice
from salhub.modeling import refuse_broken_weights
from salhub.models.disa.class_features import ClassFeatures
from salhub.models.disa.class_texts import query_tokens
from salhub.models.disa.configuration_disa import Saliency
from salhub.models.disa.loss_terms import LossTerms
from salhub.models.disa.losses import class_prototypes, cosine_logits
from salhub.models.disa.prompted_classifier import PromptedClassifier
from salhub.models.disa.prompted_clip import encode_image, encode_text
from salhub.models.disa.saliency_masking import needs_of, patch_scores, shown_map

logger = logging.getLogger(__name__)

# Normalised pixels of CLIP stay below 3; beyond this they are still in 0..255.
_SUSPICIOUS_PIXEL = 20.0


@dataclass
class DiSaOutput(ModelOutput):
    """What a call gives.

    Args:
        loss: The weighted sum of the terms, (), where there are labels.
        logits: Cosines of pictures and classes over the temperature, float32 (B, K).
        image_embeds: Prompted features of length 1, (B, D).
        text_embeds: Prompted features of the classes, of length 1, (K, D).
        saliency: How much each patch matters for the class, float32 (B, h, w) in [0, 1], where it
            was asked for or a mask was made.
        keep_mask: Patches that the masked pass saw, bool (B, h * w), where there was one.
        losses: Term -> its mean, () each; or one number a picture, (B,), where that was asked for.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    saliency: Tensor | None = None
    keep_mask: Tensor | None = None
    losses: dict[str, Tensor] | None = None


class DiSaForImageClassification(ClassFeatures):
    """A frozen CLIP with learned prompts in both encoders.

    Only the prompts are saved; the CLIP is loaded by its name, or given as `base_model`, so that
    many sets of prompts can share one. You can change the classes at any time. Without labels, no
    loss is computed: the features of the classes are kept, so a call costs one pass of the CLIP
    with a few more tokens.

    Example:
        >>> model = DiSaForImageClassification.from_base(
        ...     "openai/clip-vit-base-patch16", class_names=["cat", "dog"]
        ... )  # doctest: +SKIP
        >>> model(pixel_values).logits.shape  # doctest: +SKIP
        torch.Size([1, 2])

    Source: Alipour Talemi et al. 2025 (arXiv 2505.19373). `DiSaConfig` marks what comes from the
    paper.
    """

    def encode_images(self, pixel_values: Tensor, *, prompted: bool = True) -> Tensor:
        """Features of pictures, of length 1, (B, D), by the prompted or the frozen encoder."""
        prompts = self.vision_prompts if prompted else None
        pixels = self._checked_pixels(pixel_values)
        features = encode_image(self.base_model_of_prompts, pixels, prompts)
        return F.normalize(features.image_embeds, dim=-1)

    @torch.no_grad()
    def zero_shot_logits(
        self, pixel_values: Tensor, class_names: Sequence[str] | None = None
    ) -> Tensor:
        """Scores of the frozen CLIP, without prompts, for comparison, float32 (B, K)."""
        texts = self.encode_classes(class_names, prompted=False)
        images = self.encode_images(pixel_values, prompted=False)
        return cosine_logits(images, texts, self._scale())

    @torch.no_grad()
    def saliency_map(
        self,
        pixel_values: Tensor,
        text: str | Sequence[str],
        kind: Saliency | None = None,
        class_names: Sequence[str] | None = None,
    ) -> Tensor:
        """How much each patch has to do with a text, float32 (B, h, w) in [0, 1].

        It is the map that masks are made of in training. The frozen CLIP makes it, so that it is
        the same for all prompts.

        Args:
            pixel_values: (B, 3, H, W).
            text: A class or any other words; one for all pictures, or one for each.
            kind: As `DiSaConfig.saliency`, which is the default.
            class_names: The classes, whose maps are made by all their templates, as in training;
                those of the configuration by default.

        Raises:
            ValueError: Another number of texts than pictures, or no such kind.
        """
        kind = self.config.saliency if kind is None else kind
        check_choice("kind", kind, get_args(Saliency))
        features = encode_image(
            self.base_model_of_prompts, self._checked_pixels(pixel_values), **needs_of(kind)
        )
        queries = [text] * len(pixel_values) if isinstance(text, str) else list(text)
        if len(queries) != len(pixel_values):
            raise ValueError(
                f"Got {len(pixel_values)} pictures and {len(queries)} texts; give one text "
                "for all pictures, or one for each."
            )
        names = list(class_names or self.config.class_names or ())
        own = {query: self._query(query, names) for query in dict.fromkeys(queries)}
        texts = torch.cat([own[query] for query in queries])
        scores = patch_scores(kind, features, texts, self.config.saliency_temperature)
        return shown_map(scores, features.grid)

    def _query(self, text: str, names: list[str]) -> Tensor:
        """Frozen features of a text, (1, D): of a class as in training, of others as they are."""
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"A map needs a text, got {text!r}.")
        if text in names:
            return self.encode_classes(names, prompted=False)[names.index(text)][None]
        assert self.config.base_config is not None
        clip, limit = self.base_model_of_prompts, self.config.base_config["max_position_embeddings"]
        ids, _ = query_tokens(self.tokenizer, text, limit)
        return encode_text(clip, ids.to(clip.device))

    @torch.no_grad()
    def compute_prototypes(
        self, batches: Iterable[tuple[Tensor, Tensor]], num_classes: int | None = None
    ) -> Tensor:
        """Mean frozen features of the pictures of each class, float32 (K, D).

        Args:
            batches: Pairs of pixel values (B, 3, H, W) and labels (B,).
            num_classes: K; that of the configuration by default.

        Raises:
            ValueError: A class has no picture, or there is no batch.
        """
        pairs = [(self.encode_images(one, prompted=False).cpu(), own.cpu()) for one, own in batches]
        if not pairs:
            raise ValueError("There are no batches of pictures for prototypes; give at least one.")
        features = torch.cat([features for features, _ in pairs])
        return self.prototypes_of(features, torch.cat([labels for _, labels in pairs]), num_classes)

    def prototypes_of(
        self, features: Tensor, labels: Tensor, num_classes: int | None = None
    ) -> Tensor:
        """The same of frozen features (N, D) that are there already."""
        count = num_classes or len(self.config.class_names or ())
        return class_prototypes(features, labels, count)

    def set_prototypes(self, prototypes: Tensor | None) -> None:
        """Set what the directional term turns features to, (K, D); they are saved with the prompts.

        Args:
            prototypes: By `compute_prototypes`; None to forget them.

        Raises:
            ValueError: They have another shape.
        """
        assert self.config.base_config is not None
        size = self.config.base_config["projection_dim"]
        if prototypes is not None and (
            not isinstance(prototypes, Tensor)
            or prototypes.ndim != 2
            or prototypes.shape[1] != size
        ):
            shape = tuple(getattr(prototypes, "shape", ())) or type(prototypes).__name__
            raise ValueError(f"prototypes must be a tensor (classes, {size}), got {shape}.")
        self.config.num_prototypes = 0 if prototypes is None else len(prototypes)
        self.prototypes = (
            None if prototypes is None else prototypes.detach().to(self.device, self.dtype)
        )

    @torch.no_grad()
    def export_classifier(self, class_names: Sequence[str] | None = None) -> PromptedClassifier:
        """A plain classifier of fixed classes, whose texts have become a matrix.

        Args:
            class_names: The classes; those of the configuration by default.

        Returns:
            A module that shares the image encoder; its `export_onnx(path)` writes it as a file.
        """
        names = list(class_names or self.config.class_names or ())
        weight = self._scale() * self.encode_classes(class_names).float()
        clip = self.base_model_of_prompts
        return PromptedClassifier(clip, self.vision_prompts, weight.to(self.dtype), names).eval()

    def _scale(self) -> Tensor:
        return self.base_model_of_prompts.logit_scale.detach().float().exp()

    def _checked_pixels(self, pixel_values: Any) -> Tensor:
        side = self.base_model_of_prompts.vision_model.config.patch_size
        if not isinstance(pixel_values, Tensor) or (
            pixel_values.ndim != 4 or pixel_values.shape[1] != 3 or not len(pixel_values)
        ):
            shape = tuple(getattr(pixel_values, "shape", ())) or type(pixel_values).__name__
            raise ValueError(
                f"pixel_values: expected (B, 3, H, W), got {shape}; prepare pictures with "
                "the processor, which turns a single picture into a batch of one."
            )
        if not pixel_values.is_floating_point():
            raise TypeError(
                f"pixel_values must be floating point, got {pixel_values.dtype}; prepare pictures "
                "with the processor."
            )
        height, width = pixel_values.shape[2:]
        if min(height, width) < side:
            raise ValueError(
                f"pixel_values are of {height} x {width} pixels, but this CLIP has patches "
                f"of {side} x {side}; prepare pictures with the processor, which enlarges "
                "them."
            )
        low, high = (float(one) for one in pixel_values.detach().aminmax())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(
                "pixel_values contain NaN or infinite values; check how the pictures were prepared."
            )
        if high > _SUSPICIOUS_PIXEL:
            logger.warning(
                "pixel_values range from %.3g to %.3g, so they do not look normalized; "
                "prepare pictures with the processor of the model.", low, high,
            )  # fmt: skip
        return pixel_values

    # --- the call ---------------------------------------------------------------------------------

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        input_ids: Tensor | None = None,
        class_names: Sequence[str] | None = None,
        return_saliency: bool = False,
        output_losses: Literal["samples"] | None = None,
        *,
        mask_ratio: float | None = None,
        frozen_embeds: Tensor | None = None,
        patch_scores: Tensor | None = None,
    ) -> DiSaOutput:
        """Score pictures for classes, and with labels the losses of DiSa.

        Args:
            pixel_values: (B, 3, H, W), prepared by the processor of the base.
            labels: Places among the classes, int64 (B,).
            input_ids: Tokens of the classes in place of names, (K, L), whose positions 1 to n are
                taken by the prompts; such classes have no terms that need frozen texts.
            class_names: K classes; those of the configuration by default.
            return_saliency: Give `saliency`, of the label, or else of the likeliest class.
            output_losses: "samples" for losses of each picture instead of means.
            mask_ratio: Share of hidden patches in place of the configuration's, for schedules.
            frozen_embeds: Frozen features of length 1 of these pictures, (B, D), to save that pass.
            patch_scores: What patches are ranked by, (B, N), in place of the map.

        Raises:
            TypeError: Pixels that are not floating point, or labels that are no whole numbers.
            ValueError: Pictures, labels or classes that do not fit, or NaN.

        Source: Alipour Talemi et al. 2025 (arXiv 2505.19373).
        """
        pixel_values = self._checked_pixels(pixel_values)
        has_classes = any(x is not None for x in (class_names, input_ids, self.config.class_names))
        if labels is not None and not has_classes:
            raise ValueError(
                "labels are class indices, but there are no classes; give class_names=..., "
                "or call set_classes(...) first."
            )
        if input_ids is not None:
            texts = F.normalize(self._prompted_text(input_ids).float(), dim=-1).to(self.dtype)
        else:
            texts = self.encode_classes(class_names)
        terms = LossTerms(self, pixel_values, texts, class_names, has_ids=input_ids is not None)
        if labels is not None:
            terms.set_labels(labels)
            terms.mask(mask_ratio, frozen_embeds, patch_scores)
        images = terms.prompted_images()
        logits = cosine_logits(images, texts, self._scale())
        refuse_broken_weights(self.base_model_of_prompts, logits)
        output = DiSaOutput(logits=logits, image_embeds=images, text_embeds=texts)
        if labels is not None:
            output.loss, losses = terms.losses(logits)
            is_each = output_losses == "samples"
            output.losses = losses if is_each else {k: v.mean() for k, v in losses.items()}
            output.keep_mask, output.saliency = terms.keep_mask(), terms.saliency()
        if return_saliency and output.saliency is None:
            likeliest = logits.argmax(-1) if labels is None else labels
            output.saliency = terms.saliency_of(likeliest)
        return output
