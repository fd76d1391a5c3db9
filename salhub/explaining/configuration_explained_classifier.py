"""Configuration of the methods that explain a classifier."""

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from salhub.configuration import SaliencyConfig, strict


@strict
class ExplainedClassifierConfig(SaliencyConfig):
    """Configuration of a method that explains a classifier.

    Args:
        backbone_config: Configuration of the classifier, when its weights are saved with the model.
        backbone: Name of the classifier, a folder or a Hub repository, when they are not.
        backbone_revision: Revision of `backbone`.
        backbone_subfolder: Folder in the repository of `backbone`.
    """

    sub_configs = {"backbone_config": AutoConfig}
    loaded_fields = frozenset({"backbone", "backbone_revision", "backbone_subfolder"})

    backbone_config: dict | PreTrainedConfig | None = None
    backbone: str | None = None
    backbone_revision: str | None = None
    backbone_subfolder: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Turn a dictionary read from config.json into a configuration object."""
        if isinstance(self.backbone_config, dict):
            fields = dict(self.backbone_config)
            model_type = fields.pop("model_type", None)
            if model_type is None:
                raise ValueError(
                    "backbone_config has no 'model_type'; give a transformers configuration, or "
                    "build the model with from_classifier(...)."
                )
            self.backbone_config = AutoConfig.for_model(model_type, **fields)
        super().__post_init__(**kwargs)

    @property
    def backbone_place(self) -> dict[str, str]:
        """The keywords of loading that find `backbone` on the Hub."""
        place = {"revision": self.backbone_revision, "subfolder": self.backbone_subfolder}
        return {key: value for key, value in place.items() if value is not None}

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, without the folder the classifier was once loaded from."""
        fields = super().to_dict()
        if isinstance(fields.get("backbone_config"), dict):
            fields["backbone_config"].pop("_name_or_path", None)
        return fields
