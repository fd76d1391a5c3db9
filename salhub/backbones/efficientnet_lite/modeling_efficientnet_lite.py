"""EfficientNet-Lite: inverted residual blocks with ReLU6 and TensorFlow's SAME padding."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutput

from salhub.backbones.efficientnet_lite.configuration_efficientnet_lite import (
    BlockSpecification,
    EfficientNetLiteConfig,
)
from salhub.modeling import SaliencyPreTrainedModel


class Conv2dSame(nn.Conv2d):
    """A convolution that pads as TensorFlow's SAME does: the odd pixel goes right and below."""

    def same_padding(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Return the zeros to add (left, right, top, bottom) for an input of this size."""
        top, bottom = self._pad_one_axis(height, 0)
        left, right = self._pad_one_axis(width, 1)
        return left, right, top, bottom

    def _pad_one_axis(self, size: int, axis: int) -> tuple[int, int]:
        extent = self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
        outputs = -(-size // self.stride[axis])
        total = max((outputs - 1) * self.stride[axis] + extent - size, 0)
        return total // 2, total - total // 2

    def _conv_forward(
        self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        left, right, top, bottom = self.same_padding(input.shape[-2], input.shape[-1])
        if left == right and top == bottom:
            padding = (top, left)
        else:
            input = F.pad(input, (left, right, top, bottom))
            padding = (0, 0)
        return F.conv2d(input, weight, bias, self.stride, padding, self.dilation, self.groups)


class ConvNormActivation(nn.Module):
    """Convolution, batch normalisation and, unless the block is linear, ReLU6."""

    def __init__(
        self,
        config: EfficientNetLiteConfig,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        use_activation: bool = True,
    ) -> None:
        super().__init__()
        self.convolution = Conv2dSame(
            in_channels, out_channels, kernel_size, stride, groups=groups, bias=False
        )
        self.normalization = nn.BatchNorm2d(
            out_channels, eps=config.batch_norm_eps, momentum=config.batch_norm_momentum
        )
        self.activation = nn.ReLU6() if use_activation else nn.Identity()

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.activation(self.normalization(self.convolution(hidden_states)))


class InvertedResidual(nn.Module):
    """Expand, filter each channel on its own, project; add the input where the shapes agree."""

    def __init__(self, config: EfficientNetLiteConfig, block: BlockSpecification) -> None:
        super().__init__()
        expanded = block.in_channels * block.expand_ratio
        self.expand = (
            ConvNormActivation(config, block.in_channels, expanded)
            if block.expand_ratio != 1
            else nn.Identity()
        )
        self.depthwise = ConvNormActivation(
            config, expanded, expanded, block.kernel_size, block.stride, groups=expanded
        )
        self.project = ConvNormActivation(
            config, expanded, block.out_channels, use_activation=False
        )
        self.use_residual = block.stride == 1 and block.in_channels == block.out_channels

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        residual = hidden_states
        hidden_states = self.project(self.depthwise(self.expand(hidden_states)))
        return hidden_states + residual if self.use_residual else hidden_states


class EfficientNetLiteForImageClassification(SaliencyPreTrainedModel):
    """EfficientNet-Lite with its classification head.

    Example:
        >>> from salhub import EfficientNetLiteForImageClassification as EfficientNetLite
        >>> model = EfficientNetLite.from_pretrained("salhub/efficientnet-lite0")
        >>> model(torch.zeros(1, 3, 224, 224)).logits.shape
        torch.Size([1, 1000])
    """

    config: EfficientNetLiteConfig
    base_model_prefix = "efficientnet_lite"
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    # Convolutions of many channels run a tenth to a third faster; nothing here depends on strides.
    memory_format = torch.channels_last

    def __init__(self, config: EfficientNetLiteConfig) -> None:
        super().__init__(config)
        blocks = config.block_specifications
        self.stem = ConvNormActivation(
            config, config.num_channels, config.stem_channels, kernel_size=3, stride=2
        )
        self.blocks = nn.ModuleList(InvertedResidual(config, block) for block in blocks)
        self.head = ConvNormActivation(config, blocks[-1].out_channels, config.head_channels)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(config.dropout_rate)
        self.classifier = nn.Linear(config.head_channels, config.num_labels)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # The fan-out normal of the EfficientNet authors; transformers' default of 0.02 would
        # let the signal die out over fifty layers.
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
            init.normal_(module.weight, 0.0, (2.0 * module.groups / fan_out) ** 0.5)
        elif isinstance(module, nn.Linear):
            limit = module.out_features**-0.5
            init.uniform_(module.weight, -limit, limit)
            init.zeros_(module.bias)
        else:
            PreTrainedModel._init_weights(self, module)

    def feature_map(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """The last feature map, before it is averaged: (B, head_channels, H / 32, W / 32).

        Args:
            pixel_values: As of `forward`.
        """
        hidden_states = self.stem(pixel_values)
        for block in self.blocks:
            hidden_states = block(hidden_states)
        return self.head(hidden_states)

    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None
    ) -> ImageClassifierOutput:
        """Classify pictures.

        Args:
            pixel_values: Pictures from `EfficientNetLiteImageProcessor`, (B, 3, H, W).
            labels: True classes, int64 (B,); with them the cross-entropy loss is returned too.

        Returns:
            `logits` (B, num_labels) and, with labels, `loss` ().
        """
        hidden_states = self.pool(self.feature_map(pixel_values)).flatten(1)
        logits = self.classifier(self.dropout(hidden_states))
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return ImageClassifierOutput(loss=loss, logits=logits)
