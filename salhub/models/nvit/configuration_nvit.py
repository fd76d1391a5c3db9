"""Configuration of a vision transformer whose blocks may all have shapes of their own."""

from collections.abc import Sequence
from typing import Any

from salhub.config_fields import LARGEST_SIDE, MOST_CHANNELS, ranged
from salhub.configuration import CLASS_FIELDS, SaliencyConfig, strict

# Widths that every block has one of.
BLOCK_FIELDS = ("num_attention_heads", "qk_head_dim", "v_head_dim", "intermediate_size")


@strict
class NViTConfig(SaliencyConfig):
    """Configuration of a vision transformer with blocks of any shape.

    A width of the blocks may be one number for all of them, or a list of one a block; config.json
    always holds the list. `num_labels` (or `id2label`) is that of every classifier of transformers.

    Args:
        hidden_size: Channels of the residual stream; does not have to be a multiple of the heads.
        num_hidden_layers: Number of blocks L.
        num_attention_heads: Heads of each block.
        qk_head_dim: Channels of queries and keys in each head.
        v_head_dim: Channels of values in each head.
        intermediate_size: Hidden neurons of each MLP.
        attention_scale: Factor on the scores before the softmax, for all blocks or for each; None
            for `qk_head_dim ** -0.5`. A pruned model keeps the scale of the original [R].
        layer_norm_width: Number of channels that layer norms average over, counting pruned ones as
            zeros, which makes pruning exact [C]; None for the remaining channels [P].
        layer_norm_eps: Added to the variance. The default is DeiT's; ViTs of transformers use
            1e-12.
        hidden_act: Activation of the MLPs.
        image_size: Side of the square input, in pixels.
        patch_size: Side of a patch, in pixels; `image_size` is a multiple of it.
        num_channels: Channels of the input picture.
        distilled: Whether there is a distillation token, as in DeiT.
        has_distillation_classifier: Whether that token has its own classifier, which
            `DeiTForImageClassification` of transformers lacks.
        qkv_bias: Whether queries, keys and values have biases.
        pad_head_dims: If queries and values differ in width, pad the narrower ones with zeros,
            which is exact, because fast attention kernels need one width for both [C].
        allow_empty_blocks: Allow blocks without heads or neurons, of which only the bias is left
            [C].
        initializer_range: Standard deviation of new weights, as in transformers.
        pruning_record: How it was pruned: source, score, eta, table, target, steps.

    Raises:
        ValueError: A list that is not as long as there are blocks, or a width below 1, naming the
            field and the block.

    Source:
        Yang et al. 2023, "Global Vision Transformer Pruning with Hessian-Aware Saliency" (arXiv
        2110.04869). [P] marks the paper, [R] its published code, [C] our choice.

    Example:
        >>> config = NViTConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=[4, 2],
        ...                     qk_head_dim=8, v_head_dim=16, intermediate_size=[256, 128])
        >>> config.qk_head_dim, config.max_num_attention_heads
        ([8, 8], 4)
    """

    model_type = "salhub_nvit"
    inherited_fields = CLASS_FIELDS

    hidden_size: int = ranged(192, least=1, most=MOST_CHANNELS)
    num_hidden_layers: int = ranged(12, least=1, most=1024)
    num_attention_heads: int | list[int] = 3
    qk_head_dim: int | list[int] = 64
    v_head_dim: int | list[int] = 64
    intermediate_size: int | list[int] = 768
    attention_scale: float | list[float] | None = ranged(None, above=0, most=1000)
    layer_norm_width: int | None = ranged(None, least=1, most=MOST_CHANNELS)
    layer_norm_eps: float = ranged(1e-6, least=0, most=1)
    hidden_act: str = "gelu"
    image_size: int = ranged(224, least=1, most=LARGEST_SIDE)
    patch_size: int = ranged(16, least=1, most=LARGEST_SIDE)
    num_channels: int = ranged(3, least=1, most=MOST_CHANNELS)
    distilled: bool = False
    has_distillation_classifier: bool = True
    qkv_bias: bool = True
    pad_head_dims: bool = True
    allow_empty_blocks: bool = False
    initializer_range: float = ranged(0.02, least=0, most=10)
    pruning_record: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Turn single widths into one a block."""
        for name in BLOCK_FIELDS:
            value = getattr(self, name)
            if isinstance(value, int) and not isinstance(value, bool):
                setattr(self, name, [value] * self.num_hidden_layers)
            elif isinstance(value, tuple):
                setattr(self, name, list(value))
        super().__post_init__(**kwargs)

    def validate_blocks(self) -> None:
        """Every block has every width, and none is below 1."""
        scales = self.attention_scale
        if isinstance(scales, list) and len(scales) != self.num_hidden_layers:
            raise ValueError(
                f"attention_scale must be one number or a list of {self.num_hidden_layers}, "
                f"one per block, got {len(scales)}."
            )
        for name in BLOCK_FIELDS:
            widths: Sequence[int] = getattr(self, name)
            if isinstance(widths, int):  # assigned since
                widths = [widths] * self.num_hidden_layers
            if len(widths) != self.num_hidden_layers:
                raise ValueError(
                    f"{name} must be one number or a list of {self.num_hidden_layers}, one "
                    f"per block, got {len(widths)}."
                )
            may_be_empty = self.allow_empty_blocks and name in (
                "num_attention_heads",
                "intermediate_size",
            )
            least = 0 if may_be_empty else 1
            for block, width in enumerate(widths):
                if width < least:
                    hint = "" if may_be_empty else "; set allow_empty_blocks to allow empty blocks"
                    raise ValueError(
                        f"{name} of block {block} must be at least {least}, got {width}{hint}."
                    )

    def validate_picture(self) -> None:
        """Patches fill the picture."""
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size must be a multiple of patch_size={self.patch_size}, got "
                f"{self.image_size}."
            )

    def validate_width(self) -> None:
        """Layer norms average over no fewer channels than there are."""
        if self.layer_norm_width is not None and self.layer_norm_width < self.hidden_size:
            raise ValueError(
                f"layer_norm_width must be at least hidden_size={self.hidden_size}, got "
                f"{self.layer_norm_width}."
            )

    @property
    def max_num_attention_heads(self) -> int:
        """The most heads of any block, for tools that want one number."""
        return max(self.num_attention_heads)

    @property
    def num_patches(self) -> int:
        """Patches of a picture."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def num_tokens(self) -> int:
        """Tokens of a picture: its patches, the class token, and the distillation token."""
        return self.num_patches + (2 if self.distilled else 1)

    @property
    def num_classifiers(self) -> int:
        """Classifiers: that of the class token, and that of the distillation token."""
        return 2 if self.distilled and self.has_distillation_classifier else 1

    def scale_of(self, block: int) -> float:
        """What the attention scores of a block are multiplied by."""
        scale = self.attention_scale
        if isinstance(scale, list):
            return scale[block]
        return self.qk_head_dim[block] ** -0.5 if scale is None else scale
