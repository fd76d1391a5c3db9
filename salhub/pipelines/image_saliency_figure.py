"""Figures of explanations: one picture explained, or several explanations of one picture."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from salhub.viz import ColorBar, compare, panels
from salhub.viz.text import percentage

if TYPE_CHECKING:
    from salhub.pipelines.image_saliency_result import ImageSaliencyResult

DEGENERATE = "The map is constant: it does not say where the network looked"

# Figures are smaller than this; painting a 50-megapixel map for them would be waste.
_LARGEST_SIDE = 1024
_BRIGHTER = "The brighter a place, the more it matters for this answer."
_SIGNED = "Orange places speak for this answer, blue places against it."
_SOME_SIGNED = "In a map of orange and blue, orange places speak for it, blue places against it."
_CROPPED = "The pale border was cut off before the network saw the picture."


def explanation_figure(result: "ImageSaliencyResult") -> Image.Image:
    """Draw the photo, the map, and the map over the photo, with how to read them.

    Args:
        result: What to draw.

    Returns:
        RGB picture.
    """
    small = _shrink(result)
    return panels(
        [
            (small.image, "Photo"),
            (small.map_picture(), "Map"),
            (small.overlay(), "Map over the photo"),
        ],
        title=_title(result),
        note=_how_to_read(result),
        color_bar=None if result.degenerate else ColorBar.for_map(result.signed),
    )


def compare_results(results: Mapping[str, "ImageSaliencyResult"]) -> Image.Image:
    """Draw several explanations of one picture side by side.

    Args:
        results: Name of the method or setting -> its result.

    Returns:
        RGB picture.

    Raises:
        ValueError: Nothing to compare, or results of pictures of different sizes.
    """
    if not results:
        raise ValueError("There is no result to compare.")
    if len({result.image.size for result in results.values()}) > 1:
        raise ValueError("The results are of pictures of different sizes; compare one picture.")
    small = {name: _shrink(result) for name, result in results.items()}
    first = next(iter(small.values()))
    one_answer = len({(result.label, result.probability) for result in small.values()}) == 1
    headings = [
        name if one_answer else f"{name}: “{result.label}” ({percentage(result.probability)})"
        for name, result in small.items()
    ]
    pictures = [one.map_picture() if one.degenerate else one.overlay() for one in small.values()]
    kinds = {result.signed for result in small.values() if not result.degenerate}
    return compare(
        ["Photo", *headings],
        [("", [first.image, *pictures])],
        title=_answer(first) if one_answer else None,
        note=_comparison_note(kinds, any(_is_cropped(result) for result in small.values())),
        color_bar=ColorBar.for_map(next(iter(kinds))) if len(kinds) == 1 else None,
    )


def _answer(result: "ImageSaliencyResult") -> str:
    return f"“{result.label}” · probability {percentage(result.probability)}"


def _title(result: "ImageSaliencyResult") -> str:
    answer = _answer(result)
    return f"{answer} · {result.model_name}" if result.model_name else answer


def _how_to_read(result: "ImageSaliencyResult") -> str:
    if result.degenerate:
        sentences = [f"{DEGENERATE}; try another layer, class or method."]
    else:
        sentences = [_SIGNED if result.signed else _BRIGHTER]
    if _is_cropped(result):
        sentences.append(_CROPPED)
    if result.predictions and result.predictions[0][1] != result.class_label:
        label, _, probability = result.predictions[0]
        sentences.append(f"The classifier's own answer is “{label}” ({percentage(probability)}).")
    return " ".join(sentences)


def _comparison_note(kinds: set[bool], cropped: bool) -> str:
    sentences = []
    if False in kinds:
        sentences.append(_BRIGHTER)
    if True in kinds:
        sentences.append(_SIGNED if len(kinds) == 1 else _SOME_SIGNED)
    if cropped:
        sentences.append(_CROPPED)
    return " ".join(sentences)


def _is_cropped(result: "ImageSaliencyResult") -> bool:
    left, top, right, bottom = result.viewed_box
    width, height = result.image.size
    return left > 0.5 or top > 0.5 or right < width - 0.5 or bottom < height - 0.5


def _shrink(result: "ImageSaliencyResult") -> "ImageSaliencyResult":
    """Return the same result for a picture no larger than a figure needs."""
    scale = _LARGEST_SIDE / max(result.image.size)
    if scale >= 1:
        return result
    size = tuple(max(1, round(edge * scale)) for edge in result.image.size)
    across, down = size[0] / result.image.width, size[1] / result.image.height
    left, top, right, bottom = result.viewed_box
    saliency = Image.fromarray(result.saliency).resize(size, Image.Resampling.BOX)
    return replace(
        result,
        image=result.image.resize(size, Image.Resampling.LANCZOS),
        saliency=np.asarray(saliency),
        viewed_box=(left * across, top * down, right * across, bottom * down),
    )
