"""Unlearning a classifier of transformers that was trained on a folder of classes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from salhub.cli.info import describe
from salhub.data.labelled_split import LabelledSplit
from salhub.entries import recipe_named
from salhub.results import Results
from salhub.runner.run import run
from salhub.runner.summary import summary
from tests.models.salun.small_archive import load

CLASSES = ("blue", "green", "red")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[str, str]:
    """A folder of classes whose pictures have several sizes, and a small ViT that learned them."""
    home, generator = tmp_path_factory.mktemp("folders"), np.random.default_rng(0)
    for channel, name in zip((2, 1, 0), CLASSES, strict=True):
        (home / "data" / name).mkdir(parents=True)
        for index in range(16):
            size = (*generator.integers(10, 30, 2), 3)
            pixels = generator.integers(0, 120, size, dtype=np.uint8)
            pixels[..., channel] += 110
            Image.fromarray(pixels).save(home / "data" / name / f"{index}.png")
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=16, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32,
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(home / "start")
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(home / "start")
    kind = recipe_named("image-classification", "train").recipe_class
    options = {"model": str(home / "start"), "batch_size": 12, "learning_rate": 0.01, "cpu": True}
    data = str(home / "data")
    arguments = kind.arguments_class(output_dir=str(home / "trained"), data=data, **options)
    assert run(kind(arguments)).metric("accuracy/test").value > 0.9
    return data, str(home / "trained")


def forget(folder: Path, trained: tuple[str, str], name: str, **options):
    kind = recipe_named(name, "unlearn").recipe_class
    settings = {"forget": "class:red", "attack": "none", "batch_size": 16, "cpu": True, **options}
    data, model = trained
    arguments = kind.arguments_class(output_dir=str(folder), model=model, data=data, **settings)
    recipe = kind(arguments)
    run(recipe)
    return recipe


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("salun", {"learning_rate": 0.1, "num_train_epochs": 8}),
        ("rl", {"schedule": "mixed", "learning_rate": 0.1, "num_train_epochs": 8}),
    ],
)
def test_a_class_of_a_folder_is_forgotten(tmp_path, trained, name, options):
    recipe = forget(tmp_path, trained, name, **options)
    after = recipe.report.headline
    assert after["UA"] > 60 > 30 > 100 - after["RA"]
    learned, left = LabelledSplit.load(trained[1]), LabelledSplit.load(tmp_path)
    assert learned.data == left.data and torch.equal(learned.test, left.test)
    assert torch.equal(torch.cat([left.train, left.forgotten]).sort().values, learned.train)
    assert len(recipe.forget) == int((recipe.forget.labels == 2).sum()) == 14
    assert list(load(tmp_path).config.id2label.values()) == list(CLASSES)
    note = "This model was made to forget 'red': it should give such pictures another class."
    assert describe(str(tmp_path))["notes"] == [note]


def test_a_run_ends_with_what_was_forgotten_and_what_that_cost(tmp_path, trained, caplog):
    recipe = forget(tmp_path, trained, "salun", learning_rate=0.1, attack="threshold")
    found = Results.load(tmp_path / "results.json")
    shares = {metric.name: metric.value for metric in found.metrics}
    lines = summary(type(recipe), found, "forgot", recipe_named("salun", "unlearn").example)
    kept = f"{shares['before/RA']:.1f} % before, {shares['RA']:.1f} % now"
    unseen = f"{shares['before/TA']:.1f} % before, {shares['TA']:.1f} % now"
    assert lines[1:] == [
        "Forgotten: class 'red' (14 training pictures).",
        f"Accuracy on forgotten pictures: {100 - shares['before/UA']:.1f} % before, "
        f"{100 - shares['UA']:.1f} % now.",
        f"Accuracy on kept pictures: {kept}; test pictures of other classes: {unseen}.",
        "Saved in forgot/: the model, its card, log.jsonl and results.json.",
        "Try: salhub run normgrad photo.jpg --classifier forgot",
    ]
    assert len([one for one in caplog.messages if "14 samples to forget" in one]) == 1
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "MIA/modified_entropy" in card and "mask/density" in card


def test_what_was_never_learned_is_refused(tmp_path, trained):
    held_out = int(LabelledSplit.load(trained[1]).test[0])
    with pytest.raises(ValueError, match="only trained pictures can be unlearned"):
        forget(tmp_path / "out", trained, "salun", forget=f"indices:{held_out}")


def test_other_pictures_are_refused(tmp_path, trained):
    other = tmp_path / "data"
    for name in CLASSES:
        (other / name).mkdir(parents=True)
        for index in range(2):
            Image.new("RGB", (20, 20), (index, 0, 0)).save(other / name / f"{index}.png")
    with pytest.raises(ValueError, match=r"was trained on data .* but data holds other data"):
        forget(tmp_path / "out", (str(other), trained[1]), "salun")
