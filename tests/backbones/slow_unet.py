"""The class-conditional U-Net restated, to compare the real one with."""

import math

import torch
import torch.nn.functional as F

from salhub.backbones.conditional_unet.modeling_conditional_unet import ConditionalUNetForDiffusion


class SlowUNet:
    """The same network from its saved tensors, one picture and one sum at a time."""

    def __init__(self, model: ConditionalUNetForDiffusion) -> None:
        self.state = {name: value.double() for name, value in model.state_dict().items()}
        self.config = model.config

    def linear(self, name, vector):
        return self.state[f"{name}.weight"] @ vector + self.state[f"{name}.bias"]

    def convolve(self, name, maps, stride=1):
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        side = weight.shape[-1]
        padded = F.pad(maps, [side // 2] * 4)
        windows = padded.unfold(1, side, stride).unfold(2, side, stride)  # (C, H, W, side, side)
        return torch.einsum("chwij,ocij->ohw", windows, weight) + bias[:, None, None]

    def normalise(self, name, maps):
        groups = maps.reshape(self.config.base_channels // 4, -1)
        variance = groups.var(dim=1, unbiased=False, keepdim=True)
        normalised = (groups - groups.mean(dim=1, keepdim=True)) / (variance + 1e-5).sqrt()
        scale, shift = (self.state[f"{name}.{key}"][:, None, None] for key in ("weight", "bias"))
        return normalised.reshape(maps.shape) * scale + shift

    def residual(self, name, maps, condition):
        hidden = self.convolve(
            f"{name}.first_convolution", silu(self.normalise(f"{name}.first_norm", maps))
        )
        hidden = hidden + self.linear(f"{name}.condition", condition)[:, None, None]
        hidden = self.convolve(
            f"{name}.second_convolution", silu(self.normalise(f"{name}.second_norm", hidden))
        )
        if f"{name}.shortcut.weight" in self.state:
            maps = self.convolve(f"{name}.shortcut", maps)
        return maps + hidden

    def attend(self, name, maps):
        channels, height, width = maps.shape
        pixels = self.normalise(f"{name}.norm", maps).reshape(channels, -1).T
        triples = [self.linear(f"{name}.query_key_value", pixel) for pixel in pixels]
        queries, keys, values = torch.stack(triples).split(channels, dim=1)
        attended = []
        for query in queries:
            weights = (keys @ query / math.sqrt(channels)).exp()
            mixed = (weights[:, None] * values).sum(dim=0) / weights.sum()
            attended.append(self.linear(f"{name}.output", mixed))
        return maps + torch.stack(attended).T.reshape(channels, height, width)

    def block(self, name, maps, condition):
        maps = self.residual(f"{name}.residual", maps, condition)
        return self.attend(f"{name}.attention", maps) if maps.shape[1] == 4 else maps

    def __call__(self, picture, step, label):
        size = self.config.base_channels
        angles = [step / 10_000 ** (2 * i / size) for i in range(size // 2)]
        waves = [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
        time = silu(self.linear("time_embedding.0", torch.tensor(waves, dtype=torch.float64)))
        time = self.linear("time_embedding.2", time)
        condition = silu(time + self.state["class_embedding.weight"][label])
        stem = self.convolve("stem", picture.double())
        wide = self.block("down_levels.0.0", stem, condition)
        deep = self.convolve("downsamples.0", wide, stride=2)
        deep = self.block("down_levels.1.0", deep, condition)
        middle = self.block("middle", deep, condition)
        up = self.block("up_levels.0.0", torch.cat([middle, deep]), condition)
        up = up.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
        up = self.block("up_levels.1.0", torch.cat([up, wide]), condition)
        return self.convolve("output", silu(self.normalise("output_norm", up)))


def silu(values):
    return values / (1 + (-values).exp())
