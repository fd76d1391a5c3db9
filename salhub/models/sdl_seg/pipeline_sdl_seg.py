"""The pipeline of the models that segment volumes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from salhub.data.samples import PREFIX
from salhub.files import ending_of
from salhub.models.sdl_seg.marker_files import MARKER_ENDINGS, is_file_of_markers, read_markers
from salhub.models.sdl_seg.processing_sdl_seg import SDLSegImageProcessor
from salhub.models.sdl_seg.result_sdl_seg import VolumeSegmentationResult, joined
from salhub.models.sdl_seg.volume import Volume
from salhub.models.sdl_seg.volume_files import (
    ARRAY_ENDINGS,
    VOLUME_ENDINGS,
    load_mask,
    load_volume,
    phantom_sample,
    volume_of_phantom,
)
from salhub.pipelines.base import TaskPipeline

_MASK_ENDINGS = ("{}.nii.gz", "{}.nii", "{}.npz", "{}.npy")


def _beside(what: str) -> tuple[str, ...]:
    """Endings of masks that lie beside a volume, such as scan-roi.nii.gz beside scan.nii.gz."""
    return tuple(ending.format(f"-{what}") for ending in _MASK_ENDINGS)


class VolumeSegmentationPipeline(TaskPipeline):
    """Segment CT volumes, guided by markers in them.

    Example:
        >>> import salhub
        >>> segment = salhub.pipeline("salhub/sdl-seg-phantom")  # doctest: +SKIP
        >>> result = segment("sample:phantom")  # doctest: +SKIP
        >>> result.save("mask.nii.gz")  # doctest: +SKIP
    """

    input_type = "image"
    input_suffixes = VOLUME_ENDINGS
    folder_is_one_input = True
    companions = {"markers": MARKER_ENDINGS, "roi": _beside("roi"), "truth": _beside("truth")}
    result_class = VolumeSegmentationResult
    output_suffix = ".nii.gz"
    call_settings = ("spacing",)
    extra = "medical"
    sample = f"{PREFIX}phantom"
    example = """
import salhub

