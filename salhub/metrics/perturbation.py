"""Insertion and deletion: does the class score follow the pixels the map calls important?"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from salhub.metrics.checks import check_indices, check_maps
from salhub.metrics.structural_similarity import gaussian_window
from salhub.ops.class_scores import ScoreFunction, apply_score_function

BLUR_TAPS, BLUR_SIGMA = 11, 5.0  # of the blurred start of insertion, in pixels


@dataclass(frozen=True)
class PerturbationCurves:
    """Class probability while pixels are replaced in the order of the map.

    Attributes:
        fractions: (S + 1,) float64 from 0 to 1, share of pixels replaced so far.
        probabilities: (N, S + 1) float64, probability of the explained class.
        area: (N,) float64 in [0, 1], area under each curve by the trapezoid rule.
    """

    fractions: Tensor
    probabilities: Tensor
    area: Tensor


def deletion(
    classify: Callable[[Tensor], Tensor],
    pixel_values: Tensor,
    saliency: Tensor,
    class_labels: Tensor,
    *,
    pixels_per_step: int | None = None,
    batch_size: int = 16,
    score_function: ScoreFunction = "softmax",
) -> PerturbationCurves:
    """Replace the most salient pixels by 0 (the data set's mean) first; a low area is good.

    Args:
        classify: (B, 3, H, W) -> logits (B, C).
        pixel_values: (N, 3, H, W), normalised so that 0 is the data set's mean.
        saliency: (N, H, W) maps of the same size. Equal values are taken in raster order.
        class_labels: (N,) int64, the explained class of each picture.
        pixels_per_step: Pixels replaced between two evaluations; the published choice, W, is the
            default (224 steps of 224 pixels).
        batch_size: Pictures given to `classify` at once.
        score_function: What makes probabilities of the logits.

    Returns:
        `PerturbationCurves`.

    Raises:
        TypeError: If `saliency` or `class_labels` is not a tensor.
        ValueError: If shapes do not match, `pixels_per_step` is below 1, or a class is out of
            range, which shows with the first pictures classified.

    Example:
        >>> curves = deletion(
        ...     lambda x: torch.stack([x.mean(dim=(1, 2, 3)), -x.mean(dim=(1, 2, 3))], dim=1),
        ...     torch.rand(1, 3, 8, 8), torch.rand(1, 8, 8), torch.tensor([0]))
        >>> curves.probabilities.shape
        torch.Size([1, 9])

    Source:
        Petsiuk, Das, Saenko 2018 (RISE), section 4.2.
    """
    saliency, step = _check(pixel_values, saliency, class_labels, pixels_per_step, batch_size)
    replacement = torch.zeros_like(pixel_values)
    return _curves(
        classify,
        pixel_values,
        replacement,
        saliency,
        class_labels,
        step,
        batch_size,
        score_function,
    )


def insertion(
    classify: Callable[[Tensor], Tensor],
    pixel_values: Tensor,
    saliency: Tensor,
    class_labels: Tensor,
    *,
    pixels_per_step: int | None = None,
    batch_size: int = 16,
    score_function: ScoreFunction = "softmax",
) -> PerturbationCurves:
    """Bring the most salient pixels of a blurred picture back first; a high area is good.

    The start is the picture blurred by a Gaussian of 11 taps and sigma 5; outside the picture the
    blur sees 0, the data set's mean. Arguments, result and errors are those of `deletion`.

    Source:
        Petsiuk, Das, Saenko 2018 (RISE), section 4.2.
    """
    saliency, step = _check(pixel_values, saliency, class_labels, pixels_per_step, batch_size)
    blurred = _blur(pixel_values)
    return _curves(
        classify, blurred, pixel_values, saliency, class_labels, step, batch_size, score_function
    )


def _check(
    pixel_values: Tensor,
    saliency: Tensor,
    class_labels: Tensor,
    pixels_per_step: int | None,
    batch_size: int,
) -> tuple[Tensor, int]:
    saliency = check_maps(saliency)
    if pixel_values.ndim != 4 or pixel_values.shape[0] != saliency.shape[0]:
        raise ValueError(
            "pixel_values must be (N, C, H, W) with one picture per map, got "
            f"{tuple(pixel_values.shape)} for {saliency.shape[0]} maps."
        )
    if pixel_values.shape[2:] != saliency.shape[1:]:
        raise ValueError(
            f"maps must have the pictures' size {tuple(pixel_values.shape[2:])}, got "
            f"{tuple(saliency.shape[1:])}; resize them first."
        )
    check_indices(class_labels, saliency.shape[0], "class_labels", "picture")
    step = saliency.shape[2] if pixels_per_step is None else pixels_per_step
    if step < 1 or batch_size < 1:
        raise ValueError(
            f"pixels_per_step and batch_size must be at least 1, got {step} and {batch_size}."
        )
    return saliency, step


def _blur(pixel_values: Tensor) -> Tensor:
    channels = pixel_values.shape[1]
    window = gaussian_window(BLUR_TAPS, BLUR_SIGMA).to(pixel_values)
    half = BLUR_TAPS // 2
    rows = window.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    columns = window.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    blurred = functional.conv2d(pixel_values, rows, padding=(half, 0), groups=channels)
    return functional.conv2d(blurred, columns, padding=(0, half), groups=channels)


def _removal_order(saliency: Tensor) -> Tensor:
    """Place of each pixel in the order of falling saliency, 0 first; (N, H, W) int64."""
    order = saliency.flatten(1).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places).view_as(saliency)


def _check_classes(class_labels: Tensor, num_classes: int) -> None:
    if (class_labels >= num_classes).any():
        raise ValueError(
            f"class_labels contains {int(class_labels.max())}, but `classify` returns "
            f"{num_classes} classes, 0 to {num_classes - 1}."
        )


@torch.no_grad()
def _curves(
    classify: Callable[[Tensor], Tensor],
    start: Tensor,
    end: Tensor,
    saliency: Tensor,
    class_labels: Tensor,
    step: int,
    batch_size: int,
    score_function: ScoreFunction,
) -> PerturbationCurves:
    """Walk from `start` to `end`, `step` pixels at a time, and read p(class) at every stop."""
    place = _removal_order(saliency).to(start.device)
    count, pixels = saliency.shape[0], saliency[0].numel()
    stops = torch.arange(0, pixels + step, step, device=start.device).clamp(max=pixels)
    jobs = torch.cartesian_prod(
        torch.arange(count, device=start.device), torch.arange(len(stops), device=start.device)
    )
    found = []
    for picture, stop in (job.unbind(dim=1) for job in jobs.split(batch_size)):
        replaced = place[picture] < stops[stop][:, None, None]
        mixed = torch.where(replaced[:, None], end[picture], start[picture])
        probabilities = apply_score_function(classify(mixed).double(), score_function)
        if not found:
            _check_classes(class_labels, probabilities.shape[1])
        wanted = class_labels.to(start.device, torch.int64)[picture]
        found.append(probabilities.gather(1, wanted[:, None])[:, 0])
    curves = torch.cat(found).view(count, len(stops))
    fractions = stops.double() / pixels
    return PerturbationCurves(fractions, curves, torch.trapezoid(curves, fractions, dim=1))
