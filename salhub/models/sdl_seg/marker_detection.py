"""Finding surgical clips on a CT: small, very bright, together, and not at a bone."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from scipy.cluster.hierarchy import fcluster, linkage

from salhub.errors import SalhubError
from salhub.models.sdl_seg.components import largest_part, without_holes
from salhub.models.sdl_seg.configuration_sdl_seg import SDLSegConfig

_BODY_HU = -300
# Blobs of several clips: from this many medians on they are looked at, up to this many of the
# largest allowed volume, and their clips are at least so far apart.
_MERGED_MEDIANS, _MERGED_LARGEST, _CLIP_GAP_MM = 1.8, 4, 4.0
_LEAST_PEAK = 0.4  # of the brightest; what is darker is a streak
# Metal is what is brighter than tissue; below this share of the median a marker is doubted.
_TISSUE_HU, _LEAST_CONTENT = 150, 0.6
_FULL = np.ones((3, 3, 3), dtype=bool)


class MarkerNotFoundError(SalhubError, ValueError):
    """There are no markers, and they are needed."""


class TooManyMarkersError(SalhubError, ValueError):
    """So many candidates that they cannot all be markers."""


def detect_markers(
    volume: np.ndarray,
    spacing: Sequence[float],
    config: SDLSegConfig | None = None,
    roi: np.ndarray | None = None,
) -> np.ndarray:
    """Find the markers of a CT.

    Args:
        volume: HU, (z, y, x).
        spacing: Voxel size in mm, (z, y, x).
        config: Gives the limits, see the fields `marker_...`; the default one if None.
        roi: Where to look, bool (z, y, x), such as a box around one breast; None for the body.

    Returns:
        Voxel coordinates (z, y, x) between voxels, float64 (K, 3), from top to bottom.

    Raises:
        MarkerNotFoundError: There are none.
        TooManyMarkersError: There are more than `max_markers` candidates.

    Example:
        >>> from salhub.models.sdl_seg.phantom import make_breast_phantom
        >>> phantom = make_breast_phantom(0)
        >>> detect_markers(phantom.volume, phantom.spacing).shape[1]
        3

    Source:
        Kazemimoghadam et al. 2021 (arXiv 2105.02771) identify markers on the CT; how is ours.
    """
    return find_markers(volume, spacing, config, roi)[0]


def find_markers(
    volume: np.ndarray,
    spacing: Sequence[float],
    config: SDLSegConfig | None = None,
    roi: np.ndarray | None = None,
) -> tuple[np.ndarray, list[str]]:
    """The same with sentences about what was left out."""
    config = SDLSegConfig() if config is None else config
    steps = np.asarray(spacing, dtype=np.float64)
    bright = volume > config.marker_threshold
    if bright.any():
        bright &= without_holes(largest_part(volume > _BODY_HU))
    if roi is not None:
        bright &= roi
    found = _candidates(volume, bright, steps, config)
    if not len(found):
        raise MarkerNotFoundError(
            f"No markers were found above {config.marker_threshold:g} HU (the brightest voxel has "
            f"{float(volume.max()):g} HU); lower marker_threshold, or give their coordinates as "
            "markers=."
        )
    if len(found) > config.max_markers:
        raise TooManyMarkersError(
            f"There are {len(found)} candidates for markers above {config.marker_threshold:g} "
            f"HU and at most {config.max_markers} are believed, as bone or contrast agent may be "
            "among them; give a region to look in as rois=, or raise marker_threshold."
        )
    kept = _largest_cluster(found * steps, config.marker_cluster_mm)
    warnings = []
    if not kept.all():
        warnings.append(
            f"{int((~kept).sum())} of {len(found)} bright spots were left out, as they are more "
            f"than {config.marker_cluster_mm:g} mm from the others."
        )
    doubted = doubtful_markers(volume, steps, found[kept])
    if doubted.any():
        places = ", ".join(
            "(" + ", ".join(f"{one:.1f}" for one in place) + ")" for place in found[kept][doubted]
        )
        warnings.append(
            f"{int(doubted.sum())} of {int(kept.sum())} markers hold much less metal than the "
            f"others and may be calcifications, at (z, y, x) {places}; give markers= without them "
            "if they are."
        )
    return found[kept], warnings


def doubtful_markers(
    volume: np.ndarray, spacing: Sequence[float], markers: np.ndarray
) -> np.ndarray:
    """Which markers hold less than 0.6 of the metal of the median one, bool (K,).

    The clips of a patient are alike. What is summed up around each, HU above soft tissue, does not
    depend on how it lies between the voxels, as the brightest voxel does.

    Args:
        volume: HU, (z, y, x).
        spacing: Voxel size in mm, (z, y, x).
        markers: Voxel coordinates, (K, 3).
    """
    reach = np.ceil(_CLIP_GAP_MM / np.asarray(spacing)).astype(int)
    contents = []
    for middle in np.rint(markers).astype(int):
        low, high = np.maximum(middle - reach, 0), middle + reach + 1
        around = volume[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        contents.append(np.clip(around - _TISSUE_HU, 0, None).sum())
    return np.array(contents) < _LEAST_CONTENT * np.median(contents or [0])


def _candidates(
    volume: np.ndarray, bright: np.ndarray, steps: np.ndarray, config: SDLSegConfig
) -> np.ndarray:
    parts, count = ndimage.label(bright, _FULL)
    boxes = ndimage.find_objects(parts)
    voxel = float(np.prod(steps))
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:] * voxel
    is_small = np.array(
        [
            size <= config.marker_max_mm3 and _diagonal(box, steps) <= config.marker_max_diagonal_mm
            for size, box in zip(sizes, boxes, strict=True)
        ],
        dtype=bool,
    )
    usual = np.median(sizes[is_small]) if is_small.any() else config.marker_max_mm3
    centres: list[np.ndarray] = []
    large = np.zeros(count + 1, dtype=bool)
    for label, (box, size) in enumerate(zip(boxes, sizes, strict=True), start=1):
        values = np.where(parts[box] == label, volume[box], 0).astype(np.float64)
        origin = np.array([side.start for side in box])
        pieces = [values]
        is_merged = size > _MERGED_MEDIANS * usual or not is_small[label - 1]
        if is_merged and size <= _MERGED_LARGEST * config.marker_max_mm3:
            pieces = _split(values, steps)
        if is_small[label - 1] or len(pieces) > 1:
            centres += [origin + _centroid(piece) for piece in pieces]
        else:
            large[label] = True
    found = np.array(centres).reshape(-1, 3)
    if large.any() and len(found):
        gaps = ndimage.distance_transform_edt(~large[parts], sampling=steps)
        nearest = np.rint(found).astype(int)
        found = found[gaps[tuple(nearest.T)] > config.marker_bone_distance_mm]
    return found


def _diagonal(box: tuple[slice, ...], steps: np.ndarray) -> float:
    sides = np.array([side.stop - side.start for side in box]) * steps
    return float(np.linalg.norm(sides))


def _centroid(values: np.ndarray) -> np.ndarray:
    return np.array(ndimage.center_of_mass(values))


def _split(values: np.ndarray, steps: np.ndarray) -> list[np.ndarray]:
    """A blob as its pieces around local maxima, each voxel going to the nearest one."""
    reach = np.floor(_CLIP_GAP_MM / steps).astype(int)
    offsets = np.stack(np.meshgrid(*[np.arange(-r, r + 1) for r in reach], indexing="ij"), -1)
    near = np.linalg.norm(offsets * steps, axis=-1) <= _CLIP_GAP_MM
    is_peak = values == ndimage.maximum_filter(values, footprint=near)
    peaks = np.argwhere(is_peak & (values > _LEAST_PEAK * values.max()))
    if len(peaks) == 1:
        return [values]
    # Scanners cut off what is very bright, which leaves several equal voxels to one clip.
    owner = fcluster(linkage(peaks * steps, "single"), _CLIP_GAP_MM, "distance")
    peaks = np.stack([peaks[owner == label].mean(axis=0) for label in np.unique(owner)])
    voxels = np.argwhere(values > 0)
    owner = np.linalg.norm((voxels[:, None] - peaks) * steps, axis=2).argmin(axis=1)
    pieces = []
    for index in range(len(peaks)):
        piece = np.zeros_like(values)
        mine = tuple(voxels[owner == index].T)
        piece[mine] = values[mine]
        pieces.append(piece)
    return pieces


def _largest_cluster(places: np.ndarray, reach: float) -> np.ndarray:
    """Which places, in mm, belong to the largest group without a gap wider than `reach`."""
    if len(places) == 1:
        return np.ones(1, dtype=bool)
    labels = fcluster(linkage(places, "single"), reach, "distance")
    return labels == np.argmax(np.bincount(labels))
