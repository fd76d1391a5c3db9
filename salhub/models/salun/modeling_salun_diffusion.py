"""A class-conditional diffusion model that was, or can be, unlearned."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from salhub.backbones.conditional_unet.modeling_conditional_unet import ConditionalUNetForDiffusion
from salhub.backbones.conditional_unet.sampling import sample as draw_sample
from salhub.modeling import SaliencyPreTrainedModel
from salhub.models.salun.configuration_salun_diffusion import SalUnDiffusionConfig


@dataclass
class SalUnDiffusionOutput(ModelOutput):
    """What the diffusion model returns.

    Args:
        loss: Mean squared error against the noise, (); with `noise` only.
        noise_pred: The noise it sees in the sample, (B, C, H, W).
    """

    loss: Tensor | None = None
    noise_pred: Tensor | None = None


class SalUnForConditionalDiffusion(SaliencyPreTrainedModel):
    """A class-conditional diffusion model with a record of what it was made to forget.

    Example:
        >>> model = SalUnForConditionalDiffusion.from_pretrained("salhub/salun-ddpm-mnist")
        >>> images = model.generate(torch.arange(10))  # doctest: +SKIP

    Source: Fan et al. 2024 (arXiv 2310.12508), section 4; classifier-free guidance as in Ho and
    Salimans 2022 (arXiv 2207.12598).
    """

    config: SalUnDiffusionConfig
    base_model_prefix = "backbone"
    main_input_name = "sample"
    input_modalities = ["image"]

    def __init__(self, config: SalUnDiffusionConfig) -> None:
        super().__init__(config)
        self.backbone = ConditionalUNetForDiffusion(config.backbone_config)
        self.post_init()

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        class_labels: Tensor,
        guidance_scale: float = 0.0,
        noise: Tensor | None = None,
    ) -> SalUnDiffusionOutput:
        """Predict the noise in noisy pictures; see `ConditionalUNetForDiffusion.forward`.

        Args:
            sample: Noisy pictures, whose clean ones are in [-1, 1], (B, C, H, W).
            timestep: Step of the noise process of each, int64 (B,).
            class_labels: Class of each, or the number of classes for none, int64 (B,).
            guidance_scale: w of (1 + w) eps(class) - w eps(none), at least 0.
            noise: What the prediction should be, (B, C, H, W); for the loss.

        Raises:
            TypeError, ValueError: As of the U-Net inside; and noise of another shape.
        """
        if noise is not None and noise.shape != sample.shape:
            raise ValueError(
                f"noise must have the shape of the sample, {tuple(sample.shape)}, got "
                f"{tuple(noise.shape)}."
            )
        predicted = self.backbone(sample, timestep, class_labels, guidance_scale).noise_pred
        loss = None if noise is None else (predicted - noise).square().mean()
        return SalUnDiffusionOutput(loss=loss, noise_pred=predicted)

    def generate(
        self,
        class_labels: Tensor | Sequence[int],
        num_steps: int = 50,
        guidance_scale: float = 2.0,
        eta: float = 0.0,
        generator: torch.Generator | None = None,
        progress: bool = False,
    ) -> Tensor:
        """Draw pictures of the given classes; see `sample` of the U-Net.

        Args:
            class_labels: Class of each picture, (B,).
            num_steps: Steps from noise to picture.
            guidance_scale: How far to go beyond the class's own prediction, at least 0.
            eta: 0 for DDIM, 1 for the full noise of DDPM.
            generator: Of the noise; torch's default unless given.
            progress: Whether to show a bar.

        Returns:
            float32 pictures in [-1, 1], (B, C, H, W).

        Raises:
            TypeError, ValueError: An argument out of its range.
        """
        labels = torch.as_tensor(class_labels)
        return draw_sample(
            self.backbone, labels, num_steps, guidance_scale, eta, generator, progress
        )

    def _init_weights(self, module: nn.Module) -> None:
        # The network inside has initialised itself, on the meta device too.
        self.backbone._init_weights(module)
