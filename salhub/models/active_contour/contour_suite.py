"""Pictures drawn by rule, whose masks are exact: six shapes under seven degradations."""

from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter

from salhub.errors import check_choice

KINDS = ("disk", "star", "tee", "cring", "three", "vessel")
DEGRADATIONS = ("clean", "noise", "bias", "weak", "multi", "clutter", "saltpepper")
# Seeds that settings were chosen on; the others are for acceptance.
DEVELOPMENT_SEEDS = tuple(range(5))

_BACKGROUND, _FOREGROUND = 0.3, 0.7
_PARTS = (0.5, 0.7, 0.95)


def make_contour_case(
    kind: str, degradation: str, seed: int, size: int = 128
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one picture of the suite.

    The object is 0.7 on 0.3 and touches no border. Degradations: "clean", Gaussian noise of 0.02,
    which all have; "noise", of 0.15; "bias", light that rises from half to one and a half from
    left to right; "weak", the edge blurred by 3 pixels of 128; "multi", parts of 0.5, 0.7 and 0.95;
    "clutter", a texture of 0.09 with grains of 2.5 pixels of 128; "saltpepper", one pixel of twenty
    black or white.

    Args:
        kind: One of `KINDS`.
        degradation: One of `DEGRADATIONS`.
        seed: Of place, size, turn and noise; the shape is the same under all degradations.
        size: Height and width in pixels, 32 or more.

    Returns:
        The picture, float32 (size, size) in [0, 1], and its mask, bool (size, size).

    Raises:
        ValueError: No such kind or degradation, or a size below 32.

    Example:
        >>> image, mask = make_contour_case("star", "noise", seed=0)
        >>> image.shape, mask.dtype
        ((128, 128), dtype('bool'))
    """
    check_choice("kind", kind, KINDS)
    check_choice("degradation", degradation, DEGRADATIONS)
    if size < 32:
        raise ValueError(f"size must be 32 or more, got {size}; the shapes do not fit into less.")
    place = np.random.default_rng([seed, KINDS.index(kind)])
    rows, columns = (np.mgrid[:size, :size] + 0.5) / size
    part = _SHAPES[kind](rows, columns, place)
    mask = part > 0
    noise = np.random.default_rng([seed, KINDS.index(kind), DEGRADATIONS.index(degradation)])
    scale = size / 128
    image = np.where(mask, _FOREGROUND, _BACKGROUND)
    if degradation == "multi":
        image = np.array([_BACKGROUND, *noise.permutation(_PARTS)])[part]
    elif degradation == "weak":
        image = gaussian_filter(image, 3 * scale)
    elif degradation == "bias":
        image = image * (0.5 + columns)
    elif degradation == "clutter":
        texture = gaussian_filter(noise.standard_normal(mask.shape), 2.5 * scale, mode="wrap")
        image = image + 0.09 * texture / texture.std()
    image = image + (0.15 if degradation == "noise" else 0.02) * noise.standard_normal(mask.shape)
    if degradation == "saltpepper":
        drawn = noise.random(mask.shape)
        image = np.where(drawn < 0.05, np.where(drawn < 0.025, 0.0, 1.0), image)
    return np.clip(image, 0, 1).astype(np.float32), mask


def _turned(rows: np.ndarray, columns: np.ndarray, centre: np.ndarray, angle: float) -> tuple:
    """Coordinates about a centre, the first axis along the angle."""
    y, x = rows - centre[0], columns - centre[1]
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def _thirds(along: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Number the parts of a shape 1, 2 and 3 by thirds of its extent; 0 outside."""
    low, high = along[inside].min(), along[inside].max()
    third = np.floor(3 * (along - low) / (high - low + 1e-9)).clip(0, 2).astype(int)
    return np.where(inside, 1 + third, 0)


def _disk(rows: np.ndarray, columns: np.ndarray, place: np.random.Generator) -> np.ndarray:
    centre, angle = place.uniform(0.42, 0.58, 2), place.uniform(0, 2 * np.pi)
    x, y = _turned(rows, columns, centre, angle)
    return _thirds(x, np.hypot(x, y) < place.uniform(0.17, 0.27))


def _star(rows: np.ndarray, columns: np.ndarray, place: np.random.Generator) -> np.ndarray:
    centre, angle = place.uniform(0.45, 0.55, 2), place.uniform(0, 2 * np.pi)
    x, y = _turned(rows, columns, centre, angle)
    outer, inner = place.uniform(0.28, 0.37), 0.45
    # In a sector between a tip and a notch the edge is a straight line.
    turn = np.abs((np.arctan2(y, x) % (2 * np.pi / 5)) - np.pi / 5)
    notch, tip = np.array([inner, 0.0]), np.array([np.cos(np.pi / 5), np.sin(np.pi / 5)])
    normal = np.array([tip[1] - notch[1], notch[0] - tip[0]])
    reach = (normal @ notch) / (normal[0] * np.cos(turn) + normal[1] * np.sin(turn))
    return _thirds(x, np.hypot(x, y) < outer * reach)


def _tee(rows: np.ndarray, columns: np.ndarray, place: np.random.Generator) -> np.ndarray:
    centre, angle = place.uniform(0.45, 0.55, 2), place.uniform(0, 2 * np.pi)
    x, y = _turned(rows, columns, centre, angle)
    half, thick = place.uniform(0.22, 0.3), place.uniform(0.05, 0.07)
    bar = (np.abs(x) < half) & (np.abs(y + half - thick) < thick)
    stem = (np.abs(x) < thick) & (np.abs(y) < half)
    return _thirds(y, bar | stem)


def _cring(rows: np.ndarray, columns: np.ndarray, place: np.random.Generator) -> np.ndarray:
    centre, angle = place.uniform(0.43, 0.57, 2), place.uniform(0, 2 * np.pi)
    x, y = _turned(rows, columns, centre, angle)
    outer = place.uniform(0.26, 0.36)
    inner, gap = outer * place.uniform(0.55, 0.7), place.uniform(0.35, 0.6)
    radius, turn = np.hypot(x, y), np.arctan2(y, x)
    return _thirds(turn, (radius < outer) & (radius > inner) & (np.abs(turn) < np.pi - gap))


def _three(rows: np.ndarray, columns: np.ndarray, place: np.random.Generator) -> np.ndarray:
    start = place.uniform(0, 2 * np.pi)
    sizes = place.uniform(0.09, 0.13, 3)
    angles = place.uniform(0, 2 * np.pi, 3)
    part = np.zeros(rows.shape, dtype=int)
    for number in range(3):
        turn = start + 2 * np.pi * number / 3
        centre = 0.5 + 0.24 * np.array([np.sin(turn), np.cos(turn)])
        x, y = _turned(rows, columns, centre, angles[number])
        size = sizes[number]
        if number == 0:
            inside = np.hypot(x, y) < size
        elif number == 1:
            inside = np.maximum(np.abs(x), np.abs(y)) < 0.9 * size
        else:
            sides = [x * np.cos(a) + y * np.sin(a) for a in (0, 2 * np.pi / 3, 4 * np.pi / 3)]
            inside = np.maximum.reduce(sides) < 0.6 * size
        part[inside] = 1 + number
    return part


def _vessel(rows: np.ndarray, columns: np.ndarray, place: np.random.Generator) -> np.ndarray:
    centre, angle = place.uniform(0.45, 0.55, 2), place.uniform(0, 2 * np.pi)
    x, y = _turned(rows, columns, centre, angle)
    radius = place.uniform(0.03, 0.045) / 2
    part = np.zeros(rows.shape, dtype=int)
    nearest = np.full(rows.shape, np.inf)
    for number, spread in enumerate((0.0, 2.2, -2.2)):
        turn, length, bow = spread + place.uniform(-0.2, 0.2), place.uniform(0.28, 0.36), 0.06
        along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
        steps = np.linspace(0, 1, 60)
        bows = bow * place.uniform(-1, 1) * np.sin(np.pi * steps)
        line = np.stack([length * steps, bows])
        distance = np.full(rows.shape, np.inf)
        for one, two in zip(line.T[:-1], line.T[1:], strict=True):
            step = two - one
            share = ((along - one[0]) * step[0] + (across - one[1]) * step[1]) / (step @ step)
            share = share.clip(0, 1)
            near = np.hypot(along - one[0] - share * step[0], across - one[1] - share * step[1])
            distance = np.minimum(distance, near)
        part[(distance < radius) & (distance < nearest)] = 1 + number
        nearest = np.minimum(nearest, distance)
    return part


_SHAPES: dict[str, Callable] = {
    "disk": _disk,
    "star": _star,
    "tee": _tee,
    "cring": _cring,
    "three": _three,
    "vessel": _vessel,
}
