"""Training a classifier: it learns, is repeated by its seed, and says what it learned from."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

from salhub.data.labelled_split import LabelledSplit, balanced_places
from salhub.data.picture_archive import PictureArchive
from salhub.entries import recipe_named
from salhub.errors import UnknownNameError
from salhub.results import Results
from salhub.runner.batches import step_batches
from salhub.runner.image_classification import augmented, draw_split
from salhub.runner.run import run
from tests.testers.recipe import TrainingRecipeTester


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    """Three classes of 12 x 12 pictures, each bright in another channel."""
    generator = np.random.default_rng(0)
    labels = np.arange(90) % 3
    pictures = generator.integers(0, 120, (90, 12, 12, 3), dtype=np.uint8)
    pictures[np.arange(90), ..., labels] += 100
    path = tmp_path_factory.mktemp("data") / "colours.npz"
    np.savez(
        path, train_images=pictures[:60], train_labels=labels[:60], test_images=pictures[60:],
        test_labels=labels[60:], class_names=np.array(["red", "green", "blue"]),
    )  # fmt: skip
    return str(path)


def recipe_of(folder, data, **settings):
    kind = recipe_named("cifar-resnet", "train").recipe_class
    options = {"width": 4, "stem_stride": 1, "batch_size": 20, "num_train_epochs": 4, **settings}
    return kind(kind.arguments_class(output_dir=str(folder), data=data, cpu=True, **options))


def train(folder, data, **settings) -> Results:
    return run(recipe_of(folder, data, **settings), command="train")


class TestCifarResNet(TrainingRecipeTester):
    @pytest.fixture
    def make(self, data):
        settings = {"augment": True, "num_train_epochs": 2, "per_device_batch_size": 8}
        settings |= {"keep_best": True, "validation_steps": 2}
        return lambda folder, **options: recipe_of(folder, data, **{**settings, **options})


def test_it_learns_and_loads_by_its_folder(tmp_path, data):
    results = train(tmp_path, data, augment=True)
    assert results.metric("accuracy/test").value > 0.9
    assert Results.load(tmp_path / "results.json").data["num_images"] == 90
    model = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert model.config.id2label == {0: "red", 1: "green", 2: "blue"}
    blue = np.zeros((12, 12, 3), dtype=np.uint8)
    blue[..., 2] = 160
    logits = model(processor(blue, return_tensors="pt")["pixel_values"]).logits
    assert int(logits.argmax()) == 2


def test_what_cannot_be_measured_is_left_out_and_said(tmp_path, data, caplog):
    with np.load(data) as content:
        parts = {name: array[:0] if "test" in name else array for name, array in content.items()}
    np.savez(tmp_path / "untested.npz", **parts)
    untested = str(tmp_path / "untested.npz")
    results = train(tmp_path / "out", untested, max_train_steps=1, train_val_split=0)
    assert "There are no test pictures, so the accuracy on them is not measured." in caplog.text
    names = {metric.name for metric in results.metrics}
    assert "accuracy/train" in names and "accuracy/test" not in names


def test_a_seed_repeats_a_run_to_the_bit_and_another_does_not(tmp_path, data):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(tmp_path / name, data, seed=seed, augment=True, num_train_epochs=2)
    files = {name: (tmp_path / name / "model.safetensors").read_bytes() for name in "abc"}
    assert files["a"] == files["b"] != files["c"]


def test_the_split_is_drawn_by_the_seed_and_kept_with_the_model(tmp_path, data):
    train(tmp_path, data, num_train_images=10, num_test_images=9, num_train_epochs=1, seed=5)
    split = LabelledSplit.load(tmp_path)
    labels = torch.arange(90) % 3
    assert labels[split.train].bincount().tolist() == [4, 3, 3]
    assert labels[split.test].bincount().tolist() == [3, 3, 3]
    assert int(split.train.max()) < 60 <= int(split.test.min())
    content = json.loads((tmp_path / "split.json").read_text())
    content["train"][0][0] += 1
    (tmp_path / "split.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="is damaged"):
        LabelledSplit.load(tmp_path)
    (tmp_path / "split.json").unlink()
    with pytest.raises(FileNotFoundError, match="so the training data of its model are unknown"):
        LabelledSplit.load(tmp_path)


def test_the_best_is_chosen_by_pictures_that_are_not_measured_on(tmp_path, data, caplog):
    recipe = recipe_of(tmp_path, data, keep_best=True, seed=5)
    recipe.build_model()
    split, plain = recipe.split, draw_split(PictureArchive(data), SimpleNamespace(
        seed=5, num_train_images=None, num_test_images=None))  # fmt: skip
    assert [len(one) for one in (split.train, split.validation, split.test)] == [51, 9, 30]
    assert torch.equal(torch.cat([split.train, split.validation]).sort().values, plain.train)
    assert torch.equal(split.test, plain.test)
    assert "keep_best uses 9 of the 60 training rows for" in caplog.text
    with pytest.raises(ValueError, match="has none and train_val_split=0 holds nothing out; set"):
        recipe_of(tmp_path, data, keep_best=True, train_val_split=0).build_model()


def test_pictures_are_shifted_and_mirrored_as_written_out():
    images = torch.randint(256, (6, 3, 9, 7), dtype=torch.uint8)
    [batch] = step_batches(torch.arange(6), seed=3, step=2, epoch=0)
    found = augmented(images, batch)
    tops, lefts = (
        batch.draw(lambda n, g: torch.randint(9, (n,), generator=g), name) for name in (1, 2)
    )
    flips = batch.draw(lambda n, g: torch.rand(n, generator=g) < 0.5, 0)
    for index in range(6):
        padded = torch.zeros(3, 17, 15, dtype=torch.uint8)
        padded[:, 4:13, 4:11] = images[index]
        top, left = int(tops[index]), int(lefts[index])
        expected = padded[:, top : top + 9, left : left + 7]
        expected = expected.flip(2) if flips[index] else expected
        assert torch.equal(found[index], expected)
    halves = step_batches(torch.arange(6), seed=3, step=2, epoch=0, largest=3)
    assert torch.equal(torch.cat([augmented(images[b.rows], b) for b in halves]), found)


def test_bad_options_are_refused_before_anything_is_written(tmp_path, data):
    for settings, words in (
        ({"num_train_images": 100}, "need 34 of class 0, but there are only 20; ask for fewer"),
        ({"optimizer": "sdg"}, "Did you mean 'sgd'"),
        ({"momentum": 1.0}, "momentum must be 0 or more and below 1"),
        ({"weight_decay": -1.0}, "weight_decay must be 0 or more"),
        ({"depth": 9}, "depth must be 6n"),
    ):
        with pytest.raises(ValueError, match=words):
            train(tmp_path / "out", data, **settings)
    with pytest.raises(FileNotFoundError, match="no archive of pictures"):
        train(tmp_path / "out", "nowhere.npz")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UnknownNameError, match="Did you mean 'cifar-resnet'"):
        recipe_named("cifar-resnt", "train")


def test_as_many_places_of_every_class():
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    places = balanced_places(labels, 5, torch.Generator().manual_seed(0))
    assert labels[places].tolist() == [0, 0, 0, 1, 1]
    assert balanced_places(labels, None, torch.Generator()).tolist() == list(range(7))