# a NIfTI file, a folder with a DICOM series, or an array with spacing=(z, y, x) in mm
result = salhub.pipeline("{model}")("{sample}")
print(result.summary())
result.save("slices.png")
result.save("mask.nii.gz")  # or .dcm, .npz, .json
"""
    hub_task = "image-segmentation"

    @staticmethod
    def read(source: Any) -> Any:
        """Return the volume of a file, a folder or a sample, for the command line.

        Raises:
            ValueError: Bytes, such as those piped into the command.
        """
        if isinstance(source, bytes):
            raise ValueError(
                "A volume cannot be read from standard input; give a file or a folder."
            )
        # Arrays may need the spacing of the call.
        is_later = ending_of(str(source), ARRAY_ENDINGS) and Path(source).is_file()
        return source if is_later or phantom_sample(source) is not None else load_volume(source)

    @classmethod
    def belongs(cls, name: str, path: Path) -> bool:
        return name != "markers" or is_file_of_markers(path)

    def __call__(
        self, volumes: Any, **kwargs: Any
    ) -> VolumeSegmentationResult | list[VolumeSegmentationResult]:
        """Segment one volume, or several.

        Args:
            volumes: A file ending in .nii, .nii.gz, .npz or .npy; a folder with one DICOM series,
                or a multi-frame DICOM file; an array (Z, Y, X) in HU; a `Volume`; "sample:phantom";
                or a list of these.
            **kwargs: `markers`, voxel coordinates (K, 3) of (z, y, x) or a file with them, found in
                the volume by default; `roi`, a mask outside of which no markers are looked for;
                `truth`, a mask to be scored against; of a list of volumes a list of each, with None
                for none. `spacing`, mm along z, y and x, of arrays. And settings of the model for
                this call alone, such as `threshold`, `sigma_d_mm` and `tta`.

        Returns:
            One result a volume.

        Raises:
            MarkerNotFoundError: There are no markers.
            TooManyMarkersError: There are so many that bone must be among them.
            ValueError: No single CT volume in HU on a regular grid, or a setting out of its range.
            TypeError: A setting of the wrong type.
        """
        # Volumes differ in size, so they pass one by one.
        return super().__call__(volumes, **{**kwargs, "batch_size": 1})

    def _sanitize_parameters(self, **settings):
        reading = {"spacing": settings.pop("spacing")} if "spacing" in settings else {}
        self._model_with(settings)
        return {**reading, "settings": settings}, {"settings": settings}, {"settings": settings}

    def choices(self) -> dict[str, list[str]]:
        """Return nothing: there is no list to choose from, for `salhub info`."""
        return {}

    def prepare(
        self,
        source: Any,
        markers: Any = None,
        roi: Any = None,
        truth: Any = None,
        spacing: Sequence[float] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        phantom = phantom_sample(source)
        if phantom is not None:
            volume = volume_of_phantom(phantom)
            truth = phantom.mask if truth is None else truth
        else:
            volume = load_volume(source, spacing)
        warnings = list(volume.warnings)
        if isinstance(markers, str | Path):
            markers = read_markers(markers, volume)
        elif markers is not None and isinstance(source, str | Path):
            warnings += _turned(volume, "The markers are")
        masks = [one for one in (roi, truth) if one is not None and phantom is None]
        if any(_is_order_alone(one, source) for one in masks):
            warnings += _turned(volume, "A mask is")
        roi = None if roi is None else load_mask(roi, volume, "roi")
        truth = None if truth is None else load_mask(truth, volume, "truth")
        config = self._model_with(settings or {}).config
        processor = SDLSegImageProcessor(config, self.model.config.window_size)
        batch = processor(volume.array, volume.spacing, markers, rois=roi)
        return {
            "pixel_values": batch["pixel_values"],
            "meta": batch["meta"],
            "volume": [volume],
            "truth": [truth],
            "warnings": [warnings],
        }

    def _forward(self, model_inputs, settings: Mapping[str, Any] | None = None):
        found = self._model_with(settings or {}).predict(model_inputs["pixel_values"])
        return {**model_inputs, "logits": found.logits}

    def postprocess(
        self, model_outputs, settings: Mapping[str, Any] | None = None
    ) -> VolumeSegmentationResult:
        config = self._model_with(settings or {}).config
        [volume], [truth], [meta], [warnings] = (
            model_outputs[name] for name in ("volume", "truth", "meta", "warnings")
        )
        processor = SDLSegImageProcessor(config)
        [found] = processor.post_process_segmentation(model_outputs["logits"], [meta])
        return VolumeSegmentationResult(
            volume=volume,
            mask=found["mask"],
            probability=found["probability"],
            markers=np.asarray(found["marker_coords"], dtype=np.float64),
            saliency=_on_volume(meta),
            threshold=config.threshold,
            warnings=joined(warnings, found["warnings"]),
            truth=truth,
            model_name=self._model_name(),
        )


def _is_order_alone(mask: Any, source: Any) -> bool:
    """Return whether nothing but the order of its voxels says where a mask of a file lies."""
    if isinstance(mask, str | Path):
        return bool(ending_of(str(mask), ARRAY_ENDINGS))
    return isinstance(source, str | Path)


def _turned(volume: Volume, what: str) -> list[str]:
    """Say that what was given as voxels (z, y, x) is of the volume as it was turned."""
    if volume.source is None or not volume.source.is_turned:
        return []
    return [
        f"{volume.source.path.name} is stored in another orientation. {what} read as voxels "
        "(z, y, x) of the reoriented volume, not as stored; see load_volume."
    ]


def _on_volume(meta: Any) -> np.ndarray | None:
    """Return the saliency map on the grid of the volume."""
    if meta.saliency is None:
        return None
    return np.asarray(meta.grid.resample_back(meta.saliency), dtype=np.float32)
