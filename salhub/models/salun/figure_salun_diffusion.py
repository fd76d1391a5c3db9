"""Figures of generated pictures: one result, or those of several models."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from PIL import Image

from salhub.viz import panels, picture_grid

if TYPE_CHECKING:
    from salhub.models.salun.result_salun_diffusion import ImageGenerationResult

_COLUMNS = 8
_GAP = 2
# Of the figure: all pictures of a line together, and a single one.
_WIDTH, _LARGEST = 800, 360
_SAME_NOISE = "Every class begins with the same noise, picture by picture."
_ALL_SAME_NOISE = "All of them begin with the same noise, picture by picture."
_OTHER_NOISE = "The pictures begin with different noise; give a seed to compare like with like."

_Rows = Sequence[tuple[str, Sequence[Image.Image]]]


def generation_figure(result: "ImageGenerationResult") -> Image.Image:
    """Draw generated pictures in rows, each class with its name, and how they were drawn.

    Args:
        result: What to draw.

    Returns:
        RGB picture.
    """
    classes = result.by_class()
    title = _subject([label for label, _ in classes])
    note = f"Drawn with {result.settings_text()}."
    return _figure(
        classes if len(classes) > 1 else [("", result.images)],
        title=f"{title} · {result.model_name}" if result.model_name else title,
        note=note if len(classes) == 1 else f"{note} {_SAME_NOISE}",
    )


def compare_results(results: Mapping[str, "ImageGenerationResult"]) -> Image.Image:
    """Draw what several models or settings make of the same classes below each other.

    Args:
        results: Name of the model or setting -> its result.

    Returns:
        RGB picture.

    Raises:
        ValueError: Nothing to compare, or results of other classes.
    """
    if not results:
        raise ValueError("There is no result to compare.")
    drawn = {name: result.by_class() for name, result in results.items()}
    classes = [label for label, _ in next(iter(drawn.values()))]
    if any([label for label, _ in one] != classes for one in drawn.values()):
        raise ValueError("The results are of different classes; compare the same classes.")
    rows = [
        (name if len(classes) == 1 else f"{label} · {name}", one[place][1])
        for place, label in enumerate(classes)
        for name, one in drawn.items()
    ]
    is_same = len({(result.seed, result.pixels.shape) for result in results.values()}) == 1
    return _figure(rows, title=_subject(classes), note=_ALL_SAME_NOISE if is_same else _OTHER_NOISE)


def plain_grid(result: "ImageGenerationResult") -> Image.Image:
    """Lay pictures out in rows of up to 8, every class in rows of its own, pixel by pixel.

    Args:
        result: What to draw.

    Returns:
        Picture of the mode of the generated ones, with white lines of 2 pixels in between.
    """
    rows = [
        images[start : start + _COLUMNS]
        for _, images in result.by_class()
        for start in range(0, len(images), _COLUMNS)
    ]
    first = rows[0][0]
    across, down = first.width + _GAP, first.height + _GAP
    size = (max(map(len, rows)) * across - _GAP, len(rows) * down - _GAP)
    grid = Image.new(first.mode, size, "white")
    for number, row in enumerate(rows):
        for place, image in enumerate(row):
            grid.paste(image, (place * across, number * down))
    return grid


def _subject(labels: Sequence[str]) -> str:
    return f"“{labels[0]}”" if len(labels) == 1 else f"{len(labels)} classes"


def _figure(rows: _Rows, *, title: str, note: str) -> Image.Image:
    in_a_line = min(_COLUMNS, max(len(images) for _, images in rows))
    grid = picture_grid(rows, side=min(_LARGEST, _WIDTH // in_a_line), columns=_COLUMNS)
    # In its own size: resized letters and pixels would blur.
    return panels([(grid, "")], title=title, note=note, side=max(grid.size))
