"""Configuration of SDL-Seg: the network, the saliency map of the markers, and what is kept."""

from typing import ClassVar, Literal

from salhub.config_fields import MOST_CHANNELS, ranged
from salhub.configuration import SaliencyConfig, strict

SaliencyKind = Literal["edt_gauss", "edt_linear", "hull", "points", "none"]
SegmentationLoss = Literal["dice_ce", "dice", "focal_tversky"]


@strict
class SDLSegConfig(SaliencyConfig):
    """Configuration of `SDLSegForVolumeSegmentation` and of its image processor.

    [P] marks what the paper's abstract states: markers are found on the CT, a distance transform
    and a Gaussian filter make a saliency map of them, and it enters a U-Net as a further channel.
    [C] marks our choices: the full text was not available, so they include every number here.

    Args:
        spatial_dims: 3 for volumes, 2 for slices one by one. [C]
        context_slices: In 2-D, number of neighbouring slices on each side used as channels. [C]
        channels: Channels of each level of the U-Net, finest first. [P: U-Net; C: sizes]
        anisotropic_levels: Number of first levels that are halved only within the slice. [C]
        norm: Normalisation: "instance", or "group" in groups of 8 channels or fewer. [C]
        dropout: Dropout of whole channels after each level, in [0, 1). [C]
        target_spacing: Voxel size of the network's grid in mm, (z, y, x). [C]
        hu_window: HU values mapped to 0 and 1; values outside are clipped. [C]
        saliency_kind: Map of the markers: "edt_gauss" exp(-d^2 / 2 sigma_d^2) smoothed
            [P: distance transform with a Gaussian filter; C: its form], "edt_linear"
            max(0, 1 - d / R) smoothed [C], "hull" logistic of the signed distance to the convex
            hull [C], "points" a Gaussian at each marker [C], "none" no map: a plain U-Net.
        sigma_d_mm: Decay width of the map, in mm. [C]
        sigma_g_mm: Width of the smoothing, in mm; 0 for none. [C]
        linear_radius_mm: R of "edt_linear", in mm. [C]
        hull_scale_mm: Scale of the logistic of "hull", in mm. [C]
        points_sigma_mm: Width of "points", in mm. [C]
        marker_threshold: HU above which a voxel may be a marker. [C]
        marker_max_mm3: Largest volume of a marker, in mm^3. [C]
        marker_max_diagonal_mm: Largest diagonal of the box around a marker, in mm. [C]
        marker_bone_distance_mm: Smallest distance of a marker from something large and equally
            bright. [C]
        marker_cluster_mm: Markers farther than this from all others are left out, in mm. [C]
        max_markers: If there are more candidates than this, they are refused. [C]
        allow_no_markers: If no markers are found, use an empty map with a warning instead of an
            error.
        temperature: Divisor of the logits before they become probabilities; fitted on held-out
            data during training, 1 for none. [C]
        threshold: Probability above which a voxel is foreground, in (0, 1). [C]
        min_component_cc: Parts smaller than this are dropped, in cm^3. [C]
        loss: "dice_ce" (Dice plus binary cross-entropy), "dice", or "focal_tversky" (alpha .3,
            beta .7, gamma 4/3). [C]
        foreground_prior: Initial share of foreground in the last bias, in (0, 1). [C]
        window_size: Size of an inference window in voxels, (z, y, x); None for the whole volume.
            [C]
        window_overlap: Overlap of neighbouring windows, in [0, 1). [C]
        window_batch_size: Number of windows per batch.
        tta: Average over the flips along z and x. [C]

    Raises:
        ValueError: A value out of its range, or values that do not go together.

    Source:
        Kazemimoghadam et al., "Saliency-Guided Deep Learning Network for Automatic Tumor Bed Volume
        Delineation in Post-operative Breast Irradiation", 2021 (arXiv 2105.02771).

    Example:
        >>> SDLSegConfig(saliency_kind="none").in_channels, SDLSegConfig().in_channels
        (1, 2)
    """

    model_type = "salhub_sdl_seg"
    loaded_fields: ClassVar[frozenset[str]] = frozenset(
        {
            "spatial_dims", "context_slices", "channels", "anisotropic_levels", "norm", "dropout",
            "target_spacing", "hu_window", "saliency_kind", "foreground_prior", "loss",
            "temperature",
        }
    )  # fmt: skip

    spatial_dims: Literal[2, 3] = 3
    context_slices: int = ranged(0, least=0, most=16)
    channels: list[int] = ranged([8, 16, 32, 32], least=1, most=MOST_CHANNELS)
    anisotropic_levels: int = ranged(1, least=0)
    norm: Literal["instance", "group"] = "instance"
    dropout: float | int = ranged(0.0, least=0, below=1)
    target_spacing: list[float | int] = ranged([3.0, 1.5, 1.5], least=0.05, most=20)
    hu_window: list[float | int] = ranged([-160, 240], least=-2000, most=20000)
    saliency_kind: SaliencyKind = "edt_gauss"
    sigma_d_mm: float | int = ranged(8.0, above=0, most=500)
    sigma_g_mm: float | int = ranged(2.0, least=0, most=100)
    linear_radius_mm: float | int = ranged(25.0, above=0, most=500)
    hull_scale_mm: float | int = ranged(5.0, above=0, most=500)
    points_sigma_mm: float | int = ranged(8.0, above=0, most=500)
    marker_threshold: float | int = ranged(500, least=0, most=30000)
    marker_max_mm3: float | int = ranged(180, above=0, most=1e6)
    marker_max_diagonal_mm: float | int = ranged(12, above=0, most=500)
    marker_bone_distance_mm: float | int = ranged(6, least=0, most=500)
    marker_cluster_mm: float | int = ranged(45, above=0, most=5000)
    max_markers: int = ranged(40, least=1, most=1000)
    allow_no_markers: bool = False
    temperature: float | int = ranged(1.0, above=0, most=100)
    threshold: float = ranged(0.5, above=0, below=1)
    min_component_cc: float | int = ranged(0.2, least=0, most=1e5)
    loss: SegmentationLoss = "dice_ce"
    foreground_prior: float = ranged(0.01, above=0, below=1)
    window_size: list[int] | None = ranged(None, least=1, most=4096)
    window_overlap: float | int = ranged(0.5, least=0, below=1)
    window_batch_size: int = ranged(4, least=1)
    tta: bool = False

    def validate_network(self) -> None:
        """There are levels, and slices of context only in 2-D."""
        if not self.channels:
            raise ValueError("channels must have one number per level, got none.")
        if self.anisotropic_levels > len(self.channels) - 1:
            raise ValueError(
                f"anisotropic_levels must be at most {len(self.channels) - 1} for "
                f"{len(self.channels)} levels, got {self.anisotropic_levels}."
            )
        if self.context_slices and self.spatial_dims == 3:
            raise ValueError(
                "context_slices only applies to spatial_dims=2, which sees slices; got "
                f"{self.context_slices} with spatial_dims=3, which sees the volume."
            )

    def validate_grid(self) -> None:
        """Spacing and window have three numbers, and the window of HU is not empty."""
        for name in ("target_spacing", "window_size"):
            value = getattr(self, name)
            if value is not None and len(value) != 3:
                raise ValueError(f"{name} must be three numbers, (z, y, x), got {value}.")
        if len(self.hu_window) != 2 or self.hu_window[0] >= self.hu_window[1]:
            raise ValueError(
                f"hu_window must be two HU values, low and high, got {self.hu_window}."
            )
        if self.window_size is not None and any(
            size % step for size, step in zip(self.window_size, self.size_steps, strict=True)
        ):
            raise ValueError(
                f"window_size must be divisible by {self.size_steps} for these levels, got "
                f"{self.window_size}."
            )

    @property
    def in_channels(self) -> int:
        """Channels of the first convolution: CT and map, each with its slices of context."""
        return self.image_channels * (2 * self.context_slices + 1)

    @property
    def image_channels(self) -> int:
        """Channels of `pixel_values`: the CT, and the map unless there is none."""
        return 1 if self.saliency_kind == "none" else 2

    @property
    def pooling(self) -> list[list[int]]:
        """By what each level but the first is smaller than the one before, (z, y, x)."""
        flat = len(self.channels) if self.spatial_dims == 2 else self.anisotropic_levels
        return [[1 if level < flat else 2, 2, 2] for level in range(len(self.channels) - 1)]

    @property
    def size_steps(self) -> list[int]:
        """What the sides of a volume must be divisible by, (z, y, x)."""
        sizes = [1, 1, 1]
        for factors in self.pooling:
            sizes = [size * factor for size, factor in zip(sizes, factors, strict=True)]
        return sizes
