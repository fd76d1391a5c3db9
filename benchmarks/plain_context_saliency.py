"""Context-aware saliency written down from its equations in NumPy, to be compared with.

No pip-installable implementation exists, so the peer is the plain formula: all distances at once,
in double precision, one scale after the other.
"""

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt, map_coordinates
from scipy.spatial.distance import cdist

PATCH, STRIDE, NEIGHBORS, POSITION_WEIGHT = 7, 3, 64, 3.0
SCALES, QUERY_SCALES, MIN_SCALE = (1.0, 0.8, 0.5, 0.3), (1.0, 0.5, 0.25), 0.2
FOCI_THRESHOLD = 0.8
# Linear sRGB to CIE XYZ, IEC 61966-2-1; the white point is the sum of each row.
_TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


def plain_context_aware_saliency(picture: np.ndarray) -> np.ndarray:
    """Attention areas of a picture.

    Args:
        picture: (1 or 3, H, W) in [0, 1]; one channel is a grey picture.

    Returns:
        (H, W) float64 in [0, 1].

    Source: Goferman, Zelnik-Manor and Tal, Context-Aware Saliency Detection, equations 1 to 4.
    """
    lab = _lab(np.broadcast_to(picture, (3, *picture.shape[1:])).astype(np.float64))
    height, width = lab.shape[1:]
    focused = []
    for scale in SCALES:
        grid = _Grid(lab, scale)
        others = [_Grid(lab, scale * q) for q in QUERY_SCALES if scale * q >= MIN_SCALE - 1e-9]
        saliency = 1 - np.exp(-_mean_nearest(grid, others))
        full = _at_pixels(_stretch(saliency).reshape(grid.rows, grid.cols), grid, height, width)
        to_focus = distance_transform_edt(~((full > FOCI_THRESHOLD) | (full == full.max())))
        focused.append(full * (1 - to_focus / max(to_focus.max(), 1)))
    return _stretch(np.mean(focused, axis=0))


class _Grid:
    """Patches of one scale, and their centres in units of the picture's larger side."""

    def __init__(self, lab: np.ndarray, scale: float) -> None:
        height, width = lab.shape[1:]
        size = (round(height * scale), round(width * scale))
        scaled = torch.from_numpy(lab)[None]
        if size != (height, width):
            scaled = F.interpolate(scaled, size=size, mode="bilinear", antialias=True)
        windows = np.lib.stride_tricks.sliding_window_view(
            scaled[0].numpy(), (PATCH, PATCH), axis=(1, 2)
        )[:, ::STRIDE, ::STRIDE]
        self.size = size
        self.rows, self.cols = windows.shape[1:3]
        self.vectors = windows.transpose(1, 2, 0, 3, 4).reshape(self.rows * self.cols, -1)
        centres = [
            (np.arange(count) * STRIDE + PATCH / 2) / side * full / max(height, width)
            for count, side, full in zip((self.rows, self.cols), size, (height, width), strict=True)
        ]
        self.centres = np.stack(np.meshgrid(*centres, indexing="ij"), axis=-1).reshape(-1, 2)


def _mean_nearest(grid: _Grid, others: list[_Grid]) -> np.ndarray:
    """Mean of d = d_color / (1 + c d_pos) over each patch's K nearest, itself excluded."""
    color = np.hstack([cdist(grid.vectors, other.vectors) for other in others])
    largest = color.max() or 1.0
    position = np.hstack([cdist(grid.centres, other.centres) for other in others])
    distance = color / largest / (1 + POSITION_WEIGHT * position)
    # The first candidates are the patches themselves.
    np.fill_diagonal(distance, np.inf)
    count = min(NEIGHBORS, distance.shape[1] - 1)
    return np.partition(distance, count - 1, axis=1)[:, :count].mean(axis=1)


def _at_pixels(values: np.ndarray, grid: _Grid, height: int, width: int) -> np.ndarray:
    """Linear between patch centres, constant outside the outermost ones."""
    rows, cols = (
        ((np.arange(full) + 0.5) / full * side - PATCH / 2) / STRIDE
        for full, side in zip((height, width), grid.size, strict=True)
    )
    where = np.meshgrid(rows, cols, indexing="ij")
    return map_coordinates(values, where, order=1, mode="nearest")


def _stretch(values: np.ndarray) -> np.ndarray:
    span = values.max() - values.min()
    return (values - values.min()) / span if span > 1e-6 else np.zeros_like(values)


def _lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* (D65) of an sRGB picture (3, H, W) in [0, 1]."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = np.tensordot(_TO_XYZ, linear, axes=1) / _TO_XYZ.sum(axis=1)[:, None, None]
    cut = (6 / 29) ** 3
    f = np.where(xyz > cut, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])
