"""What people give beside a volume, checked before any work: places of markers, and masks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


def checked_markers(markers: Any, shape: Sequence[int]) -> np.ndarray:
    """Voxel coordinates inside of a volume, float64 (K, 3).

    Raises:
        ValueError: Another shape, NaN, or a place outside of the volume.
    """
    values = markers.detach().cpu() if isinstance(markers, torch.Tensor) else markers
    try:
        places = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        places = np.array([np.nan])
    if places.size == 0:
        return np.zeros((0, 3))
    if places.ndim != 2 or places.shape[1] != 3 or not np.isfinite(places).all():
        raise ValueError(
            "markers must be voxel coordinates of shape (K, 3), (z, y, x) each, all finite, got "
            f"shape {places.shape}."
        )
    outside = ((places < -0.5) | (places > np.array(shape) - 0.5)).any(axis=1)
    if outside.any():
        first = ", ".join(f"{one:g}" for one in places[outside][0])
        raise ValueError(
            f"The marker at ({first}) lies outside the volume of {tuple(shape)} voxels; "
            "markers are voxel coordinates (z, y, x), so divide millimetres by the spacing."
        )
    return places


def checked_mask(mask: Any, shape: Sequence[int], what: str = "masks") -> np.ndarray:
    """A binary mask of a volume, bool.

    Raises:
        ValueError: Another shape than the volume's, or values other than 0 and 1.
    """
    values = mask.detach().cpu().numpy() if isinstance(mask, torch.Tensor) else np.asarray(mask)
    if values.shape != tuple(shape):
        raise ValueError(
            f"{what} must have the shape of the volume, {tuple(shape)}, got {values.shape}."
        )
    if values.dtype != bool and not np.isin(values, (0, 1)).all():
        odd = np.unique(values[~np.isin(values, (0, 1))])[:3].tolist()
        raise ValueError(
            f"{what} must contain only 0 and 1, got {odd} too; choose one label first."
        )
    return values.astype(bool)
