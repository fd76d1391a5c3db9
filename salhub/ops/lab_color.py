"""Colour space conversion on tensors: sRGB to CIE L*a*b*."""

import torch
from torch import Tensor

# IEC 61966-2-1 linear sRGB -> CIE XYZ, rows X, Y, Z. The white point is the row sum of the matrix
# itself, so that grey has a* = b* = 0 exactly and not to the fourth decimal of a rounded table.
_RGB_TO_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
_CIE_EPSILON = 216.0 / 24389.0
_CIE_KAPPA = 24389.0 / 27.0


def srgb_to_linear(rgb: Tensor) -> Tensor:
    """Undo the sRGB transfer curve.

    Args:
        rgb: any shape, values in [0, 1].

    Returns:
        Tensor of the same shape, linear light in [0, 1].

    Example:
        >>> srgb_to_linear(torch.tensor([0.0, 1.0]))
        tensor([0., 1.])

    Source: IEC 61966-2-1.
    """
    return torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055).clamp(min=0) ** 2.4)


def relative_luminance_to_lightness(ratio: Tensor) -> Tensor:
    """CIE lightness L* in [0, 100] of a luminance given as a share of the white point's.

    Args:
        ratio: any shape, Y / Y_white in [0, 1].

    Returns:
        Tensor of the same shape.

    Example:
        >>> relative_luminance_to_lightness(torch.tensor([0.0, 1.0]))
        tensor([  0., 100.])

    Source: CIE 15, L* = 116 f(Y / Y_white) - 16.
    """
    return 116 * _cie_curve(ratio) - 16


def srgb_to_lab(rgb: Tensor) -> Tensor:
    """Convert sRGB pictures to CIE L*a*b* (white point D65).

    Args:
        rgb: (..., 3, H, W) floating point, values in [0, 1].

    Returns:
        (..., 3, H, W) of the same dtype: L* in [0, 100], a* and b* roughly in [-110, 110].

    Raises:
        ValueError: when the channel axis has not 3 entries.

    Example:
        >>> srgb_to_lab(torch.ones(3, 1, 1)).flatten().round()
        tensor([100., 0., 0.])

    Source: CIE 15 (L*a*b*), IEC 61966-2-1 (sRGB primaries).
    """
    if rgb.dim() < 3 or rgb.shape[-3] != 3:
        raise ValueError(f"srgb_to_lab needs a (..., 3, H, W) tensor, got {tuple(rgb.shape)}.")
    matrix = rgb.new_tensor(_RGB_TO_XYZ)
    xyz = torch.einsum("xc,...chw->...xhw", matrix, srgb_to_linear(rgb))
    x, y, z = _cie_curve(xyz / matrix.sum(dim=1)[:, None, None]).unbind(dim=-3)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), dim=-3)


def _cie_curve(ratio: Tensor) -> Tensor:
    """Cube root with the linear foot that CIE puts below 216/24389."""
    root = ratio.clamp(min=_CIE_EPSILON) ** (1 / 3)
    return torch.where(ratio > _CIE_EPSILON, root, (_CIE_KAPPA * ratio + 16) / 116)
