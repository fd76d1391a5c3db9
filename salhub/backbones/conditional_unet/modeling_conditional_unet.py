"""A U-Net that predicts the noise in a picture, given the step of the noise process and a class.

The network of Ho et al. (2020, appendix B), made lighter for small pictures on a CPU: a level has
as many residual blocks on the way up as on the way down, each taking one skip; the middle is a
single residual block; and upsampling only repeats pixels, as the block after it convolves them.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from salhub.backbones.conditional_unet.configuration_conditional_unet import ConditionalUNetConfig
from salhub.modeling import SaliencyPreTrainedModel
from salhub.ops.values import is_any

# The slowest sine of the time embedding has a period of about 2 pi times this many steps.
_LONGEST_PERIOD = 10_000.0


@dataclass
class ConditionalUNetOutput(ModelOutput):
    """What the U-Net returns.

    Args:
        noise_pred: The noise it sees in the sample, of the sample's shape (B, C, H, W).
    """

    noise_pred: Tensor | None = None


# transformers initialises only modules with tensors of their own, so that the layer itself must say
# that it begins as zero; its block cannot.
class ZeroConvolution(nn.Conv2d):
    """The last convolution of a path, which begins as zero so that the path begins as nothing."""


class ZeroLinear(nn.Linear):
    """The last linear layer of a path, which begins as zero so that the path begins as nothing."""


class ResidualBlock(nn.Module):
    """Two convolutions, each after GroupNorm and SiLU; the condition is added in between."""

    def __init__(self, config: ConditionalUNetConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        condition_channels = 4 * config.base_channels
        self.first_norm = nn.GroupNorm(config.normalization_groups, in_channels)
        self.first_convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.condition = nn.Linear(condition_channels, out_channels)
        self.second_norm = nn.GroupNorm(config.normalization_groups, out_channels)
        self.dropout = nn.Dropout(config.dropout)
        self.second_convolution = ZeroConvolution(out_channels, out_channels, 3, padding=1)
        self.shortcut = (
            nn.Identity()
            if in_channels == out_channels
            else nn.Conv2d(in_channels, out_channels, 1)
        )

    def forward(self, hidden_states: Tensor, condition: Tensor) -> Tensor:
        residual = self.first_convolution(F.silu(self.first_norm(hidden_states)))
        residual = residual + self.condition(condition)[:, :, None, None]
        residual = self.dropout(F.silu(self.second_norm(residual)))
        return self.shortcut(hidden_states) + self.second_convolution(residual)


class SelfAttention(nn.Module):
    """One head of attention between the pixels of a feature map, added to the map."""

    def __init__(self, config: ConditionalUNetConfig, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(config.normalization_groups, channels)
        self.query_key_value = nn.Linear(channels, 3 * channels)
        self.output = ZeroLinear(channels, channels)

    def forward(self, hidden_states: Tensor) -> Tensor:
        pixels = self.norm(hidden_states).flatten(2).transpose(1, 2)  # (B, H * W, C)
        query, key, value = self.query_key_value(pixels).chunk(3, dim=-1)
        # Written out: the fused kernel has no second derivative and no batching rule for vmap.
        scores = query @ key.transpose(1, 2) * query.shape[-1] ** -0.5
        attended = self.output(scores.softmax(dim=-1) @ value)
        return hidden_states + attended.transpose(1, 2).reshape(hidden_states.shape)


class ResidualAttentionBlock(nn.Module):
    """A residual block, and self-attention after it at the resolutions that have it."""

    def __init__(
        self, config: ConditionalUNetConfig, in_channels: int, out_channels: int, resolution: int
    ) -> None:
        super().__init__()
        self.residual = ResidualBlock(config, in_channels, out_channels)
        self.attention = (
            SelfAttention(config, out_channels)
            if resolution in config.attention_resolutions
            else nn.Identity()
        )

    def forward(self, hidden_states: Tensor, condition: Tensor) -> Tensor:
        return self.attention(self.residual(hidden_states, condition))


class ConditionalUNetForDiffusion(SaliencyPreTrainedModel):
    """Predicts the noise in a picture at a step of the noise process, for a class or for none.

    Example:
        >>> model = ConditionalUNetForDiffusion(ConditionalUNetConfig())
        >>> sample, timestep = torch.randn(2, 1, 16, 16), torch.tensor([0, 999])
        >>> class_labels = torch.tensor([3, 10])  # class 3, and none
        >>> model(sample, timestep, class_labels).noise_pred.shape
        torch.Size([2, 1, 16, 16])
    """

    config: ConditionalUNetConfig
    base_model_prefix = "conditional_unet"
    main_input_name = "sample"
    input_modalities = ["image"]

    def __init__(self, config: ConditionalUNetConfig) -> None:
        super().__init__(config)
        base = config.base_channels
        self.time_embedding = nn.Sequential(
            nn.Linear(base, 4 * base), nn.SiLU(), nn.Linear(4 * base, 4 * base)
        )
        # The last row is the null class.
        self.class_embedding = nn.Embedding(config.num_classes + 1, 4 * base)
        self.stem = nn.Conv2d(config.num_channels, base, 3, padding=1)
        self.down_levels, self.downsamples = nn.ModuleList(), nn.ModuleList()
        self.up_levels = nn.ModuleList()
        self._add_levels(config)
        self.output_norm = nn.GroupNorm(config.normalization_groups, config.level_channels[0])
        self.output = ZeroConvolution(config.level_channels[0], config.num_channels, 3, padding=1)
        self.post_init()

    def _add_levels(self, config: ConditionalUNetConfig) -> None:
        levels = list(zip(config.level_channels, config.resolutions, strict=True))
        channels, skips = config.base_channels, []
        for index, (level_channels, resolution) in enumerate(levels):
            if index > 0:
                self.downsamples.append(nn.Conv2d(channels, channels, 3, stride=2, padding=1))
            level = nn.ModuleList()
            for _ in range(config.num_res_blocks):
                level.append(ResidualAttentionBlock(config, channels, level_channels, resolution))
                channels = level_channels
                skips.append(channels)
            self.down_levels.append(level)
        self.middle = ResidualAttentionBlock(config, channels, channels, levels[-1][1])
        for level_channels, resolution in reversed(levels):
            level = nn.ModuleList()
            for _ in range(config.num_res_blocks):
                level.append(
                    ResidualAttentionBlock(
                        config, channels + skips.pop(), level_channels, resolution
                    )
                )
                channels = level_channels
            self.up_levels.append(level)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # As Ho et al.: uniform with the mean of fan-in and fan-out (Glorot), zero where paths end.
        if isinstance(module, ZeroConvolution | ZeroLinear):
            init.zeros_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            init.xavier_uniform_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight)
        else:
            PreTrainedModel._init_weights(self, module)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        class_labels: Tensor,
        guidance_scale: float = 0.0,
    ) -> ConditionalUNetOutput:
        """Predict the noise in noisy pictures.

        With guidance the prediction is (1 + w) eps(x, t, c) - w eps(x, t, null), equation 6 of Ho
        and Salimans (2022). Libraries that write eps(null) + s (eps(c) - eps(null)), such as
        diffusers, have s = 1 + w.

        Args:
            sample: Noisy pictures, whose clean ones are in [-1, 1], shape (B, C, H, W).
            timestep: Step of the noise process of each, in [0, num_train_timesteps), int64 (B,).
            class_labels: Class of each in [0, num_classes), or num_classes for none, int64 (B,).
            guidance_scale: w, at least 0; 0 is the prediction for the class alone. Above 0 the
                pictures pass twice, in one batch of 2 B.

        Returns:
            `noise_pred` of shape (B, C, H, W).

        Raises:
            TypeError: A sample that is not floating point, or steps or classes that are not int64.
            ValueError: Another shape, a step or class out of range, a negative guidance scale, or
                guidance for the null class.
        """
        check_sample(self.config, sample)
        check_timestep(self.config, timestep, len(sample))
        check_class_labels(self.config, class_labels, len(sample), guidance_scale)
        if guidance_scale == 0:
            return ConditionalUNetOutput(noise_pred=self._predict(sample, timestep, class_labels))
        classes = torch.cat([class_labels, torch.full_like(class_labels, self.config.null_class)])
        both = self._predict(sample.repeat(2, 1, 1, 1), timestep.repeat(2), classes)
        conditional, unconditional = both.chunk(2)
        guided = (1 + guidance_scale) * conditional - guidance_scale * unconditional
        return ConditionalUNetOutput(noise_pred=guided)

    def _predict(self, sample: Tensor, timestep: Tensor, class_labels: Tensor) -> Tensor:
        waves = sinusoidal_embedding(timestep, self.config.base_channels).to(sample.dtype)
        condition = F.silu(self.time_embedding(waves) + self.class_embedding(class_labels))
        hidden_states, skips = self.stem(sample), []
        for index, level in enumerate(self.down_levels):
            if index > 0:
                hidden_states = self.downsamples[index - 1](hidden_states)
            for block in level:
                hidden_states = block(hidden_states, condition)
                skips.append(hidden_states)
        hidden_states = self.middle(hidden_states, condition)
        for index, level in enumerate(self.up_levels):
            if index > 0:
                hidden_states = F.interpolate(hidden_states, scale_factor=2.0, mode="nearest")
            for block in level:
                hidden_states = block(torch.cat([hidden_states, skips.pop()], dim=1), condition)
        return self.output(F.silu(self.output_norm(hidden_states)))


def sinusoidal_embedding(timestep: Tensor, size: int) -> Tensor:
    """Sines and cosines of the step at frequencies 10000^(-2 i / size).

    Args:
        timestep: Steps, int64 (B,).
        size: Numbers a step, even.

    Returns:
        float32 (B, size): the sines, then the cosines, from the fastest to the slowest.

    Source:
        Vaswani et al., "Attention Is All You Need", 2017 (arXiv 1706.03762), section 3.5.

    Example:
        >>> sinusoidal_embedding(torch.tensor([0]), 4)
        tensor([[0., 0., 1., 1.]])
    """
    half = size // 2
    exponents = torch.arange(half, device=timestep.device, dtype=torch.float32) / half
    angles = timestep[:, None].float() * torch.exp(-math.log(_LONGEST_PERIOD) * exponents)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def check_sample(config: ConditionalUNetConfig, sample: Tensor) -> None:
    """Refuse anything but a batch of floating-point pictures of the configuration's size.

    Raises:
        TypeError: Not floating point.
        ValueError: Another shape.
    """
    expected = (config.num_channels, config.image_size, config.image_size)
    if sample.ndim != 4 or sample.shape[1:] != expected:
        raise ValueError(
            f"sample must have shape (B, {', '.join(map(str, expected))}), got "
            f"{tuple(sample.shape)}."
        )
    if not sample.is_floating_point():
        raise TypeError(f"sample must be floating point in [-1, 1], got {sample.dtype}.")


def check_timestep(config: ConditionalUNetConfig, timestep: Tensor, batch_size: int) -> None:
    """Refuse anything but one step in [0, num_train_timesteps) a picture, int64.

    Raises:
        TypeError: Not int64.
        ValueError: Another shape, or a step out of range.
    """
    _check_indices("timestep", timestep, batch_size)
    steps = config.num_train_timesteps
    if is_any((timestep < 0) | (timestep >= steps)):
        raise ValueError(f"timestep must be in [0, {steps}), got {_range(timestep)}.")


def check_class_labels(
    config: ConditionalUNetConfig, class_labels: Tensor, batch_size: int, guidance_scale: float
) -> None:
    """Refuse anything but one class a picture, int64, that guidance can be asked for.

    Raises:
        TypeError: Not int64.
        ValueError: Another shape, a class out of range, a guidance scale below 0, or the null class
            together with guidance.
    """
    _check_indices("class_labels", class_labels, batch_size)
    null = config.null_class
    if not 0 <= guidance_scale < float("inf"):
        raise ValueError(
            f"guidance_scale must be at least 0, got {guidance_scale}; 0 is the prediction for the "
            "class alone."
        )
    if is_any((class_labels < 0) | (class_labels > null)):
        raise ValueError(
            f"class_labels must be in [0, {null}), or {null} for no class, got "
            f"{_range(class_labels)}."
        )
    if guidance_scale > 0 and is_any(class_labels == null):
        raise ValueError(
            f"class_labels contains the null class {null}, but guidance needs a real class "
            f"in [0, {null}); set guidance_scale=0 for a prediction without a class."
        )


def _check_indices(name: str, indices: Tensor, batch_size: int) -> None:
    if indices.dtype != torch.int64:
        raise TypeError(f"{name} must be int64, got {indices.dtype}.")
    if indices.shape != (batch_size,):
        raise ValueError(
            f"{name} must have shape ({batch_size},), one per picture, got {tuple(indices.shape)}."
        )


def _range(indices: Tensor) -> str:
    low, high = int(indices.min()), int(indices.max())
    return f"{low}" if low == high else f"{low} to {high}"
