"""What the U-Net and the sampler are given, checked before any work is done."""

import torch
from torch import Tensor

from salhub.backbones.conditional_unet.configuration_conditional_unet import ConditionalUNetConfig
from salhub.ops.values import is_any


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
            f"class_labels holds the null class {null}, and guidance needs a real class in "
            f"[0, {null}); pass guidance_scale=0 for the prediction without a class."
        )


def _check_indices(name: str, indices: Tensor, batch_size: int) -> None:
    if indices.dtype != torch.int64:
        raise TypeError(f"{name} must be int64, got {indices.dtype}.")
    if indices.shape != (batch_size,):
        raise ValueError(
            f"{name} must have shape ({batch_size},), one a picture, got {tuple(indices.shape)}."
        )


def _range(indices: Tensor) -> str:
    low, high = int(indices.min()), int(indices.max())
    return f"{low}" if low == high else f"{low} to {high}"
