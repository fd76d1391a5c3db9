"""Configuration of EfficientNet-Lite."""

import math
from typing import NamedTuple

from salhub.config_fields import LARGEST_SIDE, MOST_CHANNELS, ranged
from salhub.configuration import CLASS_FIELDS, SaliencyConfig, strict
from salhub.errors import UnknownNameError, did_you_mean


class BlockSpecification(NamedTuple):
    """One inverted residual block: what it reads, what it writes, and how."""

    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int
    expand_ratio: int


class _Stage(NamedTuple):
    repeats: int
    kernel_size: int
    stride: int
    expand_ratio: int
    channels: int


# EfficientNet-B0's seven stages (Tan and Le, 2019, table 1), which the Lite variants keep.
_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)

# Of the family of EfficientNets, the largest is scaled by 4.3 and 5.3.
_LARGEST_COEFFICIENT = 32

# width coefficient, depth coefficient, input size in pixels, dropout rate
VARIANTS: dict[str, tuple[float, float, int, float]] = {
    "lite0": (1.0, 1.0, 224, 0.2),
    "lite1": (1.0, 1.1, 240, 0.2),
    "lite2": (1.1, 1.2, 260, 0.3),
}


@strict
class EfficientNetLiteConfig(SaliencyConfig):
    """Configuration of an EfficientNet-Lite image classifier.

    Args:
        width_coefficient: Factor on the channels of every stage.
        depth_coefficient: Factor on the repeats of every stage but the first and the last.
        image_size: Side of the square input, in pixels.
        num_channels: Channels of the input picture.
        stem_channels: Channels after the first convolution; not scaled in the Lite family.
        head_channels: Channels before global pooling; not scaled in the Lite family.
        channel_divisor: Scaled channel counts are rounded to a multiple of this.
        dropout_rate: Dropout before the classifier, in [0, 1).
        batch_norm_eps: Added to the variance in batch normalisation.
        batch_norm_momentum: Weight of the new batch in the running statistics.

    Source:
        Tan and Le, "EfficientNet", 2019 (arXiv 1905.11946); the Lite variants drop
        squeeze-and-excitation, use ReLU6 and keep stem and head at their base size.

    Example:
        >>> EfficientNetLiteConfig.for_variant("lite1").image_size
        240
    """

    model_type = "salhub_efficientnet_lite"
    inherited_fields = CLASS_FIELDS

    width_coefficient: float | int = ranged(1.0, above=0, most=_LARGEST_COEFFICIENT)
    depth_coefficient: float | int = ranged(1.0, above=0, most=_LARGEST_COEFFICIENT)
    image_size: int = ranged(224, least=1, most=LARGEST_SIDE)
    num_channels: int = ranged(3, least=1, most=MOST_CHANNELS)
    stem_channels: int = ranged(32, least=1, most=MOST_CHANNELS)
    head_channels: int = ranged(1280, least=1, most=MOST_CHANNELS)
    channel_divisor: int = ranged(8, least=1, most=MOST_CHANNELS)
    dropout_rate: float | int = ranged(0.2, least=0, below=1)
    batch_norm_eps: float | int = ranged(1e-3, above=0, most=1)
    batch_norm_momentum: float | int = ranged(0.01, least=0, most=1)

    @classmethod
    def for_variant(cls, variant: str, **settings) -> "EfficientNetLiteConfig":
        """Return the configuration of a published variant.

        Args:
            variant: "lite0", "lite1" or "lite2".
            **settings: Fields to override, such as `num_labels`.

        Raises:
            UnknownNameError: The variant is not one of the three.
        """
        if variant not in VARIANTS:
            raise UnknownNameError(
                f"'{variant}' is not an EfficientNet-Lite variant; choose one of "
                f"{', '.join(VARIANTS)}.{did_you_mean(variant, VARIANTS)}"
            )
        width, depth, image_size, dropout = VARIANTS[variant]
        fields = {
            "width_coefficient": width,
            "depth_coefficient": depth,
            "image_size": image_size,
            "dropout_rate": dropout,
            "num_labels": 1000,
        }
        return cls(**{**fields, **settings})

    @property
    def block_specifications(self) -> list[BlockSpecification]:
        """The inverted residual blocks, from the input to the head."""
        blocks = []
        channels = self.stem_channels
        for index, stage in enumerate(_STAGES):
            is_scaled = 0 < index < len(_STAGES) - 1
            repeats = (
                math.ceil(self.depth_coefficient * stage.repeats) if is_scaled else stage.repeats
            )
            out_channels = self._round_channels(stage.channels)
            for repeat in range(repeats):
                stride = stage.stride if repeat == 0 else 1
                blocks.append(
                    BlockSpecification(
                        channels, out_channels, stage.kernel_size, stride, stage.expand_ratio
                    )
                )
                channels = out_channels
        return blocks

    def _round_channels(self, channels: int) -> int:
        if self.width_coefficient == 1:
            return channels
        scaled = channels * self.width_coefficient
        divisor = self.channel_divisor
        rounded = max(divisor, int(scaled + divisor / 2) // divisor * divisor)
        # Rounding down may not take away more than a tenth of the channels.
        return rounded + divisor if rounded < 0.9 * scaled else rounded
