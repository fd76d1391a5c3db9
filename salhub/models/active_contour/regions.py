"""The pieces of a mask as polygons, for COCO and GeoJSON.

Coordinates are x to the right and y down, in pixels, and whole numbers are edges of pixels: the
centre of the first pixel is (0.5, 0.5). A pixel belongs to a mask exactly where its centre lies
inside its polygons.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from salhub.models.active_contour.contour_lines import contour_lines

# A closed ring, float64 (N, 2), x and y; its first point is repeated at its end.
Ring = np.ndarray

# Of a pixel, between a corner of a polygon and the centres beside it; below, rounding would count.
_NEAREST = 1 / 256
_DECIMALS = 3
_TOUCHING_CORNERS = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True)
class Region:
    """One connected piece of a mask; pixels that touch at a corner are connected.

    Args:
        label: Its number in the label picture, 1 for the largest piece.
        area: Pixels.
        box: left, top, right, bottom in pixels; the last two are just outside.
        polygon: The outer ring, and then one for each hole. The outer ring runs counterclockwise in
            the plane of the numbers, as GeoJSON wants it, which looks clockwise where y points
            down; holes run the other way.
    """

    label: int
    area: int
    box: tuple[int, int, int, int]
    polygon: list[Ring]

    @property
    def holes(self) -> int:
        """How many holes it has."""
        return len(self.polygon) - 1


def find_regions(mask: np.ndarray, level_set: np.ndarray) -> tuple[np.ndarray, list[Region]]:
    """Divide a mask into its pieces, the largest first.

    Args:
        mask: bool (H, W).
        level_set: float (H, W). Between two pixels of which one is in the mask, the contour passes
            where it would be zero; its sign is that of the mask, also where pieces were removed or
            holes filled since.

    Returns:
        The label picture, int32 (H, W), 0 outside of the mask; and the pieces.

    Example:
        >>> mask = np.zeros((4, 5), dtype=bool)
        >>> mask[1:3, 1:4] = True
        >>> labels, [region] = find_regions(mask, np.where(mask, -1.0, 1.0))
        >>> region.box, region.area, len(region.polygon)
        ((1, 1, 4, 3), 6, 1)
    """
    found, count = ndimage.label(mask, _TOUCHING_CORNERS)
    areas = np.bincount(found.ravel(), minlength=count + 1)[1:]
    order = np.argsort(-areas, kind="stable")
    numbers = np.zeros(count + 1, dtype=np.int32)
    numbers[1 + order] = np.arange(1, count + 1)
    labels = numbers[found]
    boxes = ndimage.find_objects(labels)
    shapes = _polygons_of_labels(labels, _field(mask, level_set))
    regions = []
    for label, (rows, columns) in enumerate(boxes, start=1):
        box = (columns.start, rows.start, columns.stop, rows.stop)
        regions.append(Region(label, int(areas[order[label - 1]]), box, shapes[label]))
    return labels, regions


def _field(mask: np.ndarray, level_set: np.ndarray) -> np.ndarray:
    """The level set with the sign of the mask, and a rim beyond the picture's edge, (H+2, W+2)."""
    size = np.abs(np.asarray(level_set, dtype=np.float64))
    edge = mask ^ ndimage.binary_erosion(mask, border_value=1)
    typical = np.median(size[edge]) if edge.any() else 1.0
    typical = typical if typical > 0 else 1.0
    # Of two neighbours none is so much larger that the contour meets the centre of the other.
    reach = _NEAREST**-0.5
    size = np.clip(size, typical / reach, typical * reach)
    field = np.pad(np.where(mask, -size, size), 1, mode="edge")
    rim = np.pad(np.zeros(mask.shape, dtype=bool), 1, constant_values=True)
    # As large beyond the edge as inside, so that a contour that leaves the picture ends there.
    return np.where(rim, np.abs(field), field)


def _polygons_of_labels(labels: np.ndarray, field: np.ndarray) -> dict[int, list[Ring]]:
    around = np.pad(labels, 1)
    found: dict[int, list[Ring]] = {}
    # Of one piece the outer ring reaches highest.
    for line in sorted(contour_lines(field), key=lambda one: one[:, 0].min()):
        row, column = line[np.argmin(line[:, 0])]
        above, below = int(np.floor(row)), int(np.ceil(row))
        # The ring's own side is below its highest point, which lies between two pixels.
        is_outer = bool(around[below, int(column)])
        label = int(around[below if is_outer else above, int(column)])
        ring = np.round(line[:, ::-1] - 0.5, _DECIMALS)
        is_turned = (_signed_area(ring) > 0) != is_outer
        found.setdefault(label, []).append(ring[::-1] if is_turned else ring)
    return found


def _signed_area(ring: Ring) -> float:
    x, y = ring.T
    return float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])) / 2


def to_geojson(regions: Sequence[Region], properties: dict[str, Any]) -> dict[str, Any]:
    """Return a FeatureCollection with a Polygon for each piece.

    Args:
        regions: The pieces.
        properties: What is said of all of them, JSON.
    """
    features = []
    for region in regions:
        own = {"label": region.label, "area": region.area, "box": list(region.box)}
        shape = {"type": "Polygon", "coordinates": [ring.tolist() for ring in region.polygon]}
        features.append({"type": "Feature", "geometry": shape, "properties": own})
    return {"type": "FeatureCollection", "properties": properties, "features": features}


def to_coco(
    regions: Sequence[Region], labels: np.ndarray, image: dict[str, Any], info: dict[str, Any]
) -> dict[str, Any]:
    """Return a COCO data set of one picture, with an annotation for each piece.

    Lists of corners know no holes, so a piece with a hole is written as uncompressed run lengths,
    which every reader of COCO takes too.

    Args:
        regions: The pieces.
        labels: The label picture, (H, W).
        image: More to say of the picture, such as its `file_name`.
        info: What is said of the data set.
    """
    height, width = labels.shape
    annotations = []
    for region in regions:
        left, top, right, bottom = region.box
        corners = [region.polygon[0][:-1].ravel().tolist()]
        annotations.append(
            {
                "id": region.label,
                "image_id": 1,
                "category_id": 1,
                "segmentation": run_lengths(labels == region.label) if region.holes else corners,
                "area": region.area,
                "bbox": [left, top, right - left, bottom - top],
                "iscrowd": 0,
            }
        )
    return {
        "info": info,
        "images": [{"id": 1, "width": width, "height": height, **image}],
        "categories": [{"id": 1, "name": "foreground"}],
        "annotations": annotations,
    }


def run_lengths(mask: np.ndarray) -> dict[str, list[int]]:
    """Return a mask as COCO's run lengths: column by column, how many 0, then 1, then 0.

    Example:
        >>> run_lengths(np.array([[False, True], [True, True]]))
        {'size': [2, 2], 'counts': [1, 3]}
    """
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}
