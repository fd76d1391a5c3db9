"""The stage of the page: a picture on which a contour moves, and a start is drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from json import dumps
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from salhub.models.active_contour.result_active_contour import ImageSegmentationResult
from salhub.ui.panes import data_address

_SCRIPT = Path(__file__).with_name("stage.js")
_STYLE = Path(__file__).with_name("stage.css")
# Steps of a path to a pixel of the level set.
_STEPS = 8
_LARGEST_SIDE = 512
_MOST_FRAMES = 40
_TALLEST = 460
_MOST_POINTS = 20
_MARK_RADIUS = 0.05


@dataclass(frozen=True)
class Marks:
    """A start drawn by a visitor, in pixels of the picture.

    Args:
        box: left, top, right, bottom; None for none.
        points: x and y of each.
    """

    box: tuple[float, ...] | None = None
    points: tuple[tuple[float, float], ...] = ()

    @classmethod
    def read(cls, text: str) -> "Marks":
        """Read marks as they are written: "box 20 30 90 80", or "points 40 52, 60 70".

        Raises:
            ValueError: Written otherwise, or too many points.

        Example:
            >>> Marks.read("points 40 52, 60 70").points
            ((40.0, 52.0), (60.0, 70.0))
        """
        words = text.replace(",", " ").split()
        kind, values = (words[0] if words else ""), words[1:]
        try:
            numbers = [float(value) for value in values]
        except ValueError:
            numbers = []
        is_finite = bool(numbers) and bool(np.isfinite(numbers).all())
        if not words:
            return cls()
        if kind == "box" and is_finite and len(numbers) == 4:
            return cls(box=tuple(numbers))
        if kind == "points" and is_finite and len(numbers) % 2 == 0:
            if len(numbers) > 2 * _MOST_POINTS:
                raise ValueError(
                    f"At most {_MOST_POINTS} points are allowed, got {len(numbers) // 2}; "
                    "draw a box instead."
                )
            return cls(points=tuple(zip(numbers[::2], numbers[1::2], strict=True)))
        raise ValueError(
            f"'{text[:40]}' is not a start; write box LEFT TOP RIGHT BOTTOM, or points X Y, "
            "X Y, in pixels."
        )

    def write(self) -> str:
        """Return them as `read` reads them."""
        if self.box is not None:
            return f"box {' '.join(f'{value:g}' for value in self.box)}"
        points = ", ".join(f"{x:g} {y:g}" for x, y in self.points)
        return f"points {points}" if points else ""

    def settings(self) -> dict[str, Any]:
        """Return them as keywords of a call of the pipeline."""
        if self.box is not None:
            return {"box": [_number(value) for value in self.box]}
        return {"points": [[_number(x), _number(y)] for x, y in self.points]} if self.points else {}


def _number(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value


def stage_pane() -> gr.HTML:
    """Build the stage, empty; what is drawn is picked as `Marks.read` reads it."""
    return gr.HTML(
        js_on_load=_SCRIPT.read_text(encoding="utf-8"),
        css_template=_STYLE.read_text(encoding="utf-8"),
    )


def stage(result: ImageSegmentationResult, marks: Marks) -> str:
    """Return the film of a result over its picture.

    Args:
        result: The answer.
        marks: Where the visitor had it start.
    """
    width, height = result.image.size
    scale = _STEPS * min(1.0, _LARGEST_SIDE / max(width, height))
    size = (round(width * scale), round(height * scale))
    rings = [ring * scale for ring in result.contours]
    frames = [
        (f"iteration {result.film.iterations[place]}", _path(result.film.lines(place, size)))
        for place in _chosen(len(result.film))
    ]
    frames.append((f"result, {result.iterations} steps", _path(rings)))
    shade = f"M0,0h{size[0]}v{size[1]}h{-size[0]}Z{_path(rings)}"
    picture = result.image
    if max(picture.size) > _LARGEST_SIDE:
        picture = picture.copy()
        picture.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    what = escape(f"The contour over the picture: {result.reading()}", quote=True)
    return f"""
<figure class="stage">
<div class="stage-picture" data-size="{width} {height}" data-scale="{scale:.6g}"
 data-points="{dumps(marks.points)}"
 style="aspect-ratio: {width} / {height}; width: min(100%, {_TALLEST * width / height:.0f}px)">
<img src="{data_address(picture)}" draggable="false"
 alt="The picture; drag a box on it, or click points">
<svg viewBox="0 0 {size[0]} {size[1]}" preserveAspectRatio="none" role="img" aria-label="{what}">
<path class="stage-shade" d="{shade}"/><path class="stage-edge"/><path class="stage-line"/>
<path class="stage-marks" d="{_marks_path(marks, scale, min(width, height))}"/></svg></div>
<div class="stage-bar"><button type="button" class="stage-play" aria-label="Play">▶</button>
<input type="range" class="stage-range" min="0" max="{len(frames) - 1}" value="0"
 aria-label="Frame of the film"><output class="stage-title"></output></div>
<div class="stage-film" hidden>{escape(dumps(frames))}</div>
</figure>"""


def _chosen(count: int) -> Sequence[int]:
    """Places of the frames that are shown: all, or as many as a browser should be sent."""
    if count <= _MOST_FRAMES:
        return range(count)
    return np.linspace(0, count - 1, _MOST_FRAMES).round().astype(int).tolist()


def _path(lines: Sequence[np.ndarray]) -> str:
    """Lines as an SVG path, by the whole steps from point to point."""
    parts = []
    for line in lines:
        points = np.rint(line).astype(int)
        steps = np.diff(points, axis=0)
        steps = steps[steps.any(axis=1)]
        moves = " ".join(f"{x} {y}" for x, y in steps.tolist())
        parts.append(f"M{points[0, 0]} {points[0, 1]}l{moves}" if moves else "")
    return "".join(parts)


def _marks_path(marks: Marks, scale: float, side: int) -> str:
    if marks.box is not None:
        left, top, right, bottom = (round(value * scale) for value in marks.box)
        return f"M{left} {top}H{right}V{bottom}H{left}Z"
    radius = round(_MARK_RADIUS * side * scale)
    return "".join(
        f"M{round(x * scale) - radius} {round(y * scale)}a{radius} {radius} 0 1 0 {2 * radius} 0"
        f"a{radius} {radius} 0 1 0 {-2 * radius} 0"
        for x, y in marks.points
    )
