"""What cannot be explained is refused in one sentence, and nothing is left behind."""

import logging
import threading

import pytest
import torch
import transformers
from torch import nn

from salhub.models.normgrad.modeling_normgrad import NormGradForImageSaliency
from tests.models.normgrad.networks import FullyConvolutional, SmallNet, family, spread_weights


@pytest.fixture
def network():
    return spread_weights(SmallNet())


@pytest.fixture
def pixels():
    return torch.randn(2, 3, 16, 12)


def explain(network, **settings):
    return NormGradForImageSaliency.from_classifier(network, **settings)


def test_an_unknown_layer_lists_the_closest_with_their_shapes(network, pixels):
    with pytest.raises(ValueError, match=r"layer 'block\.1' is not in the network") as caught:
        explain(network, layers=["block.1"])(pixels)
    message = str(caught.value)
    assert "blocks.1 (8x8x6)" in message and "blocks.0 (8x8x6)" in message
    assert message.count("x") >= 10  # five layers with their shapes
    assert "model.saliency_layers()" in message


@pytest.mark.parametrize(
    ("layer", "sentence"),
    [
        ("classifier", r"returns shape \(2, 5\), which has no positions"),
        ("blocks", r"'blocks' \(ModuleList\) did not run"),
        ("", "layers must name at least one layer"),
    ],
)
def test_layers_without_a_map(network, pixels, layer, sentence):
    with pytest.raises(Exception, match=sentence):
        explain(network, layers=[layer])(pixels)


def test_a_layer_that_runs_twice_is_ambiguous(network, pixels):
    network.blocks[0][1] = network.activation
    with pytest.raises(ValueError, match="'activation' runs more than once"):
        explain(network, layers=["activation"])(pixels)


def test_classes_are_checked_before_any_forward_pass(pixels):
    network = family("resnet")
    calls = []
    network.register_forward_pre_hook(lambda *_: calls.append(1))
    model = explain(network)
    pixels = torch.randn(2, 3, 64, 64)
    for labels, error in (
        (torch.tensor([0, 5]), ValueError),
        (torch.tensor([-1, 0]), ValueError),
        (torch.tensor([0.0, 1.0]), TypeError),
        (torch.tensor([0, 1, 2]), ValueError),
        (torch.zeros(2, 1, 1, dtype=torch.long), ValueError),
    ):
        with pytest.raises(error, match="class"):
            model(pixels, labels)
    assert calls == []


