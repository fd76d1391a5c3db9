"""What is unusual about the spectrum of a picture, put back to where it is."""

import torch
import torch.nn.functional as F
from torch import Tensor


def spectral_residual(grey: Tensor) -> Tensor:
    """What the log spectrum has beyond its local mean, as energy at each pixel.

    Args:
        grey: Small pictures of one channel, (B, H, W); 64 pixels a side are usual.

    Returns:
        (B, H, W), 0 or more and not smoothed yet.

    Example:
        >>> spectral_residual(torch.rand(2, 64, 64)).shape
        torch.Size([2, 64, 64])

    Source: Hou and Zhang 2007 (CVPR).
    """
    spectrum = torch.fft.fft2(grey)
    log = torch.log(spectrum.abs() + 1e-6)
    around = F.avg_pool2d(F.pad(log[:, None], (1, 1, 1, 1), mode="circular"), 3, 1)[:, 0]
    phase = spectrum / spectrum.abs().clamp(min=1e-12)
    return torch.fft.ifft2(torch.exp(log - around) * phase).abs() ** 2
