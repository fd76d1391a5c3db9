"""The residual networks of He et al. (2016, section 4.2): three stages of basic blocks."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutput

from salhub.backbones.cifar_resnet.configuration_cifar_resnet import CifarResNetConfig
from salhub.modeling import SaliencyPreTrainedModel


class ConvNorm(nn.Module):
    """Convolution without bias, padded to keep the size it strides over, and batch norm."""

    def __init__(
        self,
        config: CifarResNetConfig,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False
        )
        self.normalization = nn.BatchNorm2d(
            out_channels, eps=config.batch_norm_eps, momentum=config.batch_norm_momentum
        )

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.normalization(self.convolution(hidden_states))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; equation 1 of the paper, equation 2 at a new size.

    The shortcut is a 1x1 projection where the shape changes (option B). Padding with zero channels
    (option A) saves few weights, but half the channels of such a block would have no shortcut, and
    a method that prunes channels could not tell which of them belong together.
    """

    def __init__(
        self, config: CifarResNetConfig, in_channels: int, out_channels: int, stride: int
    ) -> None:
        super().__init__()
        self.first = ConvNorm(config, in_channels, out_channels, stride=stride)
        self.first_activation = nn.ReLU()
        self.second = ConvNorm(config, out_channels, out_channels)
        self.shortcut = (
            nn.Identity()
            if stride == 1 and in_channels == out_channels
            else ConvNorm(config, in_channels, out_channels, kernel_size=1, stride=stride)
        )
        self.second_activation = nn.ReLU()

    def forward(self, hidden_states: Tensor) -> Tensor:
        residual = self.second(self.first_activation(self.first(hidden_states)))
        return self.second_activation(residual + self.shortcut(hidden_states))


class CifarResNetForImageClassification(SaliencyPreTrainedModel):
    """A residual network for small pictures with its classification head.

    Example:
        >>> config = CifarResNetConfig(depth=8, width=32, stem_stride=2, num_labels=10)
        >>> model = CifarResNetForImageClassification(config)
        >>> model(torch.zeros(1, 3, 32, 32)).logits.shape
        torch.Size([1, 10])
    """

    config: CifarResNetConfig
    base_model_prefix = "cifar_resnet"
    main_input_name = "pixel_values"
    input_modalities = ["image"]

    def __init__(self, config: CifarResNetConfig) -> None:
        super().__init__(config)
        self.stem = ConvNorm(config, config.num_channels, config.width, stride=config.stem_stride)
        self.stem_activation = nn.ReLU()
        blocks = []
        in_channels = config.width
        for stage, channels in enumerate(config.stage_channels):
            for index in range(config.blocks_per_stage):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(BasicBlock(config, in_channels, channels, stride))
                in_channels = channels
        self.blocks = nn.ModuleList(blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(in_channels, config.num_labels)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # He et al., 2015 (arXiv 1502.01852), equation 14: the fan-out normal, which keeps the size
        # of the gradient from layer to layer; transformers' default of 0.02 would shrink it.
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            limit = module.in_features**-0.5
            init.uniform_(module.weight, -limit, limit)
            init.zeros_(module.bias)
        else:
            PreTrainedModel._init_weights(self, module)

    @property
    def memory_format(self) -> torch.memory_format:
        """The layout it is fastest in; forward brings pixels there in any case."""
        # Below 8 channels torch 2.13's backward pass of a strided 1x1 convolution, as in the
        # shortcuts, writes beyond its memory in the other layout.
        is_safe = self.config.width % 8 == 0
        return torch.channels_last if is_safe else torch.contiguous_format

    def feature_map(self, pixel_values: Tensor) -> Tensor:
        """The last feature map, before it is averaged: (B, 4 * width, H / 4, W / 4) at stride 1.

        Args:
            pixel_values: As of `forward`.

        Raises:
            TypeError, ValueError: Pixels that are no batch of prepared pictures.
        """
        _check_pixel_values(pixel_values, self.config)
        hidden_states = self.stem_activation(self.stem(_laid_out(pixel_values, self.memory_format)))
        for block in self.blocks:
            hidden_states = block(hidden_states)
        return hidden_states

    def pooled_features(self, pixel_values: Tensor) -> Tensor:
        """What the classifier sees: the last feature maps, averaged over the picture.

        Args:
            pixel_values: As of `forward`.

        Returns:
            Features of shape (B, 4 * width), none negative.

        Raises:
            TypeError, ValueError: Pixels that are no batch of prepared pictures.
        """
        return self.pool(self.feature_map(pixel_values)).flatten(1)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> ImageClassifierOutput:
        """Classify pictures.

        Args:
            pixel_values: Pictures from `CifarResNetImageProcessor`, normalised, shape
                (B, num_channels, image_size, image_size).
            labels: True classes in [0, num_labels), int64 (B,); with them the cross-entropy loss is
                returned too, the mean over the batch.

        Returns:
            `logits` (B, num_labels) and, with labels, `loss` ().

        Raises:
            TypeError: Pixels that are not floating point, or labels that are not int64.
            ValueError: Another shape than the configuration's, or not one label a picture.
        """
        if labels is not None:
            _check_labels(labels, len(pixel_values))
        logits = self.classifier(self.pooled_features(pixel_values))
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return ImageClassifierOutput(loss=loss, logits=logits)


def _laid_out(pixel_values: Tensor, layout: torch.memory_format) -> Tensor:
    try:
        return pixel_values.contiguous(memory_format=layout)
    except RuntimeError:
        # Inside torch.func.vmap there is no such layout, and the network works without.
        return pixel_values


def _check_pixel_values(pixel_values: Tensor, config: CifarResNetConfig) -> None:
    expected = (config.num_channels, config.image_size, config.image_size)
    if pixel_values.ndim != 4 or pixel_values.shape[1:] != expected:
        raise ValueError(
            f"pixel_values must have shape (B, {', '.join(map(str, expected))}), got "
            f"{tuple(pixel_values.shape)}; prepare pictures with CifarResNetImageProcessor."
        )
    if not pixel_values.is_floating_point():
        raise TypeError(
            f"pixel_values must be floating point and normalized, got {pixel_values.dtype}; "
            "prepare pictures with CifarResNetImageProcessor."
        )


def _check_labels(labels: Tensor, batch_size: int) -> None:
    if labels.dtype != torch.int64:
        raise TypeError(
            f"labels must be class indices of type int64, got {labels.dtype}; for probabilities or "
            "one-hot rows, compute the loss from the logits."
        )
    if labels.shape != (batch_size,):
        raise ValueError(
            f"labels must have shape ({batch_size},), one per picture, got {tuple(labels.shape)}."
        )
