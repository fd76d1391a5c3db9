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
_MOST_NAMED = 5
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
    above = volume > config.marker_threshold
    bright = above.copy()
    if bright.any():
        bright &= without_holes(largest_part(volume > _BODY_HU))
    if roi is not None:
        bright &= roi
    found, at_bone = _candidates(volume, bright, steps, config)
    if not len(found):
        raise MarkerNotFoundError(
            f"No markers were found above {config.marker_threshold:g} HU: "
            f"{_why_none(volume, above, bright, roi, at_bone, config)}, or give their coordinates "
            "as markers=."
        )
    if len(found) > config.max_markers:
        raise TooManyMarkersError(
            f"There are {len(found)} candidates for markers above "
            f"{config.marker_threshold:g} HU, but more than {config.max_markers} may include "
            "bone or contrast agent; give a region to search as rois=, or raise "
            "marker_threshold."
        )
    groups = _groups(found * steps, config.marker_cluster_mm)
    sizes = np.bincount(groups)
    largest = np.flatnonzero(sizes == sizes.max())
    if len(largest) > 1:
        middles = " and ".join(_places(found[groups == one].mean(axis=0)) for one in largest[:2])
        raise TooManyMarkersError(
            f"There are {len(largest)} groups of {sizes.max()} bright spots each, more than "
            f"{config.marker_cluster_mm:g} mm apart, around (z, y, x) {middles}; give the "
            "region of one as roi, or markers=."
        )
    kept = groups == largest[0]
    warnings = []
    if not kept.all():
        far = found[~kept]
        more = " and more" if len(far) > _MOST_NAMED else ""
        warnings.append(
            f"{len(far)} of {len(found)} bright spots were left out, because they are more "
            f"than {config.marker_cluster_mm:g} mm from the others, at (z, y, x) "
            f"{_places(*far[:_MOST_NAMED])}{more}."
        )
    doubted = doubtful_markers(volume, steps, found[kept])
    if doubted.any():
        warnings.append(
            f"{int(doubted.sum())} of {int(kept.sum())} markers contain much less metal than "
            "the others and may be calcifications, at (z, y, x) "
            f"{_places(*found[kept][doubted])}; if they are, give markers= without them."
        )
    return found[kept], warnings


def doubtful_markers(
    volume: np.ndarray, spacing: Sequence[float], markers: np.ndarray
) -> np.ndarray:
    """Which markers hold less than 0.6 of the metal of the median one, bool (K,).

    The clips of a patient are alike. What is summed up around each, HU above soft tissue, does not
    depend on how it lies between the voxels, as the brightest voxel does. Each voxel within 4 mm
    counts for the nearest marker.

    Args:
        volume: HU, (z, y, x).
        spacing: Voxel size in mm, (z, y, x).
        markers: Voxel coordinates, (K, 3).
    """
    steps = np.asarray(spacing, dtype=np.float64)
    reach = np.ceil(_CLIP_GAP_MM / steps).astype(int)
    contents = []
    for index, middle in enumerate(np.rint(markers).astype(int)):
        low, high = np.maximum(middle - reach, 0), middle + reach + 1
        around = volume[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        voxels = (low + np.argwhere(np.ones(around.shape, dtype=bool)))[:, None]
        gaps = np.linalg.norm((voxels - markers) * steps, axis=2)
        is_mine = (gaps.argmin(axis=1) == index) & (gaps[:, index] <= _CLIP_GAP_MM)
        contents.append(np.clip(around.ravel()[is_mine] - _TISSUE_HU, 0, None).sum())
    return np.array(contents) < _LEAST_CONTENT * np.median(contents or [0])


def _candidates(
    volume: np.ndarray, bright: np.ndarray, steps: np.ndarray, config: SDLSegConfig
) -> tuple[np.ndarray, int]:
    """Return the places of what is small enough, and how many were dropped at a bone."""
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
    count = len(found)
    if large.any() and count:
        gaps = ndimage.distance_transform_edt(~large[parts], sampling=steps)
        nearest = np.rint(found).astype(int)
        found = found[gaps[tuple(nearest.T)] > config.marker_bone_distance_mm]
    return found, count - len(found)


def _why_none(
    volume: np.ndarray,
    above: np.ndarray,
    bright: np.ndarray,
    roi: np.ndarray | None,
    at_bone: int,
    config: SDLSegConfig,
) -> str:
    """Return why there is no marker, and what to do."""
    if not above.any():
        return f"the brightest voxel has {float(volume.max()):g} HU; lower marker_threshold"
    if roi is not None and not roi.any():
        return "the roi is empty; draw it around the clips"
    if roi is not None and not (above & roi).any():
        return "brighter spots lie outside the roi; draw it around the clips"
    if not bright.any():
        return "brighter spots lie outside the body; check the volume"
    if at_bone:
        return (
            f"the small spots lie within {config.marker_bone_distance_mm:g} mm of a large "
            "one, such as a bone; lower marker_bone_distance_mm"
        )
    return (
        f"each bright spot is larger than {config.marker_max_mm3:g} mm^3 or "
        f"{config.marker_max_diagonal_mm:g} mm, like bones; raise marker_threshold or "
        "marker_max_mm3"
    )


def _places(*places: np.ndarray) -> str:
    return ", ".join("(" + ", ".join(f"{one:.1f}" for one in place) + ")" for place in places)


def _diagonal(box: tuple[slice, ...], steps: np.ndarray) -> float:
    sides = np.array([side.stop - side.start for side in box]) * steps
    return float(np.linalg.norm(sides))


def _centroid(values: np.ndarray) -> np.ndarray:
    return np.array(ndimage.center_of_mass(values))


def _split(values: np.ndarray, steps: np.ndarray) -> list[np.ndarray]:
    """A blob as its pieces around local maxima, each voxel going to the nearest one."""
    is_peak = values == _largest_near(values, steps)
    # Scanners cut off what is very bright, which leaves several equal voxels to one clip.
    # In thick slices, neighbours may be further apart than two clips.
    near = np.linalg.norm((np.argwhere(_FULL) - 1) * steps, axis=1) <= _CLIP_GAP_MM
    is_top = is_peak & (values > _LEAST_PEAK * values.max())
    plains, count = ndimage.label(is_top, near.reshape(_FULL.shape))
    if count == 1:
        return [values]
    peaks = np.array(ndimage.center_of_mass(plains > 0, plains, np.arange(1, count + 1)))
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


def _largest_near(values: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Return the largest value within 4 mm of each voxel; lines along x make up the ball."""
    reach = np.floor(_CLIP_GAP_MM / steps).astype(int)
    padded = np.pad(values, [(one, one) for one in reach])
    lines: dict[int, np.ndarray] = {}
    found = values.copy()
    for offset in np.ndindex(*(2 * reach[:2] + 1)):
        left = _CLIP_GAP_MM**2 - (((offset - reach[:2]) * steps[:2]) ** 2).sum()
        if left < 0:
            continue
        half = int(np.sqrt(left) / steps[2] + 1e-9)
        if half not in lines:
            lines[half] = ndimage.maximum_filter1d(padded, 2 * half + 1, axis=2)
        corner = (*offset, reach[2])
        box = tuple(slice(a, a + n) for a, n in zip(corner, values.shape, strict=True))
        np.maximum(found, lines[half][box], out=found)
    return found


def _groups(places: np.ndarray, reach: float) -> np.ndarray:
    """Return to which group without a gap wider than `reach` each place, in mm, belongs, (K,)."""
    if len(places) == 1:
        return np.ones(1, dtype=int)
    return fcluster(linkage(places, "single"), reach, "distance")
