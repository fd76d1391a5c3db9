"""What pulls at a contour: fits of the regions to picture and saliency, their forces and energies.

P level sets phi (B, P, H, W) make R = 2^P regions. Of one, region 0 is the outside, H(phi), and
region 1 the inside, 1 - H(phi), as in the LIF code. Forces are d phi / dt without the delta.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from salhub.models.active_contour.level_set import GaussianWindow

# Below it a window has nothing of a region; the public code divides by 0 there.
_LEAST_WEIGHT = 1e-8
# Share of a window that a side must have for the other's threshold to mean something.
_LEAST_SIDE = 0.05
# Share of the contrast of the picture below which that of a window counts as noise.
_NOISE_CONTRAST = 0.05


class Regions(NamedTuple):
    """Memberships of pixels in regions.

    Args:
        weights: (B, R, H, W), with sum 1.
        slopes: Their derivatives by H(phi_p), (B, P, R, H, W) or what broadcasts to it.
    """

    weights: Tensor
    slopes: Tensor


def regions_of(step: Tensor) -> Regions:
    """Regions of the steps H(phi), (B, P, H, W)."""
    one = step[:, 0]
    if step.shape[1] == 1:
        slopes = step.new_tensor([1.0, -1.0])[None, None, :, None, None]
        return Regions(torch.stack([one, 1 - one], 1), slopes)
    two = step[:, 1]
    weights = torch.stack([one * two, one * (1 - two), (1 - one) * two, (1 - one) * (1 - two)], 1)
    first = torch.stack([two, 1 - two, -two, two - 1], 1)
    second = torch.stack([one, -one, 1 - one, one - 1], 1)
    return Regions(weights, torch.stack([first, second], 1))


class Pull(NamedTuple):
    """What a term does.

    Args:
        force: (B, P, H, W).
        energy: (B,), its mean over the pixels; 0 where it was not asked for.
    """

    force: Tensor
    energy: Tensor | float


def global_means(regions: Regions, fields: Tensor) -> Tensor:
    """Means of fields (B, C, H, W) over the regions, (B, C, R, 1, 1)."""
    weights = regions.weights.flatten(2)
    sums = torch.einsum("brn,bcn->bcr", weights, fields.flatten(2))
    return (sums / weights.sum(-1)[:, None].clamp(min=_LEAST_WEIGHT))[..., None, None]


class LocalMeans:
    """Means of fields in a window about each pixel, of each region.

    Args:
        window: K.
        fields: (B, C, H, W), which do not change.
    """

    def __init__(self, window: GaussianWindow, fields: Tensor) -> None:
        self.window, self.fields = window, fields
        self.ones = window(fields.new_ones(fields.shape[-2:]))
        self.whole = window(fields)

    def rows(self, kept: Tensor) -> None:
        """Keep some pictures of the batch."""
        self.fields, self.whole = self.fields[kept], self.whole[kept]

    def __call__(self, regions: Regions) -> tuple[Tensor, Tensor]:
        """Means (B, C, R, H, W) and K * membership (B, 1, R, H, W)."""
        weights = regions.weights[:, None]
        # The last region is what is left of the whole, which saves its windows.
        some = weights[:, :, :-1]
        parts = self.window(torch.cat([some, some * self.fields[:, :, None]], dim=1))
        size, sums = parts[:, :1], parts[:, 1:]
        size = torch.cat([size, (self.ones - size.sum(2, keepdim=True)).clamp(min=0)], 2)
        sums = torch.cat([sums, self.whole[:, :, None] - sums.sum(2, keepdim=True)], 2)
        return sums / size.clamp(min=_LEAST_WEIGHT), size


def fitting_pull(regions: Regions, fields: Tensor, means: Tensor) -> Pull:
    """LIF: 1/2 |I - sum_r m_r M_r|^2, meaned over the channels; also the form of the saliency.

    Args:
        regions: Memberships.
        fields: (B, C, H, W).
        means: (B, C, R, H, W) or (B, C, R, 1, 1).

    Source: Zhang, Song and Zhang 2010, equations 9 and 13.
    """
    left = fields - (means * regions.weights[:, None]).sum(2)
    change = (means[:, None] * regions.slopes[:, :, None]).sum(3)  # (B, P, C, H, W)
    return Pull((left[:, None] * change).mean(2), 0.5 * (left * left).mean((1, 2, 3)))


def distance_pull(regions: Regions, distances: Tensor) -> Pull:
    """Of an energy sum_r e_r M_r, such as of Chan-Vese and RSF.

    Args:
        regions: Memberships.
        distances: e_r, (B, R, H, W).
    """
    force = -(distances[:, None] * regions.slopes).sum(2)
    return Pull(force, (distances * regions.weights).sum(1).mean((1, 2)))


def chan_vese_distances(fields: Tensor, means: Tensor, weights: Tensor) -> Tensor:
    """lambda_r (I - c_r)^2, meaned over the channels; Chan and Vese 2001.

    Args:
        fields: (B, C, H, W).
        means: (B, C, R, 1, 1).
        weights: lambda_r, (R,).
    """
    return weights[:, None, None] * ((fields[:, :, None] - means) ** 2).mean(1)


def rsf_distances(local: LocalMeans, means: Tensor, weights: Tensor) -> Tensor:
    """lambda_r (I^2 K*1 - 2 I K*f_r + K*f_r^2), meaned over the channels; Li et al. 2008.

    Args:
        local: The window and the picture.
        means: f_r, (B, C, R, H, W).
        weights: lambda_r, (R,).
    """
    fields = local.fields[:, :, None]
    first, second = local.window(torch.stack([means, means * means])).unbind(0)
    distances = fields * fields * local.ones - 2 * fields * first + second
    return weights[:, None, None] * distances.mean(1)


def contrast_pull(
    regions: Regions,
    fields: Tensor,
    means: Tensor,
    sizes: Tensor,
    contrast: Tensor,
    with_energy: bool,
) -> Pull:
    """LIF in units of the contrast of each window: where a pixel lies between both local means.

    Zero where a window has one side alone; kept in [-1, 1]. Ours.

    Args:
        regions: Of one level set.
        fields: (B, C, H, W).
        means: (B, C, 2, H, W).
        sizes: K * membership, (B, 1, 2, H, W).
        contrast: Of the picture, (B,).
        with_energy: Whether to work out the energy.
    """
    one, two = means[:, :, 0], means[:, :, 1]
    difference = one - two
    floor = (_NOISE_CONTRAST * contrast)[:, None, None] ** 2
    # 2 (I - middle) of means that are one and two.
    between = ((2 * fields - one - two) * difference).sum(1)
    force = between / ((difference * difference).sum(1) + floor).clamp(min=1e-12)
    outside, whole = sizes[:, 0, 0], sizes[:, 0].sum(1)
    is_both = (outside - 0.5 * whole).abs() < (0.5 - _LEAST_SIDE) * whole
    force = force.clamp(-1, 1) * is_both
    if not with_energy:
        return Pull(force[:, None], 0.0)
    left = fields - (means * regions.weights[:, None]).sum(2)
    energy = 0.5 * (left * left).mean((1, 2, 3)) / (contrast**2).clamp(min=1e-12)
    return Pull(force[:, None], energy)


def odds_pull(regions: Regions | None, odds: Tensor) -> Pull:
    """Of the log odds that a pixel is of the object, bounded; ours.

    Args:
        regions: Of one level set; None for no energy.
        odds: In [-1, 1], (B, H, W).
    """
    if regions is None:
        return Pull(-odds[:, None], 0.0)
    return Pull(-odds[:, None], -(odds * regions.weights[:, 1]).mean((1, 2)))
