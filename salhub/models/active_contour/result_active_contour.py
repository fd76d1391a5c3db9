"""What segmenting one picture gives: the mask, its contours, and how they were found."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from salhub.files import to_bytes
from salhub.models.active_contour.film import Film, draw_contours, write_film
from salhub.models.active_contour.regions import Region, find_regions, to_coco, to_geojson
from salhub.pipelines.result import PipelineResult, check_comparable, finite
from salhub.viz import ColorBar, compare, message_panel, paint, panels
from salhub.viz.curves import CurvePanel, draw_curves
from salhub.viz.text import percentage

# Pictures in figures; contours of smaller ones would be drawn as blocks.
_SIDE = 360
_LARGEST_SIDE = 1024
# Told apart by people who see few colours; repeated after the last.
_LABEL_COLORS = (
    "e69f00", "56b4e9", "009e73", "f0e442", "0072b2", "d55e00", "cc79a7", "999999",
)  # fmt: skip
_MOST_INDICES = 255
_HOW_TO_READ = (
    "The bright line is the contour. Brighter areas of the map are more salient. The "
    "contour separates salient areas from the rest, and follows the edges between them."
)
_COORDINATES = (
    "x to the right and y down in pixels, whole numbers are edges of pixels: the centre of the "
    "first pixel is (0.5, 0.5)"
)


@dataclass(eq=False, repr=False)
class ImageSegmentationResult(PipelineResult):
    """The foreground of one picture.

    Args:
        image: The picture: RGB, turned upright.
        mask: True in the foreground, bool (H, W), the size of the picture.
        level_set: float32 (H, W), negative in the foreground; the contour is where it is zero.
            Where pieces were removed or holes filled since, the sign is that of the mask.
        saliency: The map that drove the contour, float32 (H, W) in [0, 1].
        energy: (iteration, energy) at each check.
        iterations: How many steps were made.
        reason: Why it stopped.
        converged: Whether it stopped by itself.
        start: Where it started, in words.
        film: Frames of the evolution.
        phases: Regions 0 to 3 by rising saliency, uint8 (H, W), of a model with two level sets.
        agreement: How many of the starts that were tried call a pixel foreground, float32 (H, W) in
            [0, 1]; None where one was tried.
        model_name: The model that was asked.
        image_name: The name of the picture's file, or "".
        notes: Sentences to read before the mask: what was guessed, dropped or is unsure.

    Raises:
        ValueError: Mask, level set or saliency are not the size of the picture.

    Example:
        >>> import salhub
        >>> segment = salhub.pipeline("salhub/active-contour-saliency")  # doctest: +SKIP
        >>> result = segment("sample:cells")  # doctest: +SKIP
        >>> len(result.regions)  # doctest: +SKIP
        4
        >>> result.save("cells.geojson")  # doctest: +SKIP
    """

    # A picture of a mask that JPEG has changed would be no mask.
    writers = {
        ".png": "write_picture",
        ".json": "write_json",
        ".coco.json": "write_coco",
        ".geojson": "write_geojson",
        ".gif": "write_film",
        ".npz": "write_arrays",
    }
    views = {
        "plot": "plot",
        "mask": "mask_picture",
        "overlay": "overlay",
        "labels": "label_picture",
        "saliency": "saliency_picture",
        "energy": "energy_plot",
    }

    image: Image.Image
    mask: np.ndarray
    level_set: np.ndarray
    saliency: np.ndarray
    energy: Sequence[tuple[int, float]] = ()
    iterations: int = 0
    reason: str = ""
    converged: bool = False
    start: str = ""
    film: Film = field(default_factory=Film)
    phases: np.ndarray | None = None
    agreement: np.ndarray | None = None
    model_name: str = ""
    image_name: str = ""
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        size = (self.image.height, self.image.width)
        for name in ("mask", "level_set", "saliency"):
            shape = np.shape(getattr(self, name))
            if shape != size:
                raise ValueError(
                    f"{name} has shape {shape} but the picture is {size[0]} pixels high and "
                    f"{size[1]} wide; give it the size of the picture."
                )

    def __repr__(self) -> str:
        return (
            f"ImageSegmentationResult({self._pieces}, {percentage(self.share)} of "
            f"{self.image.width} x {self.image.height} pixels, model {self.model_name!r})"
        )

    @property
    def share(self) -> float:
        """How much of the picture is foreground, in [0, 1]."""
        return float(self.mask.mean())

    @property
    def labels(self) -> np.ndarray:
        """The label picture, int32 (H, W): 0 is background, 1 the largest piece, and so on."""
        return self._divided[0]

    @property
    def regions(self) -> list[Region]:
        """The connected pieces of the mask with their polygons, the largest first."""
        return self._divided[1]

    @cached_property
    def _divided(self) -> tuple[np.ndarray, list[Region]]:
        return find_regions(self.mask, self.level_set)

    @property
    def contours(self) -> list[np.ndarray]:
        """The sub-pixel contours: closed rings of float64 (N, 2), x and y in pixels.

        Whole numbers are edges of pixels; the centre of the first pixel is (0.5, 0.5).
        """
        return [ring for one in self.regions for ring in one.polygon]

    # --- pictures ---------------------------------------------------------------------------------

    def mask_picture(self) -> Image.Image:
        """Draw the mask: white in the foreground and black outside, mode L, the picture's size."""
        return Image.fromarray(self.mask.astype(np.uint8) * np.uint8(255))

    def label_picture(self) -> Image.Image:
        """Draw every piece in a colour of its own; of two level sets, every phase.

        Returns:
            Picture of mode P whose pixels are the labels, 0 being background; of mode I;16 where
            there are more than 255 of them.
        """
        labels = self.labels if self.phases is None else self.phases
        if labels.max() > _MOST_INDICES:
            return Image.fromarray(labels.astype(np.uint16))
        picture = Image.fromarray(labels.astype(np.uint8)).convert("P")
        colors = bytes.fromhex("".join(_LABEL_COLORS)) * (_MOST_INDICES // len(_LABEL_COLORS) + 1)
        picture.putpalette(bytes(3) + colors[: 3 * _MOST_INDICES])
        return picture

    def overlay(self) -> Image.Image:
        """Draw the contour over the picture."""
        scale = max(1.0, max(self.image.size) / 480)
        return draw_contours(self.image, self.contours, scale)

    def saliency_picture(self) -> Image.Image:
        """Draw the map that drove the contour."""
        return paint(self.saliency)

    def energy_plot(self) -> Image.Image:
        """Draw the energy in the course of the evolution."""
        if not self.energy:
            return message_panel((_SIDE, _SIDE), "No step was made, so there is no energy.")
        return draw_curves([CurvePanel("Energy", {"energy": self.energy})], "iteration")

    def plot(self) -> Image.Image:
        """Draw the picture with its contour, the saliency map and the mask."""
        title = f"{self._pieces} · {percentage(self.share)} of the picture"
        return panels(
            [
                (self._figure_overlay(), "Contour"),
                (self.saliency_picture(), "Saliency map"),
                (self.mask_picture(), "Mask"),
            ],
            title=f"{title} · {self.model_name}" if self.model_name else title,
            lead=" ".join(self.notes),
            note=f"{_HOW_TO_READ} {self._stopped}",
            color_bar=ColorBar.for_map(signed=False),
            side=_SIDE,
        )

    @classmethod
    def compare(cls, results: Mapping[str, Self]) -> Image.Image:
        """Draw the contours of several models or settings side by side.

        Args:
            results: Name of the model or setting -> its result.

        Returns:
            RGB picture.

        Raises:
            ValueError: Nothing to compare, or results of pictures of different sizes.
        """
        check_comparable(results)
        notes = dict.fromkeys(note for result in results.values() for note in result.notes)
        drawn = [result._figure_overlay() for result in results.values()]
        first = next(iter(results.values()))
        headings = [f"{name}: {percentage(one.share)}" for name, one in results.items()]
        return compare(
            ["Picture", *headings], [("", [first.image, *drawn])], lead=" ".join(notes), side=300
        )

    def _figure_overlay(self) -> Image.Image:
        """The contour over the picture, drawn in the size of a figure so that it stays thin."""
        scale = _SIDE / max(self.image.size)
        size = tuple(max(1, round(edge * scale)) for edge in self.image.size)
        factors = np.array(size) / self.image.size
        small = self.image.resize(size, Image.Resampling.LANCZOS)
        return draw_contours(small, [ring * factors for ring in self.contours])

    # --- words ------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the pixels, ready for JSON."""
        return {
            "model": self.model_name,
            "notes": list(self.notes),
            "width": self.image.width,
            "height": self.image.height,
            "area": int(self.mask.sum()),
            "share": self.share,
            "iterations": int(self.iterations),
            "converged": bool(self.converged),
            "stopped_because": self.reason,
            "start": self.start,
            "start_overlap": self.start_overlap,
            "energy": [[int(step), finite(value)] for step, value in self.energy],
            "regions": [
                {"label": one.label, "area": one.area, "box": list(one.box), "holes": one.holes}
                for one in self.regions
            ],
            "summary": self.summary(),
        }

    @property
    def start_overlap(self) -> float | None:
        """What all starts call foreground over what any does, in [0, 1]; 1 where none does.

        None where one start was tried.
        """
        if self.agreement is None:
            return None
        anywhere = np.count_nonzero(self.agreement > 0)
        everywhere = np.count_nonzero(self.agreement > 1 - 1e-6)
        return everywhere / anywhere if anywhere else 1.0

    def summary(self) -> str:
        """Return the notes, and what was found and why it stopped."""
        return " ".join([*self.notes, self.reading()])

    def reading(self) -> str:
        """Return what was found and why it stopped, without the notes."""
        if not self.regions:
            return f"No foreground was found. {self._stopped}"
        verb = "covers" if len(self.regions) == 1 else "cover"
        found = f"{self._pieces} {verb} {percentage(self.share)} of the picture. {self._stopped}"
        if self.start_overlap is None:
            return found
        return (
            f"{found} From other starts, {percentage(self.start_overlap)} of the found area "
            "is the same."
        )

    @property
    def _pieces(self) -> str:
        number = len(self.regions)
        return "1 piece" if number == 1 else f"{number} pieces" if number else "No foreground"

    @property
    def _stopped(self) -> str:
        began = f"The contour started at {self.start} and stopped" if self.start else "It stopped"
        steps = "1 iteration" if self.iterations == 1 else f"{self.iterations} iterations"
        return f"{began} after {steps}: {self.reason or 'no reason was given'}."

    # --- files ------------------------------------------------------------------------------------

    def to_geojson(self) -> dict[str, Any]:
        """Return a GeoJSON FeatureCollection with a feature for each piece.

        Holes are inner rings. Coordinates are pixels, as of `contours`.
        """
        return to_geojson(self.regions, {"coordinates": _COORDINATES, **self._about()})

    def to_coco(self) -> dict[str, Any]:
        """Return a COCO data set of this picture, with an annotation for each piece.

        COCO's polygons have no holes, so a piece with a hole is written as run lengths.
        """
        about = {"description": "salhub", "coordinates": _COORDINATES, **self._about()}
        return to_coco(self.regions, self.labels, {"file_name": self.image_name}, about)

    def _about(self) -> dict[str, Any]:
        return {"model": self.model_name, "notes": list(self.notes)}

    def write_geojson(self, path: Path) -> None:
        """Write `to_geojson()`."""
        path.write_bytes(to_bytes(json.dumps(self.to_geojson(), ensure_ascii=False)))

    def write_coco(self, path: Path) -> None:
        """Write `to_coco()`."""
        path.write_bytes(to_bytes(json.dumps(self.to_coco(), ensure_ascii=False)))

    def write_film(self, path: Path) -> None:
        """Write how the contour moved, as GIF."""
        write_film(path, self.image, self.film)

    def write_arrays(self, path: Path) -> None:
        """Write mask, labels, level set, saliency and energy as a NumPy archive."""
        arrays = {name: getattr(self, name) for name in ("mask", "labels", "level_set", "saliency")}
        arrays |= {
            name: getattr(self, name)
            for name in ("phases", "agreement")
            if getattr(self, name) is not None
        }
        energy = np.array(self.energy, dtype=np.float64).reshape(-1, 2)
        np.savez_compressed(path, **arrays, energy=energy)
