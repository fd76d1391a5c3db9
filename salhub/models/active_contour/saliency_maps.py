"""Where something stands out from its picture: the maps that drive the contour."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from salhub.models.active_contour.picture_restoration import (
    filtered,
    median_of,
    quantile_of,
)
from salhub.ops.lab_color import srgb_to_lab
from salhub.ops.spectral_residual import spectral_residual as residual_energy

_BINS = 256
# Share of a side that the frame of the boundary prior takes.
_FRAME = 0.05
_MAD = 1.4826
# Variance between classes, as a share of the largest, that a threshold must leave.
_PARTED = 0.5
# Deviations of the frame's noise that are no object.
_NOISES = 3.0
# From these shares of the other side on, bright and dark are equally likely, or both are there.
_BALANCED, _MIXED = 0.6, 0.1
_RESIDUAL_SIZE = 64


class BorderDifference(NamedTuple):
    """How far pixels are from what the border would have them be.

    Args:
        values: Signed, larger for the object, in units of the picture, (B, H, W).
        contrast: Between the object and the rest, (B,).
        peak: The same of the brightest 0.2 %, which thin objects reach too, (B,).
        is_unsure: Whether bright and dark objects are equally likely, bool (B,).
        left_out: 1 where brighter things were left out, -1 where darker ones, else 0, (B,).
    """

    values: Tensor
    contrast: Tensor
    peak: Tensor
    is_unsure: Tensor
    left_out: Tensor


def border_difference(picture: Tensor, polarity: str = "auto") -> BorderDifference:
    """The difference from a plane through the frame of the picture, fitted without outliers.

    Of grey pictures it is signed: the object is what has more light, or less, beyond the noise of
    the frame. Of colours it is the distance in deviations of the frame (Mahalanobis), scaled to
    the picture.

    Args:
        picture: (B, C, H, W).
        polarity: "bright", "dark", "both" or "auto".
    """
    residual = picture - _border_plane(picture)
    values, is_unsure, left_out = _of_one_tone(residual[:, 0], polarity)
    if picture.shape[1] > 1:
        # In a batch with coloured ones a grey picture has three channels too.
        is_grey = (picture == picture[:, :1]).flatten(1).all(1)
        values = torch.where(is_grey[:, None, None], values, _distance(residual))
        is_unsure, left_out = is_unsure & is_grey, left_out * is_grey
    flat = values.flatten(1)
    middle = median_of(flat)
    contrast, peak = (
        (quantile_of(flat, share) - middle).clamp(min=1e-3) for share in (0.98, 0.998)
    )
    return BorderDifference(values, contrast, peak, is_unsure, left_out)


def _of_one_tone(values: Tensor, polarity: str) -> tuple[Tensor, Tensor, Tensor]:
    """Signed differences of grey pictures, and `is_unsure` and `left_out`."""
    usual, bright, dark = _beyond_frame(values)
    more, less = torch.maximum(bright, dark), torch.minimum(bright, dark)
    is_auto = polarity == "auto"
    is_unsure = (less > _BALANCED * more) & is_auto
    sign = {"bright": torch.ones_like(bright), "dark": -torch.ones_like(bright)}.get(polarity)
    if sign is None:
        sign = torch.where(dark > bright, -1.0, 1.0)
    left_out = -sign * ((less > _MIXED * more) & is_auto)
    values = values.abs() if polarity == "both" else values * sign[:, None, None]
    if polarity in ("bright", "dark"):
        # Objects of the other kind are ground, or the ground itself would stand out from them.
        values = torch.maximum(values, -usual)
    return values, is_unsure, left_out


def _beyond_frame(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The noise of the frame, and how much brighter and darker a picture is in all beyond it.

    The first is (B, 1, 1), the others (B,).
    """
    frame = max(2, round(_FRAME * min(values.shape[-2:])))
    at = torch.ones(values.shape[-2:], dtype=torch.bool, device=values.device)
    at[frame:-frame, frame:-frame] = False
    usual = (_NOISES * _MAD * median_of(values[:, at].abs()))[:, None, None].clamp(min=1.0)
    bright, dark = (side.clamp(min=0).sum((1, 2)) for side in (values - usual, -values - usual))
    return usual, bright, dark


