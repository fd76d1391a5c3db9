"""How far each value of a series is from those that the model has seen."""

from dataclasses import dataclass

import torch
from salhub.models.series_surprise.configuration_series_surprise import SeriesSurpriseConfig
from torch import Tensor, nn
from transformers.utils import ModelOutput

from salhub.modeling import SaliencyPreTrainedModel


@dataclass
class SeriesSurpriseOutput(ModelOutput):
    """What `SeriesSurpriseModel` gives.

    Args:
        saliency: (B, N), standard deviations from the mean.
        stands_out: bool (B, N), whether that is more than the threshold.
    """

    saliency: Tensor | None = None
    stands_out: Tensor | None = None


class SeriesSurpriseModel(SaliencyPreTrainedModel):
    """The standard score of each value."""

    config: SeriesSurpriseConfig

    def __init__(self, config: SeriesSurpriseConfig) -> None:
        super().__init__(config)
        self.mean = nn.Parameter(torch.zeros(()), requires_grad=False)
        self.deviation = nn.Parameter(torch.ones(()), requires_grad=False)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if module is self:
            nn.init.zeros_(self.mean)
            nn.init.ones_(self.deviation)

    @torch.no_grad()
    def forward(self, values: Tensor) -> SeriesSurpriseOutput:
        """Score series of equal length.

        Args:
            values: (B, N), of at least one value.

        Raises:
            ValueError: Another shape, or a value that is not finite.
        """
        if values.ndim != 2 or not values.numel():
            raise ValueError(f"values must have shape (B, N), got {tuple(values.shape)}.")
        if not values.isfinite().all():
            raise ValueError("values must be finite; leave out what was not measured.")
        saliency = ((values.float() - self.mean.float()) / self.deviation.float()).abs()
        return SeriesSurpriseOutput(saliency, saliency > self.config.threshold)
