"""The encoder that all tasks share: a backbone of transformers, or one of ours."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.models.auto.modeling_auto import AutoBackbone, AutoModelForImageClassification

from salhub.errors import check_choice


class SharedEncoder(nn.Module):
    """Gives the map that every head gets.

    Args:
        config: Of the network inside.
        out_feature: Stage of a backbone of transformers; None for the last one.

    Attributes:
        network: The network inside.
        num_channels: Channels of the map.

    Raises:
        ValueError: A network without feature maps, or without such a stage.
    """

    def __init__(self, config: PreTrainedConfig, out_feature: str | None = None) -> None:
        super().__init__()
        config = copy.deepcopy(config)
        stages = getattr(config, "stage_names", None)
        if stages is not None:
            out_feature = out_feature or stages[-1]
            check_choice("out_feature", out_feature, stages)
            config.out_features = [out_feature]
            self.network: Any = AutoBackbone.from_config(config)
            self.num_channels = int(self.network.channels[-1])
            return
        network: Any = None
        if type(config) in AutoModelForImageClassification._model_mapping:
            network = AutoModelForImageClassification.from_config(config)
        if not hasattr(network, "feature_map"):
            raise ValueError(
                f"A network of type '{config.model_type}' has no feature maps to share; give "
                "an encoder that AutoBackbone of transformers accepts, such as a ResNet, or one "
                "of type 'salhub_efficientnet_lite' or 'salhub_cifar_resnet'."
            )
        if out_feature is not None:
            raise ValueError(
                f"A network of type '{config.model_type}' has no stages to choose from; "
                "leave out out_feature."
            )
        self.network = network
        self.num_channels = network.classifier.in_features
        # Nothing that has no gradient: processes that share the rows would wait for it.
        network.classifier = nn.Identity()

    @property
    def memory_format(self) -> torch.memory_format:
        """The layout in which double backward passes take three quarters of the time on a CPU."""
        strided = [
            layer for layer in self.network.modules()
            if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) != layer.stride
        ]  # fmt: skip
        # Below 8 channels torch 2.13's backward pass of these writes beyond its memory in it.
        is_safe = all(one.in_channels % 8 == one.out_channels % 8 == 0 for one in strided)
        return torch.channels_last if is_safe else torch.contiguous_format

    def forward(self, pixel_values: Tensor) -> Tensor:
        """The shared map of pictures, (B, num_channels, h, w)."""
        if pixel_values.device.type == "cpu":
            pixel_values = pixel_values.contiguous(memory_format=self.memory_format)
        if hasattr(self.network, "feature_map"):
            return self.network.feature_map(pixel_values)
        return self.network(pixel_values).feature_maps[-1]
