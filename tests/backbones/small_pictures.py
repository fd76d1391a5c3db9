"""Tiny grey pictures of three classes, and recipes that run on them in a second."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from salhub.entries import recipe_named
from salhub.runner.run import run

CLASSES = ("top", "middle", "bottom")
# Of each class.
NUM_TRAIN, NUM_TEST, SIZE = 40, 10, 8
NETWORK = {"image_size": SIZE, "base_channels": 8}
# What makes a step plain enough to be written out.
PLAIN = {"lr_scheduler": "constant", "lr_warmup_steps": 0, "max_grad_norm": None}


def write_pictures(
    folder: Path, num_test: int = NUM_TEST, channels: int = 1, **changes: Any
) -> str:
    """Noise with a bright band at one of three heights, sorted by class as MNIST often is."""
    generator = np.random.default_rng(0)
    content: dict[str, Any] = {"class_names": np.array(CLASSES)}
    for part, count in (("train", NUM_TRAIN), ("test", num_test)):
        labels = np.repeat(np.arange(3), count)
        pictures = generator.integers(0, 60, (3 * count, SIZE, SIZE, channels), dtype=np.uint8)
        for picture, label in zip(pictures, labels, strict=True):
            picture[3 * label : 3 * label + 2] += 180
        content[f"{part}_images"] = pictures[..., 0] if channels == 1 else pictures
        content[f"{part}_labels"] = labels
    path = folder / "bands.npz"
    np.savez(path, **content | changes)
    return str(path)


def signals(data: str, part: str = "train") -> tuple[Tensor, Tensor]:
    """Pictures in [-1, 1] and their classes, by plain arithmetic."""
    with np.load(data) as content:
        images, labels = content[f"{part}_images"], content[f"{part}_labels"]
    return torch.from_numpy(images.astype(np.float32) / 127.5 - 1)[:, None], torch.tensor(labels)


def recipe_of(name: str, verb: str, folder: Path | str, data: str, **options: Any) -> Any:
    kind = recipe_named(name, verb).recipe_class
    return kind(kind.arguments_class(output_dir=str(folder), data=data, cpu=True, **options))


def train(folder: Path | str, data: str, name: str = "conditional-unet", **options: Any) -> Any:
    """Train a diffusion model of the smallest size; the recipe after its run."""
    recipe = recipe_of(name, "train", folder, data, **{**NETWORK, **PLAIN, **options})
    recipe.results = run(recipe)
    return recipe


def weights(folder: Path | str) -> dict[str, Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def lines(folder: Path | str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]


def without_noise(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights, less the biases of the keys of attention.

    Softmax does not see them, so their gradients are nothing but rounding, and Adam makes whole
    steps of that.
    """
    kept = {}
    for name, values in state.items():
        if name.endswith("query_key_value.bias"):
            query, _, value = values.chunk(3)
            values = torch.cat([query, value])
        kept[name] = values
    return kept


def assert_close(
    found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-5
) -> None:
    assert found.keys() == expected.keys()
    expected = without_noise(expected)
    for name, values in without_noise(found).items():
        torch.testing.assert_close(
            values, expected[name], rtol=0, atol=tolerance, msg=lambda text, n=name: f"{n}: {text}"
        )


class Adam:
    """Kingma and Ba 2015, algorithm 1."""

    def __init__(self, model: nn.Module, rate: float) -> None:
        self.model, self.rate, self.steps = model, rate, 0
        self.first = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
        self.second = {name: torch.zeros_like(p) for name, p in model.named_parameters()}

    def step(self, loss: Tensor) -> None:
        parameters = dict(self.model.named_parameters())
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        self.steps += 1
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
            self.first[name] = 0.9 * self.first[name] + 0.1 * gradient
            self.second[name] = 0.999 * self.second[name] + 0.001 * gradient**2
            mean = self.first[name] / (1 - 0.9**self.steps)
            square = self.second[name] / (1 - 0.999**self.steps)
            parameter.data -= self.rate * mean / (square.sqrt() + 1e-8)
