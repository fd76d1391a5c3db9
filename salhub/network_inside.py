"""Configuration of models that hold a network of somebody else's."""

from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig

from salhub.config_fields import check_fields
from salhub.configuration import SaliencyConfig, strict
from salhub.errors import did_you_mean


@strict
class NetworkInsideConfig(SaliencyConfig):
    """Base of the configurations of models that hold a network of somebody else's.

    Args:
        backbone_config: Configuration of the network inside.
    """

    sub_configs = {"backbone_config": AutoConfig}
    # The `model_type` of the network where nothing is said of it; None where it may be missing.
    default_backbone: ClassVar[str | None] = None

    backbone_config: dict | PreTrainedConfig | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Turn a dictionary read from config.json into a configuration object."""
        found = self.backbone_config
        if found is None and self.default_backbone is not None:
            found = {}
        if isinstance(found, dict):
            self.backbone_config = self._network_of(dict(found))
        super().__post_init__(**kwargs)

    def _network_of(self, fields: dict[str, Any]) -> PreTrainedConfig:
        check_fields(fields, "backbone_config")
        model_type = fields.pop("model_type", self.default_backbone)
        if model_type is None:
            raise ValueError(
                "backbone_config has no 'model_type'; give a transformers configuration, or build "
                "the model with from_classifier(...)."
            )
        # Imported when asked for: it fills up while transformers is imported, and this file is
        # read meanwhile.
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        if model_type not in CONFIG_MAPPING:
            raise ValueError(
                f"backbone_config has the model_type '{model_type}', which transformers does not "
                f"know.{did_you_mean(model_type, CONFIG_MAPPING.keys())}"
            )
        try:
            return AutoConfig.for_model(model_type, **fields)
        except Exception as error:
            text = " ".join(str(error.__cause__ or error).split())
            raise ValueError(
                f"backbone_config is not a configuration of a {model_type}: {text}"
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, without the folder the network was once loaded from."""
        fields = super().to_dict()
        if isinstance(fields.get("backbone_config"), dict):
            fields["backbone_config"].pop("_name_or_path", None)
        return fields
