"""Configuration of the pixel gradient."""

from salhub.configuration import strict
from salhub.explaining.configuration_explained_classifier import (
    ExplainedClassifierConfig,
)


@strict
class PixelGradientConfig(ExplainedClassifierConfig):
    """Configuration of the pixel gradient.

    Args:
        order: Order of the norm over the colour channels, 1 or 2.
    """

    model_type = "salhub_pixel_gradient"

    order: int = 2

    def validate_order(self) -> None:
        """Only the sum of magnitudes and the Euclidean norm make sense here."""
        if self.order not in (1, 2):
            raise ValueError(f"order must be 1 or 2, got {self.order}.")
