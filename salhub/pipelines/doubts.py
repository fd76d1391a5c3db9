"""When an answer is to be doubted: rules on the scores and on the picture, in words."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image

from salhub.ops.class_scores import ScoreFunction
from salhub.viz.text import percentage

# An answer is in doubt where the likeliest class has less than this, or the next one at least that
# share of it. Chosen on 500 pictures for the shipped ImageNet classifier; of 500 others this finds
# 85 % of the wrong answers and 22 % of the right ones (whole), or 63 and 13 % (cut).
UNSURE_BELOW = 0.35
NEAR_TIE = 0.6
# Of a class that has a probability of its own.
PRESENT_FROM = 0.5
# Network pixels a picture pixel, along a side, from which a picture is called tiny.
TINY_ENLARGEMENT = 4.0
# Grey levels of 255 between the darkest and the brightest pixel of a picture of one colour.
_ONE_COLOUR = 2
# What is said of scores; pipelines that speak other languages have sentences of the same names.
SENTENCES = {
    "unsure": "The network is unsure: the most likely class, '{name}', has only {percent}.",
    "finds_none": (
        "The network finds none of its classes: the most likely one, '{name}', has only {percent}."
    ),
    "wavers": "The network is undecided between '{name}' ({percent}) and '{other}' "
    "({other_percent}).",
}


def doubts_of_scores(
    predictions: Sequence[tuple[str, int, float]],
    function: ScoreFunction,
    sentences: Mapping[str, Any] = SENTENCES,
    percent: Callable[[float], str] = percentage,
    near_tie: float = NEAR_TIE,
) -> list[str]:
    """Return sentences of doubt about an answer, from its scores.

    Args:
        predictions: (name, index, score) of the likeliest classes, the likeliest first.
        function: What made the scores.
        sentences: What is said, by the names of `SENTENCES`.
        percent: Writes a probability.
        near_tie: Share of the likeliest class that the next one has where the network wavers.

    Returns:
        No sentence for a network that is sure, or that predicts numbers.

    Example:
        >>> doubts_of_scores([("nematode", 111, 0.02), ("matchstick", 644, 0.01)], "softmax")
        ["The network is unsure: the most likely class, 'nematode', has only 2 %."]
    """
    if function == "none" or not predictions:
        return []
    (name, _, best), *others = predictions
    said = {"name": name, "percent": percent(best)}
    if function == "sigmoid":
        return [] if best >= PRESENT_FROM else [sentences["finds_none"].format(**said)]
    if best < UNSURE_BELOW:
        return [sentences["unsure"].format(**said)]
    if others and others[0][2] >= near_tie * best:
        other, _, next_best = others[0]
        said |= {"other": other, "other_percent": percent(next_best)}
        return [sentences["wavers"].format(**said)]
    return []


def doubts_of_picture(picture: Image.Image, enlargement: float = 1.0) -> list[str]:
    """Return sentences of doubt about a picture in which there is little to recognize.

    Args:
        picture: RGB.
        enlargement: Pixels of the network for one of the picture, along a side.

    Example:
        >>> doubts_of_picture(Image.new("RGB", (64, 64)))
        ['The picture has only one colour, so there is nothing to recognize.']
    """
    found = []
    if all(high - low <= _ONE_COLOUR for low, high in _extrema(picture)):
        found.append("The picture has only one colour, so there is nothing to recognize.")
    if enlargement >= TINY_ENLARGEMENT:
        found.append(
            f"The picture has only {picture.width} x {picture.height} pixels; it was "
            f"enlarged {enlargement:.0f} times for the network."
        )
    return found


def _extrema(picture: Image.Image) -> Sequence[tuple[int, int]]:
    extrema = picture.getextrema()
    return extrema if isinstance(extrema[0], tuple) else [extrema]
