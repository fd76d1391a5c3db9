"""Pictures of coloured squares, and classifiers made by hand that name the colour."""

import json

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0)}
RESPONSES = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [0.7, 0.7, -1]])


def make_folder(path, count=8):
    """Write `count` pictures of 16 x 16 pixels with an index.json."""
    entries = []
    for number in range(count):
        name = list(COLOURS)[number % 4]
        picture = np.random.default_rng(number).integers(0, 4, (16, 16, 3))
        picture[3:11, 4 : 10 + number // 4] = COLOURS[name]
        Image.fromarray(picture.astype("uint8")).save(path / f"{number}.png")
        entries.append({"file": f"{number}.png", "index": number % 4, "name": name})
    (path / "index.json").write_text(json.dumps(entries))
    return path


class SquareProcessor:
    """An image processor that scales to a side and to [0, 1]."""

    def __init__(self, side=16):
        self.side = side

    def __call__(self, images, return_tensors):
        assert return_tensors == "pt"
        arrays = [np.asarray(picture.resize((self.side, self.side))) / 255 for picture in images]
        return {"pixel_values": torch.tensor(np.stack(arrays)).permute(0, 3, 1, 2).float()}


class ColourClassifier(nn.Module):
    """Logits are the pooled responses of a 1 x 1 convolution, so the exact maps are known."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Conv2d(3, 4, 1)])
        self.blocks[0].weight.data = 10 * RESPONSES[:, :, None, None]
        self.blocks[0].bias.data.zero_()

    def responses(self, pixel_values):
        return self.blocks[0](pixel_values)

    def forward(self, pixel_values):
        return 8 * self.responses(pixel_values).mean(dim=(2, 3))


class Block(nn.Module):
    """Halve the resolution, mix channels, rectify."""

    def __init__(self, channels_in, weight):
        super().__init__()
        self.convolution = nn.Conv2d(channels_in, 4, 1)
        self.convolution.weight.data = weight[:, :, None, None].clone()
        self.convolution.bias.data.fill_(0.01)
        self.activation = nn.ReLU()

    def forward(self, x):
        return self.activation(self.convolution(functional.avg_pool2d(x, 2)))


class DeepColourNet(nn.Module):
    """Three blocks at three resolutions, global average and a linear head that knows the colour.

    Args:
        only_size: The one picture side that is accepted, or None for all.
    """

    def __init__(self, only_size=None):
        super().__init__()
        self.only_size = only_size
        mixing = torch.eye(4) + 0.05
        self.blocks = nn.ModuleList([Block(3, 6 * RESPONSES), Block(4, mixing), Block(4, mixing)])
        self.classifier = nn.Linear(4, 4)
        self.classifier.weight.data = 12 * (torch.eye(4) - 0.1)
        self.classifier.bias.data.zero_()

    def forward(self, pixel_values):
        if self.only_size is not None and pixel_values.shape[-1] != self.only_size:
            raise ValueError(f"pictures must have side {self.only_size}")
        for block in self.blocks:
            pixel_values = block(pixel_values)
        return self.classifier(pixel_values.mean(dim=(2, 3)))
