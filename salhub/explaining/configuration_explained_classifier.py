"""Configuration of the methods that explain a classifier."""

from typing import Any

from salhub.configuration import strict
from salhub.network_inside import NetworkInsideConfig

# Fields that say where a classifier is that is not saved with the model.
PLACE_FIELDS = ("backbone", "backbone_revision", "backbone_subfolder")


@strict
class ExplainedClassifierConfig(NetworkInsideConfig):
    """Configuration of a method that explains a classifier.

    Args:
        backbone_config: Configuration of the classifier, when its weights are saved with the model.
        backbone: Name of the classifier, a folder or a Hub repository, if its weights are not
            saved with the model.
        backbone_revision: Revision of `backbone`.
        backbone_subfolder: Folder in the repository of `backbone`.
    """

    loaded_fields = frozenset(PLACE_FIELDS)

    backbone: str | None = None
    backbone_revision: str | None = None
    backbone_subfolder: str | None = None

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As of every configuration; another classifier in place of one that is saved is refused.

        Raises:
            ValueError: The name of a classifier was given, and the model holds one.
        """
        given = [name for name in PLACE_FIELDS if kwargs.get(name) is not None]
        if given and config_dict.get("backbone_config") is not None:
            raise ValueError(
                f"{given[0]} names another classifier, but this model already contains one. "
                "To explain another classifier, use from_classifier(...), or classifier=... "
                "with the method's name."
            )
        return super().from_dict(config_dict, **kwargs)

    @property
    def backbone_place(self) -> dict[str, str]:
        """The keywords of loading that find `backbone` on the Hub."""
        place = {"revision": self.backbone_revision, "subfolder": self.backbone_subfolder}
        return {key: value for key, value in place.items() if value is not None}
