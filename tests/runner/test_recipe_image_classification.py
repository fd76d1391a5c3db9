"""Fine-tuning of image classifiers: any checkpoint, its head, what is frozen, and what is saved."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTModel,
)

import salhub
from salhub.data.labelled_split import LabelledSplit
from salhub.entries import recipe_named
from salhub.runner.run import run
from tests.testers.recipe import TrainingRecipeTester

SIZE = 16


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> str:
    """Noise of many sizes in three colours, 12 of each for training and 6 for testing."""
    folder, generator = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for channel, name in enumerate(("red", "green", "blue")):
        for part, count in (("train", 12), ("test", 6)):
            (folder / part / name).mkdir(parents=True)
            for index in range(count):
                size = (*generator.integers(10, 40, 2), 3)
                pixels = generator.integers(0, 120, size, dtype=np.uint8)
                pixels[..., channel] += 110
                Image.fromarray(pixels).save(folder / part / name / f"{index}.png")
    return str(folder)


def vit_config(**fields) -> ViTConfig:
    return ViTConfig(
        image_size=SIZE, patch_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, **fields,
    )  # fmt: skip


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, str]:
    """Small networks with random weights, as somebody has saved them."""
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    resnet = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=5
    )
    networks = {
        "vit": ViTForImageClassification(vit_config(num_labels=5)),
        "vit base": ViTModel(vit_config()),
        "resnet": ResNetForImageClassification(resnet),
    }
    for name, network in networks.items():
        network.save_pretrained(folder / name)
        ViTImageProcessor(size={"height": SIZE, "width": SIZE}).save_pretrained(folder / name)
    return {name: str(folder / name) for name in networks}


def recipe_of(folder, data, **options):
    kind = recipe_named("image-classification", "train").recipe_class
    settings = {
        "batch_size": 12, "num_train_epochs": 2, "learning_rate": 0.01, "cpu": True,
        "data": data, "output_dir": str(folder), **options,
    }  # fmt: skip
    return kind(kind.arguments_class(**settings))


class TestImageClassification(TrainingRecipeTester):
    @pytest.fixture
    def make(self, photos, checkpoints):
        settings = {"model": checkpoints["vit"], "per_device_batch_size": 5}
        return lambda folder, **more: recipe_of(folder, photos, **{**settings, **more})


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_it_learns_and_what_it_saves_loads_by_the_auto_classes(tmp_path, photos, checkpoints, name):
    options = {"model": checkpoints[name], "num_train_epochs": 8, "validation_steps": 12}
    results = run(recipe_of(tmp_path, photos, freeze_norm_stats=False, **options))
    assert results.metric("accuracy/test").value > 0.8
    model = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert model.config.id2label == {0: "blue", 1: "green", 2: "red"}
    assert model.config.label2id == {"blue": 0, "green": 1, "red": 2}
    blue = Image.new("RGB", (30, 20), (60, 60, 170))
    assert int(model(**processor(blue, return_tensors="pt")).logits.argmax()) == 0
    split = LabelledSplit.load(tmp_path)
    assert (len(split.train), len(split.test)) == (36, 18)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").open()]
    validations = [line for line in lines if "validation/loss" in line]
    assert [line["step"] for line in validations] == [12, 24]
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert f"is new: {name} has 5 classes, but the data have 3." in " ".join(card.split())


def test_the_same_classes_keep_their_head_in_whatever_order(tmp_path, photos, checkpoints, caplog):
    run(recipe_of(tmp_path / "first", photos, model=checkpoints["vit"], num_train_epochs=6))
    folder = tmp_path / "first"
    config = json.loads((folder / "config.json").read_text())
    model = AutoModelForImageClassification.from_pretrained(folder)
    order = [2, 0, 1]  # red, blue, green
    model.classifier.weight.data = model.classifier.weight.data[order]
    model.classifier.bias.data = model.classifier.bias.data[order]
    names = [config["id2label"][str(index)] for index in order]
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: index for index, name in enumerate(names)}
    model.save_pretrained(folder)
    caplog.clear()
    again = recipe_of(tmp_path / "second", photos, model=str(folder), learning_rate=1e-9)
    accuracy = run(again).metric("accuracy/test").value
    assert "is new" not in caplog.text and accuracy > 0.8
    saved = AutoModelForImageClassification.from_pretrained(tmp_path / "second")
    assert list(saved.config.id2label.values()) == ["red", "blue", "green"]
    torch.testing.assert_close(saved.classifier.weight, model.classifier.weight)


def test_a_network_without_a_head_gets_one_and_one_of_other_names_another(
    tmp_path, photos, checkpoints
):
    recipe = recipe_of(tmp_path, photos, model=checkpoints["vit base"])
    model = recipe.build_model()
    assert not model.classifier.weight.any() and model.vit.embeddings.cls_token.any()
    base = ViTModel.from_pretrained(checkpoints["vit base"])
    name = "embeddings.patch_embeddings.projection.weight"
    assert torch.equal(model.vit.get_parameter(name), base.get_parameter(name))


@pytest.mark.parametrize(
    ("freeze", "frozen", "trained"),
    [
        ("all_but_head", ["vit.layernorm.weight"], ["classifier.weight"]),
        ("1", ["vit.embeddings.cls_token"], ["vit.layernorm.weight", "classifier.bias"]),
        (["vit.embeddings", "vit.layernorm.bias"], ["vit.layernorm.bias"], ["classifier.bias"]),
    ],
)
def test_what_is_frozen_stays_as_it_is(tmp_path, photos, checkpoints, freeze, frozen, trained):
    options = {"model": checkpoints["vit"], "freeze": freeze, "max_train_steps": 2}
    run(recipe_of(tmp_path, photos, **options))
    before = dict(ViTForImageClassification.from_pretrained(checkpoints["vit"]).named_parameters())
    after = dict(AutoModelForImageClassification.from_pretrained(tmp_path).named_parameters())
    heads = {name: torch.zeros_like(p) for name, p in after.items() if "classifier" in name}
    before |= heads
    layers = [{n for n in after if f".{i}." in n and "layer" in n} for i in (0, 1)]
    if freeze == "1":
        frozen, trained = [*frozen, *layers[0]], [*trained, *layers[1]]
    for name in frozen:
        assert torch.equal(before[name], after[name]), name
    for name in trained:
        assert not torch.equal(before[name], after[name]), name


def test_statistics_of_a_checkpoint_stay_where_pictures_are_few(tmp_path, photos, checkpoints):
    run(recipe_of(tmp_path, photos, model=checkpoints["resnet"], max_train_steps=2))
    before, after = (
        AutoModelForImageClassification.from_pretrained(folder)
        for folder in (checkpoints["resnet"], tmp_path)
    )
    for name, buffer in before.named_buffers():
        assert torch.equal(buffer, after.get_buffer(name)), name


def test_a_configuration_is_trained_from_nothing(tmp_path, photos, caplog):
    path = tmp_path / "config" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(vit_config().to_dict()))
    run(recipe_of(tmp_path / "out", photos, config=str(path.parent), max_train_steps=1))
    assert "resized to 16 x 16" in caplog.text and "Its initial weights were random" in caplog.text
    saved = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    assert saved.config.num_labels == 3
    for given in (path, path.parent):
        with pytest.raises(
            ValueError, match="to train it from scratch, or give a model with weights"
        ):
            run(recipe_of(tmp_path / "other", photos, model=str(given)))


def test_what_is_held_out_is_drawn_by_the_seed_from_each_class(
    tmp_path, photos, checkpoints, caplog
):
    options = {"model": checkpoints["vit"], "train_val_split": 0.25}
    recipe = recipe_of(tmp_path, f"{photos}/train", **options)
    recipe.build_model()
    assert "9 of its 36 pictures are held out (25 %, from every class)" in caplog.text
    assert recipe.labels["test"].bincount().tolist() == [3, 3, 3]
    again = recipe_of(tmp_path, f"{photos}/train", **options)
    again.build_model()
    assert torch.equal(recipe.split.test, again.split.test)


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"model": None}, "give either model=NAME, the checkpoint to start from, or"),
        ({"freeze": "vit.nothing"}, "freeze=vit.nothing matches nothing in ViTForImage"),
        (
            {"freeze": "7"},
            "freeze=7 is not a valid number of layers for ViTForImage.*, which has 2",
        ),
        ({"freeze": ["classifier"]}, "freeze includes the head, which is new and must be trained"),
        ({"image_size": 32}, "weights of another shape .*position_embeddings.*leave out image_siz"),
        ({"train_val_split": 1.0}, "train_val_split must be 0 or more and below 1"),
        ({"weight_decay": -1.0}, "weight_decay must be 0 or more"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(
    tmp_path, photos, checkpoints, options, pattern
):
    with pytest.raises(ValueError, match=pattern):
        run(recipe_of(tmp_path / "out", photos, **{"model": checkpoints["vit"], **options}))
    assert not (tmp_path / "out").exists()


def test_of_an_explainer_the_classifier_inside_goes_on(tmp_path, photos, checkpoints, caplog):
    salhub.pipeline("normgrad", classifier=checkpoints["resnet"]).save_pretrained(tmp_path / "n")
    recipe_of(tmp_path / "out", photos, model=str(tmp_path / "n")).build_model()
    assert "n is an explainer; the classifier inside it is trained" in caplog.text
    with pytest.raises(ValueError, match="', not a classifier of images; give one that"):
        model = "salhub/verbalizer-movie-reviews"
        recipe_of(tmp_path / "out", photos, model=model).build_model()


def test_a_model_that_classifies_no_pictures_is_refused(tmp_path, photos):
    with pytest.raises(
        ValueError,
        match="is a model of type 'salhub_text_classifier', not a classifier of images; give one",
    ):
        from salhub.backbones.text_classifier.configuration_text_classifier import (
            TextClassifierConfig,
        )

        TextClassifierConfig(vocab_size=20).save_pretrained(tmp_path / "text")
        recipe_of(tmp_path / "out", photos, model=str(tmp_path / "text")).build_model()