def _border_plane(picture: Tensor) -> Tensor:
    """Fit a plane a channel to the frame by weights that fall with the residual (Cauchy)."""
    height, width = picture.shape[-2:]
    frame = max(2, round(_FRAME * min(height, width)))
    at = torch.ones(height, width, dtype=torch.bool, device=picture.device)
    at[frame:-frame, frame:-frame] = False
    down = torch.linspace(-0.5, 0.5, height, device=picture.device)[:, None].expand(height, width)
    across = torch.linspace(-0.5, 0.5, width, device=picture.device).expand(height, width)
    terms = torch.stack([torch.ones_like(down), down, across])  # (3, H, W)
    design = terms[:, at]
    values = picture[..., at]  # (B, C, n)
    weights = torch.ones_like(values)
    for _ in range(5):
        moments = torch.einsum("in,jn,bcn->bcij", design, design, weights)
        targets = torch.einsum("in,bcn->bci", design, weights * values)
        plane = torch.linalg.solve(moments, targets)
        left = values - plane @ design
        usual = _MAD * median_of(left.abs().flatten(0, 1)).reshape(left.shape[:2])[..., None]
        weights = 1 / (1 + (left / (2 * usual + 1e-3)) ** 2)
    return torch.einsum("bci,ihw->bchw", plane, terms)


def _distance(residual: Tensor) -> Tensor:
    """Mahalanobis distance from 0 under the covariance of the frame, in units of the picture."""
    height, width = residual.shape[-2:]
    frame = max(2, round(_FRAME * min(height, width)))
    at = torch.ones(height, width, dtype=torch.bool, device=residual.device)
    at[frame:-frame, frame:-frame] = False
    values = residual[..., at]
    channels = residual.shape[1]
    covariance = values @ values.transpose(1, 2) / values.shape[-1]
    mean_variance = covariance.diagonal(dim1=1, dim2=2).mean(1)
    # A frame of one flat colour must not make every other colour infinitely far.
    floor = 0.1 * mean_variance + 1.0
    identity = torch.eye(channels, device=residual.device)
    inverse = torch.linalg.inv(covariance + floor[:, None, None] * identity)
    squared = torch.einsum("bchw,bcd,bdhw->bhw", residual, inverse, residual)
    return squared.clamp(min=0).sqrt() * (mean_variance + 1.0).sqrt()[:, None, None]


def frequency_tuned(picture: Tensor) -> Tensor:
    """The distance of smoothed colours from the mean one; grey, or Lab of RGB. (B, H, W).

    Source: Achanta et al. 2009 (CVPR).
    """
    scale = max(picture.shape[-2:]) / 128
    tones = picture if picture.shape[1] == 1 else srgb_to_lab((picture / 255).clamp(0, 1))
    nothing = tones.new_zeros(len(tones))
    smooth = filtered(tones, nothing + scale)
    return (tones.mean((2, 3), keepdim=True) - smooth).norm(dim=1)


def spectral_residual(picture: Tensor) -> Tensor:
    """What the log spectrum has beyond its local mean, at 64 x 64 pixels, (B, H, W).

    Source: Hou and Zhang 2007 (CVPR).
    """
    small = F.interpolate(
        picture.mean(1, keepdim=True), (_RESIDUAL_SIZE,) * 2, mode="bilinear", antialias=True
    )
    found = residual_energy(small[:, 0])[:, None]
    nothing = found.new_zeros(len(found))
    smooth = filtered(found, nothing + 2.5)
    return F.interpolate(smooth, picture.shape[-2:], mode="bilinear")[:, 0].clamp(min=0)


def scaled(values: Tensor) -> Tensor:
    """Bring maps (B, H, W) to [0, 1] by their least and largest value; constant ones to 0."""
    flat = values.flatten(1)
    low, high = (edge[:, None, None] for edge in (flat.min(1).values, flat.max(1).values))
    return torch.where(high > low, (values - low) / (high - low).clamp(min=1e-12), 0.0)


