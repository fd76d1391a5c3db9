"""The model as a person uses it: classes, layers, sizes, saving, and many maps from one pass."""

import logging

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import ResNetConfig

from salhub.metrics.class_sensitivity import class_sensitivity
from salhub.models.normgrad.configuration_normgrad import NormGradConfig
from salhub.models.normgrad.extract_aggregate import AGGREGATES, EXTRACTS
from salhub.models.normgrad.linear_probe import leave_one_out_accuracy
from salhub.models.normgrad.modeling_normgrad import NormGradForImageSaliency
from salhub.ops.maps import combine_layers, gaussian_smooth, min_max, resize_maps
from tests.models.normgrad.networks import (
    FullyConvolutional,
    Operators,
    SmallNet,
    family,
    spread_weights,
)
from tests.testers import AttributionTester, BatchTester, SavingTester

LABELS = torch.tensor([[0, 4, 2], [1, 1, 3]])


class TestNormGrad(SavingTester, BatchTester, AttributionTester):
    model_class = NormGradForImageSaliency
    shipped = ("salhub/normgrad-efficientnet-lite0", "salhub/gradcam-efficientnet-lite0")
    settings = {}

    def config(self):
        backbone = ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], num_labels=5, layer_type="basic"
        )
        return NormGradConfig(backbone_config=backbone, **self.settings)

    def inputs(self):
        generator = torch.Generator().manual_seed(0)
        return {
            "pixel_values": torch.randn(3, 3, 32, 32, generator=generator),
            "class_labels": torch.tensor([0, 4, 2]),
        }

    def bad_inputs(self):
        return [
            ({"pixel_values": torch.zeros(3, 32, 32)}, ValueError, "must have shape"),
            ({"class_labels": torch.tensor([0, 1, 5])}, ValueError, "class 5 is out of range"),
            ({"class_labels": torch.tensor([0.0, 1.0, 2.0])}, TypeError, "must be integers"),
            ({"class_labels": torch.tensor([0, 1])}, ValueError, "class_labels must have shape"),
        ]


class TestNormGradAfterMetaStep(TestNormGrad):
    shipped = ()
    settings = {"meta_step": 1e-3, "method": "norm_grad_selective"}


class TestGuidedBackprop(TestNormGrad):
    shipped = ()
    settings = {"method": "guided_backprop", "normalize": "minmax"}


@pytest.fixture
def network():
    return spread_weights(SmallNet())


@pytest.fixture
def pixels():
    return torch.randn(2, 3, 16, 12)


def explain(network, **settings):
    return NormGradForImageSaliency.from_classifier(network, **settings)


