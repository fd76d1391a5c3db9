"""Pieces of masks as polygons: laid on pixels again, they are the mask."""

import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, label

from salhub.models.active_contour.regions import find_regions, to_coco, to_geojson
from tests.models.active_contour.rasterising import (
    crosses_itself,
    from_run_lengths,
    pixels_inside,
    signed_area,
)

# Blur of noise, and where it is cut: single pixels, corners that touch, holes, all and nothing.
FIELDS = [(0, 0.0), (0, -1.0), (0.7, 0.0), (1.5, 0.1), (3, 0.0), (3, 9.0), (3, -9.0)]


def field_and_mask(blur: float, level: float, seed: int, size=(23, 31)):
    noise = np.random.default_rng(seed).standard_normal(size)
    field = (gaussian_filter(noise, blur) if blur else noise) - level * 0.1
    return field, field < 0


@pytest.mark.parametrize(("blur", "level"), FIELDS)
@pytest.mark.parametrize("seed", range(4))
def test_polygons_on_pixels_are_the_mask(blur, level, seed):
    field, mask = field_and_mask(blur, level, seed)
    labels, regions = find_regions(mask, field)
    assert (labels > 0).sum() == mask.sum() and len(regions) == labels.max()
    for region in regions:
        assert (pixels_inside(region.polygon, mask.shape) == (labels == region.label)).all()


@pytest.mark.parametrize("seed", range(3))
def test_rings_are_closed_simple_and_turned_as_geojson_wants_them(seed):
    field, mask = field_and_mask(1.0, 0.1, seed)
    _, regions = find_regions(mask, field)
    assert any(region.holes for region in regions)
    for region in regions:
        outer, *holes = region.polygon
        assert signed_area(outer) > 0 and all(signed_area(hole) < 0 for hole in holes)
        for ring in (outer, *holes):
            assert (ring[0] == ring[-1]).all() and len(ring) >= 4
            assert (np.diff(ring, axis=0) != 0).any(axis=1).all()
            assert not crosses_itself(ring.tolist())
        for hole in holes:
            assert pixels_inside([outer], mask.shape)[pixels_inside([hole], mask.shape)].all()


def test_the_largest_piece_comes_first_and_corners_connect():
    _, mask = field_and_mask(1.0, 0.0, 7)
    labels, regions = find_regions(mask, np.where(mask, -1.0, 1.0))
    assert [one.area for one in regions] == sorted((one.area for one in regions), reverse=True)
    assert len(regions) == label(mask, np.ones((3, 3)))[1]
    for region in regions:
        rows, columns = np.nonzero(labels == region.label)
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert region.box == box and region.area == len(rows)


def test_pixels_that_touch_at_a_corner_are_one_piece_of_one_ring():
    mask = np.pad(np.eye(2, dtype=bool), 1)
    _, [region] = find_regions(mask, np.where(mask, -1.0, 1.0))
    assert len(region.polygon) == 1 and region.area == 2


def test_contours_are_finer_than_pixels_and_end_at_the_edge_of_the_picture():
    columns = np.arange(8.0)
    field = np.tile(columns - 2.25, (5, 1))  # zero a quarter of a pixel beyond the third centre
    _, [region] = find_regions(field < 0, field)
    [ring] = region.polygon
    assert (ring[:, 0].min(), ring[:, 1].min(), ring[:, 1].max()) == (0, 0, 5)
    assert ring[:, 0].max() == pytest.approx(2.75, abs=1e-3)


def test_pieces_that_were_removed_and_holes_that_were_filled_change_the_polygons():
    rows, columns = np.mgrid[:21, :21]
    radius = np.hypot(rows - 10, columns - 10)
    field = np.abs(radius - 6) - 2.2
    ring = field < 0
    _, [region] = find_regions(ring, field)
    assert region.holes == 1
    filled = radius < 8.2
    _, [region] = find_regions(filled, field)
    assert region.holes == 0
    assert (pixels_inside(region.polygon, ring.shape) == filled).all()


def test_coco_has_corners_or_run_lengths_and_is_json():
    field, mask = field_and_mask(1.0, 0.1, 1)
    labels, regions = find_regions(mask, field)
    content = json.loads(json.dumps(to_coco(regions, labels, {"file_name": "a.png"}, {})))
    [image] = content["images"]
    assert image == {"id": 1, "width": 31, "height": 23, "file_name": "a.png"}
    kinds = set()
    for region, one in zip(regions, content["annotations"], strict=True):
        piece = labels == region.label
        segmentation = one["segmentation"]
        kinds.add(type(segmentation))
        if isinstance(segmentation, dict):
            found = from_run_lengths(segmentation)
        else:
            corners = [np.array(part).reshape(-1, 2) for part in segmentation]
            found = pixels_inside([[*ring, ring[0]] for ring in corners], mask.shape)
        assert (found == piece).all()
        assert one["area"] == piece.sum()
        left, top, width, height = one["bbox"]
        assert piece[top : top + height, left : left + width].sum() == piece.sum()
    assert kinds == {dict, list}


def test_geojson_says_what_each_piece_is():
    field, mask = field_and_mask(1.0, 0.1, 1)
    labels, regions = find_regions(mask, field)
    content = json.loads(json.dumps(to_geojson(regions, {"model": "x"})))
    assert content["type"] == "FeatureCollection" and content["properties"] == {"model": "x"}
    for feature in content["features"]:
        assert feature["geometry"]["type"] == "Polygon"
        rings = [np.array(ring) for ring in feature["geometry"]["coordinates"]]
        piece = labels == feature["properties"]["label"]
        assert (pixels_inside(rings, mask.shape) == piece).all()
        assert feature["properties"]["area"] == piece.sum()
