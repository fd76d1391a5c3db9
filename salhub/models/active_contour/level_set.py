"""Arithmetic of level sets, (..., H, W) and negative inside: steps, windows, curvature."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Beyond this many columns a window is worked out block by block.
_BLOCK = 64
_WHOLE = 160


def smooth_step(phi: Tensor, epsilon: float) -> Tensor:
    """H(phi) = 1/2 + arctan(phi / epsilon) / pi, in (0, 1); Chan and Vese 2001.

    Example:
        >>> smooth_step(torch.zeros(1), 1.5)
        tensor([0.5000])
    """
    return torch.atan(phi / epsilon) / math.pi + 0.5


def smooth_delta(phi: Tensor, epsilon: float) -> Tensor:
    """The derivative of `smooth_step`: epsilon / (epsilon^2 + phi^2) / pi."""
    return (epsilon / math.pi) / (epsilon**2 + phi * phi)


def gaussian_taps(sigma: Tensor, radius: int) -> Tensor:
    """A sampled Gaussian of 2 radius + 1 taps with sum 1, differentiable in sigma ()."""
    places = torch.arange(-radius, radius + 1, device=sigma.device, dtype=sigma.dtype)
    taps = torch.exp(-0.5 * (places / sigma) ** 2)
    return taps / taps.sum()


def window_radius(sigma: float) -> int:
    """Half the side of the square window of the LIF and RSF code, whose side is 2 round(2s) + 1."""
    return max(1, round(2 * sigma))


def band_matrix(taps: Tensor, size: int) -> Tensor:
    """The matrix (size, size) that convolves a row with an odd number of taps, zeros outside."""
    radius = len(taps) // 2
    places = torch.arange(size, device=taps.device)
    offset = places[None, :] - places[:, None] + radius
    inside = (offset >= 0) & (offset <= 2 * radius)
    return torch.where(inside, taps[offset.clamp(0, 2 * radius)], taps.new_zeros(()))


class GaussianWindow:
    """K * x of a Gaussian window, zero-padded, as products with band matrices.

    Args:
        sigma: Standard deviation in pixels, ().
        size: Height and width of what is convolved.

    Example:
        >>> GaussianWindow(torch.tensor(3.0), (16, 16))(torch.ones(16, 16))[8, 8] > 0.97
        tensor(True)
    """

    def __init__(self, sigma: Tensor, size: tuple[int, int]) -> None:
        self.radius = window_radius(float(sigma.detach()))
        taps = gaussian_taps(sigma, self.radius)
        self.down, self.across = (band_matrix(taps, side) for side in size)

    def __call__(self, fields: Tensor) -> Tensor:
        """Convolve fields (..., H, W)."""
        height, width = fields.shape[-2:]
        rows = self._product(fields.reshape(-1, width), self.across)
        turned = rows.reshape(-1, height, width).transpose(1, 2).reshape(-1, height)
        columns = self._product(turned, self.down).reshape(-1, width, height)
        return columns.transpose(1, 2).reshape(fields.shape)

    def _product(self, lines: Tensor, matrix: Tensor) -> Tensor:
        size = len(matrix)
        if size <= _WHOLE:
            return lines @ matrix
        parts = []
        for low in range(0, size, _BLOCK):
            high = min(size, low + _BLOCK)
            first, last = max(0, low - self.radius), min(size, high + self.radius)
            parts.append(lines[:, first:last] @ matrix[first:last, low:high])
        return torch.cat(parts, dim=1)


def gaussian_smooth(phi: Tensor, zeta: Tensor) -> Tensor:
    """G * phi with a window of 5 x 5, the border repeated; the regulariser of LIF.

    Args:
        phi: (B, P, H, W).
        zeta: Deviation in pixels, () or (B, 1, 1, 1).
    """
    near, far = (torch.exp(-0.5 * (place / zeta) ** 2) for place in (1, 2))
    whole = 1 + 2 * near + 2 * far
    near, far = near / whole, far / whole
    for dim in (-1, -2):
        size = phi.shape[dim]
        wide = F.pad(phi, (2, 2, 0, 0) if dim == -1 else (0, 0, 2, 2), mode="replicate")
        beside = wide.narrow(dim, 1, size) + wide.narrow(dim, 3, size)
        beyond = wide.narrow(dim, 0, size) + wide.narrow(dim, 4, size)
        phi = wide.narrow(dim, 2, size) / whole + near * beside + far * beyond
    return phi


def central_difference(field: Tensor, dim: int) -> Tensor:
    """Half the difference of both neighbours; one-sided at the border, as Matlab's `gradient`."""
    return torch.gradient(field, dim=dim)[0]


def curvature(phi: Tensor) -> Tensor:
    """div(grad phi / |grad phi|), as in the public code of RSF."""
    down, across = central_difference(phi, -2), central_difference(phi, -1)
    length = torch.sqrt(down * down + across * across + 1e-10)
    return central_difference(across / length, -1) + central_difference(down / length, -2)


def laplacian(phi: Tensor) -> Tensor:
    """The sum of the four neighbours minus four times the middle; the border is repeated."""
    wide = F.pad(phi.reshape(-1, 1, *phi.shape[-2:]), (1, 1, 1, 1), mode="replicate")[:, 0]
    around = wide[:, :-2, 1:-1] + wide[:, 2:, 1:-1] + wide[:, 1:-1, :-2] + wide[:, 1:-1, 2:]
    return around.reshape(phi.shape) - 4 * phi


def matlab_border(phi: Tensor) -> Tensor:
    """Copy the third row and column from the edge onto the outermost, as the RSF code does."""
    phi = torch.cat([phi[..., 2:3, :], phi[..., 1:-1, :], phi[..., -3:-2, :]], dim=-2)
    return torch.cat([phi[..., 2:3], phi[..., 1:-1], phi[..., -3:-2]], dim=-1)