def test_a_class_out_of_range_of_a_plain_module(network, pixels):
    with pytest.raises(ValueError, match="class 5 is out of range: the classifier has 5 classes"):
        explain(network)(pixels, 5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_pixels_that_are_no_numbers(network, pixels, value):
    pixels[0, 0, 0, 0] = value
    with pytest.raises(ValueError, match="NaN or infinite"):
        explain(network)(pixels)


class NoGradientOfRoot(nn.Module):
    """Finite values whose gradient is infinite: the square root at 0."""

    def forward(self, x):
        return (x * 0).sqrt() + x


def test_an_infinite_gradient_names_the_layer(network, pixels):
    network.last.append = None
    network.blocks.append(NoGradientOfRoot())
    with pytest.raises(ValueError, match=r"the gradient of layer 'blocks.1' has NaN or infinite"):
        explain(network, layers=["blocks.1"])(pixels)


def test_an_infinite_activation_names_the_weight_or_else_the_layer(network, pixels):
    handle = network.blocks[1].register_forward_hook(lambda *passed: passed[-1] * float("inf"))
    with pytest.raises(ValueError, match=r"the activation of layer 'blocks.1' has NaN or infinite"):
        explain(network, layers=["blocks.1"])(pixels)
    handle.remove()
    network.blocks[1].convolution.bias.data.fill_(float("inf"))
    with pytest.raises(
        ValueError,
        match=r"infinite values, first in 'blocks\.1\.convolution\.bias', so its outputs would be",
    ):
        explain(network, layers=["blocks.1"])(pixels)


def test_pixels_in_0_to_255_get_a_warning(network, caplog):
    with caplog.at_level(logging.WARNING, logger="salhub"):
        explain(network)(torch.rand(1, 3, 16, 16) * 255)
    assert "do not look normalized" in caplog.text


class Quantised(nn.Module):
    def forward(self, x):
        return (x * 10).to(torch.int8)


class QuantisedNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.quantise, self.linear = Quantised(), nn.Linear(3, 4)

    def forward(self, x):
        return self.linear(self.quantise(x).div(10).mean((2, 3)))


def test_quantised_networks_have_no_gradient(pixels):
    model = explain(QuantisedNet(), layers=["quantise"])
    with pytest.raises(ValueError, match="gradients cannot explain quantized networks"):
        model(pixels)


class CutGraph(SmallNet):
    def forward(self, pixel_values):
        return super().forward(pixel_values).detach()


def test_a_network_that_cuts_its_graph(pixels):
    with pytest.raises(ValueError, match="logits have no gradient with respect to stem"):
        explain(CutGraph(), layers=["stem"])(pixels)


def test_a_layer_beside_the_way_to_the_logits():
    model = explain(family("resnet").requires_grad_(True), layers=["resnet"])
    with pytest.raises(ValueError, match="do not depend on what layer 'resnet' returns"):
        model(torch.randn(1, 3, 64, 64))


def test_cam_needs_an_averaged_layer_before_one_linear_layer(network, pixels):
    with pytest.raises(ValueError, match=r"the mean of 'blocks\.1' does not; leave layers out"):
        explain(network, method="cam", layers=["blocks.1"])(pixels)
    with pytest.raises(ValueError, match=r"this network does not. Use method='grad_cam'"):
        explain(network, method="cam")(pixels)  # the maps are rectified outside of any module
    fully_convolutional = spread_weights(FullyConvolutional())
    with pytest.raises(ValueError, match=r"this network does not. Use method='grad_cam'"):
        explain(fully_convolutional, method="cam")(pixels)


def test_proper_needs_a_convolution(network, pixels):
    with pytest.raises(ValueError, match=r"layer 'blocks.1' is a InPlaceAdd"):
        explain(network, method="norm_grad_proper", layers=["blocks.1"])(pixels)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(576, 3))
    with pytest.raises(ValueError, match="no 2-D convolution"):
        explain(linear, method="norm_grad_proper")(pixels)


def test_a_network_without_positions(pixels):
    with pytest.raises(ValueError, match=r"explain the pixels with layers=\['input'\]"):
        explain(nn.Sequential(nn.Flatten(), nn.Linear(576, 3)))(pixels)
    output = explain(nn.Sequential(nn.Flatten(), nn.Linear(576, 3)), layers=["input"])(pixels)
    assert not output.degenerate.any()


def test_contrast_needs_two_classes(pixels):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(560, 1))
    with pytest.raises(ValueError, match="at least two classes"):
        explain(network, contrastive=True, layers=["0"])(pixels)


def test_logits_of_an_unknown_shape(pixels):
    with pytest.raises(ValueError, match=r"must return logits of shape .* got \(2, 3, 192\)"):
        explain(nn.Flatten(2), layers=["input"])(pixels)


@pytest.mark.parametrize("methods", [[], ["norm_gard"], [("bias",)], [("bias", "nrom")]])
def test_a_grid_of_unknown_methods(network, pixels, methods):
    with pytest.raises((ValueError, TypeError), match=r"method|aggregate"):
        explain(network).forward_grid(pixels, methods=methods)


class Failure(Exception):
    pass


def state_of(network):
    return {
        "training": [module.training for module in network.modules()],
        "hooks": [
            [len(hooks) for key, hooks in vars(module).items() if "_hooks" in key]
            for module in network.modules()
        ],
        "flags": [parameter.requires_grad for parameter in network.parameters()],
        "grads": [parameter.grad for parameter in network.parameters()],
        "values": [float(value.double().sum()) for value in network.state_dict().values()],
        "random": torch.get_rng_state().tolist(),
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
    }


