"""Training a diffusion model: steps written out, its average, interruptions, shared rows."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from salhub.backbones.conditional_unet.configuration_conditional_unet import ConditionalUNetConfig
from salhub.backbones.conditional_unet.modeling_conditional_unet import ConditionalUNetForDiffusion
from salhub.data.labelled_split import LabelledSplit
from salhub.models.salun.configuration_salun_diffusion import SalUnDiffusionConfig
from salhub.models.salun.modeling_salun_diffusion import SalUnForConditionalDiffusion
from salhub.runner.batches import epoch_order, generator_of, mixed_seed
from tests.backbones.small_pictures import (
    CLASSES,
    NETWORK,
    Adam,
    assert_close,
    lines,
    recipe_of,
    signals,
    train,
    weights,
    write_pictures,
)
from tests.testers.recipe import TrainingRecipeTester

STEPS = 1000  # of the noise process
CONFIG = ConditionalUNetConfig(
    image_size=8, base_channels=8, attention_resolutions=[2], num_classes=3
)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return write_pictures(tmp_path_factory.mktemp("data"))


class TestConditionalUNet(TrainingRecipeTester):
    @pytest.fixture
    def make(self, data):
        # 22 pictures in steps of 7 leave one for the last step.
        settings = {"num_train_images": 22, "batch_size": 7, "num_train_epochs": 2}
        settings |= {"ema_decay": 0.8, "learning_rate": 0.003, "lr_warmup_steps": 4, **NETWORK}
        return lambda folder, **options: recipe_of(
            "salun-ddpm", "train", folder, data, **{**settings, **options}
        )


def drawn(count: int, seed: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise, and steps of which one half mirrors the other."""
    noise = torch.randn(count, 1, 8, 8, generator=generator_of(seed, step, 10))
    half = torch.randint(STEPS, ((count + 1) // 2,), generator=generator_of(seed, step, 11))
    return noise, torch.cat([half, STEPS - 1 - half])[:count]


def noisy(picture: torch.Tensor, noise: torch.Tensor, step: int) -> torch.Tensor:
    bar = float(np.prod(1 - np.linspace(1e-4, 0.02, STEPS)[: step + 1]))
    return bar**0.5 * picture + (1 - bar) ** 0.5 * noise


def slow_loss(model, pictures, labels, dropout: float, seed: int, step: int) -> torch.Tensor:
    """Pictures one by one: the sum of squares over their pixels, the mean over them."""
    noise, steps = drawn(len(pictures), seed, step)
    hidden = torch.rand(len(pictures), generator=generator_of(seed, step, 12)) < dropout
    losses = []
    for index, timestep in enumerate(steps.tolist()):
        sample = noisy(pictures[index], noise[index], timestep)[None]
        label = 3 if hidden[index] else int(labels[index])
        found = model(sample, torch.tensor([timestep]), torch.tensor([label])).noise_pred[0]
        losses.append(((found - noise[index]) ** 2).sum())
    return torch.stack(losses).mean()


def test_full_batch_steps_are_those_of_plain_arithmetic(tmp_path, data):
    """The first steps of a fresh network move its last layers only, so it takes three."""
    train(
        tmp_path, data, seed=4, num_train_images=30, batch_size=30, num_train_epochs=3,
        class_dropout=0.3, ema_decay=0.0, logging_steps=1,
    )  # fmt: skip
    images, labels = signals(data)
    places = LabelledSplit.load(tmp_path).train
    assert labels[places].bincount().tolist() == [10, 10, 10]
    torch.manual_seed(mixed_seed(4))
    model = ConditionalUNetForDiffusion(CONFIG).train()
    adam, losses = Adam(model, 1e-3), []
    for step in range(3):
        rows = places[epoch_order(30, 4, step, 0)]
        losses.append(slow_loss(model, images[rows], labels[rows], 0.3, 4, step))
        adam.step(losses[-1])
    assert [line["loss"] for line in lines(tmp_path)] == pytest.approx(
        [float(loss.detach()) for loss in losses], rel=1e-5
    )
    assert_close(weights(tmp_path), model.state_dict())


def test_the_model_is_the_running_average_of_the_weights(tmp_path, data):
    options = {"batch_size": 40, "max_train_steps": 4, "num_train_epochs": 2, "learning_rate": 0.01}
    train(tmp_path / "average", data, ema_decay=0.7, **options)
    train(tmp_path / "last", data, ema_decay=0.0, checkpointing_steps=1, **options)
    states = [weights(tmp_path / "last" / f"checkpoint-{step}") for step in (1, 2, 3)]
    states.append(weights(tmp_path / "last"))
    average = states[0]
    for state in states[1:]:
        average = {name: 0.7 * average[name] + 0.3 * state[name] for name in state}
    found = weights(tmp_path / "average")
    assert found.keys() == average.keys()
    for name, values in found.items():
        torch.testing.assert_close(values, average[name], rtol=0, atol=1e-6)
    assert not torch.equal(found["stem.weight"], states[-1]["stem.weight"])


def test_it_learns_and_loads_with_its_split_and_a_sheet(tmp_path, data):
    options = {"batch_size": 30, "learning_rate": 3e-3, "ema_decay": 0.5, "seed": 1}
    recipe = train(tmp_path, data, num_train_epochs=10, **options)
    # Knowing nothing, a network predicts no noise at all, and the error is 1.
    assert recipe.results.metric("noise_error/test").value < 0.4
    model = ConditionalUNetForDiffusion.from_pretrained(tmp_path)
    assert model.config.to_dict()["num_classes"] == 3 and model.config.image_size == 8
    split = LabelledSplit.load(tmp_path)
    assert len(split.train) == 120 and len(split.test) == 30
    assert recipe.results.data["split"] == split.digest[:16]
    assert Image.open(tmp_path / "samples.png").size == (2 * 78, 2 * 28)
    options = json.loads((tmp_path / "options.json").read_text())
    assert options["data"] == "bands"


def test_the_error_is_measured_on_test_pictures_of_all_classes(tmp_path):
    data = write_pictures(tmp_path, num_test=200)  # sorted by class, and more than are measured
    recipe = train(
        tmp_path / "out", data, batch_size=30, max_train_steps=3, ema_decay=0.0, learning_rate=0.01
    )
    images, labels = signals(data, "test")
    rows = torch.tensor([index * 600 // 500 for index in range(500)])
    assert labels[rows].bincount().tolist() == [167, 167, 166]
    noise, steps = drawn(500, 0, 0)
    model = ConditionalUNetForDiffusion.from_pretrained(tmp_path / "out")
    samples = [
        noisy(*parts) for parts in zip(images[rows], noise, steps.tolist(), strict=True)
    ]  # fmt: skip
    with torch.no_grad():
        found = model(torch.stack(samples), steps, labels[rows]).noise_pred
    metric = recipe.results.metric("noise_error/test")
    assert metric.n == 500
    assert metric.value == pytest.approx(float(((found - noise) ** 2).mean()), rel=1e-4)


def test_colour_pictures_without_a_test_set(tmp_path, caplog):
    data = write_pictures(tmp_path, num_test=0, channels=3)
    recipe = train(tmp_path / "out", data, batch_size=20, max_train_steps=1)
    assert ConditionalUNetForDiffusion.from_pretrained(tmp_path / "out").config.num_channels == 3
    assert Image.open(tmp_path / "out" / "samples.png").mode == "RGB"
    assert "There are no test pictures, so the error on them is not measured." in caplog.text
    assert "noise_error/test" not in {metric.name for metric in recipe.results.metrics}


def test_a_class_that_is_left_out_is_never_seen(tmp_path, data):
    options = {"batch_size": 40, "num_train_epochs": 2, "ema_decay": 0.0, "learning_rate": 0.01}
    train(tmp_path, data, name="salun-ddpm", leave_out="class:middle", **options)
    labels = signals(data)[1]
    split = LabelledSplit.load(tmp_path)
    assert labels[split.train].bincount().tolist() == [40, 0, 40]
    assert split.forgotten.tolist() == list(range(40, 80))
    model = SalUnForConditionalDiffusion.from_pretrained(tmp_path)
    assert model.config.id2label == dict(enumerate(CLASSES))
    assert (model.config.unlearn_method, model.config.forget) == ("retrain", "class:middle")
    assert model.config.num_forgotten == 40
    torch.manual_seed(mixed_seed(0))
    fresh = SalUnForConditionalDiffusion(SalUnDiffusionConfig(backbone_config=CONFIG)).backbone
    moved = (model.backbone.class_embedding.weight != fresh.class_embedding.weight).any(1)
    assert moved.tolist() == [True, False, True, True]  # the last is that of no class


def test_dry_run_counts_the_steps(tmp_path, data, capsys):
    train(tmp_path / "out", data, batch_size=50, num_train_epochs=2, dry_run=True)
    plan = json.loads(capsys.readouterr().out)
    assert (plan["steps"], plan["stages"]) == (6, {"train": 120})
    assert not (tmp_path / "out").exists()


def test_bad_options_are_refused_in_one_sentence(tmp_path, data):
    for options, message in (
        ({"image_size": 6}, "image_size must be a multiple of 4, got 6"),
        ({"image_size": 0}, "image_size must be a multiple of 4, got 0"),
        ({"base_channels": 10}, "base_channels must be a multiple of 4, got 10"),
        ({"class_dropout": 1.0}, r"class_dropout must be 0 or more and below 1, got 1.0"),
        ({"class_dropout": float("nan")}, "class_dropout must be 0 or more and below 1, got nan"),
        ({"ema_decay": -0.1}, r"ema_decay must be 0 or more and below 1, got -0.1"),
        ({"leave_out": "class:4"}, "There is no class '4'"),
        (
            {"num_train_images": 121},
            "classes need 41 of class 0, but there are only 40; ask for fewer",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            train(tmp_path / "out", data, **options)
    with pytest.raises(FileNotFoundError, match="no archive of pictures at"):
        train(tmp_path / "out", str(tmp_path / "none.npz"))
    assert not (tmp_path / "out").exists()
