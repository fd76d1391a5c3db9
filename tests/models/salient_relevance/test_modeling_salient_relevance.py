"""Salient relevance as a person uses it."""

import copy
import logging
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig

from salhub.models.salient_relevance.configuration_salient_relevance import SalientRelevanceConfig
from salhub.models.salient_relevance.context_aware_saliency import context_aware_saliency
from salhub.models.salient_relevance.modeling_salient_relevance import (
    SalientRelevanceForImageSaliency,
)
from salhub.models.salient_relevance.relevance_image import relevance_image
from salhub.models.salient_relevance.rules import PRESETS
from tests.models.salient_relevance.networks import SmallNet, trained
from tests.testers import AttributionTester, BatchTester, SavingTester

BOUNDS = {"input_low": [-1.0, -1.0, -1.0], "input_high": [1.0, 1.0, 1.0]}
# one scale of 32 pixels keeps the second stage at milliseconds
SMALL = {"context_max_side": 32, "context_scales": [1.0, 0.5], "context_neighbors": 16}


def pictures(count=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, 32, 32, generator=generator) * 2 - 1


class TestSalientRelevance(SavingTester, BatchTester, AttributionTester):
    model_class = SalientRelevanceForImageSaliency
    settings = {}

    def config(self):
        backbone = ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], num_labels=5, layer_type="basic"
        )
        return SalientRelevanceConfig(backbone_config=backbone, **BOUNDS, **SMALL, **self.settings)

    def inputs(self):
        return {"pixel_values": pictures(), "class_labels": torch.tensor([0, 4, 2])}

    def bad_inputs(self):
        return [
            ({"pixel_values": torch.zeros(3, 32, 32)}, ValueError, "must have shape"),
            ({"pixel_values": pictures() * 255}, ValueError, "outside of -1 to 1; prepare"),
            ({"pixel_values": pictures() * torch.nan}, ValueError, "NaN"),
            ({"class_labels": torch.tensor([0, 1, 5])}, ValueError, "class 5 is out of range"),
            ({"class_labels": torch.tensor([0.0, 1.0, 2.0])}, TypeError, "must be integers"),
            ({"class_labels": torch.tensor([0, 1])}, ValueError, "class_labels must have shape"),
        ]


class TestReferencePreset(TestSalientRelevance):
    settings = {"preset": "sr_reference"}


class TestContrastWithSpreadBiases(TestSalientRelevance):
    settings = {
        "preset": "epsilon_gamma_box",
        "bias_relevance": "uniform",
        "contrast": "others",
    }


class TestVisionTransformer(TestSalientRelevance):
    def config(self):
        backbone = ViTConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
            image_size=32, patch_size=8, num_labels=5,
        )  # fmt: skip
        return SalientRelevanceConfig(backbone_config=backbone, **BOUNDS, **SMALL)


@pytest.fixture
def network():
    return trained(SmallNet())


