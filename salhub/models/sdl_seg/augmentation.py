"""Patches of training volumes that are turned, and whose markers are moved, dropped and added."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from salhub.models.sdl_seg.cases import TrainingVolume
from salhub.models.sdl_seg.processing_sdl_seg import AIR_HU, normalized
from salhub.models.sdl_seg.saliency_map import saliency_map

# All of them are our choice.
_ROTATION, _SCALE = np.deg2rad(15), (0.9, 1.1)
_SHIFT_HU, _NOISE_HU, _GAMMA = 20.0, 15.0, (0.8, 1.2)
_JITTER_MM, _DROP, _LEAST_MARKERS, _FALSE, _BLANK = 2.0, 0.15, 2, 0.15, 0.05
_FALSE_MM = (20.0, 50.0)


def training_patch(
    one: TrainingVolume,
    size: Sequence[int] | None,
    draws: np.random.Generator,
    *,
    augment: bool = True,
    augment_markers: bool = True,
) -> tuple[Tensor, Tensor]:
    """A patch as the network sees it.

    Half of the patches are centred on the target. Flips along z and x, in-plane rotation and scale;
    HU shift, noise and gamma. Markers are jittered, dropped, joined by a false one, or all hidden,
    and the map is made of what is left.

    Args:
        one: The volume.
        size: Voxels of the patch, (z, y, x); None for the whole volume.
        draws: What is random.
        augment: Whether space and intensity are changed.
        augment_markers: Whether markers are.

    Returns:
        float32 (C, d, h, w) and (1, d, h, w).
    """
    shape = np.array(one.volume.shape)
    patch = shape if size is None else np.minimum(size, shape)
    spacing = np.array(one.config.target_spacing, dtype=np.float64)
    matrix = _turned(draws, spacing) if augment else np.eye(3)
    offset = _centre(one.mask, patch, draws) - matrix @ ((patch - 1) / 2)
    if augment:
        volume, mask = _resampled(one, matrix, offset, patch)
    else:
        offset = np.rint(offset)
        where = tuple(slice(int(a), int(a) + n) for a, n in zip(offset, patch, strict=True))
        volume, mask = one.volume[where], one.mask[where]
    markers = (one.markers - offset) @ np.linalg.inv(matrix).T
    if augment:
        volume = volume + np.float32(draws.uniform(-_SHIFT_HU, _SHIFT_HU))
        noise = draws.standard_normal(volume.shape, dtype=np.float32)
        volume = volume + np.float32(draws.uniform(0, _NOISE_HU)) * noise
    pixels = normalized(volume, one.config)
    if augment:
        pixels = pixels ** draws.uniform(*_GAMMA)
    channels = [pixels]
    if one.config.saliency_kind != "none":
        if augment_markers:
            markers = changed_markers(markers, spacing, draws)
        channels.append(_map_of_patch(markers, patch, one))
    return torch.stack(channels), torch.as_tensor(mask, dtype=torch.float32)[None]


def changed_markers(
    markers: np.ndarray, spacing: np.ndarray, draws: np.random.Generator
) -> np.ndarray:
    """Markers as somebody else might have found them; none at all now and then.

    Args:
        markers: Voxel coordinates, (K, 3).
        spacing: Voxel size in mm, (z, y, x).
        draws: What is random.
    """
    moved = markers + draws.normal(0, _JITTER_MM, markers.shape) / spacing
    kept = draws.uniform(size=len(moved)) >= _DROP
    if kept.sum() < _LEAST_MARKERS:
        kept[draws.permutation(len(moved))[:_LEAST_MARKERS]] = True
    found = moved[kept]
    direction = draws.normal(size=3)
    away = direction / np.linalg.norm(direction) * draws.uniform(*_FALSE_MM)
    if draws.uniform() < _FALSE and len(moved):
        found = np.concatenate([found, [moved.mean(axis=0) + away / spacing]])
    return found[:0] if draws.uniform() < _BLANK else found


def _turned(draws: np.random.Generator, spacing: np.ndarray) -> np.ndarray:
    """From voxels of the patch to those of the volume, both counted from their middles."""
    angle = draws.uniform(-_ROTATION, _ROTATION)
    sine, cosine = np.sin(angle), np.cos(angle)
    turn = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    flips = np.where(draws.uniform(size=3) < 0.5, -1.0, 1.0)
    flips[1] = 1.0  # the chest wall stays where it is
    in_mm = turn * flips * draws.uniform(*_SCALE)
    return in_mm * spacing / spacing[:, None]


def _centre(mask: np.ndarray, patch: np.ndarray, draws: np.random.Generator) -> np.ndarray:
    low = (patch - 1) / 2
    high = np.array(mask.shape) - 1 - low
    anywhere = low + draws.uniform(size=3) * (high - low)
    voxels = np.flatnonzero(mask)
    pick, is_on_target = draws.uniform(), draws.uniform() < 0.5
    if not len(voxels) or not is_on_target:
        return anywhere
    place = np.array(np.unravel_index(voxels[int(pick * len(voxels))], mask.shape))
    return np.clip(place, low, high)


def _resampled(
    one: TrainingVolume, matrix: np.ndarray, offset: np.ndarray, patch: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    shape = tuple(patch)
    volume = ndimage.affine_transform(
        one.volume, matrix, offset, shape, order=1, mode="constant", cval=AIR_HU
    )
    mask = ndimage.affine_transform(
        one.mask.astype(np.uint8), matrix, offset, shape, order=0, mode="constant", cval=0
    )
    return volume, mask


def _map_of_patch(markers: np.ndarray, patch: np.ndarray, one: TrainingVolume) -> Tensor:
    """The part of the map of a whole volume: its highest place may lie outside of the patch."""
    if not len(markers):
        return torch.zeros(tuple(patch))
    low = np.minimum(0, np.floor(markers.min(axis=0)) - 1).astype(int)
    high = np.maximum(patch, np.ceil(markers.max(axis=0)) + 2).astype(int)
    found = saliency_map(markers - low, high - low, one.config.target_spacing, one.config)
    return found[tuple(slice(-a, n - a) for a, n in zip(low, patch, strict=True))].contiguous()
