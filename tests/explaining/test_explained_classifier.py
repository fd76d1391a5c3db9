"""Wrapping a classifier: whose it is, what is saved, what is refused."""

import json
import logging

import pytest
import torch
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification, ResNetModel

from salhub import NormGradForImageSaliency

CONFIG = ResNetConfig(
    embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], num_labels=5, layer_type="basic"
)


@pytest.fixture
def classifier() -> ResNetForImageClassification:
    return ResNetForImageClassification(CONFIG).eval()


def _pixels(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, 32, 32)


def test_the_weights_of_the_wrapped_classifier_are_not_touched(classifier):
    before = {key: value.clone() for key, value in classifier.state_dict().items()}
    model = NormGradForImageSaliency.from_classifier(classifier)
    assert model.backbone is classifier
    assert all(torch.equal(before[key], value) for key, value in classifier.state_dict().items())


def test_a_classifier_is_found_by_its_folder(classifier, tmp_path):
    classifier.save_pretrained(tmp_path)
    model = NormGradForImageSaliency.from_classifier(tmp_path)
    pixels = _pixels()
    torch.testing.assert_close(model.classify(pixels), classifier(pixels).logits)


def test_a_classifier_shipped_with_salhub_is_found_by_name():
    model = NormGradForImageSaliency.from_classifier("salhub/efficientnet-lite0")
    assert (model.num_classes, model.id2label[281]) == (1000, "tabby")


def test_saving_keeps_the_classifier_and_no_path_of_this_machine(classifier, tmp_path):
    classifier.save_pretrained(tmp_path / "classifier")
    model = NormGradForImageSaliency.from_classifier(tmp_path / "classifier", method="grad_cam")
    model.save_pretrained(tmp_path / "explainer")
    text = (tmp_path / "explainer" / "config.json").read_text()
    assert str(tmp_path) not in text
    loaded = NormGradForImageSaliency.from_pretrained(tmp_path / "explainer")
    pixels = _pixels()
    torch.testing.assert_close(loaded(pixels).saliency, model(pixels).saliency)


def test_saving_by_reference_stores_no_weights(tmp_path):
    model = NormGradForImageSaliency.from_classifier("salhub/efficientnet-lite0", layers="blocks.4")
    model.save_pretrained(tmp_path, save_backbone=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json"]
    assert json.loads((tmp_path / "config.json").read_text())["backbone"].startswith("salhub/")
    loaded = NormGradForImageSaliency.from_pretrained(tmp_path)
    pixels = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(loaded(pixels).saliency, model(pixels).saliency)


def test_a_classifier_without_a_name_cannot_be_saved_by_reference(classifier, tmp_path):
    model = NormGradForImageSaliency.from_classifier(classifier)
    with pytest.raises(ValueError, match="save the weights too"):
        model.save_pretrained(tmp_path, save_backbone=False)


def test_a_plain_module_is_explained_but_not_saved(tmp_path):
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    model = NormGradForImageSaliency.from_classifier(network, layers="0")
    assert model(_pixels()).saliency.shape == (2, 32, 32)
    with pytest.raises(ValueError, match="plain Sequential"):
        model.save_pretrained(tmp_path)


def test_a_checkpoint_without_a_trained_head_is_refused(tmp_path):
    ResNetModel(CONFIG).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"not a trained image classifier.*classifier"):
        NormGradForImageSaliency.from_classifier(tmp_path)


def test_an_unknown_setting_is_refused_with_the_nearest_one(classifier):
    with pytest.raises(ValueError, match="Did you mean 'method'"):
        NormGradForImageSaliency.from_classifier(classifier, metod="grad_cam")


def test_a_model_without_a_classifier_says_how_to_get_one():
    from salhub import NormGradConfig

    with pytest.raises(ValueError, match=r"from_classifier\("):
        NormGradForImageSaliency(NormGradConfig())


@pytest.mark.parametrize(
    ("pixels", "error", "message"),
    [
        ([[1.0]], TypeError, "floating-point tensor, got list"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), TypeError, "got torch.uint8"),
        (torch.zeros(3, 32, 32), ValueError, r"shape \(batch, 3, height, width\), got \(3, 32"),
        (torch.zeros(1, 1, 32, 32), ValueError, "image processor"),
        (torch.zeros(0, 3, 32, 32), ValueError, "empty"),
        (torch.full((1, 3, 32, 32), float("nan")), ValueError, "NaN or infinite"),
    ],
)
def test_bad_pictures_are_refused(classifier, pixels, error, message):
    with pytest.raises(error, match=message):
        NormGradForImageSaliency.from_classifier(classifier).check_pixel_values(pixels)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (5, ValueError, "class 5 is out of range: the classifier has 5 classes"),
        (-1, ValueError, "class -1 is out of range"),
        ([0.5, 1.0], TypeError, "must be integers"),
        ([True, False], TypeError, "must be integers"),
        ([0, 1, 2], ValueError, r"shape \(2,\) or \(2, classes\).*got \(3,\)"),
        ([[[0]], [[1]]], ValueError, "got"),
    ],
)
def test_bad_classes_are_refused(classifier, labels, error, message):
    model = NormGradForImageSaliency.from_classifier(classifier)
    with pytest.raises(error, match=message):
        model.check_class_labels(labels, 2)


def test_unnormalised_pictures_are_warned_about(classifier, caplog):
    model = NormGradForImageSaliency.from_classifier(classifier)
    with caplog.at_level(logging.WARNING, logger="salhub"):
        model.check_pixel_values(torch.full((1, 3, 8, 8), 255.0))
    assert "do not look normalized" in caplog.text


@pytest.mark.parametrize("training", [False, True])
def test_the_users_module_is_left_as_it_is(classifier, training):
    classifier.train(training)
    attributes = {name: sorted(vars(part)) for name, part in classifier.named_modules()}
    model = NormGradForImageSaliency.from_classifier(classifier)
    model(_pixels())
    assert all(part.training == training for part in classifier.modules())
    assert {name: sorted(vars(part)) for name, part in classifier.named_modules()} == attributes
    with pytest.raises(ValueError, match="convert the module yourself"):
        NormGradForImageSaliency.from_classifier(classifier, dtype=torch.bfloat16)


def test_a_model_saved_by_reference_takes_the_keywords_of_loading(tmp_path):
    model = NormGradForImageSaliency.from_classifier("salhub/efficientnet-lite0", method="cam")
    model.save_pretrained(tmp_path, save_backbone=False)
    load = NormGradForImageSaliency.from_pretrained
    assert load(tmp_path, dtype=torch.bfloat16).dtype == torch.bfloat16
    loaded, info = load(tmp_path, output_loading_info=True, method="grad_cam")
    assert loaded.config.method == "grad_cam" and not any(info.values())
    config = type(model.config).from_pretrained(tmp_path, layers=["blocks.4"])
    config.method = "norm_grad"
    assert load(tmp_path, config=config).config.method == "norm_grad"
    with pytest.raises(TypeError, match="methd"):
        load(tmp_path, methd="cam")
