"""Rendered rooms: pictures whose classes, depths and normals are known exactly.

A room has a floor, walls and a ceiling, three to six spheres, boxes and cylinders on its floor, and
one lamp that casts shadows; colours, patterns, sizes, places and the view are drawn by a seed. Each
pixel is one ray through its middle, so that its truth is not mixed with its neighbour's.
"""

import math
from dataclasses import dataclass, field

import numpy as np

CLASS_NAMES = ("floor", "wall", "ceiling", "sphere", "box", "cylinder")
_FLOOR, _WALL, _CEILING, _SPHERE, _BOX, _CYLINDER = range(6)
# So that a shadow does not start on the surface that it falls on.
_STEP = 1e-4
_NOISE = 4.0  # standard deviation, of 255


@dataclass(frozen=True)
class Solid:
    """A thing on the floor.

    Args:
        kind: Its class: 3 sphere, 4 box, 5 cylinder.
        center: Of the thing, (3,) in metres; y points up, the floor is at 0.
        extent: Half its width, height and depth, (3,); of a sphere its radius thrice.
        turn: About the vertical, in radians.
    """

    kind: int
    center: np.ndarray
    extent: np.ndarray
    turn: float = 0.0


@dataclass(frozen=True)
class Room:
    """A picture of a room and the truth of each of its pixels.

    Args:
        picture: uint8 (H, W, 3).
        segmentation: Places in `CLASS_NAMES`, uint8 (H, W).
        depth: Metres along the axis of the camera, float32 (H, W).
        normals: Unit vectors in the frame of the camera, float32 (3, H, W): x to the right, y up,
            z towards the camera.
        eye: Where the camera is, (3,).
        axes: Its right, up and forward in the room, (3, 3), a row each.
        focal: Its focal length in half widths of the picture.
        size: Width, height and depth of the room, (3,).
        solids: What stands in it.
    """

    picture: np.ndarray
    segmentation: np.ndarray
    depth: np.ndarray
    normals: np.ndarray
    eye: np.ndarray
    axes: np.ndarray
    focal: float
    size: np.ndarray
    solids: list[Solid] = field(default_factory=list)


def render_room(seed: int, index: int = 0, *, size: int = 64) -> Room:
    """Render a room.

    Args:
        seed: Of the series.
        index: Of the room in its series, 0 or more; each room is drawn by itself.
        size: Height and width of the picture, 8 or more.

    Raises:
        ValueError: A smaller picture, or a negative number.

    Example:
        >>> room = render_room(0)
        >>> room.picture.shape, room.normals.shape, float(room.depth.min()) > 0
        ((64, 64, 3), (3, 64, 64), True)
    """
    if size < 8 or min(seed, index) < 0:
        raise ValueError(
            "A room needs a size of 8 or more, and a seed and an index of 0 or more, got "
            f"{size}, {seed} and {index}."
        )
    random = np.random.default_rng([seed, index])
    width, height, depth = random.uniform([4, 2.4, 5], [7, 3.4, 8])
    room = np.array([width, height, depth])
    eye = np.array([random.uniform(-0.25, 0.25) * width, random.uniform(1.1, 1.8), 0.4])
    axes = _view(random.uniform(-0.35, 0.35), random.uniform(-0.3, 0.0))
    focal = random.uniform(1.0, 1.4)
    solids = _furnished(random, room, random.integers(3, 7))
    lamp = np.array([
        random.uniform(-0.4, 0.4) * width, 0.92 * height, random.uniform(0.2, 0.8) * depth,
    ])  # fmt: skip

    rays = _rays(axes, focal, size)
    distance, number, normals = _hit(eye, rays, room, solids)
    points = eye + distance[:, None] * rays
    kinds = np.array([_FLOOR, _WALL, _CEILING, *(solid.kind for solid in solids)])[number]
    picture = _shaded(random, points, normals, number, len(solids) + 3, lamp, room, solids)
    picture = 255 * picture + random.normal(0, _NOISE, picture.shape)
    turned = normals @ axes.T
    turned[:, 2] *= -1  # towards the camera
    return Room(
        picture=picture.clip(0, 255).round().astype(np.uint8).reshape(size, size, 3),
        segmentation=kinds.astype(np.uint8).reshape(size, size),
        depth=(distance * (rays @ axes[2])).astype(np.float32).reshape(size, size),
        normals=turned.T.astype(np.float32).reshape(3, size, size),
        eye=eye,
        axes=axes,
        focal=focal,
        size=room,
        solids=solids,
    )