@pytest.mark.parametrize("method", ["norm_grad", "grad_cam", "guided_backprop", "cam"])
def test_several_classes_are_several_calls(network, pixels, method):
    network.last = nn.Sequential(network.last, nn.ReLU())
    model = explain(network, method=method)
    together = model(pixels, LABELS)
    assert together.saliency.shape == (2, 3, 16, 12)
    assert torch.equal(together.class_labels, LABELS)
    assert together.degenerate.shape == (2, 3)
    for column in range(3):
        alone = model(pixels, LABELS[:, column])
        assert alone.saliency.shape == (2, 16, 12)
        torch.testing.assert_close(
            alone.saliency, together.saliency[:, column], rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("method", ["norm_grad", "cam", "guided_backprop"])
def test_a_map_is_compared_with_that_of_the_class_at_the_other_end(network, pixels, method):
    network.last = nn.Sequential(network.last, nn.ReLU())
    model = NormGradForImageSaliency.from_classifier(network, method=method)
    plain = model(pixels, class_labels=2)
    least, most = plain.logits.argmin(1), plain.logits.argmax(1)
    found = model(pixels, class_labels=2, return_class_similarity=True)
    for name in ("saliency", "logits", "class_labels", "degenerate", "native_saliency"):
        assert torch.equal(found[name], plain[name]), name
    assert plain.class_similarity is None
    other = torch.where(least == 2, most, least)
    expected = class_sensitivity(plain.saliency, model(pixels, class_labels=other).saliency).rho
    assert torch.equal(found.class_similarity, expected)
    of_least = model(pixels, class_labels=least, return_class_similarity=True).class_similarity
    of_most = model(pixels, return_class_similarity=True).class_similarity
    torch.testing.assert_close(of_least, of_most, equal_nan=True)


def test_several_classes_and_meta_steps_are_not_compared(network, pixels):
    model = NormGradForImageSaliency.from_classifier(network)
    several = model(pixels, class_labels=[[0, 1]] * len(pixels), return_class_similarity=True)
    assert several.class_similarity is None and several.saliency.shape[1] == 2
    stepped = model.with_settings(meta_step=0.01)
    assert stepped(pixels, return_class_similarity=True).class_similarity is None


def test_class_labels_in_every_form(network, pixels):
    model = explain(network)
    likely = network(pixels).argmax(-1)
    default = model(pixels)
    assert torch.equal(default.class_labels, likely)
    for form in (likely, likely.tolist(), likely.int(), likely[:, None]):
        found = model(pixels, form)
        assert torch.equal(found.saliency.reshape(2, 16, 12), default.saliency)
    assert model(pixels, 3).class_labels.tolist() == [3, 3]
    torch.testing.assert_close(default.logits, network(pixels).detach())


def test_many_classes_go_in_groups_and_give_the_same(network, pixels, monkeypatch):
    model = explain(network)
    expected = model(pixels, LABELS).saliency
    monkeypatch.setattr("salhub.models.normgrad.class_scores.GRADIENT_BYTES", 1)
    torch.testing.assert_close(model(pixels, LABELS).saliency, expected, rtol=1e-5, atol=1e-6)


class CountedIdentity(torch.autograd.Function):
    """Passes the gradient on and counts; `fails` makes it refuse a batch of seeds."""

    calls = 0
    fails = False

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        CountedIdentity.calls += 1
        return gradient * (1.0 if not CountedIdentity.fails else float(gradient.isfinite().all()))


class Counted(nn.Module):
    def forward(self, x):
        return CountedIdentity.apply(x)


@pytest.mark.parametrize("fails", [False, True])
def test_classes_share_one_backward_pass_unless_an_operator_cannot(pixels, monkeypatch, fails):
    monkeypatch.setattr(CountedIdentity, "calls", 0)
    monkeypatch.setattr(CountedIdentity, "fails", fails)
    network = spread_weights(SmallNet(block=Counted()))
    model = explain(network, layers=["stem"])
    together = model(pixels, LABELS).saliency
    assert CountedIdentity.calls == (4 if fails else 1)  # one refused attempt, then one a class
    monkeypatch.setattr(CountedIdentity, "fails", False)
    singles = [model(pixels, LABELS[:, column]).saliency for column in range(3)]
    torch.testing.assert_close(together, torch.stack(singles, 1), rtol=1e-5, atol=1e-6)


def test_a_grid_is_one_forward_pass_and_equals_single_calls(network, pixels):
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    methods = ["norm_grad", "grad_cam", "linear_approx", ("conv3x3", "max"), ("bias", "abs_sum")]
    layers = ["input", "stem", "blocks.0", "blocks.1", "last"]
    model = explain(network, normalize="minmax")
    model.forward_grid(pixels, LABELS, layers=layers)  # looks at the layers, once
    calls.clear()
    grid = model.forward_grid(pixels, LABELS, methods=methods, layers=layers)
    assert len(calls) == 1
    assert len(grid) == 25
    for method in methods:
        name = method if isinstance(method, str) else "/".join(method)
        fields = (
            {"method": method}
            if isinstance(method, str)
            else {"method": "linear_approx", "extract": method[0], "aggregate": method[1]}
        )
        for layer in layers:
            alone = explain(network, normalize="minmax", layers=[layer], **fields)(pixels, LABELS)
            found = grid[name, layer]
            torch.testing.assert_close(found.saliency, alone.saliency, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(
                found.native_saliency, alone.native_saliency, rtol=1e-4, atol=1e-6
            )
            assert torch.equal(found.degenerate, alone.degenerate)


def test_a_further_map_of_a_grid_takes_few_operators(network, pixels):
    pairs = [(extract, aggregate) for extract in EXTRACTS[:4] for aggregate in AGGREGATES[:4]]
    model = explain(network, output_size=[32, 32])
    model.forward_grid(pixels, LABELS, methods=pairs, layers=["blocks.0"])  # looks at the layer
    counts = []
    for methods in (pairs[:1], pairs):
        with Operators() as operators:
            model.forward_grid(pixels, LABELS, methods=methods, layers=["blocks.0"])
        counts.append(operators.count)
    assert counts[1] - counts[0] <= 14 * (len(pairs) - 1)


def test_a_grid_with_other_relu_rules_takes_one_pass_more_for_each(network, pixels):
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    model = explain(network)
    grid = model.forward_grid(
        pixels, methods=["gradient", "guided_backprop", "deconvnet", "grad_x_input"]
    )
    assert len(calls) == 3
    assert set(grid) == {
        (name, "input") for name in ("gradient", "guided_backprop", "deconvnet", "grad_x_input")
    }
    for name, layer in grid:
        alone = explain(network, method=name, layers=[layer])(pixels)
        torch.testing.assert_close(grid[name, layer].saliency, alone.saliency)


def test_only_the_part_above_the_shallowest_layer_has_a_graph(network, pixels):
    recorded = {}
    for name, module in network.named_modules():
        module.register_forward_hook(
            lambda module, args, output, name=name: recorded.__setitem__(name, output.requires_grad)
        )
    network.requires_grad_(True)
    explain(network, layers=["blocks.1", "last"])(pixels)
    below = ("stem", "activation", "blocks.0", "blocks.1.convolution")
    assert {name: recorded[name] for name in below} == dict.fromkeys(below, False)
    assert recorded["last"] and recorded["classifier"]


def test_cam_records_no_graph_at_all(network, pixels):
    network.last = nn.Sequential(network.last, nn.ReLU())
    flags = []
    network.register_forward_hook(lambda module, args, output: flags.append(output.requires_grad))
    explain(network, method="cam", layers=["last"])(pixels)
    assert set(flags) == {False}


def test_layers_are_joined_by_the_formula(network, pixels):
    layers = ["last", "stem", "blocks.1"]  # not in the order of depth
    singles = {
        layer: explain(network, layers=[layer], output_size="native")(pixels).saliency
        for layer in layers
    }
    weights = {
        "uniform": {"stem": 1 / 3, "blocks.1": 1 / 3, "last": 1 / 3},
        "linear": {"stem": 1 / 6, "blocks.1": 2 / 6, "last": 3 / 6},
    }
    for weighting, by_layer in weights.items():
        for combine in ("product", "sum"):
            model = explain(network, layers=layers, layer_weighting=weighting, combine=combine)
            output = model(pixels, return_layer_maps=True)
            maps = [resize_maps(singles[layer], (16, 12)) for layer in layers]
            expected = combine_layers(maps, [by_layer[layer] for layer in layers], combine)
            torch.testing.assert_close(output.saliency, expected)
            assert output.native_saliency is None
            for layer, found in zip(layers, output.layer_maps, strict=True):
                torch.testing.assert_close(found, singles[layer])
            assert output.silent_layers == ((),) * len(pixels)
    custom = explain(network, layers=layers, layer_weights=[2, 0, 2])(pixels)
    pair = explain(network, layers=["last", "blocks.1"])(pixels)
    torch.testing.assert_close(custom.saliency, pair.saliency)


def test_sizes_scale_and_smoothing(network, pixels):
    native = explain(network, layers=["last"], output_size="native")(pixels).saliency
    assert native.shape == (2, 4, 3)
    at_input = explain(network, layers=["last"])(pixels)
    torch.testing.assert_close(at_input.saliency, resize_maps(native, (16, 12)))
    torch.testing.assert_close(at_input.native_saliency, native)
    own = explain(network, layers=["last"], output_size=(9, 7), smooth_sigma=0.1)(pixels)
    smooth = gaussian_smooth(resize_maps(native, (9, 7)), 0.9)
    torch.testing.assert_close(own.saliency, smooth)
    scaled = explain(network, layers=["last"], normalize="minmax")(pixels).saliency
    torch.testing.assert_close(scaled, min_max(at_input.saliency))
    several = explain(network, layers=["last", "stem"], output_size="native")(pixels)
    assert several.saliency.shape == (2, 8, 6)


def test_contrastive_is_the_class_against_the_mean_of_the_others(network, pixels):
    settings = {"method": "linear_approx", "layers": ["blocks.1"], "output_size": "native"}
    # The linear approximation is linear in the seed, so single maps add up to the contrast.
    every = explain(network, **settings)(pixels, torch.arange(5).expand(2, 5)).saliency
    found = explain(network, contrastive=True, **settings)(pixels, 3).saliency
    others = every[:, [0, 1, 2, 4]].mean(1)
    torch.testing.assert_close(found, every[:, 3] - others, rtol=1e-5, atol=1e-5)


def test_fully_convolutional_logits_are_weighted_by_their_own_softmax(pixels):
    network = spread_weights(FullyConvolutional())
    model = explain(network, method="linear_approx", layers=["features"], output_size="native")
    output = model(pixels, torch.tensor([[1, 3], [1, 3]]))
    logits = network(pixels).detach()
    share = logits.flatten(2).softmax(-1).view_as(logits)
    torch.testing.assert_close(output.logits, (share * logits).sum((2, 3)))
    features = network.features(pixels).detach()
    for column, label in enumerate((1, 3)):
        gradient = torch.einsum(
            "bhw,k->bkhw", share[:, label], network.classifier.weight[label, :, 0, 0]
        )
        torch.testing.assert_close(
            output.saliency[:, column], (gradient * features).sum(1).detach(), rtol=1e-5, atol=1e-6
        )


def test_bias_just_before_pooling_is_flagged_and_zero(pixels, caplog):
    features = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())
    network = nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
    spread_weights(network)
    model = explain(network, method="gradient_sum", layers=["0"], normalize="minmax")
    with caplog.at_level(logging.WARNING, logger="salhub"):
        output = model(pixels)
    assert output.degenerate.tolist() == [True, True]
    assert output.saliency.eq(0).all() and output.native_saliency.eq(0).all()
    assert "2 of 2 maps of gradient_sum at 0 are constant" in caplog.text
    fine = explain(network, layers=["0"])(pixels)
    assert fine.degenerate.tolist() == [False, False]


def test_a_map_that_is_constant_once_it_is_shrunk_is_flagged(network, pixels):
    output = explain(network, layers=["blocks.0"], output_size=[1, 1])(pixels)
    assert output.degenerate.all() and output.saliency.eq(0).all()
    assert output.native_saliency.gt(0).any()


def test_one_degenerate_picture_does_not_touch_the_others(network):
    pixels = torch.stack([torch.zeros(3, 16, 16), torch.randn(3, 16, 16)])
    output = explain(network, method="grad_x_input", normalize="minmax")(pixels)
    assert output.degenerate.tolist() == [True, False]
    assert output.saliency[0].eq(0).all() and output.saliency[1].max() == 1


def test_saving_keeps_maps_and_settings(tmp_path, pixels):
    model = explain(family("resnet"), method="norm_grad_selective", output_size="native")
    model.save_pretrained(tmp_path)
    loaded = NormGradForImageSaliency.from_pretrained(tmp_path)
    pixels = torch.randn(1, 3, 64, 64)
    assert torch.equal(loaded(pixels).saliency, model(pixels).saliency)
    other = NormGradForImageSaliency.from_pretrained(tmp_path, method="grad_cam")
    assert other.config.recipe.name == "grad_cam"


def test_settings_may_be_changed_between_calls_and_are_checked(network, pixels):
    model = explain(network, layers=["blocks.1"])
    model.config.method = "linear_approx"
    expected = explain(network, layers=["blocks.1"], method="linear_approx")(pixels)
    assert torch.equal(model(pixels).saliency, expected.saliency)
    with pytest.raises(ValueError, match="combine must be one of"):
        model.config.combine = "nothing"
    assert torch.equal(model(pixels).saliency, expected.saliency)


def test_layers_are_listed_with_their_shapes(network):
    model = explain(network)
    layers = {layer.name: layer for layer in model.saliency_layers((16, 12), blocks_only=False)}
    assert next(iter(layers)) == "input"
    assert layers["input"].shape == (3, 16, 12)
    assert layers["blocks.0.0"].shape == (8, 8, 6)
    assert layers["last"].is_convolution and layers["last"].has_gradient
    assert not {"pool", "classifier"} & set(layers)
    blocks = [layer.name for layer in model.saliency_layers((16, 12))]
    assert blocks == ["input", "blocks.0.0", "blocks.0.1", "blocks.0", "blocks.1"]
    assert str(layers["last"]) == "last (10x4x3)"


class Channelwise(nn.Module):
    """Puts its features in (B, positions * channels), which nobody can guess."""

    def forward(self, x):
        return x.permute(0, 2, 3, 1).flatten(1)


class Scrambled(SmallNet):
    def __init__(self):
        super().__init__()
        self.scramble = Channelwise()

    def forward(self, pixel_values):
        x = self.scramble(F.relu(self.stem(pixel_values)))
        x = x.unflatten(1, (8, 6, 6)).permute(0, 3, 1, 2)
        return self.classifier(self.last(self.blocks[1](self.blocks[0](x))).mean((2, 3)))


def test_reshape_transform_reads_an_unusual_layout(pixels):
    network = spread_weights(Scrambled())
    plain = explain(network, layers=["scramble"], output_size="native")
    with pytest.raises(ValueError, match=r"returns shape \(2, 288\).*reshape_transform"):
        plain(pixels)
    plain.reshape_transform = lambda output: output.unflatten(1, (8, 6, 6)).permute(0, 3, 1, 2)
    found = plain(pixels, LABELS).saliency
    assert found.shape == (2, 3, 8, 6)
    usual = explain(network, layers=["activation"], output_size="native")
    with pytest.raises(ValueError, match=r"did not run"):
        usual(pixels)
    plain.reshape_transform = lambda output: output
    with pytest.raises(ValueError, match=r"must return \(B, channels, height, width\)"):
        plain(pixels)


def test_probe_weights_are_fitted_once_and_kept(network, tmp_path):
    pictures = torch.randn(24, 3, 16, 16)
    labels = torch.arange(24) % 3
    pictures[labels == 1] += 2.0  # the colour tells two of the classes apart at every depth
    model = explain(network, layers=["stem", "blocks.1", "last"], layer_weighting="probe")
    with pytest.raises(ValueError, match=r"call model.fit_layer_weights"):
        model(pictures[:1])
    weights = model.fit_layer_weights(pictures, labels, batch_size=5)
    assert sum(weights) == pytest.approx(1)
    assert model.config.layer_weights == weights
    assert model.config.layer_weighting == "probe"
    same = model.fit_layer_weights(list(zip(pictures, labels.tolist(), strict=True)))
    assert same == pytest.approx(weights)
    custom = explain(network, layers=["stem", "blocks.1", "last"], layer_weights=weights)
    assert torch.equal(model(pictures[:2]).saliency, custom(pictures[:2]).saliency)
    model.config.save_pretrained(tmp_path)
    assert NormGradConfig.from_pretrained(tmp_path).layer_weights == pytest.approx(weights)


def test_leave_one_out_is_really_leaving_one_out():
    torch.manual_seed(0)
    features = torch.randn(30, 12, dtype=torch.float64)
    labels = torch.randint(0, 3, (30,)) * 5
    features[:, 0] += labels / 4
    centred = features - features.mean(0)
    scale = centred.square().sum(1).mean()
    design = torch.cat([centred, scale.sqrt().expand(30, 1)], 1)
    targets = F.one_hot(labels // 5, 3).double()
    right = 0
    for index in range(30):
        kept = torch.arange(30) != index
        gram = design[kept].T @ design[kept] + 0.1 * scale * torch.eye(13, dtype=torch.float64)
        weights = torch.linalg.solve(gram, design[kept].T @ targets[kept])
        right += int((design[index] @ weights).argmax() == labels[index] // 5)
    assert 0 < right < 30
    assert leave_one_out_accuracy(features, labels) == pytest.approx(right / 30)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((torch.randn(4, 3, 16, 16), None), "needs labels"),
        (
            (torch.randn(4, 3, 16, 16), torch.arange(3)),
            r"labels must have shape \(4,\), one per picture",
        ),
        ((torch.randn(4, 3, 16, 16), torch.arange(4)), "at least one class with two pictures"),
        (([], None), "the dataset is empty"),
    ],
)
def test_probes_that_cannot_be_fitted(network, arguments, sentence):
    model = explain(network, layers=["stem", "last"])
    with pytest.raises(ValueError, match=sentence):
        model.fit_layer_weights(*arguments)
    with pytest.raises(ValueError, match="needs two or more layers"):
        explain(network, layers=["stem"]).fit_layer_weights(*arguments)
