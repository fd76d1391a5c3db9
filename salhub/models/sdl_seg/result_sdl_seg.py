"""What was segmented in a volume, and the files that it goes home in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image
from scipy import ndimage

from salhub.metrics.segmentation import segmentation_scores
from salhub.models.sdl_seg.contours import area, outlines
from salhub.models.sdl_seg.dicom_segmentation import write_dicom_segmentation
from salhub.models.sdl_seg.nifti import write_nifti
from salhub.models.sdl_seg.slice_pictures import (
    PREDICTED,
    TRUTH,
    shown_slices,
    slice_picture,
)
from salhub.models.sdl_seg.volume import Volume
from salhub.pipelines.result import PICTURE_WRITERS, PipelineResult, check_comparable, finite
from salhub.viz import figure

_MOST_SLICES = 6
# Probabilities of the thin lines: surely inside, and surely outside beyond.
_BAND = (0.95, 0.05)
_PATIENT = "patient mm, RAS: x to the right, y to the front, z to the head"
_VOXELS = (
    "(z, y, x) from 0, in the volume as it is read, which may be oriented differently from its file"
)
_ARRAY = (
    "mm along (x, y, z) from the centre of the first voxel; the position in the patient is unknown"
)


@dataclass(eq=False, repr=False)
class VolumeSegmentationResult(PipelineResult):
    """The mask of one volume.

    Attributes:
        volume: The CT it was found in.
        mask: bool, (Z, Y, X).
        probability: float16 in [0, 1], (Z, Y, X), before small and far parts were dropped.
        markers: (K, 3) voxel coordinates (z, y, x) of what led there.
        saliency: float32 in [0, 1], (Z, Y, X), the map of the markers; None for a model without.
        threshold: Probability above which a voxel is foreground.
        warnings: What was guessed, left out or unsure, to be read first.
        truth: bool, (Z, Y, X); None where nobody knows it.
        model_name: The model.
    """

    volume: Volume
    mask: np.ndarray
    probability: np.ndarray
    markers: np.ndarray
    saliency: np.ndarray | None
    threshold: float
    warnings: tuple[str, ...] = ()
    truth: np.ndarray | None = None
    model_name: str = ""

    writers = {
        **PICTURE_WRITERS,
        ".json": "write_json",
        ".nii.gz": "write_nifti",
        ".nii": "write_nifti",
        ".dcm": "write_dicom",
        ".npz": "write_arrays",
    }

    def __repr__(self) -> str:
        return f"VolumeSegmentationResult({self.summary()!r}, model {self.model_name!r})"

    @property
    def volume_cc(self) -> float:
        """Volume of the mask in cm3."""
        return self._cc(self.mask)

    @cached_property
    def band_cc(self) -> tuple[float, float]:
        """Volumes in cm3 at a probability of 0.95 and of 0.05, see `band`."""
        return self._cc(self.bands[0]), self._cc(self.bands[1])

    @cached_property
    def bands(self) -> tuple[np.ndarray, np.ndarray]:
        """Masks at a probability of 0.95 and of 0.05, see `band`."""
        sure, likely = _BAND
        return self.band(sure), self.band(likely)

    def _cc(self, mask: np.ndarray) -> float:
        return float(mask.sum() * np.prod(self.volume.spacing) / 1000)

    @cached_property
    def centroid_mm(self) -> tuple[float, float, float] | None:
        """Centre of the mask, (x, y, z) in mm as `Volume.to_mm` gives it; None for an empty mask.

        Of an array without an affine it is (x, y, z) from the centre of the first voxel.
        """
        places = np.argwhere(self.mask)
        return tuple(self._to_mm(places.mean(axis=0)[None])[0].tolist()) if len(places) else None

    @cached_property
    def scores(self) -> dict[str, float] | None:
        """Scores against the truth, see `segmentation_scores`; None without a truth."""
        if self.truth is None:
            return None
        return segmentation_scores(self.mask, self.truth, self.volume.spacing)

    def band(self, level: float) -> np.ndarray:
        """Return the mask at another probability, bool (Z, Y, X).

        Between the masks at 0.05 and 0.95 lies what the network is unsure of.

        Args:
            level: In (0, 1). Below the threshold, parts that the mask has no share in stay out, and
                above it, nothing comes in that the mask has not.

        Raises:
            ValueError: Another level.
        """
        if not 0 < level < 1:
            raise ValueError(f"level must be above 0 and below 1, got {level}.")
        # Halves that are not negative are in the order of their bits, which are compared sooner.
        likely = self.probability.view(np.uint16) > np.float16(level).view(np.uint16)
        if level == self.threshold:
            return self.mask
        if level > self.threshold:
            return likely & self.mask
        parts, _ = ndimage.label(likely | self.mask)
        return np.isin(parts, np.unique(parts[self.mask])) & (parts > 0)

    def contours(self) -> list[dict[str, Any]]:
        """Return the outlines of the mask, slice by slice.

        Returns:
            For each polygon `slice`, its z; `is_hole`; and `points_mm`, (x, y, z) corners, the
            first not repeated. They run along the edges of voxels, so that area times distance of
            the slices is the volume of the mask.
        """
        found = []
        for number in np.flatnonzero(self.mask.any(axis=(1, 2))).tolist():
            for outline in outlines(self.mask[number]):
                corners = np.insert(outline, 0, number, axis=1)
                found.append(
                    {
                        "slice": number,
                        "is_hole": area(outline) < 0,
                        "points_mm": self._to_mm(corners).round(4).tolist(),
                    }
                )
        return found

    def _to_mm(self, points: np.ndarray) -> np.ndarray:
        """Return (x, y, z) in mm of (z, y, x) voxels, whether an affine is known or not."""
        found = self.volume.to_mm(points)
        return found if self.volume.affine is not None else found[:, ::-1]

    # --- to look at -------------------------------------------------------------------------------

    def plot(self) -> Image.Image:
        """Draw slices through what was found, with its outline and the markers."""
        numbers = shown_slices(self.mask, self.markers, _MOST_SLICES, self._others())
        items = [(self._slice(number), self._caption(number)) for number in numbers]
        title = f"{self.volume_cc:.1f} cm³"
        lines = (
            "Orange: the region found, with thin lines at probabilities of 5 % and 95 %. "
            "Rings: markers; broken rings lie in a neighbouring slice."
        )
        note = lines + (" Blue: the truth." if self.truth is not None else "")
        return figure.compare(
            [caption for _, caption in items],
            [("", [picture for picture, _ in items])],
            title=f"{title} · {self.model_name}" if self.model_name else title,
            lead=" ".join(self.warnings) or None,
            note=note,
            side=300,
            most_columns=3,
        )

    @classmethod
    def compare(cls, results: Mapping[str, Self]) -> Image.Image:
        """Draw the same slices of several results below each other.

        Args:
            results: Name of the model or setting -> its result on the same volume.

        Returns:
            RGB picture.

        Raises:
            ValueError: Nothing to compare, or results of volumes of other shapes.
        """
        check_comparable(results)
        several = list(results.values())
        if len({one.volume.shape for one in several}) > 1:
            raise ValueError(
                "The results show volumes of different shapes; compare results of the same volume."
            )
        others = [one.mask for one in several[1:]] + several[0]._others()
        numbers = shown_slices(several[0].mask, several[0].markers, 4, others)
        return figure.compare(
            [several[0]._caption(number) for number in numbers],
            [
                (f"{name}: {one.volume_cc:.1f} cm³", [one._slice(number) for number in numbers])
                for name, one in results.items()
            ],
            lead=" ".join(w for w in dict.fromkeys(w for one in several for w in one.warnings)),
        )

    def _others(self) -> list[np.ndarray]:
        return [] if self.truth is None else [self.truth]

    def _slice(self, number: int) -> Image.Image:
        masks = {PREDICTED: self.mask} if self.truth is None else {
            TRUTH: self.truth, PREDICTED: self.mask,
        }  # fmt: skip
        return slice_picture(
            self.volume, number, masks=masks, bands=self.bands, markers=self.markers
        )

    def _caption(self, number: int) -> str:
        height = self._to_mm(np.array([[number, 0, 0]]))[0, 2]
        return f"Slice {number}, z = {height:.1f} mm"

    # --- to keep ----------------------------------------------------------------------------------

    def raw(self) -> np.ndarray:
        """Return the mask, bool (Z, Y, X)."""
        return self.mask

    def to_dict(self) -> dict[str, Any]:
        """Return all but the voxels, ready for JSON: warnings first, outlines as polygons in mm."""
        scores = None if self.scores is None else {k: finite(v) for k, v in self.scores.items()}
        return {
            "warnings": list(self.warnings),
            "model": self.model_name,
            "volume_cc": self.volume_cc,
            "band_cc": list(self.band_cc),
            "centroid_mm": self.centroid_mm,
            "threshold": self.threshold,
            "coordinates": _ARRAY if self.volume.affine is None else _PATIENT,
            "voxels": _VOXELS,
            "markers_voxel": self.markers.tolist(),
            "markers_mm": self._to_mm(self.markers).tolist(),
            "shape": list(self.volume.shape),
            "spacing_mm": list(self.volume.spacing),
            **({} if scores is None else {"scores": scores}),
            "contours": self.contours(),
            "summary": self.summary(),
        }

    def summary(self) -> str:
        """Return what was found in a sentence, after all warnings."""
        markers = "1 marker" if len(self.markers) == 1 else f"{len(self.markers)} markers"
        led = f", based on {markers}" if self.saliency is not None else ""
        where = ""
        if self.centroid_mm is not None:
            where = f" around ({', '.join(f'{one:.1f}' for one in self.centroid_mm)}) mm"
        scored = ""
        if self.scores is not None:
            scored = f" Dice {self.scores['dice']:.3f}, HD95 {self.scores['hd95']:.1f} mm."
        low, high = self.band_cc
        size = f"{self.volume_cc:.2f} cm³ ({low:.2f} to {high:.2f} at 95 % and 5 %)"
        return " ".join([*self.warnings, f"{size}{where}{led}.{scored}"])

    def write_nifti(self, path: Path) -> None:
        """Write the mask as NIfTI, on the grid of its file where it came from one."""
        write_nifti(path, self.mask, self.volume)

    def write_dicom(self, path: Path) -> None:
        """Write the mask as DICOM SEG, which refers to the slices that it was made from."""
        write_dicom_segmentation(path, self.mask, self.volume, self.model_name.split("/")[-1])

    def write_arrays(self, path: Path) -> None:
        """Write mask, probability, spacing, markers, and affine and map where there are any."""
        arrays: dict[str, Any] = {
            "mask": self.mask,
            "probability": self.probability,
            "spacing": np.array(self.volume.spacing),
            "markers": self.markers,
        }
        further = {"saliency": self.saliency, "affine": self.volume.affine}
        arrays |= {name: one for name, one in further.items() if one is not None}
        with path.open("wb") as file:
            np.savez_compressed(file, **arrays)

    def _names_in_folder(self, view: str | None) -> dict[str, str]:
        """A volume that was not read from DICOM has no DICOM SEG."""
        names = super()._names_in_folder(view)
        is_dicom = self.volume.source is not None and self.volume.source.format == "dicom"
        return {name: one for name, one in names.items() if is_dicom or not name.endswith(".dcm")}


def joined(*warnings: Sequence[str]) -> tuple[str, ...]:
    """Return warnings of several steps, each sentence once."""
    return tuple(dict.fromkeys(sentence for several in warnings for sentence in several))
