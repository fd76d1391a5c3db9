"""A breast on a planning CT, made of arithmetic: a tumour bed with clips, and decoys without.

Bed and decoys have the same size and intensity law, so that only the clips tell them apart. The
truth is exact, every number is drawn from the seed, and there is no patient behind it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

SHAPE, SPACING = (24, 96, 96), (3.0, 1.5, 1.5)
# Hounsfield units of what there is.
_AIR, _LUNG, _FAT, _SKIN, _GLAND, _MUSCLE, _SCAR, _RIB = -1000, -780, -105, 20, 25, 45, 35, 350
_SEROMA = 12
_CHEST_WALL_MM = 34.0  # where the breast begins, from the border of the volume
_LEAST_DEPTH_MM = 14.0  # of the middle of the bed and of a decoy below the skin
_LEAST_GAP_MM = 14.0  # from the bed to the middle of a decoy
_PSF_MM, _NOISE_HU, _STREAK_HU = 1.0, 18.0, 60.0


@dataclass(frozen=True)
class BreastPhantom:
    """A made-up planning CT with its truth.

    Attributes:
        volume: HU, float32 (z, y, x).
        mask: The tumour bed, bool (z, y, x).
        decoys: What looks like the bed and has no clips, bool (z, y, x).
        markers: Middles of the clips in voxel coordinates (z, y, x), float64 (K, 3); where they
            would be, if they are not visible.
        spacing: Voxel size in mm, (z, y, x).
        patient: The seed.
        fraction: Number of the scan of this patient.
    """

    volume: np.ndarray
    mask: np.ndarray
    decoys: np.ndarray
    markers: np.ndarray
    spacing: tuple[float, float, float]
    patient: int
    fraction: int


def make_breast_phantom(
    seed: int,
    shape: Sequence[int] = SHAPE,
    spacing: Sequence[float] = SPACING,
    *,
    fraction: int = 0,
    num_decoys: int = 4,
    num_calcifications: int = 0,
    clips_visible: bool = True,
) -> BreastPhantom:
    """Make the phantom of a patient.

    Args:
        seed: The patient, 0 or more.
        shape: Voxels, (z, y, x); at least 8 each.
        spacing: Voxel size in mm, (z, y, x).
        fraction: Which scan: each has its own noise, a shift of about 2 mm and a bed that is up to
            a tenth larger or smaller. Scans of one patient belong on one side of a split.
        num_decoys: Decoys, 0 or more; those that find no place are left out.
        num_calcifications: Small bright spots anywhere in the breast, 300 to 1500 HU at their peak,
            which may be taken for clips.
        clips_visible: False paints the clips and their streaks out; all else stays as it is.

    Returns:
        `BreastPhantom`, the same for the same arguments.

    Raises:
        ValueError: A shape or spacing that holds no breast, or a negative number.

    Example:
        >>> phantom = make_breast_phantom(0)
        >>> phantom.volume.shape, 4 <= len(phantom.markers) <= 7
        ((24, 96, 96), True)
    """
    _check(seed, shape, spacing, fraction, num_decoys, num_calcifications)
    scene = _Scene(seed, tuple(shape), np.asarray(spacing, dtype=np.float64), fraction)
    bed = scene.lesion("bed", 0, scale=scene.bed_scale)
    decoys = scene.decoys(bed, num_decoys)
    for one in [bed, *decoys]:
        scene.paint(one)
    clips = scene.clips(bed)
    calcifications = scene.calcifications(num_calcifications)
    volume = scene.scanned([*(clips if clips_visible else []), *calcifications])
    union = np.zeros_like(bed.mask)
    for one in decoys:
        union |= one.mask
    mask, others = (scene.moved(one.astype(np.float32)) > 0.5 for one in (bed.mask, union))
    return BreastPhantom(
        volume,
        mask,
        others & ~mask,
        np.stack([place for place, _, _ in clips]) / scene.spacing,
        tuple(float(one) for one in spacing),
        seed,
        fraction,
    )


def _check(seed: int, shape: Sequence[int], spacing: Sequence[float], *counts: int) -> None:
    names = ("seed", "fraction", "num_decoys", "num_calcifications")
    for name, value in zip(names, (seed, *counts), strict=True):
        if value < 0:
            raise ValueError(f"{name} must be 0 or more, got {value}.")
    extent = [size * step for size, step in zip(shape, spacing, strict=False)]
    if len(shape) != 3 or len(spacing) != 3 or min(shape) < 8 or min(spacing) <= 0:
        raise ValueError(
            "A phantom needs a shape of three sides, 8 voxels or more, and a spacing of three "
            f"numbers above 0, (z, y, x); got {tuple(shape)} and {tuple(spacing)}."
        )
    if extent[0] < 48 or min(extent[1:]) < 110:
        raise ValueError(
            "A phantom needs 48 x 110 x 110 mm, (z, y, x), to hold a breast; shape times spacing "
            f"gives {' x '.join(f'{one:g}' for one in extent)} mm."
        )


@dataclass(frozen=True)
class _Lesion:
    mask: np.ndarray
    clarity: float
    texture: np.ndarray


class _Scene:
    """The tissue of a patient, in HU, before it is scanned."""

    def __init__(self, seed: int, shape: tuple, spacing: np.ndarray, fraction: int) -> None:
        self.seed, self.shape, self.spacing, self.fraction = seed, shape, spacing, fraction
        moves = self._draws("fraction", fraction)
        is_first = fraction == 0
        self.shift = np.zeros(3) if is_first else moves.normal(0, 2 / np.sqrt(3), 3)
        self.bed_scale = 1.0 if is_first else moves.uniform(0.9, 1.1)
        self.z, self.y, self.x = (
            np.arange(size, dtype=np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
            * np.float32(step)
            for axis, (size, step) in enumerate(zip(shape, spacing, strict=True))
        )
        self.middle = (np.array(shape) - 1) * spacing / 2
        self._draw_tissue()

    def _draws(self, what: str, number: int = 0) -> np.random.Generator:
        """Numbers of their own for each part, so that leaving one out changes no other."""
        names = ("fraction", "breast", "gland", "bed", "decoy", "clips", "noise", "calcifications")
        return np.random.default_rng([self.seed, names.index(what), number])

    def _smooth_noise(self, draws: np.random.Generator, width_mm: float) -> np.ndarray:
        """A field with mean 0 and standard deviation 1."""
        field = draws.standard_normal(self.shape, dtype=np.float32)
        field = ndimage.gaussian_filter(field, width_mm / self.spacing, mode="wrap")
        return (field - field.mean()) / field.std()

    def _draw_tissue(self) -> None:
        draws = self._draws("breast")
        radii = draws.uniform([30, 50, 40], [40, 66, 56])
        wall = _CHEST_WALL_MM - 0.0015 * (self.x - self.middle[2]) ** 2
        depth_y = self.y - wall
        inside = (
            ((self.z - self.middle[0]) / radii[0]) ** 2
            + (depth_y / radii[1]) ** 2
            + ((self.x - self.middle[2]) / radii[2]) ** 2
        )
        breast = (inside < 1) & (depth_y >= 0)
        body = breast | np.broadcast_to(depth_y < 0, self.shape)
        skin = body & ~ndimage.binary_erosion(body, border_value=1)
        tissue = np.where(body, np.float32(_FAT), np.float32(_AIR))
        self._draw_gland(tissue, breast, radii, depth_y)
        tissue[np.broadcast_to(depth_y < -6, self.shape)] = _MUSCLE
        phase = draws.uniform(0, 24)
        slant = 0.15 * (self.x - self.middle[2])
        across = (self.z + slant + phase) % 24 - 12
        rib = (across / 5.5) ** 2 + ((depth_y + 16) / 4) ** 2 < 1
        tissue[np.broadcast_to(depth_y < -22, self.shape)] = _LUNG
        tissue[np.broadcast_to(rib, self.shape)] = _RIB
        tissue[skin] = _SKIN
        self.tissue = tissue
        # Distance to all that is no breast, so that nothing lies in the skin or the muscle.
        self.depth = ndimage.distance_transform_edt(breast, sampling=self.spacing)

    def _draw_gland(
        self, tissue: np.ndarray, breast: np.ndarray, radii: np.ndarray, depth_y: np.ndarray
    ) -> None:
        draws = self._draws("gland")
        axis = ((self.z - self.middle[0]) / radii[0]) ** 2 + (
            (self.x - self.middle[2]) / radii[2]
        ) ** 2
        noise = self._smooth_noise(draws, 7.0) + 1.0 * (0.5 - axis) + 0.3 * (depth_y / radii[1])
        gland = breast & (noise > draws.uniform(-0.2, 1.0))
        texture = self._smooth_noise(draws, 2.0)
        tissue[gland] = _GLAND + 8 * texture[gland]

    def lesion(self, what: str, number: int, scale: float = 1.0, allowed: Any = None) -> Any:
        """A rough ellipsoid below the skin; None where there is no place for it."""
        draws = self._draws(what, number)
        radii = draws.uniform(9, 16, 3)
        clarity = draws.uniform()
        where = self.depth >= max(_LEAST_DEPTH_MM, 0.9 * radii.max())
        if not where.any():
            where = self.depth >= min(_LEAST_DEPTH_MM, 0.9 * self.depth.max())
        if allowed is not None:
            where = where & allowed
        places = np.argwhere(where)
        pick = draws.uniform()
        roughness, texture = self._smooth_noise(draws, 5.0), self._smooth_noise(draws, 2.5)
        if not len(places):
            return None
        z, y, x = places[int(pick * len(places))] * self.spacing
        radius = np.sqrt(
            ((self.z - z) / radii[0]) ** 2
            + ((self.y - y) / radii[1]) ** 2
            + ((self.x - x) / radii[2]) ** 2
        )
        mask = (radius < scale * (1 + 0.12 * roughness)) & (self.depth > 2)
        parts, count = ndimage.label(mask)
        if count > 1:
            mask = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
        return _Lesion(ndimage.binary_fill_holes(mask), clarity, texture)

    def decoys(self, bed: _Lesion, count: int) -> list[_Lesion]:
        """Lesions away from the bed, cut where they would come close to it."""
        gap = ndimage.distance_transform_edt(~bed.mask, sampling=self.spacing)
        found = (self.lesion("decoy", n, allowed=gap >= _LEAST_GAP_MM) for n in range(count))
        return [
            _Lesion(one.mask & (gap > 4), one.clarity, one.texture)
            for one in found
            if one is not None
        ]

    def paint(self, lesion: _Lesion) -> None:
        """From a clear seroma to a mixture of fat and scar."""
        mixture = _FAT + (_SCAR - _FAT) / (1 + np.exp(-3 * lesion.texture[lesion.mask]))
        clear = lesion.clarity * _SEROMA + (1 - lesion.clarity) * mixture
        self.tissue[lesion.mask] = clear

    def clips(self, bed: _Lesion) -> list[tuple[np.ndarray, float, float]]:
        """Place in mm, peak in HU and phase of the streaks of each clip."""
        draws = self._draws("clips")
        surface = np.argwhere(bed.mask & ~ndimage.binary_erosion(bed.mask)) * self.spacing
        count = int(draws.integers(4, 8))
        chosen = [surface[int(draws.uniform() * len(surface))]]
        while len(chosen) < count:
            gaps = np.linalg.norm(surface[:, None] - np.stack(chosen), axis=2).min(axis=1)
            chosen.append(surface[int(gaps.argmax())])
        last = (np.array(self.shape) - 1) * self.spacing
        return [
            (
                np.clip(place + self.shift + draws.normal(0, 2, 3), 0, last),
                draws.uniform(2000, 2800),
                draws.uniform(0, 2 * np.pi),
            )
            for place in chosen
        ]

    def calcifications(self, count: int) -> list[tuple[np.ndarray, float, float]]:
        """The same of bright spots that are no clips."""
        draws = self._draws("calcifications")
        places = np.argwhere(self.depth > 3) * self.spacing
        return [
            (
                places[int(draws.uniform() * len(places))] + self.shift,
                draws.uniform(300, 1500),
                draws.uniform(0, 2 * np.pi),
            )
            for _ in range(count)
        ]

    def moved(self, field: np.ndarray) -> np.ndarray:
        """What lies elsewhere in this scan than in the first one."""
        if not self.shift.any():
            return field
        return ndimage.shift(field, self.shift / self.spacing, order=1, mode="nearest")

    def scanned(self, clips: list[tuple[np.ndarray, float, float]]) -> np.ndarray:
        """What the scanner gives: blur, clips with streaks, noise."""
        image = self.moved(self.tissue)
        image = ndimage.gaussian_filter(image, _PSF_MM / self.spacing, mode="nearest")
        # A voxel averages over its sides, which widens a clip that is smaller than it.
        width = np.sqrt(_PSF_MM**2 + self.spacing**2 / 12)
        for place, peak, phase in clips:
            dz, dy, dx = self.z - place[0], self.y - place[1], self.x - place[2]
            slices = np.exp(-((dz / width[0]) ** 2) / 2)
            disc = np.exp(-((dy / width[1]) ** 2 + (dx / width[2]) ** 2) / 2)
            radius = np.hypot(dy, dx)
            rays = np.cos(6 * np.arctan2(dy, dx) + phase) * np.exp(-radius / 15) * (1 - disc)
            image = image + slices * (peak * disc + _STREAK_HU * rays)
        draws = self._draws("noise", self.fraction)
        white = draws.standard_normal(self.shape, dtype=np.float32)
        rough = ndimage.gaussian_filter(draws.standard_normal(self.shape, dtype=np.float32), 0.8)
        noise = 0.8 * white + 0.6 * rough / rough.std()
        return np.clip(image + _NOISE_HU * noise, -1024, 3071).astype(np.float32)
