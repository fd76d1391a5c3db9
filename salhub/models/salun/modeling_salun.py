"""An image classifier that was, or can be, unlearned."""

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from salhub.modeling import SaliencyPreTrainedModel
from salhub.models.salun.configuration_salun import SalUnConfig
from salhub.ops.values import is_any
from salhub.saving import unwrapped

# Normalised pixels rarely pass 3.
_LARGEST_PIXEL = 20.0


@dataclass
class SalUnClassifierOutput(ModelOutput):
    """What the classifier returns.

    Args:
        loss: Cross-entropy, the mean over the batch, (); with labels only.
        logits: (B, num_labels).
        hidden_states: Those of the network inside, where it was asked for them.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class SalUnForImageClassification(SaliencyPreTrainedModel):
    """An image classifier, any of transformers', with a record of what it was made to forget.

    Example:
        >>> model = SalUnForImageClassification.from_pretrained("salhub/salun-resnet8-cifar10")
        >>> model.config.unlearn_method, model.config.forget  # doctest: +SKIP
        ('salun', 'class:cat')

    Source: Fan et al. 2024 (arXiv 2310.12508).
    """

    config: SalUnConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    input_modalities = ["image"]

    def __init__(self, config: SalUnConfig) -> None:
        # Importing the Auto class makes salhub register this one, which must exist by then.
        from transformers import AutoModelForImageClassification

        super().__init__(config)
        self.backbone = AutoModelForImageClassification.from_config(
            config.backbone_config, trust_remote_code=False
        )
        self.post_init()

    @classmethod
    def from_classifier(cls, classifier: PreTrainedModel) -> Self:
        """Wrap a trained classifier; it is used as it is, and not copied.

        Args:
            classifier: An image classifier of transformers.

        Example:
            >>> from salhub import CifarResNetConfig, CifarResNetForImageClassification
            >>> network = CifarResNetForImageClassification(CifarResNetConfig(num_labels=10))
            >>> SalUnForImageClassification.from_classifier(network).config.num_labels
            10
        """
        classifier = unwrapped(classifier)
        model = cls(SalUnConfig(backbone_config=classifier.config))
        model.backbone = classifier
        return model

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> SalUnClassifierOutput:
        """Classify pictures.

        Args:
            pixel_values: Pictures prepared by the model's image processor, (B, C, H, W).
            labels: True classes in [0, num_labels), int64 (B,).
            output_hidden_states: Ask the network inside for its hidden states.

        Raises:
            TypeError, ValueError: As the network inside; pictures of bytes, 0 to 255; labels that
                are no classes.
        """
        check_normalised(pixel_values)
        # A network without hidden states to give has no such keyword.
        keywords = {"output_hidden_states": True} if output_hidden_states else {}
        output = self.backbone(pixel_values, **keywords)
        loss = None
        if labels is not None:
            check_labels(labels, output.logits)
            loss = F.cross_entropy(output.logits, labels)
        hidden_states = getattr(output, "hidden_states", None)
        return SalUnClassifierOutput(loss=loss, logits=output.logits, hidden_states=hidden_states)

    def _init_weights(self, module: nn.Module) -> None:
        # The network inside has initialised itself.
        return


def check_normalised(pixel_values: Tensor) -> None:
    """Refuse pictures whose values are those of bytes.

    Args:
        pixel_values: (B, C, H, W).

    Raises:
        ValueError: Values beyond 20, where normalised ones rarely pass 3.
    """
    pixels = pixel_values.detach()
    # Bytes are refused by the network itself.
    if pixels.is_floating_point() and is_any(pixels.abs() > _LARGEST_PIXEL):
        raise ValueError(
            f"pixel_values reach {float(pixels.abs().max()):.0f}, so they are not normalized "
            "(0 to 255); prepare pictures with the model's image processor."
        )


def check_labels(labels: Tensor, logits: Tensor) -> None:
    """Refuse labels that are not one class a row.

    Args:
        labels: To be int64 (B,).
        logits: (B, K).

    Raises:
        TypeError: Labels that are not int64, such as one-hot rows.
        ValueError: Another shape, or a class out of range, such as -100.
    """
    size, classes = logits.shape
    if labels.dtype != torch.int64:
        raise TypeError(f"labels must be class numbers, int64, got {labels.dtype}.")
    if labels.shape != (size,):
        raise ValueError(f"labels must have shape ({size},), got {tuple(labels.shape)}.")
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(
            f"labels must be classes 0 to {classes - 1}, got {int(labels.min())} to "
            f"{int(labels.max())}."
        )
