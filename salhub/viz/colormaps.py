"""Perceptually uniform, colour-blind safe colour maps from a few anchor colours.

The anchors are joined in CIE 1976 L*a*b*, where equal distances look about equally far apart, and
sampled at equal steps of distance (CIE 15:2004, section 8.2.1; sRGB of IEC 61966-2-1).
"""

from functools import lru_cache

import numpy as np

from salhub.errors import UnknownNameError, did_you_mean

SEQUENTIAL = "viridis"
DIVERGING = "blue_orange"

# Anchors of viridis and magma (S. van der Walt and N. Smith, CC0). The two arms of blue_orange
# have the same lightness at the same distance from the middle, so that +x and -x look as strong.
_ANCHORS = {
    "viridis": "440154 472d7b 3b528b 2c728e 21918c 27ad81 5cc863 aadc32 fde725",
    "magma": "000004 1d1147 51127c 832681 b73779 e55064 fb8761 fec287 fcfdbf",
    "gray": "000000 ffffff",
    "blue_orange": "204975 3374b8 5ba2ef a7cefb f3f2f1 f3bd9e df8448 a9591f 6c3813",
}
COLORMAPS = tuple(_ANCHORS)
_DIVERGING_MAPS = frozenset({"blue_orange"})

# Linear sRGB to CIE XYZ, each divided by the white point (D65).
_WHITE_POINT = np.array([0.95047, 1.0, 1.08883])
_RGB_TO_XYZ = (
    np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    / _WHITE_POINT[:, None]
)
# f(X), f(Y), f(Z) to L*, a*, b* without the constant -16 of L*.
_ROOTS_TO_LAB = np.array([[0.0, 116, 0], [500, -500, 0], [0, 200, -200]])
# Below 216 / 24389 the cube root is replaced by a line.
_EPSILON, _KAPPA = 216 / 24389, 24389 / 27


def colorize(values: np.ndarray, name: str = SEQUENTIAL) -> np.ndarray:
    """Give every value its colour.

    Args:
        values: Numbers in [0, 1], any shape. In a diverging map 0.5 is neutral.
        name: One of COLORMAPS: "viridis", "magma" and "gray" for amounts, "blue_orange" for
            signed values.

    Returns:
        sRGB colours, uint8, shape (*values.shape, 3).

    Raises:
        UnknownNameError: There is no such colour map.
        ValueError: NaN, or a value outside [0, 1].

    Example:
        >>> colorize(np.array([0.0, 1.0])).tolist()
        [[68, 1, 84], [253, 231, 37]]
    """
    table = _table(_checked_name(name))
    values = np.asarray(values, dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(
            f"Values to colour must be in [0, 1], got {np.nanmin(values):.4g} to "
            f"{np.nanmax(values):.4g}{' and NaN' if np.isnan(values).any() else ''}; scale "
            "them with salhub.viz.to_unit_range."
        )
    return table[np.rint(values * 255).astype(np.intp)]


def _checked_name(name: str) -> str:
    if name not in _ANCHORS:
        raise UnknownNameError(
            f"There is no colour map {name!r}; choose one of {', '.join(COLORMAPS)}."
            f"{did_you_mean(name, COLORMAPS)}"
        )
    return name


@lru_cache(maxsize=len(_ANCHORS))
def _table(name: str) -> np.ndarray:
    anchors = [tuple(bytes.fromhex(color)) for color in _ANCHORS[name].split()]
    lab = _to_lab(np.array(anchors) / 255)
    positions = np.linspace(0, 1, 256)
    if name in _DIVERGING_MAPS:
        middle = len(lab) // 2
        lower = _equal_steps(lab[: middle + 1], np.clip(positions * 2, 0, 1))
        upper = _equal_steps(lab[middle:], np.clip(positions * 2 - 1, 0, 1))
        colors = np.where(positions[:, None] < 0.5, lower, upper)
    else:
        colors = _equal_steps(lab, positions)
    return np.rint(_to_srgb(colors) * 255).astype(np.uint8)


def _equal_steps(lab: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Walk along the anchors so that equal steps of position are equal steps of colour."""
    steps = np.linalg.norm(np.diff(lab, axis=0), axis=1)
    reached = np.concatenate([[0.0], np.cumsum(steps)]) / steps.sum()
    return np.stack([np.interp(positions, reached, channel) for channel in lab.T], axis=-1)


def _to_lab(srgb: np.ndarray) -> np.ndarray:
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    ratios = linear @ _RGB_TO_XYZ.T
    roots = np.where(ratios > _EPSILON, np.cbrt(ratios), (_KAPPA * ratios + 16) / 116)
    return roots @ _ROOTS_TO_LAB.T


def _to_srgb(lab: np.ndarray) -> np.ndarray:
    roots = lab @ np.linalg.inv(_ROOTS_TO_LAB).T
    ratios = np.where(roots**3 > _EPSILON, roots**3, (116 * roots - 16) / _KAPPA)
    linear = np.clip(ratios @ np.linalg.inv(_RGB_TO_XYZ).T, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
