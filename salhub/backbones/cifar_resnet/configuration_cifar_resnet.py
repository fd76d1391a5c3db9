"""Configuration of the residual networks for small pictures."""

from salhub.config_fields import LARGEST_SIDE, MOST_CHANNELS, ranged
from salhub.configuration import CLASS_FIELDS, SaliencyConfig, strict


@strict
class CifarResNetConfig(SaliencyConfig):
    """Configuration of a residual network for small pictures such as CIFAR's.

    `num_labels` (or `id2label`) is that of every classifier of transformers, 2 unless given.

    Args:
        depth: Number of layers with weights on the longest path, 6n + 2 for n blocks per stage: 8,
            20, 32, ...
        width: Channels of the first of the three stages; each later stage has twice as many.
        stem_stride: Stride of the first convolution, 1 as published or 2 for a quarter of the
            work.
        image_size: Side of the square input, in pixels.
        num_channels: Channels of the input picture.
        batch_norm_eps: Added to the variance in batch normalisation, above 0.
        batch_norm_momentum: Weight of the new batch in the running statistics, in [0, 1].

    Raises:
        ValueError: A depth that is not 6n + 2, or a value out of its range.

    Source:
        He et al., "Deep Residual Learning for Image Recognition", 2016 (arXiv 1512.03385),
        section 4.2. The defaults are its ResNet-20; `stem_stride` is ours.

    Example:
        >>> CifarResNetConfig(depth=32, num_labels=10).blocks_per_stage
        5
    """

    model_type = "salhub_cifar_resnet"
    inherited_fields = CLASS_FIELDS

    depth: int = 20
    width: int = ranged(16, least=1, most=MOST_CHANNELS)
    stem_stride: int = 1
    image_size: int = ranged(32, least=1, most=LARGEST_SIDE)
    num_channels: int = ranged(3, least=1, most=MOST_CHANNELS)
    batch_norm_eps: float | int = ranged(1e-5, above=0, most=1)
    batch_norm_momentum: float | int = ranged(0.1, least=0, most=1)

    def validate_ranges(self) -> None:
        """The depth is 6n + 2, and the stem halves the picture or does not."""
        if self.depth < 8 or self.depth % 6 != 2:
            raise ValueError(f"depth must be 6n + 2 (8, 14, 20, ...), got {self.depth}.")
        if self.stem_stride not in (1, 2):
            raise ValueError(f"stem_stride must be 1 or 2, got {self.stem_stride}.")

    @property
    def blocks_per_stage(self) -> int:
        """Residual blocks in each of the three stages, n of the paper."""
        return (self.depth - 2) // 6

    @property
    def stage_channels(self) -> tuple[int, int, int]:
        """Channels of the three stages."""
        return self.width, 2 * self.width, 4 * self.width
