"""Spikes, noise and blur taken out of a picture before its contour is sought. All of it is ours."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Standard deviation of the 3 x 3 mask of `noise_level` over that of the noise.
_MASK_GAIN = 6.0
_MAD = 1.4826
# Pixels at which a spike differs from the median about it by more than so many deviations.
_SPIKE = 4.0
# Share of the range of a picture that is its black, or its white.
_END = 0.02
# Noise may be so large a share of the contrast; what is more is smoothed down to it.
_NOISE_SHARE = 0.13
# Largest deviation of the smoothing in pixels, and the least that is worth it.
_MOST_SMOOTHING, _LEAST_SMOOTHING = 1.2, 0.35
# An edge that was sampled sharply has a width of 0.9 pixels here, noise makes it 1.6.
_SHARP_EDGE, _LARGEST_BLUR = 1.55, 6.0
_EDGE_SMOOTHING, _EDGE_REACH = 0.7, 10
# Noise makes the steepest slope steeper, so that edges of 2 to 4 pixels look a tenth sharper.
_STEEPER = 1.1
# Noise to signal of the inverse filter at 0.1 cycles a pixel, growing with frequency: so much times
# the square of noise to contrast; and the noise to contrast from which nothing is undone.
_NOISE_TO_SIGNAL = 0.2
_NOISY = 0.16
_MARGIN = 16


@dataclass
class Restoration:
    """What was found and done, (B,) each.

    Args:
        noise: Estimated deviation of the noise, in units of the picture.
        spikes: Share of pixels that were replaced.
        smoothing: Deviation of the smoothing in pixels; 0 for none.
        blur: Deviation of the blur that was undone in pixels; 0 for none.
    """

    noise: Tensor
    spikes: Tensor
    smoothing: Tensor
    blur: Tensor

    def notes(self, index: int) -> list[str]:
        """Sentences of what was done to one picture."""
        spikes, smoothing, blur = (
            float(part[index]) for part in (self.spikes, self.smoothing, self.blur)
        )
        notes = []
        # Of Gaussian noise, one pixel of a thousand looks like a spike.
        if spikes > 0.01:
            notes.append(f"{100 * spikes:.1f} % of the pixels were replaced as spikes.")
        if smoothing > 0:
            notes.append(f"Noise was smoothed by a Gaussian of {smoothing:.1f} pixels.")
        if blur > 0:
            notes.append(f"A blur of {blur:.1f} pixels was removed; fine details may be wrong.")
        return notes


def median3(picture: Tensor) -> Tensor:
    """The median of 3 x 3 pixels, the border repeated; (B, C, H, W).

    Sorts columns, then takes the median of the largest low, middle median and least high
    (Smith 1996), which needs no sorting of nine.
    """
    wide = F.pad(picture, (1, 1, 1, 1), mode="replicate")
    one, two, three = wide[..., :-2, :], wide[..., 1:-1, :], wide[..., 2:, :]
    low, high = torch.minimum(one, two), torch.maximum(one, two)
    low, middle = torch.minimum(low, three), torch.minimum(high, torch.maximum(low, three))
    high = torch.maximum(high, three)

    def shifted(field: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return field[..., :-2], field[..., 1:-1], field[..., 2:]

    largest_low = torch.maximum(torch.maximum(*shifted(low)[:2]), shifted(low)[2])
    least_high = torch.minimum(torch.minimum(*shifted(high)[:2]), shifted(high)[2])
    return _median_of_three(largest_low, _median_of_three(*shifted(middle)), least_high)


def _median_of_three(one: Tensor, two: Tensor, three: Tensor) -> Tensor:
    low, high = torch.minimum(one, two), torch.maximum(one, two)
    return torch.maximum(low, torch.minimum(high, three))


def median_of(values: Tensor) -> Tensor:
    """The lower median of each row, (B, N) -> (B,)."""
    return values.kthvalue((values.shape[-1] + 1) // 2, dim=-1).values


def quantile_of(values: Tensor, share: float) -> Tensor:
    """The value below which a share of each row lies, (B, N) -> (B,)."""
    return values.kthvalue(1 + round(share * (values.shape[-1] - 1)), dim=-1).values


def remove_spikes(picture: Tensor) -> tuple[Tensor, Tensor]:
    """Replace pixels far from the median of their 3 x 3 by it.

    Args:
        picture: (B, C, H, W).

    Returns:
        The same, other pixels untouched, and the share of pixels that were replaced, (B,).
    """
    middle = median3(picture)
    difference = (picture - middle).abs()
    usual = _MAD * median_of(difference.flatten(1))
    # Of a picture without noise, corners must not count as spikes.
    limit = (_SPIKE * usual).clamp(min=0.04 * 255)[:, None, None, None]
    # Spikes are black or white; textures differ from their median too.
    flat = picture.flatten(1)
    low, high = (edge(1).values[:, None, None, None] for edge in (flat.min, flat.max))
    room = _END * (high - low)
    is_spike = (difference > limit) & ((picture <= low + room) | (picture >= high - room))
    share = is_spike.flatten(1).float().mean(1)
    # Corners and thin lines are few; spikes are many.
    is_many = (share > 0.01)[:, None, None, None]
    return torch.where(is_spike & is_many, middle, picture), share * (share > 0.01)


def noise_level(picture: Tensor) -> Tensor:
    """The deviation of white noise, by the median of a mask that sees no ramps nor edges.

    Args:
        picture: (B, C, H, W).

    Returns:
        (B,), the mean over channels.

    Source: the mask of Immerkaer 1996; the median in place of the mean is ours.
    """
    across = picture[..., 2:] - 2 * picture[..., 1:-1] + picture[..., :-2]
    mask = across[..., 2:, :] - 2 * across[..., 1:-1, :] + across[..., :-2, :]
    batch, channels = picture.shape[:2]
    medians = median_of(mask.abs().reshape(batch * channels, -1))
    return (_MAD / _MASK_GAIN * medians).reshape(batch, channels).mean(1)


def smoothing_for(noise: Tensor, contrast: Tensor) -> Tensor:
    """Deviation of the Gaussian that leaves so little noise beside a contrast; (B,), 0 for none."""
    # White noise smoothed by s pixels keeps 1 / (2 sqrt(pi) s) of its deviation.
    wanted = noise / contrast.clamp(min=1e-6) / _NOISE_SHARE / (2 * math.sqrt(math.pi))
    smoothing = wanted.clamp(max=_MOST_SMOOTHING)
    return torch.where(wanted < _LEAST_SMOOTHING, 0.0, smoothing.clamp(min=0.5))


def filtered(
    picture: Tensor, smoothing: Tensor, blur: Tensor | None = None, noise: Tensor | None = None
) -> Tensor:
    """Smooth pictures by Gaussians and undo Gaussian blurs, in the frequency domain.

    Args:
        picture: (B, C, H, W).
        smoothing: Deviation of the smoothing in pixels, (B,); 0 for none.
        blur: Deviation of the blur to undo, (B,); 0 for none.
        noise: Noise to contrast, which the undoing has to know, (B,).
    """
    height, width = picture.shape[-2:]
    margin = min(_MARGIN, height - 1, width - 1)
    wide = F.pad(picture, (margin,) * 4, mode="reflect")
    size = wide.shape[-2:]
    down = torch.fft.fftfreq(size[0], device=picture.device)[:, None]
    across = torch.fft.rfftfreq(size[1], device=picture.device)
    squared = down**2 + across**2
    transfer = _gaussian_transfer(smoothing, squared)
    if blur is not None and noise is not None:
        lost = _gaussian_transfer(blur, squared)
        # Wiener's filter; noise is white, and edges fall with frequency.
        inexact = _NOISE_TO_SIGNAL * noise[:, None, None, None].clamp(0.02, 1) ** 2
        inverse = lost / (lost**2 + inexact * squared / 1e-2)
        transfer = transfer * torch.where(blur[:, None, None, None] > 0, inverse, 1.0)
    found = torch.fft.irfft2(torch.fft.rfft2(wide) * transfer, s=size)
    return found[..., margin : margin + height, margin : margin + width]


def _gaussian_transfer(sigma: Tensor, squared: Tensor) -> Tensor:
    return torch.exp(-2 * math.pi**2 * sigma[:, None, None, None] ** 2 * squared)


def edge_blur(difference: Tensor, inside: Tensor) -> Tensor:
    """The deviation of the Gaussian that has blurred an edge, by contrast over steepest slope.

    Args:
        difference: (B, H, W).
        inside: Rough mask of the object, bool (B, H, W).

    Returns:
        In pixels, (B,); about 0.9 for edges that were never blurred, 0 without an edge.
    """
    nothing = difference.new_zeros(len(difference))
    smooth = filtered(difference[:, None], nothing + _EDGE_SMOOTHING)
    down, across = torch.gradient(smooth[:, 0], dim=(-2, -1))
    reach = 2 * _EDGE_REACH + 1

    def largest(field: Tensor) -> Tensor:
        rows = F.max_pool2d(field, (1, reach), 1, (0, _EDGE_REACH))
        return F.max_pool2d(rows, (reach, 1), 1, (_EDGE_REACH, 0))[:, 0]

    slope = largest(torch.hypot(down, across)[:, None])
    contrast = largest(smooth) + largest(-smooth)
    outside = (~inside).float()[:, None]
    edge = inside & (F.max_pool2d(outside, 3, 1, 1)[:, 0] > 0)
    widths = contrast / slope.clamp(min=1e-6) / math.sqrt(2 * math.pi)
    found = [
        median_of(width[at][None])[0] if at.sum() >= 8 else nothing[0]
        for width, at in zip(widths, edge, strict=True)
    ]
    return torch.stack(found)


def blur_to_undo(width: Tensor, noise: Tensor) -> Tensor:
    """The part of an edge's width that is blur, (B,); 0 where it is sharp or too noisy to tell.

    Args:
        width: Of `edge_blur`.
        noise: Noise to contrast, (B,).
    """
    blur = (_STEEPER * (width**2 - _EDGE_SMOOTHING**2).clamp(min=0).sqrt()).clamp(max=_LARGEST_BLUR)
    is_blurred = (width > _SHARP_EDGE) & (noise < _NOISY)
    return torch.where(is_blurred, blur, 0.0)
