"""A few dozen tiny pictures, a tiny classifier that knows them, and runs that make it forget."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForImageClassification

from salhub.entries import recipe_named
from salhub.runner.recipe import TrainingRecipe
from salhub.runner.run import run

CLASSES = ("red", "green", "blue", "dark")
NUM_TRAIN, NUM_TEST, SIZE = 64, 60, 12
FORGET = "random:16"


@dataclass(frozen=True)
class Small:
    """The archive, and the classifier that was trained on it.

    Args:
        data: The archive.
        original: Folder of the classifier.
        images: uint8 (124, 3, 12, 12), the training pictures first.
        labels: int64 (124,).
    """

    data: str
    original: str
    images: Tensor
    labels: Tensor

    def pixels(self, places: Tensor) -> Tensor:
        """Pictures as the classifier wants them, by plain arithmetic."""
        return normalized(self.images[places].float() / 255)


def normalized(images: Tensor) -> Tensor:
    mean = torch.tensor([0.4914, 0.4822, 0.4465]).view(3, 1, 1)
    return (images - mean) / torch.tensor([0.2470, 0.2435, 0.2616]).view(3, 1, 1)


def write_archive(path: Path, **changes: Any) -> str:
    """Noise of four colours; some pictures look like another class, so that some are learned."""
    generator = np.random.default_rng(0)
    labels = np.arange(NUM_TRAIN + NUM_TEST) % 4
    seen = np.where(generator.random(len(labels)) < 0.15, generator.integers(0, 4, 124), labels)
    pictures = generator.integers(40, 190, (len(labels), SIZE, SIZE, 3), dtype=np.uint8)
    for place, label in enumerate(seen):
        if label < 3:
            pictures[place, ..., label] += 40
        else:
            pictures[place] -= 25
    content = {
        "train_images": pictures[:NUM_TRAIN],
        "train_labels": labels[:NUM_TRAIN],
        "test_images": pictures[NUM_TRAIN:],
        "test_labels": labels[NUM_TRAIN:],
        "class_names": np.array(CLASSES),
    }
    np.savez(path, **content | changes)
    return str(path)


def make_small(folder: Path) -> Small:
    """Write the archive and train the classifier."""
    data = write_archive(folder / "colours.npz")
    with np.load(data) as content:
        images = np.concatenate([content["train_images"], content["test_images"]])
        labels = np.concatenate([content["train_labels"], content["test_labels"]])
    small = Small(
        data,
        str(folder / "original"),
        torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(labels.astype(np.int64)),
    )
    train(small, small.original)
    return small


def train(small: Small, folder: str | Path, **options: Any) -> None:
    """Train the classifier, or with `leave_out` the one that never saw some pictures."""
    settings = {"width": 8, "batch_size": 16, "num_train_epochs": 8, "augment": False, **options}
    kind = recipe_named("salun-resnet8", "train").recipe_class
    run(kind(kind.arguments_class(output_dir=str(folder), data=small.data, cpu=True, **settings)))


def recipe_of(small: Small, folder: str | Path, name: str, kind: Any = None, **options: Any):
    """A recipe of that name, or a class made from it, with its options."""
    kind = kind or recipe_named(name, "unlearn").recipe_class
    settings = {
        "output_dir": str(folder), "model": small.original, "data": small.data, "cpu": True,
        "forget": FORGET, "attack": "none", "num_train_epochs": 1, "batch_size": 1000, **options,
    }  # fmt: skip
    if not issubclass(kind, TrainingRecipe):  # there are no steps to say anything of
        taken = {field.name for field in fields(kind.arguments_class)}
        settings = {option: value for option, value in settings.items() if option in taken}
    return kind(kind.arguments_class(**settings))


def unlearn(small: Small, folder: str | Path, name: str, kind: Any = None, **options: Any):
    """Make the classifier forget; the recipe after its run."""
    recipe = recipe_of(small, folder, name, kind, **options)
    recipe.results = run(recipe)
    return recipe


def load(folder: str | Path) -> nn.Module:
    return AutoModelForImageClassification.from_pretrained(folder).eval()


def record(folder: str | Path) -> dict[str, Any]:
    return json.loads((Path(folder) / "unlearning.json").read_text())


def descend(
    model: nn.Module,
    losses: Iterable[Callable[[nn.Module], Tensor]],
    *,
    rate: float,
    momentum: float,
    decay: float,
    opened: Mapping[str, Tensor] | None = None,
    after: Callable[[int], None] | None = None,
) -> nn.Module:
    """Gradient descent written out, a step for each loss, on the open weights alone."""
    velocity: dict[str, Tensor] = {}
    for step, loss in enumerate(losses):
        parameters = dict(model.train().named_parameters())
        gradients = torch.autograd.grad(loss(model), list(parameters.values()))
        with torch.no_grad():
            for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
                gradient = gradient + decay * parameter
                velocity[name] = momentum * velocity.get(name, 0) + gradient
                moved = parameter - rate * velocity[name]
                is_open = True if opened is None else opened[name]
                parameter.copy_(torch.where(torch.as_tensor(is_open), moved, parameter))
            if after is not None:
                after(step)
    return model.eval()


def assert_same_model(found: nn.Module, expected: nn.Module, original: nn.Module) -> None:
    """Equal but for rounding, where the way from the original is far longer than that."""
    others = dict(original.named_parameters())
    ways = {n: float((p - others[n]).detach().abs().max()) for n, p in expected.named_parameters()}
    assert max(ways.values()) > 1e-3
    states = found.state_dict(), expected.state_dict()
    assert states[0].keys() == states[1].keys()
    for name, values in states[0].items():
        error = float((values - states[1][name]).abs().max())
        assert error <= 2e-6 + 1e-3 * ways.get(name, 1e-2), (name, error, ways.get(name))
