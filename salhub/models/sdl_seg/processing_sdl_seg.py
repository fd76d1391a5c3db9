"""From a CT in HU to what the network sees, and from its answer back to the grid of the CT."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from scipy import ndimage
from transformers import BatchFeature

from salhub.models.sdl_seg.annotations import checked_markers, checked_mask
from salhub.models.sdl_seg.components import without_holes
from salhub.models.sdl_seg.configuration_sdl_seg import SDLSegConfig
from salhub.models.sdl_seg.marker_detection import (
    MarkerNotFoundError,
    detect_markers,
    find_markers,
)
from salhub.models.sdl_seg.resampling import resampled
from salhub.models.sdl_seg.saliency_map import saliency_map
from salhub.models.sdl_seg.volume import checked_hounsfield, checked_spacing

AIR_HU = -1024.0
_TOUCHED = 0.1  # of the saliency map, by what is kept


@dataclass(frozen=True)
class Grid:
    """The grid of a volume and that of the network, which have the same middle.

    Attributes:
        shape: Voxels of the volume.
        spacing: Its voxel size in mm.
        inner: Voxels of the network's grid that cover it.
        padded: The same with what is added at the ends, so that it can be halved.
        target: Voxel size of the network's grid in mm.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    inner: tuple[int, ...]
    padded: tuple[int, ...]
    target: tuple[float, ...]

    @classmethod
    def of(cls, shape: Sequence[int], spacing: Sequence[float], config: SDLSegConfig) -> Self:
        """The grid that a configuration asks for."""
        target = tuple(float(one) for one in config.target_spacing)
        inner = tuple(
            max(1, round(size * step / new))
            for size, step, new in zip(shape, spacing, target, strict=True)
        )
        padded = tuple(
            -(-size // step) * step for size, step in zip(inner, config.size_steps, strict=True)
        )
        return cls(tuple(shape), tuple(spacing), inner, padded, target)

    def _middles(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        scale = np.array(self.target) / np.array(self.spacing)
        return scale, (np.array(self.shape) - 1) / 2, (np.array(self.inner) - 1) / 2

    def to_network(self, places: np.ndarray) -> np.ndarray:
        """Voxel coordinates of the volume as those of the network's grid."""
        scale, middle, new = self._middles()
        return (places - middle) / scale + new

    def resample(self, volume: np.ndarray, fill: float) -> np.ndarray:
        """A CT on the network's grid, see `resampling.resampled`; what is added is filled."""
        scale, _, _ = self._middles()
        return self._padded(resampled(volume, self.inner, scale), fill)

    def resample_mask(self, mask: np.ndarray) -> np.ndarray:
        """A mask on the network's grid, bool: that of the nearest voxel."""
        scale, middle, new = self._middles()
        found = mask
        if self.inner != self.shape or not np.allclose(scale, 1, rtol=0, atol=1e-9):
            found = ndimage.affine_transform(
                mask.astype(np.uint8), scale, middle - scale * new, self.inner,
                order=0, mode="nearest",
            )  # fmt: skip
        return self._padded(found > 0, False)

    def resample_back(self, values: np.ndarray) -> np.ndarray:
        """What the network says on the grid of the volume, linear in between."""
        scale, _, _ = self._middles()
        inner = values[tuple(slice(0, size) for size in self.inner)]
        return resampled(inner, self.shape, 1 / scale, averages=False)

    def _padded(self, found: np.ndarray, fill: float) -> np.ndarray:
        ends = [(0, end - size) for end, size in zip(self.padded, self.inner, strict=True)]
        return np.pad(found, ends, constant_values=fill) if self.padded != self.inner else found


@dataclass
class VolumeMeta:
    """What is needed to bring an answer back, and what has to be said.

    Attributes:
        grid: Both grids.
        markers: Voxel coordinates in the volume, float64 (K, 3).
        saliency: The map on the network's grid, float32; None for the kind "none".
        warnings: One sentence each.
    """

    grid: Grid
    markers: np.ndarray
    saliency: np.ndarray | None
    warnings: list[str] = field(default_factory=list)


def normalized(volume: np.ndarray, config: SDLSegConfig) -> torch.Tensor:
    """HU as [0, 1] of `hu_window`, float32."""
    low, high = config.hu_window
    values = torch.as_tensor(np.ascontiguousarray(volume, dtype=np.float32))
    return (values.clamp(low, high) - low) / (high - low)


class SDLSegImageProcessor:
    """Prepares volumes for `SDLSegForVolumeSegmentation`, and finishes what it gives.

    It has no settings of its own: everything is in the configuration of the model.

    Args:
        config: Of the model.
        trained_window: The `window_size` that the model came with, to say where the one of `config`
            is smaller; None where that is not known.

    Example:
        >>> from salhub.models.sdl_seg.phantom import make_breast_phantom
        >>> phantom = make_breast_phantom(0)
        >>> batch = SDLSegImageProcessor(SDLSegConfig())(phantom.volume, phantom.spacing)
        >>> batch["pixel_values"].shape
        torch.Size([1, 2, 24, 96, 96])
    """

    def __init__(self, config: SDLSegConfig, trained_window: Sequence[int] | None = None) -> None:
        self.config = config
        self.trained_window = trained_window

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike, **keywords: Any) -> Self:
        """The processor of a model, from its configuration; keywords as of `from_pretrained`."""
        return cls(SDLSegConfig.from_pretrained(name, **keywords))

    def detect_markers(self, image: Any, spacing: Any, roi: Any = None) -> np.ndarray:
        """Find markers, see `marker_detection.detect_markers`; voxel coordinates, (K, 3)."""
        volume = checked_hounsfield(_as_array(image))
        roi = None if roi is None else checked_mask(roi, volume.shape, "rois")
        return detect_markers(volume, checked_spacing(spacing), self.config, roi)

    def saliency_map(self, markers: Any, shape: Sequence[int], spacing: Any) -> torch.Tensor:
        """Map of some markers, (D, H, W) float32 in [0, 1], see `saliency_map.saliency_map`."""
        return saliency_map(markers, shape, checked_spacing(spacing), self.config)

    def __call__(
        self, images: Any, spacing: Any, markers: Any = None, masks: Any = None, rois: Any = None
    ) -> BatchFeature:
        """Prepare one volume, or several of one size.

        Args:
            images: HU, (z, y, x): an array or tensor, or a list of them.
            spacing: Voxel size in mm, (z, y, x); or a list of them, one a volume.
            markers: Voxel coordinates (z, y, x), (K, 3), for each volume of a list; None to find
                them. They may lie between voxels.
            masks: Truth, 0 and 1, of the shape of the volume; None without.
            rois: Where markers are looked for, bool, of the shape of the volume; None for the body.

        Returns:
            `pixel_values`, float32 (B, C, D, H, W): the CT in [0, 1] and, unless the kind is
            "none", the map; `marker_coords`, a list of float32 (K, 3) on that grid; `meta`, a list
            of `VolumeMeta`; `labels`, float32 (B, 1, D, H, W), with masks.

        Raises:
            MarkerNotFoundError: There are no markers, unless `allow_no_markers`.
            TooManyMarkersError: More candidates than markers can be.
            ValueError: No HU, no spacing, markers outside, masks that are not binary, or volumes
                of several sizes.
        """
        is_list = isinstance(images, list | tuple)
        volumes = list(images) if is_list else [images]
        if not volumes:
            raise ValueError("There are no volumes in the list; give one or more.")
        every = {"markers": markers, "masks": masks, "rois": rois}
        given = {
            name: _one_each(name, value, is_list, len(volumes)) for name, value in every.items()
        }
        is_one_spacing = spacing is None or np.ndim(spacing) < 2
        spacings = [spacing] * len(volumes) if is_one_spacing else list(spacing)
        if len(spacings) != len(volumes):
            raise ValueError(
                f"Got {len(volumes)} volumes and {len(spacings)} spacings; give one spacing per "
                "volume."
            )
        ready = [
            self._prepare(*one) for one in zip(volumes, spacings, *given.values(), strict=True)
        ]
        shapes = {one["pixel_values"].shape for one in ready}
        if len(shapes) > 1:
            # Padding would change the statistics of instance normalisation.
            sizes = " and ".join(sorted(str(tuple(shape[1:])) for shape in shapes))
            raise ValueError(
                "Volumes of a batch must have the same size on the network's grid, got "
                f"{sizes}; prepare them one by one."
            )
        if len({"labels" in one for one in ready}) > 1:
            raise ValueError("masks must be given for all volumes of a batch, or for none.")
        batch: dict[str, Any] = {
            "pixel_values": torch.stack([one["pixel_values"] for one in ready])
        }
        batch["marker_coords"] = [one["marker_coords"] for one in ready]
        if "labels" in ready[0]:
            batch["labels"] = torch.stack([one["labels"] for one in ready])
        batch["meta"] = [one["meta"] for one in ready]
        return BatchFeature(batch)

    def _prepare(self, image: Any, spacing: Any, markers: Any, mask: Any, roi: Any) -> dict:
        steps = checked_spacing(spacing)
        volume, warnings = checked_hounsfield(_as_array(image)), []
        truth = None if mask is None else checked_mask(mask, volume.shape)
        roi = None if roi is None else checked_mask(roi, volume.shape, "rois")
        places = self._markers_of(volume, steps, markers, roi, warnings)
        grid = Grid.of(volume.shape, steps, self.config)
        self._warn_of_windows(grid, warnings)
        channels = [normalized(grid.resample(volume, AIR_HU), self.config)]
        on_grid = torch.as_tensor(grid.to_network(places), dtype=torch.float32)
        saliency = None
        if self.config.saliency_kind != "none":
            self._warn_of_few(places, warnings)
            found = saliency_map(on_grid, grid.padded, grid.target, self.config)
            channels.append(found)
            saliency = found.numpy()
        ready: dict[str, Any] = {
            "pixel_values": torch.stack(channels),
            "marker_coords": on_grid,
            "meta": VolumeMeta(grid, places, saliency, warnings),
        }
        if truth is not None:
            label = grid.resample_mask(truth)
            ready["labels"] = torch.as_tensor(label, dtype=torch.float32)[None]
        return ready

    def _markers_of(
        self,
        volume: np.ndarray,
        steps: tuple[float, ...],
        markers: Any,
        roi: np.ndarray | None,
        warnings: list[str],
    ) -> np.ndarray:
        is_used = self.config.saliency_kind != "none"
        if markers is not None:
            places = checked_markers(markers, volume.shape)
            if not is_used:
                warnings.append("Your markers are not used, because this model only sees the CT.")
            elif roi is not None:
                warnings.append("The roi is not used, because you gave markers.")
            if len(places) or not is_used:
                return places
            if not self.config.allow_no_markers:
                raise MarkerNotFoundError(
                    "markers is empty; give at least one position, leave it out to detect "
                    "markers, or set allow_no_markers=True."
                )
        elif is_used:
            try:
                places, left_out = find_markers(volume, steps, self.config, roi)
            except MarkerNotFoundError as error:
                if not self.config.allow_no_markers:
                    raise
                warnings.append(str(error))
                places = np.zeros((0, 3))
            else:
                warnings += left_out
        else:
            if roi is not None:
                warnings.append("The roi is not used, because this model does not use markers.")
            return np.zeros((0, 3))
        if not len(places):
            warnings.append("There are no markers, so the saliency map is 0 everywhere.")
        return places

    def _warn_of_windows(self, grid: Grid, warnings: list[str]) -> None:
        window, own = self.config.window_size, self.trained_window
        if window is None or own is None:
            return
        if any(new < min(old, n) for new, old, n in zip(window, own, grid.padded, strict=True)):
            sizes = [" x ".join(map(str, one)) for one in (window, own)]
            warnings.append(
                f"Windows of {sizes[0]} voxels are smaller than the {sizes[1]} of the model. "
                "The network normalizes what it sees, so the result differs."
            )

    def _warn_of_few(self, places: np.ndarray, warnings: list[str]) -> None:
        if len(places) == 1:
            warnings.append("There is one marker, so the saliency map is a ball around it.")
        elif len(places) and np.ptp(np.rint(places[:, 0])) == 0:
            warnings.append(
                f"All {len(places)} markers lie in slice {int(np.rint(places[0, 0]))}, so "
                "the extent of the target above and below it is unknown."
            )
        if self.config.saliency_kind == "hull" and len(places):
            spread = places - places.mean(axis=0)
            if np.linalg.matrix_rank(spread, tol=1e-3) < 3:
                warnings.append(
                    f"The {len(places)} markers enclose no space, so their hull has no inside."
                )

    def post_process_segmentation(
        self, outputs: Any, meta: Sequence[VolumeMeta], threshold: float | None = None
    ) -> list[dict[str, Any]]:
        """Masks on the grids of the volumes.

        The probability is brought back, not the mask. Kept are the parts that touch the saliency
        map where it is above 0.1, or else the largest one; without a map all of them. Holes are
        filled, and parts below `min_component_cc` dropped. What is dropped is said.

        Args:
            outputs: What the model gave, or logits (B, 1, D, H, W).
            meta: What the processor gave.
            threshold: Probability above which a voxel is foreground; None for the configured one.

        Returns:
            For each volume: `mask`, bool, and `probability`, float16, of the shape of the volume;
            `volume_cc` in cm^3; `centroid_mm`, (z, y, x) from the middle of the first voxel, or
            None; `marker_coords`, (K, 3) in voxels of the volume; `warnings`.
        """
        logits = outputs if isinstance(outputs, torch.Tensor) else outputs.logits
        limit = self.config.threshold if threshold is None else threshold
        if not 0 < limit < 1:
            raise ValueError(f"threshold must be above 0 and below 1, got {limit}.")
        if logits.ndim != 5 or len(logits) != len(meta):
            raise ValueError(
                "Expected logits (B, 1, D, H, W) and one meta per volume, got "
                f"{tuple(logits.shape)} and {len(meta)}."
            )
        chances = (logits.detach().float() / self.config.temperature).sigmoid().cpu().numpy()[:, 0]
        return [self._finish(*one, limit) for one in zip(chances, meta, strict=True)]

    def _finish(self, chance: np.ndarray, meta: VolumeMeta, limit: float) -> dict[str, Any]:
        probability = meta.grid.resample_back(chance)
        warnings = list(meta.warnings)
        mask = self._kept_parts(probability > limit, meta, warnings)
        centroid = None
        if mask.any():
            if mask.sum() > mask[1:-1, 1:-1, 1:-1].sum():
                warnings.append(
                    "The region reaches the edge of the scan, so a part may be missing."
                )
            steps = np.array(meta.grid.spacing)
            centroid = tuple((np.array(ndimage.center_of_mass(mask)) * steps).tolist())
        return {
            "mask": mask,
            "probability": probability.astype(np.float16),
            "volume_cc": float(mask.sum() * np.prod(meta.grid.spacing) / 1000),
            "centroid_mm": centroid,
            "marker_coords": meta.markers,
            "warnings": warnings,
        }

    def _kept_parts(self, mask: np.ndarray, meta: VolumeMeta, warnings: list[str]) -> np.ndarray:
        parts, count = ndimage.label(mask)
        if not count:
            warnings.append("Nothing was found: no voxel is above the threshold.")
            return mask
        voxel_cc = float(np.prod(meta.grid.spacing)) / 1000
        sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:] * voxel_cc
        keep = np.ones(count, dtype=bool)
        if meta.saliency is not None and meta.saliency.any():
            touches = self._touching(parts, count, meta)
            keep = touches if touches.any() else sizes == sizes.max()
            if not touches.any():
                warnings.append(
                    "No part of the region is near a marker; only the largest part was "
                    "kept, so check it."
                )
            elif not keep.all():
                warnings.append(
                    f"{_parts(~keep, 'near no marker')}, {sizes[~keep].sum():.2f} cm^3 in total."
                )
        too_small = keep & (sizes < self.config.min_component_cc)
        if too_small.any():
            keep &= ~too_small
            warnings.append(
                f"{_parts(too_small, f'below {self.config.min_component_cc:g} cm^3')}, "
                f"{sizes[too_small].sum():.2f} cm^3 in total."
            )
        return without_holes(np.concatenate([[False], keep])[parts])

    def _touching(self, parts: np.ndarray, count: int, meta: VolumeMeta) -> np.ndarray:
        assert meta.saliency is not None
        voxels = np.argwhere(parts)
        places = meta.grid.to_network(voxels).T
        values = ndimage.map_coordinates(meta.saliency, places, order=1, mode="nearest")
        touched = np.unique(parts[tuple(voxels[values > _TOUCHED].T)])
        found = np.zeros(count + 1, dtype=bool)
        found[touched] = True
        return found[1:]


def _parts(chosen: np.ndarray, which: str) -> str:
    count = int(chosen.sum())
    return (
        f"{count} part{'s' if count != 1 else ''} {which} {'were' if count != 1 else 'was'} dropped"
    )


def _as_array(image: Any) -> Any:
    return image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else image


def _one_each(name: str, value: Any, is_list: bool, count: int) -> list[Any]:
    """What was given for each volume; for one volume, the thing itself."""
    if value is None:
        return [None] * count
    if not is_list:
        return [value]
    if not isinstance(value, list | tuple) or len(value) != count:
        raise ValueError(
            f"{name} must be a list with one entry per volume (None if there is none), "
            f"because images is a list of {count}."
        )
    return list(value)
