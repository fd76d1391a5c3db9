"""Sets of one picture and of none, with networks that mind it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from salhub.evaluation import image_classification
from salhub.evaluation.shared_rows import ranges
from salhub.models.salun.evaluation_salun import evaluate
from salhub.models.salun.unlearn_module import unlearn as unlearn_module
from salhub.results import Results
from tests.evaluation.sharing import check_shared
from tests.models.salun.small_archive import CLASSES, NUM_TRAIN, load, recipe_of, train, unlearn
from tests.models.salun.small_archive import write_archive as write

LABELS = {"id2label": dict(enumerate(CLASSES)), "label2id": {n: i for i, n in enumerate(CLASSES)}}


@pytest.fixture(scope="module")
def networks(tmp_path_factory) -> dict[str, str]:
    """A transformer, which takes no empty batch, and a ResNet that comes down to 1 x 1."""
    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    vit = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        image_size=12, patch_size=4, **LABELS,
    )  # fmt: skip
    resnet = ResNetConfig(
        hidden_sizes=[4, 8, 8], depths=[1, 1, 1], embedding_size=4, layer_type="basic", **LABELS
    )
    made = {"vit": ViTForImageClassification(vit), "resnet": ResNetForImageClassification(resnet)}
    for name, model in made.items():
        model.save_pretrained(folder / name)
        ViTImageProcessorPil(size={"height": 12, "width": 12}).save_pretrained(folder / name)
    return {name: str(folder / name) for name in made}


def without_test_pictures(small, folder) -> str:
    return write(
        folder / "no_test.npz",
        train_images=small.images.permute(0, 2, 3, 1).numpy(),
        train_labels=small.labels.numpy(),
        test_images=np.empty((0, 12, 12, 3), np.uint8),
        test_labels=np.empty(0, np.int64),
    )


@pytest.mark.parametrize("options", [{"forget": "indices:3"}, {"forget": "class:red"}])
def test_a_batch_of_one_where_the_network_is_at_1_x_1(tmp_path, small, networks, options, caplog):
    if options["forget"].startswith("class"):  # 16 to forget and 48 to retain: one is left
        options = {**options, "batch_size": 21, "schedule": "mixed"}
    unlearn(
        small, tmp_path, "salun", model=networks["resnet"], learning_rate=0.05,
        num_train_epochs=2, **options,
    )  # fmt: skip
    assert "gets a single value per channel, which has no deviation; it" in caplog.text
    before = load_file(f"{networks['resnet']}/model.safetensors")
    after = load_file(tmp_path / "model.safetensors")
    assert all(
        bool(value.isfinite().all()) for value in after.values() if value.is_floating_point()
    )
    assert any(not torch.equal(value, after[name]) for name, value in before.items())


def test_forgetting_one_picture_alone_keeps_the_statistics_where_there_is_one_value(
    tmp_path, small, networks
):
    unlearn(small, tmp_path, "ga", model=networks["resnet"], forget="indices:3", num_train_epochs=1)
    before = dict(load(networks["resnet"]).named_buffers())
    after = dict(load(tmp_path).named_buffers())
    moved = {
        name for name in before
        if "running" in name and not torch.equal(before[name], after[name])
    }  # fmt: skip
    assert moved and not any("stages.2" in name for name in moved)


def test_the_function_takes_a_batch_of_one(caplog):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    data = [(torch.randn(n, 3), torch.arange(n) % 2) for n in (4, 1)]
    found = unlearn_module(model, data[1:], data, num_train_epochs=1, learning_rate=0.1)
    assert math.isfinite(found.losses[0]) and model.training
    assert "'1' (BatchNorm1d) gets a single value per channel, which has" in caplog.text


@pytest.mark.parametrize("name", ["salun", "ga", "bs"])
def test_nothing_is_retained_on_a_transformer(tmp_path, small, networks, name, caplog):
    options = {"forget": f"indices:{','.join(map(str, range(NUM_TRAIN)))}", "allow_no_retain": True}
    unlearn(small, tmp_path, name, model=networks["vit"], attack="threshold", **options)
    found = Results.load(tmp_path / "results.json")
    assert math.isnan(found.metric("RA").value) and 0 <= found.metric("TA").value <= 100
    assert "There are no retained pictures, so RA and the membership attack" in caplog.text
    assert (tmp_path / "README.md").is_file()


@pytest.mark.parametrize("name", ["salun", "iu", "be"])
def test_there_are_no_test_pictures_on_a_transformer(tmp_path, small, networks, name, caplog):
    options = {"data": without_test_pictures(small, tmp_path), "reference": None}
    unlearn(
        small, tmp_path / "out", name, model=networks["vit"], attack="threshold",
        forget="class:red", **options,
    )  # fmt: skip
    found = Results.load(tmp_path / "out" / "results.json")
    assert math.isnan(found.metric("TA").value) and 0 <= found.metric("RA").value <= 100
    assert not any(metric.name.startswith("MIA") for metric in found.metrics)
    assert "There are no test pictures, so TA, the confidence distance and" in caplog.text


def test_a_gap_is_the_mean_over_what_both_were_measured_by(tmp_path, small, networks):
    data = without_test_pictures(small, tmp_path)
    options = {"data": data, "model": networks["vit"], "forget": "class:red"}
    unlearn(small, tmp_path / "retrained", "retrain", **options)
    options |= {"reference": str(tmp_path / "retrained"), "attack": "none"}
    recipe = unlearn(small, tmp_path / "out", "ga", **options)
    own, other = recipe.report.headline, recipe.reference_report.headline
    expected = sum(abs(own[name] - other[name]) for name in ("UA", "RA")) / 2
    assert recipe.results.metric("average_gap").value == pytest.approx(expected)


@pytest.mark.parametrize("name", ["salun", "ft", "iu"])
def test_one_retained_picture_and_one_to_forget(tmp_path, small, networks, name):
    options = {"forget": "indices:3", "retain": "indices:5", "attack": "threshold"}
    recipe = unlearn(small, tmp_path, name, model=networks["resnet"], **options)
    assert recipe.results.metric("RA").value in (0, 100)


def test_an_evaluation_without_test_pictures_leaves_their_accuracy_out(tmp_path, small, caplog):
    data = without_test_pictures(small, tmp_path)
    original = str(tmp_path / "original")
    train(replace(small, data=data), original, num_train_epochs=1, train_val_split=0)
    options = {"data": data, "model": original, "forget": "indices:3"}
    recipe = unlearn(small, tmp_path / "out", "ga", **options)
    found = evaluate(load(tmp_path / "out"), recipe.image_processor, data, original=original)
    names = {metric.name for metric in found.metrics}
    assert "accuracy/train" in names and "accuracy/test" not in names
    assert "so the accuracy on them is not measured" in caplog.text
    assert math.isnan(found.metric("TA").value)
    # A single picture cannot be learned again by one half and asked for by the other.
    assert all(row[-1] is None for row in found.tables[1].rows)


def test_a_network_that_cannot_normalize_a_picture_is_refused_before_the_run(
    tmp_path, small, networks
):
    recipe = recipe_of(small, tmp_path, "salun", model=networks["resnet"])
    recipe.build_model()
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.InstanceNorm2d(3))
    with pytest.raises(ValueError, match=r"'1' \(InstanceNorm2d\).*larger pictures"):
        recipe.preparation.check_fits(small.images, network)


def test_two_jobs_measure_what_one_measures(tmp_path, small, monkeypatch):
    few = lambda images, batch_size: ranges(len(images), 5)  # noqa: E731
    monkeypatch.setattr(image_classification, "batches_of_pictures", few)
    original = str(tmp_path / "original")
    train(small, original, num_train_epochs=1)
    recipe = unlearn(small, tmp_path / "out", "ga", model=original, forget="class:red")
    model = load(tmp_path / "out")
    check_shared(
        lambda: evaluate(model, recipe.image_processor, small.data, original=original),
        tmp_path / "rows",
    )