def wrap(network, **settings):
    return SalientRelevanceForImageSaliency.from_classifier(
        network, **{**BOUNDS, **SMALL, **settings}
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_output_is_the_two_stages_one_after_the_other(network, preset):
    model = wrap(network, preset=preset, start="one")
    output = model(pictures())
    assert torch.equal(output.class_labels, network(pictures()).argmax(1))
    relevance = model.relevance(pictures())
    torch.testing.assert_close(output.relevance, relevance.relevance[:, 0], rtol=0, atol=0)
    image = relevance_image(output.relevance, model.config.image_kind, model.config.image_levels)
    expected = context_aware_saliency(image, max_side=32, scales=(1.0, 0.5), neighbors=16)
    torch.testing.assert_close(output.saliency, expected.saliency, rtol=0, atol=0)
    torch.testing.assert_close(output.context_saliency, expected.context_saliency, rtol=0, atol=0)
    assert torch.equal(output.attended_mask, output.saliency > 0.8)
    sums = output.relevance.sum(dim=(1, 2, 3))
    torch.testing.assert_close(output.relevance_sum, sums)
    torch.testing.assert_close(output.start_relevance, torch.ones(3))


def test_several_classes_have_an_axis(network):
    model = wrap(network, preset="epsilon_plus", start="one")
    labels = torch.tensor([[0, 3], [1, 1], [2, 0]])
    output = model(pictures(), labels)
    assert output.saliency.shape == (3, 2, 32, 32)
    assert output.relevance.shape == (3, 2, 3, 32, 32)
    assert torch.equal(output.class_labels, labels)
    for t in range(2):
        alone = model(pictures(), labels[:, t])
        torch.testing.assert_close(output.saliency[:, t], alone.saliency, rtol=0, atol=0)


def test_contrast_is_the_difference_of_two_maps_of_one_mass(network):
    labels = torch.tensor([2, 0, 1])
    model = wrap(network, preset="epsilon_plus", contrast="others")
    found = model(pictures(), labels).relevance
    plain = wrap(network, preset="epsilon_plus", start="one")
    each = plain.relevance(pictures(), torch.arange(4).expand(3, 4)).relevance
    for b, c in enumerate(labels.tolist()):
        others = (each[b].sum(0) - each[b, c]) / 3
        expected = each[b, c] / each[b, c].abs().sum() - others / others.abs().sum()
        torch.testing.assert_close(found[b], expected, rtol=1e-3, atol=1e-7)


def test_contrast_tells_classes_apart_where_positive_rules_do_not(network):
    labels = torch.tensor([[0, 1, 2, 3]]).expand(3, 4)
    plain = wrap(network, first_rule="flat", start="one").relevance(pictures(), labels)
    contrast = wrap(network, first_rule="flat", contrast="others").relevance(pictures(), labels)
    alike, apart = (
        torch.corrcoef(found.relevance[0].sum(1).flatten(1))[~torch.eye(4, dtype=torch.bool)]
        for found in (plain, contrast)
    )
    assert float(apart.mean()) < float(alike.mean()) - 0.2


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("pos_sum", [[0.0, 1.0], [0.5, 0.0]]),
        ("abs_sum", [[0.0, 1.0], [0.25, 0.25]]),
    ],
)
def test_grey_relevance_pictures_by_hand(kind, expected):
    relevance = torch.zeros(1, 3, 2, 2)
    relevance[0, :, 0, 1] = torch.tensor([1.0, 1.0, 2.0])
    relevance[0, 0, 1, 0] = 2.0 if kind == "pos_sum" else 1.0
    relevance[0, 2, 1, 1] = -1.0
    torch.testing.assert_close(relevance_image(relevance, kind)[0, 0], torch.tensor(expected))


def test_colour_relevance_picture_has_one_scale_and_levels():
    relevance = torch.tensor([[0.0, -4.0], [1.0, 2.0], [0.5, 3.0]]).view(1, 3, 1, 2)
    picture = relevance_image(relevance, "abs_rgb", 256)
    expected = torch.tensor([[0.0, 255.0], [63.0, 127.0], [31.0, 191.0]]) / 255
    torch.testing.assert_close(picture, expected.view(1, 3, 1, 2))
    with pytest.raises(ValueError, match="needs 1 or 3 channels, got 2"):
        relevance_image(relevance[:, :2], "abs_rgb")


def test_audit_accounts_for_all_relevance(network):
    for preset in PRESETS:
        audits = wrap(network, preset=preset).conservation_audit(pictures(2), [[0, 1], [2, 3]])
        assert [[audit.class_label for audit in row] for row in audits] == [[0, 1], [2, 3]]
        for audit in (one for row in audits for one in row):
            assert audit.largest_accounted_error < 1e-4
            # layer by layer what is handed down arrives: the books connect logits and pixels
            assert audit.rows[0].relevance_out == pytest.approx(audit.start, rel=1e-5)
            assert audit.rows[-1].relevance_in == pytest.approx(audit.reached, rel=1e-4, abs=1e-6)
    table = audits[0][0].table()
    assert [row[0] for row in table.rows] == [
        "classifier", "", "depthwise", "block", "block.branch", "stem",
    ]  # fmt: skip


def test_uniform_biases_conserve_everything(network):
    model = wrap(network, preset="epsilon_plus_flat", bias_relevance="uniform", start="one")
    output = model(pictures())
    torch.testing.assert_close(output.relevance_sum, torch.ones(3), rtol=1e-4, atol=0)


def test_bounds_come_from_the_image_processor(network):
    processor = SimpleNamespace(image_mean=[0.5, 0.4, 0.3], image_std=[0.5, 0.2, 0.1])
    model = SalientRelevanceForImageSaliency.from_classifier(network, image_processor=processor)
    assert model.config.input_low == pytest.approx([-1.0, -2.0, -3.0])
    assert model.config.input_high == pytest.approx([1.0, 3.0, 7.0])
    model.adopt_image_processor(SimpleNamespace(image_mean=[0.0] * 3, image_std=[1.0] * 3))
    assert model.config.input_low == pytest.approx([-1.0, -2.0, -3.0])
    raw = SimpleNamespace(image_mean=[0.0], image_std=[1.0], do_rescale=False)
    assert wrap(network, input_low=None, input_high=None).config.input_low is None
    other = SalientRelevanceForImageSaliency.from_classifier(network, image_processor=raw)
    assert (other.config.input_low, other.config.input_high) == ([0.0], [255.0])


