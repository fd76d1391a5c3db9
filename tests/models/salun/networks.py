"""Small networks with everything that masks meet: norms with statistics, dropout, biases."""

import torch
from torch import nn


def small_network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5),
        nn.Linear(4 * 16, 5),
    )  # fmt: skip
    with torch.no_grad():
        network[1].running_mean.uniform_(-1, 1)
        network[1].running_var.uniform_(0.5, 2)
    return network


def samples(count: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 2, 6, 6, generator=generator)
    return inputs, torch.randint(5, (count,), generator=generator)


def batches(count: int = 10, size: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    inputs, labels = samples(count)
    return list(zip(inputs.split(size), labels.split(size), strict=True))
