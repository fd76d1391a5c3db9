"""A tiny diffusion model with a past, runs that make it forget, and their steps written out."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from salhub.backbones.conditional_unet.configuration_conditional_unet import ConditionalUNetConfig
from salhub.data.labelled_split import LabelledSplit
from salhub.data.picture_archive import PictureArchive
from salhub.models.salun.configuration_salun_diffusion import SalUnDiffusionConfig
from salhub.models.salun.modeling_salun_diffusion import SalUnForConditionalDiffusion
from salhub.runner.batches import epoch_order, generator_of
from salhub.runner.run import run
from tests.backbones.small_pictures import CLASSES, recipe_of, signals

STEPS, BETA = 4, 0.5  # of the noise process: how many, and the last variance
FORGOTTEN = 1
BATCH = 7  # odd, so that one step has no mirror
NETWORK = {
    "image_size": 8, "base_channels": 8, "channel_multipliers": [1, 2], "num_classes": 3,
    "attention_resolutions": [4], "num_train_timesteps": STEPS,
    "beta_end": BETA,
}  # fmt: skip


def make_original(folder: Path, data: str, dtype: torch.dtype = torch.float32, **changes) -> str:
    """Save a network whose weights are noise, but nowhere 0, as if it had been trained."""
    torch.manual_seed(0)
    names = {
        "id2label": dict(enumerate(CLASSES)),
        "label2id": {name: index for index, name in enumerate(CLASSES)},
    }
    config = SalUnDiffusionConfig(
        backbone_config=ConditionalUNetConfig(**{**NETWORK, **changes}), **names
    )
    model = SalUnForConditionalDiffusion(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.to(dtype).save_pretrained(folder)
    archive = PictureArchive(data)
    LabelledSplit(archive.describe(), torch.arange(120), torch.arange(120, 150)).save(folder)
    return str(folder)


def make_recipe(folder: Path, data: str, original: str, name: str, **options: Any) -> Any:
    settings = {
        "model": original, "forget": f"class:{CLASSES[FORGOTTEN]}", "batch_size": BATCH,
        "max_train_steps": 2, "learning_rate": 1e-3, "max_grad_norm": None, "logging_steps": 1,
    }  # fmt: skip
    return recipe_of(name, "unlearn", folder, data, **{**settings, **options})


def unlearn(folder: Path, data: str, original: str, name: str, **options: Any) -> Any:
    """Make the model forget; the recipe after its run."""
    recipe = make_recipe(folder, data, original, name, **options)
    recipe.results = run(recipe)
    return recipe


def load(folder: Path | str) -> SalUnForConditionalDiffusion:
    return SalUnForConditionalDiffusion.from_pretrained(folder)


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "unlearning.json").read_text())


def noisy(picture: Tensor, noise: Tensor, step: int) -> Tensor:
    bar = 1.0
    for index in range(step + 1):
        bar *= 1 - (1e-4 + (BETA - 1e-4) * index / (STEPS - 1))
    return bar**0.5 * picture + (1 - bar) ** 0.5 * noise


def predict(model: Any, sample: Tensor, step: int, label: int) -> Tensor:
    """Of one picture, for one class or for none, without guidance."""
    return model(sample[None], torch.tensor([step]), torch.tensor([label])).noise_pred[0]


def drawn(step: int, which: int) -> tuple[Tensor, list[int]]:
    """Noise and mirrored steps of one of the two sets."""
    noise = torch.randn(BATCH, 1, 8, 8, generator=generator_of(0, step, 10 + 100 * which))
    half = torch.randint(
        STEPS, ((BATCH + 1) // 2,), generator=generator_of(0, step, 11 + 100 * which)
    )
    return noise, torch.cat([half, STEPS - 1 - half])[:BATCH].tolist()


def wanted_classes(target: str, step: int) -> list[int]:
    if target == "random":
        steps = torch.randint(1, 3, (BATCH,), generator=generator_of(0, step, 30))
        return [(FORGOTTEN + one) % 3 for one in steps.tolist()]
    return [{"next": 2, "null": 3, "0": 0}[target]] * BATCH


def slow_losses(
    data: str,
    step: int,
    model: Any,
    teacher: Any | None,
    target: str = "random",
    retain_reduction: str = "mean",
    class_dropout: float = 0.1,
) -> tuple[Tensor, Tensor]:
    """Both terms of one step, picture by picture; without a teacher the first is that of GA."""
    images, labels = signals(data)
    to_forget = images[labels == FORGOTTEN]
    retained, retained_labels = images[labels != FORGOTTEN], labels[labels != FORGOTTEN]
    rows = epoch_order(40, 0, 0, 0).split(BATCH)[step].tolist()
    noise, steps = drawn(step, 0)
    classes, forget = wanted_classes(target, step), []
    for place, row in enumerate(rows):
        sample = noisy(to_forget[row], noise[place], steps[place])
        found = predict(model, sample, steps[place], FORGOTTEN)
        if teacher is None:
            forget.append(-((found - noise[place]) ** 2).mean())
        else:
            wanted = predict(teacher, sample, steps[place], classes[place]).detach()
            forget.append(((found - wanted) ** 2).mean())
    rows = torch.randint(80, (BATCH,), generator=generator_of(0, step, 31)).tolist()
    noise, steps = drawn(step, 1)
    hidden = torch.rand(BATCH, generator=generator_of(0, step, 12)) < class_dropout
    retain = []
    for place, row in enumerate(rows):
        sample = noisy(retained[row], noise[place], steps[place])
        label = 3 if hidden[place] else int(retained_labels[row])
        squares = (predict(model, sample, steps[place], label) - noise[place]) ** 2
        retain.append(squares.sum() if retain_reduction == "sum" else squares.mean())
    return torch.stack(forget).mean(), torch.stack(retain).mean()
