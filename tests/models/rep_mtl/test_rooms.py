"""Rendered rooms: every pixel's truth, by walking along its ray in small steps."""

import numpy as np
import pytest

from salhub.models.rep_mtl.rooms import CLASS_NAMES, render_room, render_rooms

ROOMS = [render_room(seed, index, size=24) for seed, index in ((0, 0), (0, 5), (7, 2))]


def rays_of(room):
    """Direction of every pixel and its point, from the picture's geometry alone."""
    size = len(room.depth)
    middles = (np.arange(size) + 0.5) / size * 2 - 1
    rays = np.array([
        x * room.axes[0] - y * room.axes[1] + room.focal * room.axes[2]
        for y in middles for x in middles
    ])  # fmt: skip
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    distance = room.depth.ravel() / (rays @ room.axes[2])
    return rays, distance


def inside(solid, point):
    """How deep a point is in a solid, in metres; 0 on its surface and below 0 outside."""
    x, y, z = point - solid.center
    if CLASS_NAMES[solid.kind] == "sphere":
        return solid.extent[0] - np.sqrt(x * x + y * y + z * z)
    if CLASS_NAMES[solid.kind] == "cylinder":
        return min(solid.extent[0] - np.hypot(x, z), solid.extent[1] - abs(y))
    cosine, sine = np.cos(solid.turn), np.sin(solid.turn)
    x, z = cosine * x - sine * z, sine * x + cosine * z
    return min(solid.extent - np.abs([x, y, z]))


def in_room(room, point):
    """How far a point is from the nearest side of the room, below 0 outside."""
    return min(point[0] + room.size[0] / 2, room.size[0] / 2 - point[0], point[1],
               room.size[1] - point[1], room.size[2] - point[2])  # fmt: skip


@pytest.mark.parametrize("room", ROOMS, ids=["first", "second", "third"])
def test_every_depth_is_the_first_surface_on_its_ray(room):
    rays, distance = rays_of(room)
    for ray, far, kind in zip(rays, distance, room.segmentation.ravel(), strict=True):
        point = room.eye + far * ray
        deepest = max((inside(one, point), one.kind) for one in room.solids)
        if kind >= 3:
            assert abs(deepest[0]) < 1e-4 and deepest[1] == kind
        else:
            assert deepest[0] < 1e-4 and abs(in_room(room, point)) < 1e-4
            height = {0: 0, 2: room.size[1]}.get(kind)
            assert height is None or abs(point[1] - height) < 1e-4
    # Nothing is in the way.
    for ray, far in list(zip(rays, distance, strict=True))[::37]:
        for step in np.linspace(0.01, 0.995, 80):
            point = room.eye + step * far * ray
            assert in_room(room, point) > 0
            assert max(inside(one, point) for one in room.solids) < 1e-4


@pytest.mark.parametrize("room", ROOMS, ids=["first", "second", "third"])
def test_normals_are_where_surfaces_rise(room):
    rays, distance = rays_of(room)
    turned = room.normals.reshape(3, -1).T.astype(float)
    normals = (turned * [1, 1, -1]) @ room.axes  # in the room again
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)
    assert ((normals * rays).sum(1) < 1e-6).all()  # they face the camera
    for ray, far, normal, kind in zip(
        rays, distance, normals, room.segmentation.ravel(), strict=True
    ):
        point = room.eye + far * ray
        if kind < 3:
            x, y, z = point
            width, height, depth = room.size
            sides = {
                (1, 0, 0): x + width / 2, (-1, 0, 0): width / 2 - x,
                (0, 1, 0): y, (0, -1, 0): height - y, (0, 0, -1): depth - z,
            }  # fmt: skip
            side = tuple(int(one) for one in normal.round())
            assert abs(sides[side]) < 1e-4 and np.abs(normal - side).max() < 1e-5
            continue
        solid = max(room.solids, key=lambda one: inside(one, point))
        # A step along it leaves the solid by as much.
        assert abs(inside(solid, point + 1e-3 * normal) + 1e-3) < 2e-4


def test_rooms_are_drawn_by_their_seed_and_place_alone():
    pictures, labels = render_rooms(3, 0, size=16, start=4)
    again = render_room(0, 5, size=16)
    np.testing.assert_array_equal(pictures[1], again.picture)
    np.testing.assert_array_equal(labels["normals"][1], again.normals)
    assert not np.array_equal(pictures[0], pictures[1])
    assert {name: one.dtype.name for name, one in labels.items()} == {
        "segmentation": "int64", "depth": "float32", "normals": "float32",
    }  # fmt: skip
    assert not np.array_equal(render_room(1, 5, size=16).picture, again.picture)


def test_all_classes_are_seen():
    _, labels = render_rooms(24, 0, size=16)
    counts = np.bincount(labels["segmentation"].ravel(), minlength=6) / labels["depth"].size
    assert len(counts) == 6 and (counts > 0.01).all()


@pytest.mark.parametrize(("seed", "index", "size"), [(-1, 0, 64), (0, -1, 64), (0, 0, 4)])
def test_what_cannot_be_rendered_is_refused(seed, index, size):
    with pytest.raises(ValueError, match="a size of 8 or more"):
        render_room(seed, index, size=size)