def render_rooms(
    count: int, seed: int, *, size: int = 64, start: int = 0
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Render a series of rooms.

    Args:
        count: How many.
        seed: Of the series.
        size: Height and width.
        start: Index of the first one.

    Returns:
        Pictures uint8 (N, H, W, 3); and "segmentation" int64 (N, H, W), "depth" float32 (N, H, W)
        and "normals" float32 (N, 3, H, W).
    """
    rooms = [render_room(seed, start + index, size=size) for index in range(count)]
    labels = {
        "segmentation": np.stack([room.segmentation for room in rooms]).astype(np.int64),
        "depth": np.stack([room.depth for room in rooms]),
        "normals": np.stack([room.normals for room in rooms]),
    }
    return np.stack([room.picture for room in rooms]), labels


def _view(yaw: float, pitch: float) -> np.ndarray:
    """Right, up and forward of a camera that looks along z, turned and then tilted."""
    forward = np.array([
        math.sin(yaw) * math.cos(pitch), math.sin(pitch), math.cos(yaw) * math.cos(pitch),
    ])  # fmt: skip
    right = np.array([math.cos(yaw), 0.0, -math.sin(yaw)])
    return np.stack([right, np.cross(forward, right), forward])


def _rays(axes: np.ndarray, focal: float, size: int) -> np.ndarray:
    """Directions of length 1 through the middles of the pixels, (H W, 3), rows from above."""
    middles = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(middles, -middles)
    rays = np.stack([x, y, np.full_like(x, focal)], -1).reshape(-1, 3) @ axes
    return rays / np.linalg.norm(rays, axis=1, keepdims=True)


def _furnished(random: np.random.Generator, room: np.ndarray, count: int) -> list[Solid]:
    """Things on the floor, clear of each other and of walls; fewer where they do not fit."""
    solids: list[Solid] = []
    for _ in range(50 * count):
        kind = int(random.integers(_SPHERE, _CYLINDER + 1))
        radius = random.uniform(0.25, 0.6)
        height = radius if kind == _SPHERE else random.uniform(0.25, 0.8)
        reach = radius * (math.sqrt(2) if kind == _BOX else 1)
        place = np.array([
            random.uniform(-1, 1) * (room[0] / 2 - reach), height,
            random.uniform(1.6 + reach, room[2] - reach),
        ])  # fmt: skip
        is_free = all(
            np.hypot(*(place - other.center)[[0, 2]]) > reach + other.extent[0] * math.sqrt(2)
            for other in solids
        )
        if is_free:
            extent = np.array([radius, height, radius])
            solids.append(Solid(kind, place, extent, random.uniform(0, math.pi / 2)))
        if len(solids) == count:
            break
    return solids


def _hit(
    origins: np.ndarray, rays: np.ndarray, room: np.ndarray, solids: list[Solid]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What rays from inside the room meet first.

    Returns:
        Distances (R,); numbers (R,): 0 floor, 1 wall, 2 ceiling, then the solids; and normals
        (R, 3).
    """
    low, high = np.array([-room[0] / 2, 0, 0]), np.array([room[0] / 2, room[1], room[2]])
    with np.errstate(divide="ignore", invalid="ignore"):
        exits = np.where(rays > 0, (high - origins) / rays, (low - origins) / rays)
    exits = np.where(rays == 0, np.inf, exits)
    axis = exits.argmin(1)
    rows = np.arange(len(rays))
    distance, normals = exits[rows, axis], np.zeros_like(rays)
    normals[rows, axis] = -np.sign(rays[rows, axis])
    number = np.where(axis != 1, _WALL, np.where(rays[:, 1] < 0, _FLOOR, _CEILING))
    for place, solid in enumerate(solids):
        found, sides = _INTERSECTIONS[solid.kind](origins - solid.center, rays, solid)
        is_nearer = found < distance
        distance = np.where(is_nearer, found, distance)
        number = np.where(is_nearer, place + 3, number)
        normals = np.where(is_nearer[:, None], sides, normals)
    return distance, number, normals


def _sphere(origins: np.ndarray, rays: np.ndarray, solid: Solid) -> tuple[np.ndarray, np.ndarray]:
    radius = solid.extent[0]
    along = (origins * rays).sum(-1)
    under = along**2 - (origins**2).sum(-1) + radius**2
    distance = -along - np.sqrt(np.maximum(under, 0))
    distance = np.where((under > 0) & (distance > 0), distance, np.inf)
    with np.errstate(invalid="ignore"):
        return distance, (origins + distance[:, None] * rays) / radius


def _box(origins: np.ndarray, rays: np.ndarray, solid: Solid) -> tuple[np.ndarray, np.ndarray]:
    cosine, sine = math.cos(solid.turn), math.sin(solid.turn)
    turn = np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])
    origins, rays = origins @ turn, rays @ turn
    origins = np.broadcast_to(origins, rays.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        entries = (-np.sign(rays) * solid.extent - origins) / rays
        exits = (np.sign(rays) * solid.extent - origins) / rays
    is_level = rays == 0
    is_beside = (is_level & (np.abs(origins) > solid.extent)).any(-1)
    entries, exits = np.where(is_level, -np.inf, entries), np.where(is_level, np.inf, exits)
    axis, rows = entries.argmax(1), np.arange(len(rays))
    distance = entries[rows, axis]
    is_hit = (distance < exits.min(1)) & (distance > 0) & ~is_beside
    normals = np.zeros_like(rays)
    normals[rows, axis] = -np.sign(rays[rows, axis])
    return np.where(is_hit, distance, np.inf), normals @ turn.T


def _cylinder(origins: np.ndarray, rays: np.ndarray, solid: Solid) -> tuple[np.ndarray, np.ndarray]:
    radius, half = solid.extent[0], solid.extent[1]
    origins = np.broadcast_to(origins, rays.shape)
    flat_rays, flat = rays[:, [0, 2]], origins[:, [0, 2]]
    with np.errstate(divide="ignore", invalid="ignore"):
        squared = (flat_rays**2).sum(-1)
        along = (flat * flat_rays).sum(-1)
        under = along**2 - squared * ((flat**2).sum(-1) - radius**2)
        side = (-along - np.sqrt(np.maximum(under, 0))) / squared
        is_side = (under > 0) & (side > 0) & (np.abs(origins[:, 1] + side * rays[:, 1]) <= half)
        lid = (half - origins[:, 1]) / rays[:, 1]
        on_lid = ((flat + lid[:, None] * flat_rays) ** 2).sum(-1) <= radius**2
        is_lid = on_lid & (lid > 0) & (rays[:, 1] < 0)
        side, lid = np.where(is_side, side, np.inf), np.where(is_lid, lid, np.inf)
        distance = np.minimum(side, lid)
        points = (origins + distance[:, None] * rays) / radius
    points[:, 1] = 0
    up = np.broadcast_to([0.0, 1.0, 0.0], rays.shape)
    return distance, np.where((lid < side)[:, None], up, points)


_INTERSECTIONS = {_SPHERE: _sphere, _BOX: _box, _CYLINDER: _cylinder}


def _shaded(
    random: np.random.Generator,
    points: np.ndarray,
    normals: np.ndarray,
    number: np.ndarray,
    surfaces: int,
    lamp: np.ndarray,
    room: np.ndarray,
    solids: list[Solid],
) -> np.ndarray:
    """Colours in [0, 1] of dull patterned surfaces, by one lamp and some light from all over."""
    colours = random.uniform(0.25, 1.0, (surfaces, 2, 3))
    scales = random.uniform(1.5, 6.0, surfaces)
    patterns = random.integers(0, 3, surfaces)[number]
    scaled = points * scales[number][:, None]
    checks = np.floor(scaled + 1e-6).sum(1) % 2
    stripes = np.floor(scaled @ random.normal(size=3)) % 2
    second = np.where(patterns == 0, 0, np.where(patterns == 1, checks, stripes)).astype(int)
    base = colours[number, second]

    to_lamp = lamp - points
    reach = np.linalg.norm(to_lamp, axis=1)
    to_lamp = to_lamp / reach[:, None]
    blocked = _hit(points + _STEP * normals, to_lamp, room, solids)[0] < reach - 2 * _STEP
    lit = np.maximum((normals * to_lamp).sum(1), 0) * ~blocked
    ambient, strength = random.uniform(0.25, 0.4), random.uniform(0.6, 0.9)
    return base * (ambient + strength * lit / (1 + 0.02 * reach**2))[:, None]
