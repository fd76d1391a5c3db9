"""Configuration of the class-conditional U-Net."""

from salhub.config_fields import LARGEST_SIDE, MOST_CHANNELS, MOST_CLASSES, ranged
from salhub.configuration import SaliencyConfig, strict

# Channels of the first level that GroupNorm normalises together: those of Ho et al., 128 in 32
# groups. One channel alone would lose what the class and the step add to it.
_CHANNELS_PER_GROUP = 4


@strict
class ConditionalUNetConfig(SaliencyConfig):
    """Configuration of a class-conditional U-Net that predicts the noise in a picture.

    Args:
        image_size: Side of the square picture, in pixels; halved between levels, so it must be
            divisible by 2 for each level but the last.
        num_channels: Channels of the picture.
        base_channels: Channels of the first level, a multiple of 4; every GroupNorm has a quarter
            as many groups.
        channel_multipliers: Channels of each level, as multiples of `base_channels`.
        num_res_blocks: Number of residual blocks of each level, both on the way down and on the
            way up.
        attention_resolutions: Sides, in pixels, of the feature maps with self-attention after each
            residual block; [] for none.
        dropout: Dropout inside the residual blocks, in [0, 1).
        num_classes: Classes, K. Class index K stands for "no class" and has a learned vector too.
        num_train_timesteps: Steps of the noise process, T.
        beta_start: Variance of the noise added in the first step, above 0.
        beta_end: Variance of the noise added in the last step, from `beta_start` to below 1;
            linear in between.

    Raises:
        ValueError: A value out of its range, or sizes that do not go together.

    Source:
        Ho et al., "Denoising Diffusion Probabilistic Models", 2020 (arXiv 2006.11239), section 4
        and appendix B; the class condition as in Ho and Salimans, "Classifier-Free Diffusion
        Guidance", 2022 (arXiv 2207.12598). The sizes are ours, for small pictures on a CPU.

    Example:
        >>> ConditionalUNetConfig(image_size=32, channel_multipliers=[1, 2, 2, 2]).resolutions
        [32, 16, 8, 4]
    """

    model_type = "salhub_conditional_unet"

    image_size: int = ranged(16, least=1, most=LARGEST_SIDE)
    num_channels: int = ranged(1, least=1, most=MOST_CHANNELS)
    base_channels: int = ranged(32, least=1, most=MOST_CHANNELS)
    channel_multipliers: list[int] = ranged([1, 2, 2], least=1, most=64)
    num_res_blocks: int = ranged(1, least=1)
    attention_resolutions: list[int] = ranged([4], least=1)
    dropout: float | int = ranged(0.0, least=0, below=1)
    num_classes: int = ranged(10, least=1, most=MOST_CLASSES)
    num_train_timesteps: int = ranged(1000, least=1, most=10**6)
    beta_start: float = 1e-4
    beta_end: float = 0.02

    def validate_sizes(self) -> None:
        """Channels fall into groups, and the picture can be halved between the levels."""
        if self.base_channels % _CHANNELS_PER_GROUP:
            raise ValueError(
                f"base_channels must be a multiple of {_CHANNELS_PER_GROUP}, got "
                f"{self.base_channels}."
            )
        if not self.channel_multipliers:
            raise ValueError("channel_multipliers must have one number per level, got none.")
        halvings = 2 ** (len(self.channel_multipliers) - 1)
        if self.image_size % halvings:
            raise ValueError(
                f"image_size must be divisible by {halvings} for {len(self.channel_multipliers)} "
                f"levels, got {self.image_size}."
            )
        foreign = sorted(set(self.attention_resolutions) - set(self.resolutions))
        if foreign:
            raise ValueError(
                "attention_resolutions must be among the resolutions of the levels, "
                f"{self.resolutions}, got {foreign}."
            )

    def validate_ranges(self) -> None:
        """The variance of the noise grows, and stays below 1."""
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(
                "beta_start and beta_end must satisfy 0 < beta_start <= beta_end < 1, got "
                f"{self.beta_start} and {self.beta_end}."
            )

    @property
    def resolutions(self) -> list[int]:
        """Side of the feature maps of each level, in pixels."""
        return [self.image_size // 2**level for level in range(len(self.channel_multipliers))]

    @property
    def level_channels(self) -> list[int]:
        """Channels of each level."""
        return [multiplier * self.base_channels for multiplier in self.channel_multipliers]

    @property
    def normalization_groups(self) -> int:
        """Groups of channels of every GroupNorm."""
        return self.base_channels // _CHANNELS_PER_GROUP

    @property
    def null_class(self) -> int:
        """The class index that stands for "no class"."""
        return self.num_classes
