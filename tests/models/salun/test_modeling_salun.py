"""A classifier and its record: wrapping, class names, loss, saving."""

import pytest
import torch
from torch import nn
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
)

from salhub import AutoModelForSaliency
from salhub.backbones.cifar_resnet.image_processing_cifar_resnet import CifarResNetImageProcessor
from salhub.models.salun.configuration_salun import SalUnConfig
from salhub.models.salun.modeling_salun import SalUnForImageClassification
from tests.testers import BatchTester, SavingTester

NETWORK = {
    "model_type": "salhub_cifar_resnet",
    "depth": 8,
    "width": 8,
    "image_size": 32,
    "num_labels": 10,
}
RECORD = {"unlearn_method": "salun", "forget": "class:3", "num_forgotten": 7, "mask_ratio": 0.5}


class TestSalUn(SavingTester, BatchTester):
    model_class = SalUnForImageClassification
    auto_classes = (AutoModelForSaliency, AutoModel, AutoModelForImageClassification)
    half_tolerance = 0.1

    def config(self):
        return SalUnConfig(backbone_config=dict(NETWORK), **RECORD)

    def inputs(self):
        generator = torch.Generator().manual_seed(0)
        return {
            "pixel_values": torch.randn(3, 3, 32, 32, generator=generator),
        }

    def bad_inputs(self):
        pixels = self.inputs()["pixel_values"]
        return [
            ({"pixel_values": pixels[0]}, ValueError, r"\(B, 3, 32, 32\), got \(3, 32, 32\)"),
            (
                {"pixel_values": pixels.byte()},
                TypeError,
                "pixel_values must be floating point and normalized, got",
            ),
            (
                {"pixel_values": 255 * pixels.sigmoid()},
                ValueError,
                r"so they are not normalized",
            ),
            (
                {"pixel_values": -255 * pixels.sigmoid()},
                ValueError,
                r"so they are not normalized",
            ),
            ({"labels": torch.zeros(3)}, TypeError, "class numbers, int64, got torch.float32"),
            ({"labels": torch.zeros(2, dtype=torch.long)}, ValueError, r"\(3,\), got \(2,\)"),
            ({"labels": torch.tensor([0, 1, 10])}, ValueError, "classes 0 to 9, got 0 to 10"),
            ({"labels": torch.tensor([0, 1, -100])}, ValueError, "got -100 to 1"),
        ]


def test_the_image_processor_loads_with_it(tmp_path):
    TestSalUn().model().save_pretrained(tmp_path)
    CifarResNetImageProcessor().save_pretrained(tmp_path)
    assert type(AutoImageProcessor.from_pretrained(tmp_path)) is CifarResNetImageProcessor


@pytest.fixture
def resnet():
    torch.manual_seed(0)
    labels = {0: "cat", 1: "dog", 2: "frog"}
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic", id2label=labels
    )
    return ResNetForImageClassification(config).eval()


def test_a_classifier_of_transformers_is_wrapped_and_not_copied(resnet, tmp_path):
    model = SalUnForImageClassification.from_classifier(resnet)
    assert model.backbone is resnet
    assert model.config.id2label == {0: "cat", 1: "dog", 2: "frog"}
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = resnet(pixels).logits
        assert torch.equal(model(pixels).logits, expected)
        model.save_pretrained(tmp_path)
        loaded = SalUnForImageClassification.from_pretrained(tmp_path)
        assert type(loaded.backbone) is ResNetForImageClassification
        assert torch.equal(loaded(pixels).logits, expected)


def test_hidden_states_are_given_when_asked_for(resnet):
    model, pixels = SalUnForImageClassification.from_classifier(resnet), torch.zeros(1, 3, 32, 32)
    assert len(model(pixels, output_hidden_states=True).hidden_states) == 3
    for unwanted in (None, False):
        assert model(pixels, output_hidden_states=unwanted).hidden_states is None
    own = SalUnForImageClassification(SalUnConfig(backbone_config=dict(NETWORK)))
    assert own(pixels, output_hidden_states=False).logits.shape == (1, 10)


def test_the_loss_is_the_cross_entropy(resnet):
    model = SalUnForImageClassification.from_classifier(resnet)
    output = model(torch.randn(2, 3, 32, 32), labels=torch.tensor([2, 0]))
    rows = output.logits.double().exp()
    expected = -(rows[[0, 1], [2, 0]] / rows.sum(dim=1)).log().mean()
    torch.testing.assert_close(output.loss.double(), expected)
    assert model(torch.randn(2, 3, 32, 32)).loss is None


def test_class_names_are_those_of_the_network_wherever_they_are_given(tmp_path):
    names = {index: f"thing {index}" for index in range(10)}
    unnamed = {key: value for key, value in NETWORK.items() if key != "num_labels"}
    for config in (
        SalUnConfig(backbone_config={**unnamed, "id2label": names}),
        SalUnConfig(backbone_config=dict(NETWORK), id2label=names),
    ):
        assert config.id2label == config.backbone_config.id2label == names
        assert config.label2id["thing 3"] == 3
    model = SalUnForImageClassification(SalUnConfig(backbone_config=dict(NETWORK)))
    model.config.id2label = names
    model.save_pretrained(tmp_path)
    loaded = SalUnConfig.from_pretrained(tmp_path)
    assert loaded.id2label == loaded.backbone_config.id2label == names


def test_another_number_of_classes_makes_a_new_last_layer(tmp_path):
    SalUnForImageClassification(SalUnConfig(backbone_config=dict(NETWORK))).save_pretrained(
        tmp_path
    )
    model = AutoModelForImageClassification.from_pretrained(
        tmp_path, num_labels=4, ignore_mismatched_sizes=True
    )
    assert isinstance(model.backbone.classifier, nn.Linear)
    assert model.backbone.classifier.weight.shape == (4, 32) and model.config.num_labels == 4
    assert model.backbone.classifier.weight.std() > 0.01
