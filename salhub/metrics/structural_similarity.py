"""Structural similarity (SSIM) of two maps."""

import torch
from torch import Tensor

from salhub.metrics.checks import check_maps, check_same_shape


def gaussian_window(size: int, sigma: float) -> Tensor:
    """Normalised one-dimensional Gaussian of an odd number of taps, float64."""
    positions = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    weights = torch.exp(-(positions**2) / (2 * sigma**2))
    return weights / weights.sum()


def structural_similarity(
    first: Tensor,
    second: Tensor,
    *,
    data_range: float = 1.0,
    window_size: int = 11,
    sigma: float = 1.5,
) -> Tensor:
    """Mean structural similarity of paired maps; 1 for equal maps.

    Only windows that lie wholly inside the map count, so no border rule enters the number.

    Args:
        first: (N, H, W).
        second: The same shape.
        data_range: Largest possible difference of two values, the L of the paper.
        window_size: Side of the Gaussian window in pixels, odd.
        sigma: Standard deviation of the window in pixels.

    Returns:
        (N,) float64 in [-1, 1].

    Raises:
        ValueError: If shapes differ, or the maps are smaller than the window.

    Example:
        >>> maps = torch.rand(1, 16, 16)
        >>> structural_similarity(maps, maps)
        tensor([1.], dtype=torch.float64)

    Source:
        Wang, Bovik, Sheikh, Simoncelli 2004, equation 13, with K1 = 0.01 and K2 = 0.03.
    """
    first, second = check_maps(first, "first"), check_maps(second, "second")
    check_same_shape(first, second, ("first", "second"))
    if window_size % 2 == 0 or min(first.shape[1:]) < window_size:
        raise ValueError(
            f"window_size must be odd and at most the map's smaller side, got {window_size} for "
            f"maps of {tuple(first.shape[1:])}; resize the maps or use a smaller window."
        )
    first, second = first.double(), second.double()
    window = gaussian_window(window_size, sigma)
    moments = torch.stack([first, second, first * first, second * second, first * second], dim=1)
    mean_1, mean_2, square_1, square_2, product = _local_mean(moments, window).unbind(dim=1)
    variance_1, variance_2 = square_1 - mean_1**2, square_2 - mean_2**2
    covariance = product - mean_1 * mean_2
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean_1 * mean_2 + c1) / (mean_1**2 + mean_2**2 + c1)
    structure = (2 * covariance + c2) / (variance_1 + variance_2 + c2)
    return (luminance * structure).mean(dim=(1, 2))


def _local_mean(images: Tensor, window: Tensor) -> Tensor:
    """Weighted mean in the window around each inner pixel; (..., H, W) -> (..., h, w)."""
    # Shifted sums: several times faster than torch's float64 convolution.
    for axis in (-2, -1):
        kept = images.shape[axis] - len(window) + 1
        shifted = [images.narrow(axis, start, kept) for start in range(len(window))]
        images = torch.zeros_like(shifted[0])
        for weight, part in zip(window.tolist(), shifted, strict=True):
            images.add_(part, alpha=weight)
    return images