@pytest.mark.parametrize("where", ["stem", "classifier"])
@pytest.mark.parametrize("settings", [
    {"layers": ["blocks.0", "last"]},
    {"method": "guided_backprop"},
    {"method": "norm_grad_proper", "layers": ["last"]},
    {"meta_step": 0.1},
    {"method": "cam"},
    {},
])  # fmt: skip
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_nothing_leaks_even_when_the_network_fails_midway(network, pixels, settings, where, mode):
    network.train()
    network.stem.weight.requires_grad_(False)
    model = explain(network, **settings)
    network.train()

    def fail(*_):
        raise Failure

    with mode():
        before = state_of(network)
        handle = network.get_submodule(where).register_forward_pre_hook(fail)
        with pytest.raises(Failure):
            model(pixels)
        handle.remove()
        assert state_of(network) == before
    if settings.get("method") != "cam":
        model(pixels)
        assert state_of(network) == before | {"modes": (True, False)}


@pytest.mark.parametrize("settings", [{}, {"meta_step": 0.1}, {"method": "guided_backprop"}])
def test_threads_on_one_network_do_not_meet(network, settings):
    pictures = torch.randn(8, 3, 16, 16)
    model = explain(network, layers=["blocks.0", "blocks.1"], **settings)
    network.train()
    alone = [model(picture[None]).saliency for picture in pictures]
    found = [[] for _ in pictures]
    failures = []

    def work(index):
        try:
            found[index] = [model(pictures[index][None]).saliency for _ in range(5)]
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for expected, maps in zip(alone, found, strict=True):
        assert len(maps) == 5
        assert all(torch.equal(one, expected) for one in maps)


class Wrapped(nn.Module):
    """Passes what a network puts out through a function."""

    def __init__(self, network, change):
        super().__init__()
        self.network, self.change = network, change

    def forward(self, x):
        return self.change(self.network(x))


def test_an_image_size_in_a_nested_configuration():
    vision = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 48,
        "patch_size": 16,
    }
    network = transformers.CLIPForImageClassification(transformers.CLIPConfig(vision_config=vision))
    layers = explain(spread_weights(network)).saliency_layers()
    assert layers[0].shape == (3, 48, 48) and layers[-1].shape == (16, 3, 3)


def test_probabilities_get_one_warning(network, pixels, caplog):
    model = explain(
        Wrapped(network, lambda logits: logits.softmax(-1)), layers=["network.blocks.1"]
    )
    with caplog.at_level(logging.WARNING, logger="salhub"):
        model(pixels)
        model.forward_grid(pixels)
        assert caplog.text.count("returns probabilities") == 1
        caplog.clear()
        explain(network)(pixels)
        explain(Wrapped(network, torch.abs))(pixels)
        explain(Wrapped(network, lambda logits: logits.softmax(-1) - 1 / 5 + 1e-3))(pixels)
    assert "probabilities" not in caplog.text


class WithoutGradient(SmallNet):
    @torch.no_grad()
    def forward(self, pixel_values):
        return super().forward(pixel_values)


class CutEverywhere(SmallNet):
    def forward(self, pixel_values):
        return super().forward(pixel_values).detach()


def test_networks_that_cut_their_graph_with_the_default_layer(pixels):
    with pytest.raises(ValueError, match="the network cuts its own graph"):
        explain(CutEverywhere())(pixels)
    # Gradients are switched on inside such a forward pass, so there is nothing to refuse.
    plain, without = spread_weights(SmallNet()), WithoutGradient()
    without.load_state_dict(plain.state_dict())
    assert torch.equal(explain(without)(pixels).saliency, explain(plain)(pixels).saliency)


@pytest.mark.parametrize("layers", [None, ["network.blocks.1"]])
@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        (lambda x: {"scores": x}, TypeError, "returned dict with scores, which contains no logits"),
        (lambda x: [], TypeError, "returned list, which contains no logits"),
        (lambda x: None, TypeError, "returned NoneType, which contains no logits"),
        (lambda x: x[:, 0], ValueError, r"must return logits of shape .*, got \((1|2|3),\)"),
    ],
)
def test_outputs_without_logits(network, pixels, layers, change, error, sentence):
    with pytest.raises(error, match=sentence):
        explain(Wrapped(network, change), layers=layers)(pixels)


