"""From pictures to what drives a contour: restored, with a map whose two classes are known."""

from dataclasses import dataclass

import torch
from torch import Tensor

from salhub.models.active_contour.configuration_active_contour import (
    OWN_KINDS,
    SaliencyActiveContourConfig,
)
from salhub.models.active_contour.picture_restoration import (
    Restoration,
    blur_to_undo,
    edge_blur,
    filtered,
    noise_level,
    remove_spikes,
    smoothing_for,
)
from salhub.models.active_contour.saliency_maps import (
    BorderDifference,
    TwoClasses,
    border_difference,
    frequency_tuned,
    odds_of,
    scaled,
    spectral_residual,
    two_classes,
)

# Deviation of the background's saliency, as a share of the contrast, of an even and uneven one.
_CLEAR, _UNCLEAR = 0.07, 0.12


@dataclass
class Prepared:
    """Pictures ready for a contour.

    Args:
        picture: Restored, (B, C, H, W).
        saliency: In [0, 1], (B, H, W).
        salient: Where the saliency is above its threshold, bool (B, H, W).
        odds: Bounded log odds of the saliency, (B, H, W).
        contrast: Between the mean tones of salient and other pixels, (B,).
        zeta: Deviation of the smoothing of the level set, (B,).
        restoration: What was done to the picture; None where nothing was asked for.
        is_unsure: Whether the polarity was guessed, bool (B,).
        left_out: Which things were left out, see `BorderDifference`, (B,).
        is_handed_over: Whether the map was given or is a network's.
    """

    picture: Tensor
    saliency: Tensor
    salient: Tensor
    odds: Tensor
    contrast: Tensor
    zeta: Tensor
    restoration: Restoration | None
    is_unsure: Tensor
    left_out: Tensor
    is_handed_over: bool


def prepare(
    config: SaliencyActiveContourConfig, pictures: Tensor, given: Tensor | None = None
) -> Prepared:
    """Restore pictures and find their saliency.

    Args:
        config: Which restoration and saliency.
        pictures: float32 (B, C, H, W) in 0..255.
        given: A map in [0, 1] in place of the configured one, (B, H, W).
    """
    pictures, restoration, difference = _restored(config, pictures)
    saliency = _saliency(config.saliency, config.polarity, pictures) if given is None else given
    if config.center_prior:
        height, width = saliency.shape[-2:]
        down = torch.linspace(-1, 1, height, device=saliency.device)[:, None]
        across = torch.linspace(-1, 1, width, device=saliency.device)
        saliency = saliency * torch.exp(-(down**2 + across**2))
    # Maps that were handed over are blurred on an even background: errors of their edge would be
    # least far outside of the object.
    is_border = config.saliency == "border" and given is None
    by_error = is_border and config.saliency_fit == "likelihood"
    classes = two_classes(saliency, "minimum_error" if by_error else "otsu")
    salient = saliency > classes.threshold[:, None, None]
    return Prepared(
        pictures,
        saliency,
        salient,
        odds_of(classes, saliency),
        _contrast(pictures, salient),
        _zeta(config, classes),
        restoration,
        difference.is_unsure & is_border,
        difference.left_out * is_border,
        given is not None or config.saliency not in OWN_KINDS,
    )


def _restored(
    config: SaliencyActiveContourConfig, picture: Tensor
) -> tuple[Tensor, Restoration | None, BorderDifference]:
    """The picture without spikes, noise and blur, and its difference with noise and blur."""
    wanted, nothing = config.restoration, picture.new_zeros(len(picture))
    spikes = smoothing = blur = nothing
    if "spikes" in wanted:
        picture, spikes = remove_spikes(picture)
    difference = border_difference(picture, config.polarity)
    if not wanted:
        return picture, None, difference
    noise = noise_level(picture)
    if "noise" in wanted:
        smoothing = smoothing_for(noise, difference.contrast)
    relative = noise / difference.peak
    if "blur" in wanted:
        smooth = filtered(difference.values[:, None], smoothing)[:, 0]
        inside = smooth > two_classes(smooth).threshold[:, None, None]
        blur = blur_to_undo(edge_blur(smooth, inside), relative)
    done = (smoothing > 0) | (blur > 0)
    if bool(done.any()):
        changed = filtered(picture, smoothing, blur, relative)
        picture = torch.where(done[:, None, None, None], changed, picture)
    return picture, Restoration(noise, spikes, smoothing, blur), difference


def _saliency(kind: str, polarity: str, picture: Tensor) -> Tensor:
    if kind == "ft":
        return scaled(frequency_tuned(picture))
    if kind == "sr":
        return scaled(spectral_residual(picture))
    return scaled(border_difference(picture, polarity).values)


def _contrast(picture: Tensor, salient: Tensor) -> Tensor:
    flat, side = picture.flatten(2), salient.flatten(1)[:, None].float()
    inside = (flat * side).sum(-1) / side.sum(-1).clamp(min=1)
    outside = (flat * (1 - side)).sum(-1) / (1 - side).sum(-1).clamp(min=1)
    return (inside - outside).norm(dim=1).clamp(min=1e-3)


def _zeta(config: SaliencyActiveContourConfig, classes: TwoClasses) -> Tensor:
    """Smoothing that an uneven background needs; double, as the number of the configuration is."""
    spread = classes.variances[:, 0].sqrt() / (classes.means[:, 1] - classes.means[:, 0])
    share = ((spread.double() - _CLEAR) / (_UNCLEAR - _CLEAR)).clamp(0, 1)
    clear = config.zeta if config.zeta_clear is None else config.zeta_clear
    return clear + (config.zeta - clear) * share
