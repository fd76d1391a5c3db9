"""Figures of classified pictures: one answer, or the answers of several models."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from PIL import Image

from salhub.viz import bars, compare, enlarge, panels
from salhub.viz.text import percentage

if TYPE_CHECKING:
    from salhub.pipelines.image_classification_result import ImageClassificationResult

_SIDE = 360
# More bars than this could not be read.
_MOST_BARS = 10
_HOW_TO_READ = (
    "The longer a bar, the likelier the class; the network always answers with one of its own."
)


def classification_figure(result: "ImageClassificationResult") -> Image.Image:
    """Draw a picture beside bars of its likeliest classes.

    Args:
        result: What to draw.

    Returns:
        RGB picture.
    """
    title = f"“{result.label}” · probability {percentage(result.score)}"
    return panels(
        [(enlarge(result.image, _SIDE), "Picture"), (_bars(result), "Likeliest classes")],
        title=f"{title} · {result.model_name}" if result.model_name else title,
        note=_HOW_TO_READ,
        side=_SIDE,
    )


def compare_results(results: Mapping[str, "ImageClassificationResult"]) -> Image.Image:
    """Draw what several models make of one picture side by side.

    Args:
        results: Name of the model or setting -> its result.

    Returns:
        RGB picture.

    Raises:
        ValueError: Nothing to compare, or results of pictures of different sizes.
    """
    if not results:
        raise ValueError("There is no result to compare.")
    if len({result.image.size for result in results.values()}) > 1:
        raise ValueError("The results are of pictures of different sizes; compare one picture.")
    picture = enlarge(next(iter(results.values())).image, _SIDE)
    return compare(
        ["Picture", *results],
        [("", [picture, *map(_bars, results.values())])],
        note=_HOW_TO_READ,
        side=_SIDE,
        most_columns=4,
    )


def _bars(result: "ImageClassificationResult") -> Image.Image:
    shown = list(zip(result.labels, result.scores, strict=True))[:_MOST_BARS]
    return bars(shown, size=(_SIDE, _SIDE))