class TwoClasses(NamedTuple):
    """The two Gaussians that describe a map best, (B,) each.

    Args:
        threshold: Where they are parted.
        means, variances, shares: (B, 2), the low class first.
    """

    threshold: Tensor
    means: Tensor
    variances: Tensor
    shares: Tensor

    def log_odds(self, values: Tensor) -> Tensor:
        """Log of the odds of the high class, (B, H, W); never against the order of the means."""
        low, high = self.means.clamp(-1e9, 1e9).unbind(1)
        low_variance, high_variance = self.variances.unbind(1)
        prior = torch.log(self.shares[:, 1] / self.shares[:, 0])
        parts = (low, high, low_variance, high_variance, prior)
        low, high, low_variance, high_variance, prior = (one[:, None, None] for one in parts)
        odds = (
            prior
            + 0.5 * torch.log(low_variance / high_variance)
            + 0.5 * (values - low) ** 2 / low_variance
            - 0.5 * (values - high) ** 2 / high_variance
        )
        # The wider Gaussian would claim both ends of the scale.
        odds = torch.where(values > high, odds.clamp(min=_CERTAIN), odds)
        return torch.where(values < low, odds.clamp(max=-_CERTAIN), odds)


_CERTAIN = 3.0


def two_classes(values: Tensor, rule: str = "minimum_error") -> TwoClasses:
    """Part the histogram of maps in two; the least class has 0.2 % of the pixels.

    Args:
        values: (B, H, W).
        rule: "minimum_error", which parts classes of unequal size and spread, unless it leaves
            nearly all in one of them; or "otsu", which lies half-way between their means.

    Source: Kittler and Illingworth 1986; Otsu 1979.
    """
    flat = values.flatten(1)
    low = quantile_of(flat, 0.0005)[:, None]
    width = ((quantile_of(flat, 0.9995)[:, None] - low) / _BINS).clamp(min=1e-9)
    numbers = ((flat - low) / width).floor().clamp(0, _BINS - 1).long()
    counts = torch.zeros(len(flat), _BINS, dtype=torch.float64, device=flat.device)
    counts.scatter_add_(1, numbers, torch.ones_like(flat, dtype=torch.float64))
    shares = counts / flat.shape[1]
    # In bins, so that the sums stay exact whatever the scale.
    centres = torch.arange(_BINS, dtype=torch.float64, device=flat.device) + 0.5
    weight, first, second = (
        torch.cumsum(shares * power, 1) for power in (1.0, centres, centres * centres)
    )
    weights = torch.stack([weight, 1 - weight], 1).clamp(min=1e-12)
    means = torch.stack([first, first[:, -1:] - first], 1) / weights
    squares = torch.stack([second, second[:, -1:] - second], 1) / weights
    variances = (squares - means * means).clamp(min=0) + 1 / 12
    is_class = (weights > 0.002).all(1)
    apart = torch.where(is_class, weights.prod(1) * (means[:, 1] - means[:, 0]) ** 2, 0)
    best = apart.argmax(1)
    if rule != "otsu":
        cost = (weights * (torch.log(variances) - 2 * torch.log(weights))).sum(1)
        least = torch.where(is_class, cost, torch.inf).argmin(1)
        # Where two Gaussians do not fit, a few pixels are parted off, and the rest is one class.
        parted = [apart.gather(1, one[:, None])[:, 0] for one in (least, best)]
        best = torch.where(parted[0] >= _PARTED * parted[1], least, best)
    at = best[:, None, None].expand(-1, 2, 1)
    means, variances, shares = (part.gather(2, at)[..., 0] for part in (means, variances, weights))
    to_scale = width.double()
    found = (
        low[:, 0] + (best + 1) * width[:, 0],
        low + means * to_scale,
        variances * to_scale**2,
        shares,
    )
    return TwoClasses(*(part.to(values.dtype) for part in found))


def odds_of(classes: TwoClasses, values: Tensor) -> Tensor:
    """Log odds of the high class of `two_classes`, bounded to (-1, 1) by a tanh; (B, H, W)."""
    return torch.tanh(classes.log_odds(values) / _CERTAIN)
