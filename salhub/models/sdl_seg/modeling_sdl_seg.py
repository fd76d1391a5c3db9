"""SDL-Seg: a U-Net that sees the CT and a saliency map of the markers."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from salhub.modeling import SaliencyPreTrainedModel, refuse_broken_weights
from salhub.models.sdl_seg.configuration_sdl_seg import SDLSegConfig
from salhub.models.sdl_seg.segmentation_loss import segmentation_loss
from salhub.models.sdl_seg.sliding_window import sliding_window_logits
from salhub.models.sdl_seg.unet import UNet, as_volumes, with_context

# Flips that are averaged over: along z, along x, and along both.
_FLIPS = ((2,), (4,), (2, 4))


@dataclass
class SDLSegOutput(ModelOutput):
    """What SDL-Seg returns.

    Args:
        loss: Mean over the samples, (); where labels were given.
        logits: (B, 1, D, H, W); above 0 where foreground is likelier than not.
        encoder_hidden_states: What each level of the encoder has found, the finest first.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    encoder_hidden_states: tuple[Tensor, ...] | None = None


class SDLSegForVolumeSegmentation(SaliencyPreTrainedModel):
    """Segments a volume from its voxels and a saliency map of markers in it.

    Example:
        >>> model = SDLSegForVolumeSegmentation(SDLSegConfig())
        >>> model(torch.rand(1, 2, 8, 32, 32)).logits.shape
        torch.Size([1, 1, 8, 32, 32])

    Source:
        Kazemimoghadam et al. 2021 (arXiv 2105.02771); the sizes of the U-Net are ours.
    """

    config: SDLSegConfig
    base_model_prefix = "sdl_seg"
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    supports_gradient_checkpointing = True
    _no_split_modules = ["UNetLevel"]

    def __init__(self, config: SDLSegConfig) -> None:
        super().__init__(config)
        self.unet = UNet(config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv3d) and module.bias is not None:
            prior = self.config.foreground_prior
            init.kaiming_normal_(module.weight, mode="fan_in")
            init.constant_(module.bias, math.log(prior / (1 - prior)))
        elif isinstance(module, nn.Conv3d):
            init.kaiming_normal_(module.weight, a=0.01, mode="fan_out", nonlinearity="leaky_relu")
        elif isinstance(module, nn.InstanceNorm3d):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        else:
            PreTrainedModel._init_weights(self, module)

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Score every voxel.

        Args:
            pixel_values: The CT in [0, 1] and its saliency map, (B, C, D, H, W), whose sides are
                divisible by `config.size_steps`.
            labels: 0 and 1, (B, 1, D, H, W).
            output_hidden_states: Whether to return what the encoder has found.
            return_dict: False for a tuple.

        Returns:
            `SDLSegOutput`.

        Raises:
            ValueError: Another shape, other channels than the model has, or labels unlike them.
        """
        self._check(pixel_values, labels)
        pixels = pixel_values.to(self.dtype)
        if self.config.spatial_dims == 2:
            logits, levels = self.unet(with_context(pixels, self.config.context_slices))
            logits = as_volumes(logits, len(pixels))
            levels = (
                [as_volumes(one, len(pixels)) for one in levels] if output_hidden_states else []
            )
        else:
            logits, levels = self.unet(pixels)
        loss = None
        if labels is not None:
            loss = segmentation_loss(logits, labels, self.config.loss).mean()
        states = tuple(levels) if output_hidden_states else None
        found = SDLSegOutput(loss=loss, logits=logits, encoder_hidden_states=states)
        is_tuple = return_dict is False or (return_dict is None and not self.config.return_dict)
        return found.to_tuple() if is_tuple else found

    def _check(self, pixel_values: Tensor, labels: Tensor | None) -> None:
        expected = self.config.image_channels
        if pixel_values.ndim != 5:
            raise ValueError(
                f"pixel_values must be (B, {expected}, D, H, W), got "
                f"{tuple(pixel_values.shape)}; prepare volumes with the image processor."
            )
        if pixel_values.shape[1] != expected:
            raise ValueError(
                f"pixel_values have {pixel_values.shape[1]} channels, but this model with "
                f"saliency_kind='{self.config.saliency_kind}' needs {expected}; prepare them "
                "with a processor of the same saliency_kind."
            )
        steps = self.config.size_steps
        sides = pixel_values.shape[2:]
        if any(side % step or side == 0 for side, step in zip(sides, steps, strict=True)):
            raise ValueError(
                f"The sides (D, H, W) must be divisible by {steps}, got {tuple(sides)}; the image "
                "processor pads them."
            )
        if labels is not None and labels.shape != (len(pixel_values), 1, *sides):
            raise ValueError(
                f"labels must be {(len(pixel_values), 1, *sides)}, got {tuple(labels.shape)}."
            )

    @torch.no_grad()
    def predict(self, pixel_values: Tensor) -> SDLSegOutput:
        """Score every voxel of volumes of any size, without gradients.

        A volume that is larger than `config.window_size` is seen in overlapping windows, whose
        logits are averaged with Gaussian weights. With `config.tta` the logits of four flips are
        averaged.

        Args:
            pixel_values: As of `forward`, on any device.

        Returns:
            `SDLSegOutput` with logits (B, 1, D, H, W), float32.

        Raises:
            ValueError: As of `forward`, or weights that are not finite.
        """
        pixels = pixel_values.to(self.device)
        self._check(pixels, None)
        logits = self._scores(pixels)
        if self.config.tta:
            flipped = [self._scores(pixels.flip(axes)).flip(axes) for axes in _FLIPS]
            logits = torch.stack([logits, *flipped]).mean(0)
        refuse_broken_weights(self, logits)
        return SDLSegOutput(logits=logits)

    def _scores(self, pixels: Tensor) -> Tensor:
        window = self.config.window_size
        if window is None or all(a <= b for a, b in zip(pixels.shape[2:], window, strict=True)):
            return self(pixels).logits.float()
        return sliding_window_logits(
            lambda part: self(part).logits.float(),
            pixels,
            window,
            overlap=self.config.window_overlap,
            batch_size=self.config.window_batch_size,
        )
