"""The U-Net of SDL-Seg: levels of two convolutions, the same code for volumes and slices.

Inside, volumes are (B, C, H, W, D): on a processor PyTorch takes its fast convolution for a single
volume only where channels times the first two sides are many.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from salhub.models.sdl_seg.configuration_sdl_seg import SDLSegConfig

_SLOPE = 0.01
_CHANNELS_PER_GROUP = 8


class UNetLevel(nn.Module):
    """Twice a convolution, normalisation and a leaky rectifier."""

    gradient_checkpointing = False
    _gradient_checkpointing_func: Callable[..., Any]

    def __init__(self, config: SDLSegConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        # A slice is a volume of one slice.
        kernel = [3, 3, 3 if config.spatial_dims == 3 else 1]
        padding = [size // 2 for size in kernel]
        self.first_convolution = nn.Conv3d(
            in_channels, out_channels, kernel, padding=padding, bias=False
        )
        self.first_norm = _norm(config, out_channels)
        self.second_convolution = nn.Conv3d(
            out_channels, out_channels, kernel, padding=padding, bias=False
        )
        self.second_norm = _norm(config, out_channels)
        self.dropout = nn.Dropout3d(config.dropout) if config.dropout else nn.Identity()

    def forward(self, hidden_states: Tensor) -> Tensor:
        if self.gradient_checkpointing and self.training:
            return self._gradient_checkpointing_func(self._convolve, hidden_states)
        return self._convolve(hidden_states)

    def _convolve(self, hidden_states: Tensor) -> Tensor:
        hidden_states = self.first_norm(self.first_convolution(hidden_states))
        hidden_states = F.leaky_relu(hidden_states, _SLOPE)
        hidden_states = self.second_norm(self.second_convolution(hidden_states))
        return self.dropout(F.leaky_relu(hidden_states, _SLOPE))


def _norm(config: SDLSegConfig, channels: int) -> nn.Module:
    if config.norm == "instance":
        return nn.InstanceNorm3d(channels, affine=True)
    groups = next(
        n for n in range(max(1, channels // _CHANNELS_PER_GROUP), 0, -1) if channels % n == 0
    )
    return nn.GroupNorm(groups, channels)


class UNet(nn.Module):
    """Encoder and decoder with skips; halves by maximum, doubles linearly."""

    def __init__(self, config: SDLSegConfig) -> None:
        super().__init__()
        self.pooling = [(rows, columns, slices) for slices, rows, columns in config.pooling]
        before = [config.in_channels, *config.channels]
        self.down_levels = nn.ModuleList(
            UNetLevel(config, *pair) for pair in zip(before, config.channels, strict=False)
        )
        self.up_levels = nn.ModuleList(
            UNetLevel(config, deep + skip, skip)
            for skip, deep in zip(config.channels[-2::-1], config.channels[:0:-1], strict=True)
        )
        self.head = nn.Conv3d(config.channels[0], 1, 1)

    def forward(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits (B, 1, D, H, W), and what each level of the encoder has found."""
        hidden_states, levels = pixels.permute(0, 1, 3, 4, 2).contiguous(), []
        for index, level in enumerate(self.down_levels):
            if index:
                hidden_states = F.max_pool3d(hidden_states, self.pooling[index - 1])
            hidden_states = level(hidden_states)
            levels.append(hidden_states)
        for index, level in enumerate(self.up_levels):
            skip = levels[-2 - index]
            grown = F.interpolate(
                hidden_states, size=skip.shape[2:], mode="trilinear", align_corners=False
            )
            hidden_states = level(torch.cat([grown, skip], 1))
        return _as_zyx(self.head(hidden_states)), [_as_zyx(one) for one in levels]


def _as_zyx(states: Tensor) -> Tensor:
    return states.permute(0, 1, 4, 2, 3)


def with_context(pixels: Tensor, slices: int) -> Tensor:
    """Slices with their neighbours as channels, and as volumes of one slice.

    Args:
        pixels: (B, C, D, H, W).
        slices: Neighbours on each side; the outermost slice stands for those beyond it.

    Returns:
        (B * D, C * (2 * slices + 1), 1, H, W).
    """
    batch, _, depth, height, width = pixels.shape
    places = torch.arange(depth, device=pixels.device)
    stacked = torch.stack(
        [
            pixels[:, :, (places + offset).clamp(0, depth - 1)]
            for offset in range(-slices, slices + 1)
        ],
        2,
    )
    return stacked.permute(0, 3, 1, 2, 4, 5).reshape(batch * depth, -1, 1, height, width)


def as_volumes(slices: Tensor, batch: int) -> Tensor:
    """Volumes of one slice as volumes: (B * D, C, 1, H, W) as (B, C, D, H, W)."""
    channels, height, width = slices.shape[1], slices.shape[3], slices.shape[4]
    return slices.reshape(batch, -1, channels, height, width).transpose(1, 2).contiguous()
