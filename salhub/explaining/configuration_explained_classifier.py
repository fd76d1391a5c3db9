"""Configuration of the methods that explain a classifier."""

from salhub.configuration import strict
from salhub.network_inside import NetworkInsideConfig


@strict
class ExplainedClassifierConfig(NetworkInsideConfig):
    """Configuration of a method that explains a classifier.

    Args:
        backbone_config: Configuration of the classifier, when its weights are saved with the model.
        backbone: Name of the classifier, a folder or a Hub repository, when they are not.
        backbone_revision: Revision of `backbone`.
        backbone_subfolder: Folder in the repository of `backbone`.
    """

    loaded_fields = frozenset({"backbone", "backbone_revision", "backbone_subfolder"})

    backbone: str | None = None
    backbone_revision: str | None = None
    backbone_subfolder: str | None = None

    @property
    def backbone_place(self) -> dict[str, str]:
        """The keywords of loading that find `backbone` on the Hub."""
        place = {"revision": self.backbone_revision, "subfolder": self.backbone_subfolder}
        return {key: value for key, value in place.items() if value is not None}
