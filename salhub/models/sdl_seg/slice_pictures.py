"""Slices of a volume as pictures: the CT, a map over it, outlines and markers."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from salhub.models.sdl_seg.contours import outlines
from salhub.models.sdl_seg.volume import Volume
from salhub.viz.colormaps import colorize

# HU that are drawn black and white: the usual window for soft tissue.
WINDOW = (-160.0, 240.0)
# Told apart on grey also by people who see red and green alike.
PREDICTED, TRUTH, MARKER = "#ff9f1c", "#4cc9f0", "#ffee58"
_SHADOW = "#000000"
_COLORMAP = "magma"
# Slices beside a marker's own in which it is still drawn, fainter.
_NEAR = 1.5


def slice_picture(
    volume: Volume,
    number: int,
    *,
    masks: Mapping[str, np.ndarray] | None = None,
    bands: Sequence[np.ndarray] = (),
    markers: np.ndarray | None = None,
    chosen: int | None = None,
    saliency: np.ndarray | None = None,
    opacity: float = 0.5,
    side: int = 480,
) -> Image.Image:
    """Draw one slice as radiologists look at it: the front on top, the patient's right on the left.

    A volume of which nobody knows where it lies is drawn as it is stored.

    Args:
        volume: The CT.
        number: Of the slice, from 0.
        masks: Colour -> mask (Z, Y, X), whose outline is drawn.
        bands: Masks (Z, Y, X) whose outline is drawn thin, in the colour of what was found.
        markers: (K, 3) voxel coordinates (z, y, x); those of this slice are drawn as rings.
        chosen: The marker that is drawn thicker.
        saliency: (Z, Y, X) in [0, 1], laid over the CT, the more opaque the higher.
        opacity: Of the map where it is 1, in [0, 1].
        side: The longer side of the picture, in pixels.

    Returns:
        RGB picture; pixels have the proportions of the patient.

    Raises:
        IndexError: There is no such slice.
    """
    if not 0 <= number < volume.shape[0]:
        raise IndexError(f"There is no slice {number}; there are {volume.shape[0]} from 0.")
    low, high = WINDOW
    grey = ((volume.array[number] - low) / (high - low)).clip(0, 1) * 255
    colours = np.repeat(grey[..., None], 3, axis=-1)
    if saliency is not None:
        values = np.asarray(saliency[number], dtype=np.float32).clip(0, 1)
        alpha = opacity * values[..., None]
        colours = (1 - alpha) * colours + alpha * colorize(values, _COLORMAP)
    place = _Placement(volume, side)
    picture = Image.fromarray(np.rint(place.turned(colours)).astype(np.uint8))
    picture = picture.resize(place.size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    for mask in bands:
        for outline in outlines(mask[number]):
            draw.line(place.closed(outline), fill=PREDICTED, width=1)
    for color, mask in (masks or {}).items():
        for outline in outlines(mask[number]):
            points = place.closed(outline)
            draw.line(points, fill=_SHADOW, width=4, joint="curve")
            draw.line(points, fill=color, width=2, joint="curve")
    for index, marker in enumerate(() if markers is None else markers):
        if abs(marker[0] - number) <= _NEAR:
            [(x, y)] = place.pixels(marker[None, 1:])
            _ring(draw, x, y, is_here=abs(marker[0] - number) <= 0.5, is_chosen=index == chosen)
    return picture


def shown_slices(
    mask: np.ndarray, markers: np.ndarray, count: int, others: Sequence[np.ndarray] = ()
) -> list[int]:
    """Return up to `count` slices, evenly through what was found; through the markers for nothing.

    Args:
        mask: (Z, Y, X).
        markers: (K, 3) voxel coordinates.
        count: Most slices.
        others: Further masks that should be in sight.
    """
    taken = np.flatnonzero(np.any([one.any(axis=(1, 2)) for one in (mask, *others)], axis=0))
    if not len(taken) and len(markers):
        taken = np.unique(np.rint(markers[:, 0]).astype(int).clip(0, len(mask) - 1))
    if not len(taken):
        taken = np.array([len(mask) // 2])
    places = np.linspace(0, len(taken) - 1, min(count, len(taken)) + 2)[1:-1]
    return np.unique(taken[np.rint(places).astype(int)]).tolist()


def picture_to_voxel(volume: Volume, x: float, y: float) -> tuple[float, float]:
    """Return (y, x) voxel coordinates of a place in a slice's picture.

    Args:
        volume: The CT.
        x: From the left of the picture, as a share of its width.
        y: From its top, as a share of its height.

    Raises:
        ValueError: Outside of the picture.
    """
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise ValueError(
            f"({x:g}, {y:g}) lies outside the slice, whose coordinates run from 0 to 1."
        )
    _, rows, columns = volume.shape
    row, column = y * rows - 0.5, x * columns - 0.5
    return (rows - 1 - row, columns - 1 - column) if volume.affine is not None else (row, column)


class _Placement:
    """Where voxels of a slice are in its picture."""

    def __init__(self, volume: Volume, side: int) -> None:
        _, rows, columns = volume.shape
        _, between_rows, between_columns = volume.spacing
        self.is_turned = volume.affine is not None
        self.shape = (rows, columns)
        scale = side / max(rows * between_rows, columns * between_columns)
        self.scales = (between_rows * scale, between_columns * scale)
        self.size = (max(1, round(columns * self.scales[1])), max(1, round(rows * self.scales[0])))

    def turned(self, plane: np.ndarray) -> np.ndarray:
        return plane[::-1, ::-1] if self.is_turned else plane

    def closed(self, outline: np.ndarray) -> list[tuple[float, float]]:
        points = self.pixels(outline)
        return [*points, points[0]]

    def pixels(self, points: np.ndarray) -> list[tuple[float, float]]:
        """Return (x, y) in the picture of (y, x) voxel coordinates (N, 2)."""
        rows, columns = points[:, 0], points[:, 1]
        if self.is_turned:
            rows, columns = self.shape[0] - 1 - rows, self.shape[1] - 1 - columns
        down, right = (rows + 0.5) * self.scales[0], (columns + 0.5) * self.scales[1]
        return list(zip(right.tolist(), down.tolist(), strict=True))


def _ring(draw: ImageDraw.ImageDraw, x: float, y: float, *, is_here: bool, is_chosen: bool) -> None:
    radius = 9 if is_chosen else 7
    for color, width, more in ((_SHADOW, 5, 1), (MARKER, 3 if is_chosen else 2, 0)):
        box = (x - radius - more, y - radius - more, x + radius + more, y + radius + more)
        if is_here:
            draw.ellipse(box, outline=color, width=width)
        else:
            # Beside its own slice, in pieces.
            for start in range(0, 360, 60):
                draw.arc(box, start, start + 25, fill=color, width=width)