def test_a_damaged_image_processor_is_not_taken_for_none(tmp_path):
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], num_labels=3)
    trained(ResNetForImageClassification(config)).save_pretrained(tmp_path)
    model = SalientRelevanceForImageSaliency.from_classifier(tmp_path)
    assert model.config.input_low is None  # none was saved
    broken = tmp_path / "preprocessor_config.json"
    broken.write_text('{"image_mean": [0.5', encoding="utf-8")
    with pytest.raises((OSError, ValueError), match=r"preprocessor_config\.json"):
        SalientRelevanceForImageSaliency.from_classifier(tmp_path)


def test_box_rule_without_bounds_says_what_to_do(network):
    model = SalientRelevanceForImageSaliency.from_classifier(network)
    with pytest.raises(ValueError, match=r"adopt_image_processor.*epsilon_plus"):
        model(pictures())
    with pytest.raises(ValueError, match="input_low has 1 numbers"):
        wrap(network, input_low=[-1.0], input_high=[1.0])(pictures())


def test_constant_relevance_is_flagged_and_zero(network, caplog):
    for parameter in network.classifier.parameters():
        parameter.data.zero_()
    with caplog.at_level(logging.WARNING, logger="salhub"):
        output = wrap(network, start="one")(pictures(1))
    assert output.degenerate.tolist() == [True]
    assert float(output.saliency.abs().max()) == 0.0
    assert "no structure" in caplog.text


class HalvesCompared(nn.Module):
    """The same layer on the upper and lower half of a picture, subtracted."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1536, 4)

    def forward(self, x):
        upper, lower = x[:, :, :16].flatten(1), x[:, :, 16:].flatten(1)
        return self.layer(upper * 100) - self.layer(lower * 100)


def test_relevance_that_grows_beyond_its_digits_is_refused():
    network = HalvesCompared().eval().requires_grad_(False)
    settings = {"first_rule": "epsilon", "linear_rule": "epsilon", "start": "one"}
    model = wrap(network, bias_relevance="uniform", **settings)
    half = pictures(1)[:, :, :16]
    alike = torch.cat([half, half], dim=2)
    with pytest.raises(ValueError, match=r"has grown to \de\+.*rounding.*'absorb'"):
        model.relevance(alike, 1)
    assert len(model.conservation_audit(alike, 1)) == 1  # which shows where


def test_negative_score_is_announced(network, caplog):
    network.classifier.bias.data.fill_(-100.0)
    with caplog.at_level(logging.WARNING, logger="salhub"):
        wrap(network)(pictures(1))
    assert "start='one'" in caplog.text


def test_fully_convolutional_classifier_is_explained_by_its_softmax_weighted_score():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3)).eval()
    found = wrap(network).relevance(pictures(2), [1, 2])
    logits = network(pictures(2)).flatten(2).double()
    weights = logits.exp() / logits.exp().sum(dim=2, keepdim=True)
    expected = (logits * weights).sum(dim=2).float()
    torch.testing.assert_close(found.logits, expected, rtol=1e-4, atol=1e-5)
    assert float(found.relevance.abs().sum()) > 0


@pytest.mark.parametrize("preset", ["epsilon_plus", "sr_reference"])
def test_classifier_of_grey_pictures(preset):
    config = ResNetConfig(
        num_channels=1, embedding_size=8, hidden_sizes=[8], depths=[1], num_labels=3
    )
    network = trained(ResNetForImageClassification(config))
    model = SalientRelevanceForImageSaliency.from_classifier(network, preset=preset, **SMALL)
    output = model(pictures(2)[:, :1])
    assert output.relevance.shape == (2, 1, 32, 32)
    assert output.saliency.shape == (2, 32, 32)


def test_the_private_copy_is_no_part_of_the_model(network):
    model = wrap(network)
    names = set(model.state_dict())
    model(pictures(1))
    assert set(model.state_dict()) == names
    assert len(list(model.modules())) == len(list(network.modules())) + 1
    assert copy.deepcopy(model)._engine is not model._engine
