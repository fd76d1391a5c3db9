"""Configuration of class-conditional diffusion models that were, or can be, unlearned."""

from typing import Any

from salhub.configuration import strict
from salhub.models.salun.configuration_salun import UnlearnedConfig


@strict
class SalUnDiffusionConfig(UnlearnedConfig):
    """Configuration of a class-conditional diffusion model that was, or can be, unlearned.

    Args:
        id2label: Class names by class index, one for each class of the network inside.

    Raises:
        ValueError: More or fewer names than classes.

    Example:
        >>> SalUnDiffusionConfig().backbone_config.model_type
        'salhub_conditional_unet'
    """

    model_type = "salhub_salun_diffusion"
    default_backbone = "salhub_conditional_unet"
    # Their number is that of the network inside.
    inherited_fields = frozenset({"id2label", "label2id"})

    def __post_init__(self, **kwargs: Any) -> None:
        """Without names, the classes are those of the network inside."""
        is_named = self.id2label is not None or kwargs.get("num_labels") is not None
        super().__post_init__(**kwargs)
        if not is_named:
            self.num_labels = self.backbone_config.num_classes

    def validate_class_names(self) -> None:
        """There is one name a class."""
        if len(self.id2label) != self.backbone_config.num_classes:
            raise ValueError(
                f"id2label must name {self.backbone_config.num_classes} classes, as many as "
                f"the network has, got {len(self.id2label)}."
            )
