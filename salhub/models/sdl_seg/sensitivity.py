"""What if a clip had moved: how the volume of the answer depends on where the markers are."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from salhub.modeling import attribution_scope
from salhub.models.sdl_seg.modeling_sdl_seg import SDLSegForVolumeSegmentation
from salhub.models.sdl_seg.processing_sdl_seg import SDLSegImageProcessor
from salhub.models.sdl_seg.saliency_map import saliency_map


@dataclass(frozen=True)
class ClipSensitivity:
    """How the expected volume depends on the clips.

    Attributes:
        expected_cc: Sum of the probabilities of all voxels, in cm^3. It holds also what is unlikely
            and what the mask of a result leaves out, and is larger than the volume of that.
        gradient_cc_per_mm: Its change when a clip moves by a millimetre along z, y or x, float64
            (K, 3); for small moves, with the CT as it is.
        marker_coords: The clips, voxel coordinates in the volume, (K, 3).
        warnings: One sentence each.
    """

    expected_cc: float
    gradient_cc_per_mm: np.ndarray
    marker_coords: np.ndarray
    warnings: list[str]

    def after(self, moves_mm: Any) -> float:
        """`expected_cc` after small moves in mm, (K, 3), to first order."""
        return self.expected_cc + float((self.gradient_cc_per_mm * np.asarray(moves_mm)).sum())


def clip_sensitivity(
    model: SDLSegForVolumeSegmentation, image: Any, spacing: Any, markers: Any = None
) -> ClipSensitivity:
    """Differentiate the expected volume by the places of the clips.

    The saliency map is differentiable with respect to the markers, so one backward pass is enough.
    The whole volume is processed at once, without windows and flips, so it must fit in memory.

    Args:
        model: With a saliency map.
        image: HU, (z, y, x).
        spacing: Voxel size in mm, (z, y, x).
        markers: Voxel coordinates, (K, 3); None to find them.

    Raises:
        ValueError: The model has no map, or bad input, see `SDLSegImageProcessor`.

    Example:
        >>> from salhub.models.sdl_seg.configuration_sdl_seg import SDLSegConfig
        >>> from salhub.models.sdl_seg.phantom import make_breast_phantom
        >>> model, phantom = SDLSegForVolumeSegmentation(SDLSegConfig()), make_breast_phantom(0)
        >>> found = clip_sensitivity(model, phantom.volume, phantom.spacing)
        >>> found.gradient_cc_per_mm.shape == found.marker_coords.shape
        True
    """
    config = model.config
    if config.saliency_kind == "none":
        raise ValueError(
            "This model has saliency_kind='none', so its answer does not depend on markers; "
            "use a model with a map."
        )
    batch = SDLSegImageProcessor(config)(image, spacing, markers)
    meta = batch["meta"][0]
    with attribution_scope(model):
        coordinates = torch.as_tensor(meta.grid.to_network(meta.markers))
        places = coordinates.to(model.device, model.dtype).requires_grad_()
        pixels = batch["pixel_values"][0, :1].to(model.device, model.dtype)
        found = saliency_map(places, meta.grid.padded, meta.grid.target, config)
        logits = model(torch.cat([pixels, found[None]])[None]).logits.double()
        chances = (logits / config.temperature).sigmoid()
        voxel_cc = float(np.prod(meta.grid.target)) / 1000
        volume = chances[0, 0][tuple(slice(0, size) for size in meta.grid.inner)].sum() * voxel_cc
        gradient = torch.zeros_like(places)
        if len(places):
            (gradient,) = torch.autograd.grad(volume, places)
    per_mm = gradient.detach().cpu().double().numpy() / np.array(meta.grid.target)
    return ClipSensitivity(float(volume.detach()), per_mm, meta.markers, meta.warnings)
