"""Configuration of the surprise of a series."""

from salhub.configuration import SaliencyConfig, strict


@strict
class SeriesSurpriseConfig(SaliencyConfig):
    """Configuration of the surprise of a series.

    Args:
        threshold: Standard deviations from the mean at which a value stands out.
    """

    model_type = "salhub_series_surprise"

    threshold: float = 3.0

    def validate_threshold(self) -> None:
        """Nothing stands out below 0."""
        if self.threshold <= 0:
            raise ValueError(f"threshold must be above 0, got {self.threshold}.")
