"""The lowest and highest value a pixel can have after an image processor."""

from typing import Any

import torch
from torch import Tensor

# Image processors round differently: a white pixel may come out as 1.0000001.
_TOLERANCE = 1e-3


def pixel_bounds(image_processor: Any) -> tuple[list[float], list[float]] | None:
    """Bounds of each channel: (0 - mean) / std and (1 - mean) / std.

    Args:
        image_processor: Of transformers or salhub.

    Returns:
        Lowest and highest value a channel, or None when the processor does not say.

    Example:
        >>> from types import SimpleNamespace
        >>> pixel_bounds(SimpleNamespace(image_mean=[0.5], image_std=[0.25]))
        ([-2.0], [2.0])
    """
    highest = 1.0
    if not getattr(image_processor, "do_rescale", True):
        highest = 255.0
    elif getattr(image_processor, "rescale_factor", None):
        highest = 255.0 * image_processor.rescale_factor
    mean = getattr(image_processor, "image_mean", None)
    std = getattr(image_processor, "image_std", None)
    if not getattr(image_processor, "do_normalize", True):
        mean = [0.0] * len(mean or (0, 0, 0))
        std = [1.0] * len(mean)
    if mean is None or std is None:
        return None
    lowest = -highest if getattr(image_processor, "rescale_offset", False) else 0.0
    low = [(lowest - m) / s for m, s in zip(mean, std, strict=True)]
    high = [(highest - m) / s for m, s in zip(mean, std, strict=True)]
    return low, high


def check_within(pixel_values: Tensor, low: list[float], high: list[float]) -> None:
    """Refuse pixels that the image processor cannot have made.

    Args:
        pixel_values: (B, C, H, W).
        low, high: One number a channel.

    Raises:
        ValueError: Another number of channels, or a pixel outside its bounds.
    """
    if len(low) != pixel_values.shape[1]:
        raise ValueError(
            f"input_low has {len(low)} numbers, but the pictures have "
            f"{pixel_values.shape[1]} channels; give one number per channel."
        )
    values = pixel_values.detach().float()
    lowest, highest = values.amin(dim=(0, 2, 3)), values.amax(dim=(0, 2, 3))
    bounds = torch.tensor([low, high], device=values.device, dtype=torch.float32)
    # half precision rounds relative to the size of the value
    slack = _TOLERANCE + (bounds[1] - bounds[0]) * torch.finfo(pixel_values.dtype).eps
    outside = (lowest < bounds[0] - slack) | (highest > bounds[1] + slack)
    if bool(outside.any()):
        channel = int(outside.int().argmax())
        raise ValueError(
            f"channel {channel} of pixel_values reaches from {float(lowest[channel]):.4g} to "
            f"{float(highest[channel]):.4g}, outside of {low[channel]:.4g} to "
            f"{high[channel]:.4g}; prepare pictures with the classifier's image processor (0 "
            "to 255 is not normalized)."
        )
