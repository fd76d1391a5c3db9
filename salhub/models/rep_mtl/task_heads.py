"""Heads of tasks on a shared map; every operation has a second derivative."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from salhub.models.rep_mtl.configuration_rep_mtl import RepMTLConfig, Task
from salhub.models.rep_mtl.head_convolution import HeadConvolution

# Squared length below which a vector has no direction.
_SHORT = 1e-12


def conv_norm(
    in_channels: int, out_channels: int, kernel_size: int = 1, rate: int = 1
) -> nn.Module:
    """A convolution that keeps the size of the map, batch normalisation and ReLU."""
    padding = rate * (kernel_size // 2)
    return nn.Sequential(
        HeadConvolution(
            in_channels, out_channels, kernel_size, padding=padding, dilation=rate, bias=False
        ),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


def unit_vectors(vectors: Tensor) -> Tensor:
    """Vectors (B, C, ...) of length 1 in float32 at least; 0 stays 0, with finite derivatives.

    The second derivative of torch's own normalisation is no number at 0, where a head of ReLUs
    often is.
    """
    vectors = vectors if vectors.dtype == torch.float64 else vectors.float()
    squares = vectors.square().sum(1, keepdim=True)
    is_there = squares > _SHORT
    return vectors * torch.where(is_there, torch.where(is_there, squares, 1).rsqrt(), 0)


class DilatedPyramid(nn.Module):
    """The dilated convolutions of DeepLabV3, side by side.

    Source: Chen et al. 2017 (arXiv 1706.05587), section 3.3.
    """

    def __init__(self, in_channels: int, channels: int, rates: list[int] | tuple[int, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [conv_norm(in_channels, channels)]
            + [conv_norm(in_channels, channels, 3, rate) for rate in rates]
        )
        # A mean over the whole map has one value a picture, which batch norm cannot take alone.
        self.whole = nn.Sequential(HeadConvolution(in_channels, channels, 1), nn.ReLU())
        self.join = conv_norm((len(rates) + 2) * channels, channels)

    def forward(self, shared: Tensor) -> Tensor:
        whole = self.whole(shared.mean((2, 3), keepdim=True)).expand(-1, -1, *shared.shape[2:])
        return self.join(torch.cat([*(one(shared) for one in self.branches), whole], 1))


class TaskHead(nn.Module):
    """What one task makes of the shared map.

    Args:
        task: The task.
        in_channels: Channels of the shared map.
        config: Says how heads are built.
    """

    def __init__(self, task: Task, in_channels: int, config: RepMTLConfig) -> None:
        super().__init__()
        self.kind, self.dense = task.type, task.dense
        channels = in_channels if config.head == "linear" else config.head_channels
        if config.head == "conv":
            # Without batch norm, whose second derivative is made of many small steps.
            self.body = nn.Sequential(
                HeadConvolution(in_channels, channels, 3, padding=1), nn.ReLU()
            )
        elif config.head == "aspp":
            self.body = DilatedPyramid(in_channels, channels, config.aspp_rates)
        else:
            self.body = nn.Identity()
        self.last = (
            HeadConvolution(channels, task.num_labels, 1)
            if task.dense
            else nn.Linear(channels, task.num_labels)
        )

    def forward(self, shared: Tensor, size: tuple[int, int], is_for_terms: bool = False) -> Tensor:
        """Predict.

        Args:
            shared: (B, C, h, w).
            size: Height and width of the pictures, which dense predictions are resized to.
            is_for_terms: Whether the gradient is differentiated again, which is faster when said.
        """
        layers = [one for one in self.modules() if isinstance(one, HeadConvolution)]
        # A call leaves nothing behind: saving compares layers with what a configuration builds.
        for layer in layers:
            layer.is_differentiated_twice = is_for_terms
        try:
            return self._predict(shared, size)
        finally:
            for layer in layers:
                layer.is_differentiated_twice = False

    def _predict(self, shared: Tensor, size: tuple[int, int]) -> Tensor:
        hidden = self.body(shared)
        if not self.dense:
            return self.last(hidden.mean((2, 3)))
        found = F.interpolate(self.last(hidden), size, mode="bilinear", align_corners=False)
        if self.kind == "normals":
            return unit_vectors(found)
        return found[:, 0] if self.kind in ("depth", "edge") else found