def test_outputs_with_logits_of_every_kind(network, pixels):
    expected = explain(network, layers=["blocks.1"])(pixels).saliency
    for change in (lambda x: {"loss": None, "logits": x}, lambda x: (x, None), lambda x: [x]):
        model = explain(Wrapped(network, change), layers=["network.blocks.1"])
        assert torch.equal(model(pixels).saliency, expected)


@pytest.mark.parametrize("settings", [{}, {"layers": ["blocks.0"]}, {"meta_step": 0.1}])
def test_parameters_made_under_inference_mode(pixels, settings):
    with torch.inference_mode():
        network = SmallNet()
    with pytest.raises(ValueError, match="load it outside inference_mode"):
        explain(network.eval(), **settings)(pixels)


class NamedInput(SmallNet):
    def __init__(self):
        super().__init__()
        self.input = nn.Sequential(nn.Conv2d(3, 3, 1))

    def forward(self, pixel_values):
        return super().forward(self.input(pixel_values))


def test_a_module_called_as_the_pixels_is_ambiguous(pixels):
    network = spread_weights(NamedInput())
    with pytest.raises(ValueError, match="also has a module called 'input'"):
        explain(network, layers=["input"])(pixels)
    with pytest.raises(ValueError, match="also has a module called 'input'"):
        explain(network).forward_grid(pixels, layers=["input", "stem"])
    names = [layer.name for layer in explain(network).saliency_layers(16, blocks_only=False)]
    assert names.count("input") == 1 and "input.0" in names
    leaf = pixels.clone().requires_grad_()
    (expected,) = torch.autograd.grad(network(leaf)[:, 1].sum(), leaf)
    found = explain(network, method="gradient")(pixels, 1).saliency
    torch.testing.assert_close(found, expected.abs().amax(1))


@pytest.mark.parametrize("labels", ["1", [None, 1], [[1], [2, 3]], 2**70])
def test_labels_that_are_no_numbers_are_refused_in_one_sentence(labels):
    model = NormGradForImageSaliency.from_classifier(plain_network())
    with pytest.raises(TypeError, match="class_labels must be integers"):
        model(torch.rand(1, 3, 8, 8), class_labels=labels)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_scripted_networks_are_refused_when_the_explainer_is_made():
    with pytest.raises(ValueError, match="the network is scripted"):
        NormGradForImageSaliency.from_classifier(torch.jit.script(nn.Conv2d(3, 2, 8)))
    with pytest.raises(ValueError, match="'0' is a scripted module"):
        NormGradForImageSaliency.from_classifier(
            nn.Sequential(torch.jit.script(nn.Conv2d(3, 2, 8)), nn.Flatten())
        )


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(
        ValueError, match=r"has no config\.json, so it does not contain a classifier"
    ):
        NormGradForImageSaliency.from_classifier(str(tmp_path))


def plain_network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    )


def test_a_network_may_call_an_attribute_memory_format():
    network = plain_network()
    network.memory_format = "channels_last"
    model = NormGradForImageSaliency.from_classifier(network, layers="0")
    assert model(torch.rand(1, 3, 8, 8)).saliency.shape == (1, 8, 8)


@pytest.mark.parametrize("settings", [{}, {"meta_step": 1e-9}, {"method": "guided_backprop"}])
def test_a_network_that_changes_its_input_does_not_change_the_callers(settings):
    network = nn.Sequential(nn.ReLU(inplace=True), *plain_network())
    model = NormGradForImageSaliency.from_classifier(network, layers="1", **settings)
    given = torch.randn(1, 3, 8, 8)
    before = given.clone()
    first = model(given, class_labels=1).saliency
    assert torch.equal(given, before)
    torch.testing.assert_close(model(given, class_labels=1).saliency, first, rtol=0, atol=0)
