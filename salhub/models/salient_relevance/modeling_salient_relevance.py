"""Salient relevance maps: context-aware saliency of layer-wise relevance, for image classifiers."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from salhub.errors import NoImageProcessorError
from salhub.explaining.modeling_explained_classifier import (
    ExplainedClassifierModel,
    refuses_unusable,
)
from salhub.hub import hub_keywords
from salhub.models.salient_relevance.class_notes import class_notes
from salhub.models.salient_relevance.configuration_salient_relevance import SalientRelevanceConfig
from salhub.models.salient_relevance.conservation_audit import ConservationAudit
from salhub.models.salient_relevance.context_aware_saliency import (
    ContextAwareSaliency,
    context_aware_saliency,
)
from salhub.models.salient_relevance.pixel_bounds import check_within, pixel_bounds
from salhub.models.salient_relevance.relevance_engine import Relevance, RelevanceEngine
from salhub.models.salient_relevance.relevance_image import against_others, relevance_image
from salhub.outputs import ImageSaliencyOutput

logger = logging.getLogger(__name__)


@dataclass
class SalientRelevanceOutput(ImageSaliencyOutput):
    """Salient relevance maps and what they were made of; (B, ...) is (B, T, ...) for T classes.

    Args:
        saliency: Attention areas (S-hat), float32 in [0, 1], (B, H, W).
        logits: Raw class scores, (B, classes).
        class_labels: The classes explained, (B,).
        degenerate: True where there is no structure and the map is all zero, (B,).
        context_saliency: The same before pixels near the foci are lifted, in [0, 1], (B, H, W).
        attended_mask: Where `saliency` exceeds the foci threshold, bool, (B, H, W).
        relevance: Relevance of every pixel and channel, float32, signed, (B, C, H, W); with
            contrast="others" the difference of two maps of mass 1.
        relevance_sum: Relevance that reached the pixels, (B,).
        start_relevance: Relevance at the logits; biases absorb most of the difference, (B,).
    """

    context_saliency: Tensor | None = None
    attended_mask: Tensor | None = None
    relevance: Tensor | None = None
    relevance_sum: Tensor | None = None
    start_relevance: Tensor | None = None


def read_logits(outputs: Any) -> Tensor:
    """Take logits out of what a classifier returns."""
    if isinstance(outputs, Tensor):
        return outputs
    return outputs.logits if hasattr(outputs, "logits") else outputs[0]


class SalientRelevanceForImageSaliency(ExplainedClassifierModel):
    """Attention areas of an image classifier: where its relevance stands out from its context.

    Layer-wise relevance propagation passes the score of a class back to the pixels; context-aware
    saliency is then computed on the picture of that relevance. Relevance runs through a
    private float32 copy of the classifier with batch normalization folded in, made at the first
    call and again when a weight changes. The copy shares all unchanged weights, so a vision
    transformer is in memory only once; the classifier itself is never changed.

    Example:
        >>> import torch
        >>> from salhub import SalientRelevanceForImageSaliency
        >>> model = SalientRelevanceForImageSaliency.from_classifier("salhub/efficientnet-lite0")
        >>> model(torch.zeros(1, 3, 224, 224)).saliency.shape
        torch.Size([1, 224, 224])

    Source: Li, Tian, Mueller and Chen, "Beyond saliency", 2019 (arXiv 1712.08268).
    """

    config: SalientRelevanceConfig

    def class_notes(self, similarity: float | None, label: str) -> list[str]:
        """As of every explainer; by the measured number, so the arguments play no part."""
        # What is set against the other classes does depend on the class.
        is_contrasted = self.config.contrast != "none" or self.config.start == "softmax_contrast"
        return [] if is_contrasted else list(class_notes())

    def __init__(self, config: SalientRelevanceConfig, backbone: nn.Module | None = None):
        super().__init__(config, backbone)
        self._engine = RelevanceEngine(read_logits)

    @classmethod
    def from_classifier(
        cls,
        classifier: str | os.PathLike | nn.Module,
        *,
        image_processor: Any = None,
        **settings: Any,
    ) -> "SalientRelevanceForImageSaliency":
        """Wrap a classifier of your own.

        Args:
            classifier: A folder, a name, a transformers image classifier, or any module that maps
                (B, 3, H, W) to logits.
            image_processor: Its image processor, which knows the lowest and highest pixel that rule
                "z_box" needs; found by itself for a classifier given by name.
            **settings: As of every explainer: fields of the configuration, and the keywords of
                loading a classifier by name.

        Raises:
            ValueError: No trained classification head, an unknown setting, or an image processor
                that cannot be read.

        Example:
            >>> from salhub import SalientRelevanceForImageSaliency
            >>> model = SalientRelevanceForImageSaliency.from_classifier(
            ...     "salhub/efficientnet-lite0", preset="epsilon_plus"
            ... )
        """
        if image_processor is None and not isinstance(classifier, nn.Module):
            image_processor = _image_processor_of(classifier, **hub_keywords(settings))
        model = super().from_classifier(classifier, **settings)
        model.adopt_image_processor(image_processor)
        return model

    def adopt_image_processor(self, image_processor: Any) -> None:
        """Take the bounds of the pixels from an image processor, unless they are already set."""
        if image_processor is None or self.config.input_low is not None:
            return
        bounds = pixel_bounds(image_processor)
        if bounds is not None:
            # Processors count three colours, also of a grey network.
            low, high = (edge[: self.num_channels] for edge in bounds)
            self.config.input_low, self.config.input_high = low, high

    def forward(
        self,
        pixel_values: Tensor,
        class_labels: Tensor | Sequence[int] | int | None = None,
    ) -> SalientRelevanceOutput:
        """Explain pictures.

        Args:
            pixel_values: Pictures from the classifier's image processor, (B, 3, H, W).
            class_labels: None for the most likely class; one class for all; one a picture, (B,);
                or several a picture, (B, T), which share one forward pass.

        Returns:
            `SalientRelevanceOutput`.

        Raises:
            TypeError: pixel_values or class_labels of the wrong kind.
            ValueError: A wrong shape or class, pixels outside their bounds, or a layer without a
                relevance rule.
        """
        found = self._relevance(pixel_values, class_labels)
        relevance = found.relevance
        context = self._attend(relevance.flatten(0, 1))
        shape = relevance.shape[:2]
        several = class_labels is not None and torch.as_tensor(class_labels).ndim == 2
        parts = {
            "saliency": context.saliency.unflatten(0, shape),
            "class_labels": found.class_labels,
            "degenerate": context.degenerate.unflatten(0, shape),
            "context_saliency": context.context_saliency.unflatten(0, shape),
            "attended_mask": context.attended_mask.unflatten(0, shape),
            "relevance": relevance,
            "relevance_sum": relevance.sum(dim=(2, 3, 4)),
            "start_relevance": found.start,
        }
        if not several:
            parts = {name: part[:, 0] for name, part in parts.items()}
        self._warn(found, context.degenerate)
        return SalientRelevanceOutput(logits=found.logits, **parts)

    @refuses_unusable
    def relevance(
        self, pixel_values: Tensor, class_labels: Tensor | Sequence[int] | int | None = None
    ) -> Relevance:
        """The first stage by itself: relevance of every pixel.

        Args:
            pixel_values: As in `forward`.
            class_labels: As in `forward`.

        Returns:
            `Relevance`: relevance (B, T, C, H, W), start (B, T), logits (B, classes) and
            class_labels (B, T), always with the axis of classes.
        """
        return self._relevance(pixel_values, class_labels)

    def _relevance(self, pixel_values: Tensor, class_labels: Any) -> Relevance:
        labels = self._check_inputs(pixel_values, class_labels)
        found = self._propagate(pixel_values, labels, with_others=self.config.contrast == "others")
        if found.others is None:
            return found
        return found._replace(relevance=against_others(found.relevance, found.others))

    @refuses_unusable
    def conservation_audit(
        self, pixel_values: Tensor, class_labels: Tensor | Sequence[int] | int | None = None
    ) -> list[list[ConservationAudit]]:
        """Where relevance goes, layer by layer.

        Args:
            pixel_values: As in `forward`.
            class_labels: As in `forward`.

        Returns:
            One list a picture, with one audit a class. `audit.table()` is a table of all layers:
            relevance out and in, what biases absorbed, what stabilisers took, what is unexplained.

        Example:
            >>> import torch
            >>> from salhub import SalientRelevanceForImageSaliency
            >>> name = "salhub/efficientnet-lite0"
            >>> model = SalientRelevanceForImageSaliency.from_classifier(name)
            >>> audit = model.conservation_audit(torch.zeros(1, 3, 224, 224))[0][0]
            >>> audit.largest_accounted_error < 1e-4
            True
        """
        labels = self._check_inputs(pixel_values, class_labels)
        audits = []
        for index in range(len(pixel_values)):
            one = slice(index, index + 1)
            wanted = None if labels is None else labels[one]
            found = self._propagate(pixel_values[one], wanted, with_audit=True)
            audits.append(_read_audits(found))
        return audits

    def _check_inputs(self, pixel_values: Tensor, class_labels: Any) -> Tensor | None:
        self.config.validate()
        self.check_pixel_values(pixel_values)
        low, high = self.config.input_low, self.config.input_high
        if low is None and self.config.rules.first.name == "z_box":
            raise ValueError(
                f"preset '{self.config.preset}' uses rule 'z_box', which needs the lowest "
                "and highest possible pixel value: call "
                "model.adopt_image_processor(processor), set input_low and input_high, or "
                "choose preset='epsilon_plus'."
            )
        if low is not None:
            check_within(pixel_values, low, high)
        return self.check_class_labels(class_labels, len(pixel_values))

    def _propagate(self, pixel_values: Tensor, labels: Tensor | None, **options: Any) -> Relevance:
        device = self.device
        pixel_values = pixel_values.to(device)
        bounds = self._bounds(device)
        # One by one on a CPU, where a batch is no faster: then a picture's map does not depend, not
        # by a bit, on its companions. A threshold in the second stage would magnify that bit.
        step = 1 if device.type == "cpu" else len(pixel_values)
        found = [
            self._engine.propagate(
                self.backbone,
                pixel_values[first : first + step],
                None if labels is None else labels[first : first + step],
                self.config.rules,
                epsilon=self.config.epsilon,
                start=self._start,
                bias_relevance=self.config.bias_relevance,
                bounds=bounds,
                **options,
            )
            for first in range(0, len(pixel_values), step)
        ]
        return _join(found)

    @property
    def _start(self) -> str:
        # Scaled to mass 1, a map keeps nothing of its start but the sign, and the sign of the
        # score would turn the comparison with the other classes around.
        return self.config.start if self.config.contrast == "none" else "one"

    def _bounds(self, device: torch.device) -> tuple[Tensor, Tensor] | None:
        if self.config.input_low is None:
            return None
        low, high = (
            torch.tensor(bound, device=device, dtype=torch.float32).view(1, -1, 1, 1)
            for bound in (self.config.input_low, self.config.input_high)
        )
        return low, high

    def _attend(self, relevance: Tensor) -> ContextAwareSaliency:
        """The second stage, of relevance (N, C, H, W)."""
        config = self.config
        return context_aware_saliency(
            relevance_image(relevance, config.image_kind, config.image_levels),
            max_side=config.context_max_side,
            patch_size=config.context_patch_size,
            stride=config.context_stride,
            neighbors=config.context_neighbors,
            position_weight=config.context_position_weight,
            scales=tuple(config.context_scales),
            query_scales=tuple(config.context_query_scales),
            min_scale=config.context_min_scale,
            foci_threshold=config.foci_threshold,
            center_prior=config.use_center_prior,
        )

    def _warn(self, found: Relevance, degenerate: Tensor) -> None:
        if self._start == "logit" and bool((found.start <= 0).any()):
            logger.warning(
                "The score of an explained class is %.3g; relevance starts with the sign of "
                "the score, so the map shows evidence against the class. start='one' does "
                "not depend on the score.",
                float(found.start.min()),
            )
        if bool(degenerate.any()):
            logger.warning(
                "%d of %d relevance maps have no structure; their saliency is zero everywhere.",
                int(degenerate.sum()),
                degenerate.numel(),
            )


def _join(found: list[Relevance]) -> Relevance:
    tensors = {
        name: None
        if getattr(found[0], name) is None
        else torch.cat([getattr(f, name) for f in found])
        for name in ("relevance", "others", "start", "logits", "class_labels")
    }
    for name in ("relevance", "others"):
        tensors[name] = None if tensors[name] is None else tensors[name].float()
    return Relevance(**tensors, ledgers=[ledger for f in found for ledger in f.ledgers])


def _read_audits(found: Relevance) -> list[ConservationAudit]:
    """Audits of one picture's classes."""
    return [
        ConservationAudit(
            int(found.class_labels[0, index]),
            float(found.start[0, index]),
            float(found.relevance[0, index].double().sum()),
            ledger.rows(),
        )
        for index, ledger in enumerate(found.ledgers)
    ]


def _image_processor_of(classifier: str | os.PathLike, **where: Any) -> Any:
    """The classifier's image processor, or None when none was saved with it."""
    from salhub.pipelines.base import load_image_processor

    try:
        return load_image_processor(classifier, **where)
    except NoImageProcessorError:
        logger.info("no image processor for %s", os.fspath(classifier))
        return None
