"""What drawing a class gives: the pictures, what they were drawn with, and ways to look at them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from PIL import Image

from salhub.pipelines.result import PICTURE_WRITERS, PipelineResult, check_comparable
from salhub.viz import panels, picture_grid

_COLUMNS = 8
_GAP = 2
# Of the figure: all pictures of a line together, and a single one.
_WIDTH, _LARGEST = 800, 360
_SAME_NOISE = "Every class starts from the same noise, picture by picture."
_ALL_SAME_NOISE = "All classes start from the same noise, picture by picture."
_OTHER_NOISE = "The pictures start from different noise; give a seed to make them comparable."


@dataclass(eq=False, repr=False)
class ImageGenerationResult(PipelineResult):
    """Pictures of one class, or of several, one class after the other.

    Args:
        pixels: The pictures, float32 in [-1, 1], shape (N, C, H, W), C being 1 or 3.
        labels: Name of the class of each.
        class_labels: Index of the class of each.
        num_steps: Steps from noise to picture.
        guidance_scale: How far the pictures go beyond the class's own prediction.
        eta: Share of the posterior noise that was added in each step.
        seed: Seed of the noise that each class began with.
        model_name: The model that drew them.
        notes: What to know before looking at them.

    Raises:
        ValueError: No picture, NaN, another shape, or not one class a picture.

    Example:
        >>> import numpy
        >>> pixels = numpy.zeros((2, 1, 16, 16))
        >>> result = ImageGenerationResult(pixels, ["three"] * 2, [3, 3], 50, 2.0, 0.0, seed=7)
        >>> result.images[0].size
        (16, 16)
    """

    writers = {**PICTURE_WRITERS, ".npy": "write_array", ".json": "write_json"}
    views = {"plot": "plot", "grid": "grid"}

    pixels: np.ndarray
    labels: list[str]
    class_labels: list[int]
    num_steps: int
    guidance_scale: float
    eta: float
    seed: int
    model_name: str = ""
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pixels = np.asarray(self.pixels, dtype=np.float32)
        if self.pixels.ndim != 4 or self.pixels.shape[1] not in (1, 3) or not self.pixels.size:
            raise ValueError(
                "The pictures must have shape (N, C, H, W) with C = 1 or 3, got "
                f"{self.pixels.shape}."
            )
        if not np.isfinite(self.pixels).all():
            raise ValueError("The pictures hold NaN or infinite values.")
        if not len(self.pixels) == len(self.labels) == len(self.class_labels):
            raise ValueError(
                f"{len(self.pixels)} pictures need as many classes, got {len(self.labels)} names "
                f"and {len(self.class_labels)} indices."
            )

    def __repr__(self) -> str:
        height, width = self.pixels.shape[2:]
        return (
            f"ImageGenerationResult({self.label!r}, {len(self.pixels)} of {width} x {height} "
            f"pixels, seed {self.seed}, model {self.model_name!r})"
        )

    @property
    def label(self) -> str:
        """Name of the class; of several, their names with commas between."""
        return ", ".join(label for label, _ in self.by_class())

    @property
    def images(self) -> list[Image.Image]:
        """The pictures, 8-bit, mode L where they have one channel and RGB where three."""
        array = ((self.pixels + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
        return [
            Image.fromarray(one[0] if len(one) == 1 else np.moveaxis(one, 0, -1)) for one in array
        ]

    def by_class(self) -> list[tuple[str, list[Image.Image]]]:
        """Return the name and the pictures of each class, in their order."""
        names = dict(zip(self.class_labels, self.labels, strict=True))
        found: dict[int, list[Image.Image]] = {index: [] for index in names}
        for index, image in zip(self.class_labels, self.images, strict=True):
            found[index].append(image)
        return [(names[index], images) for index, images in found.items()]

    def plot(self) -> Image.Image:
        """Draw the pictures in rows, enlarged, with what they were drawn with."""
        classes = self.by_class()
        title = _subject([label for label, _ in classes])
        note = " ".join([*self.notes, f"Drawn with {self.settings_text()}."])
        return _figure(
            classes if len(classes) > 1 else [("", self.images)],
            title=f"{title} · {self.model_name}" if self.model_name else title,
            note=note if len(classes) == 1 else f"{note} {_SAME_NOISE}",
        )

    @classmethod
    def compare(cls, results: Mapping[str, Self]) -> Image.Image:
        """Draw what several models or settings make of the same classes below each other.

        Args:
            results: Name of the model or setting -> its result.

        Returns:
            RGB picture.

        Raises:
            ValueError: Nothing to compare, or results of other classes.
        """
        check_comparable(results)
        drawn = {name: result.by_class() for name, result in results.items()}
        classes = [label for label, _ in next(iter(drawn.values()))]
        if any([label for label, _ in one] != classes for one in drawn.values()):
            raise ValueError(
                "The results show different classes; compare results of the same classes."
            )
        rows = [
            (name if len(classes) == 1 else f"{label} · {name}", one[place][1])
            for place, label in enumerate(classes)
            for name, one in drawn.items()
        ]
        is_same = len({(result.seed, result.pixels.shape) for result in results.values()}) == 1
        note = _ALL_SAME_NOISE if is_same else _OTHER_NOISE
        return _figure(rows, title=_subject(classes), note=note)

    def grid(self) -> Image.Image:
        """Draw the pictures alone, pixel by pixel, in rows of up to 8, with white lines between.

        Returns:
            Picture of the mode of the generated ones; every class begins a row.
        """
        rows = [
            images[start : start + _COLUMNS]
            for _, images in self.by_class()
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

    def raw(self) -> np.ndarray:
        """Return the pictures, float32 in [-1, 1], (N, C, H, W)."""
        return self.pixels

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the pixels, ready for JSON."""
        return {
            "model": self.model_name,
            "label": self.label,
            "labels": list(self.labels),
            "class_labels": [int(index) for index in self.class_labels],
            "num_images": len(self.pixels),
            "num_steps": int(self.num_steps),
            "guidance_scale": float(self.guidance_scale),
            "eta": float(self.eta),
            "seed": int(self.seed),
            "channels": self.pixels.shape[1],
            "width": self.pixels.shape[3],
            "height": self.pixels.shape[2],
            "notes": list(self.notes),
            "summary": self.summary(),
        }

    def summary(self) -> str:
        """Return the notes, what was drawn, and how to draw it again."""
        pictures = "1 picture" if len(self.pixels) == 1 else f"{len(self.pixels)} pictures"
        num_classes = len(set(self.class_labels))
        subject = f"'{self.label}'" if num_classes == 1 else f"{num_classes} classes"
        drawn = f"{pictures} of {subject}, drawn with {self.settings_text()}."
        return " ".join([*self.notes, drawn])

    def settings_text(self) -> str:
        """Return what the pictures were drawn with, for a sentence."""
        return (
            f"num_steps={self.num_steps}, guidance_scale={self.guidance_scale:g}, "
            f"eta={self.eta:g} and seed={self.seed}"
        )


def _subject(labels: Sequence[str]) -> str:
    return f"“{labels[0]}”" if len(labels) == 1 else f"{len(labels)} classes"


def _figure(
    rows: Sequence[tuple[str, Sequence[Image.Image]]], *, title: str, note: str
) -> Image.Image:
    in_a_line = min(_COLUMNS, max(len(images) for _, images in rows))
    grid = picture_grid(rows, side=min(_LARGEST, _WIDTH // in_a_line), columns=_COLUMNS)
    # In its own size: resized letters and pixels would blur.
    return panels([(grid, "")], title=title, note=note, side=max(grid.size))
