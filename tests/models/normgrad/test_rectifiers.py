"""Deconvnet and guided backprop against a backward pass written by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from salhub.models.normgrad.modeling_normgrad import NormGradForImageSaliency
from salhub.models.normgrad.rectifiers import RectifierRule
from tests.models.normgrad.networks import RectifierNet, spread_weights

INFINITY = float("inf")
# name -> (network's rectifier as a function, or two modules; upper end of its open interval)
RECTIFIERS = {
    "nn.ReLU": ([nn.ReLU(), nn.ReLU()], INFINITY),
    "nn.ReLU in place": ([nn.ReLU(inplace=True), nn.ReLU(inplace=True)], INFINITY),
    "torch.relu": (torch.relu, INFINITY),
    "torch.relu_": (lambda x: torch.relu_(x.clone()), INFINITY),
    "F.relu": (F.relu, INFINITY),
    "F.relu in place": (lambda x: F.relu(x, inplace=True), INFINITY),
    "Tensor.relu": (lambda x: x.relu(), INFINITY),
    "Tensor.relu_": (lambda x: x.relu_(), INFINITY),
    "nn.ReLU6": ([nn.ReLU6(), nn.ReLU6()], 6.0),
    "nn.ReLU6 in place": ([nn.ReLU6(inplace=True), nn.ReLU6(inplace=True)], 6.0),
    "F.relu6": (F.relu6, 6.0),
    "F.relu6 in place": (lambda x: F.relu6(x, True), 6.0),
    "F.hardtanh": (lambda x: F.hardtanh(x, 0.0, 2.0), 2.0),
    "F.hardtanh in place": (lambda x: F.hardtanh(x, min_val=0, max_val=2, inplace=True), 2.0),
    "F.hardtanh_": (lambda x: F.hardtanh_(x, 0.0, 2.0), 2.0),
    "nn.Hardtanh": ([nn.Hardtanh(0.0, 6.0), nn.Hardtanh(0.0, 6.0, inplace=True)], 6.0),
}


def network_of(name):
    rectifier, upper = RECTIFIERS[name]
    modules = rectifier if isinstance(rectifier, list) else ()
    network = spread_weights(RectifierNet(None if modules else rectifier, modules))
    # Large enough that ReLU6 is closed at both ends somewhere.
    network.first.weight.data.mul_(3)
    return network.double(), upper


def backward_by_hand(network, upper, rule, pixels, label):
    """Gradients at the pixels, the first convolution and the second rectifier's output."""

    def through(gradient, before):
        if rule == "deconvnet":
            return gradient.clamp(min=0)
        is_open = (before > 0) & (before < upper)
        passed = gradient * is_open
        return passed if rule is None else passed.clamp(min=0)

    first = F.conv2d(pixels, network.first.weight, network.first.bias, padding=1)
    second = F.conv2d(first.clamp(0, upper), network.second.weight, network.second.bias, padding=1)
    output = network.classifier.weight[label].view(1, 6, 8, 8).expand(len(pixels), -1, -1, -1)
    into_first = F.conv_transpose2d(through(output, second), network.second.weight, padding=1)
    at_first = through(into_first, first)
    at_pixels = F.conv_transpose2d(at_first, network.first.weight, padding=1)
    assert bool((first > upper).any()) == (upper < INFINITY)
    return at_pixels, at_first, output


@pytest.mark.parametrize("rule", [None, "deconvnet", "guided"])
@pytest.mark.parametrize("name", RECTIFIERS)
def test_rules_by_hand(name, rule):
    network, upper = network_of(name)
    pixels = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        at_pixels, at_first, _ = backward_by_hand(network, upper, rule, pixels, 2)
    model = NormGradForImageSaliency.from_classifier(
        network, method="gradient", relu_rule=rule, output_size="native", layers=["input"]
    )
    output = model(pixels, 2)
    expected = at_pixels.abs().amax(1)
    assert (output.saliency - expected).abs().max() <= 1e-5 * expected.max()
    at_layer = model.forward_grid(pixels, 2, methods=[("bias", "sum")], layers=["first"])
    if rule is None:
        model.config.relu_rule = None
        torch.testing.assert_close(
            at_layer["bias/sum", "first"].saliency, at_first.sum(1).float(), rtol=1e-5, atol=1e-6
        )
    # The rule changes gradients only: the logits are the network's to the last bit.
    assert torch.equal(output.logits, network(pixels).detach())


@pytest.mark.parametrize(
    ("method", "rule"), [("deconvnet", "deconvnet"), ("guided_backprop", "guided")]
)
@pytest.mark.parametrize("name", ["nn.ReLU", "nn.ReLU6", "F.relu6"])
def test_named_methods_use_their_rule(name, method, rule):
    network, upper = network_of(name)
    pixels = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        expected = backward_by_hand(network, upper, rule, pixels, 1)[0].abs().amax(1)
        plain = backward_by_hand(network, upper, None, pixels, 1)[0].abs().amax(1)
    found = NormGradForImageSaliency.from_classifier(network, method=method)(pixels, 1).saliency
    assert (found - expected).abs().max() <= 1e-5 * expected.max()
    # Hooks on nn.ReLU alone would leave a ReLU6 network at its plain gradient.
    assert (found - plain).abs().max() > 0.1 * plain.max()


@pytest.mark.parametrize("name", ["nn.ReLU", "nn.ReLU in place", "nn.ReLU6"])
@pytest.mark.parametrize("rule", ["deconvnet", "guided"])
def test_the_gradient_at_a_rectifiers_own_output_is_not_altered(name, rule):
    network, upper = network_of(name)
    pixels = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        at_first = backward_by_hand(network, upper, rule, pixels, 0)[1]
        into_first = F.conv_transpose2d(
            _second_gradient(network, upper, rule, pixels), network.second.weight, padding=1
        )
    settings = {"method": "gradient_sum", "relu_rule": rule, "output_size": "native"}
    for layer, expected in (("rectifiers.0", into_first), ("first", at_first)):
        model = NormGradForImageSaliency.from_classifier(network, layers=[layer], **settings)
        found = model(pixels, 0).saliency
        torch.testing.assert_close(found, expected.sum(1).float(), rtol=1e-5, atol=1e-5)


def _second_gradient(network, upper, rule, pixels):
    first = F.conv2d(pixels, network.first.weight, network.first.bias, padding=1)
    second = F.conv2d(first.clamp(0, upper), network.second.weight, network.second.bias, padding=1)
    gradient = network.classifier.weight[0].view(1, 6, 8, 8).clamp(min=0).expand(2, -1, -1, -1)
    return gradient if rule == "deconvnet" else gradient * ((second > 0) & (second < upper))


def test_an_in_place_rectifier_still_overwrites_its_input():
    x = torch.randn(4, requires_grad=True)
    with RectifierRule("guided"):
        before = x * 1
        after = F.relu(before, inplace=True)
    assert after is before
    assert torch.equal(before.detach(), x.detach().clamp(min=0))


UNDEFINED = {
    "SiLU": F.silu,
    "GELU": F.gelu,
    "Hardswish": F.hardswish,
    "LeakyReLU": F.leaky_relu,
    "ELU": F.elu,
    "PReLU": nn.PReLU(),
    "Softplus": F.softplus,
    "Mish": F.mish,
    "Hardtanh from -1.0 to 1.0": F.hardtanh,
}


@pytest.mark.parametrize("name", UNDEFINED)
@pytest.mark.parametrize("method", ["deconvnet", "guided_backprop"])
def test_curved_activations_are_refused(name, method):
    network = RectifierNet(UNDEFINED[name])
    model = NormGradForImageSaliency.from_classifier(network, method=method)
    with pytest.raises(ValueError, match=f"rectifiers only, and this network uses {name}"):
        model(torch.randn(1, 3, 8, 8))
    # It left nothing behind: the plain gradient still works.
    NormGradForImageSaliency.from_classifier(network, method="gradient")(torch.randn(1, 3, 8, 8))


def test_a_curved_activation_below_the_layer_does_no_harm():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    )
    model = NormGradForImageSaliency.from_classifier(
        spread_weights(network), method="gradient", relu_rule="guided", layers=["2"]
    )
    assert not model(torch.randn(1, 3, 8, 8)).degenerate.any()


def test_a_network_without_rectifiers_is_refused():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 3))
    model = NormGradForImageSaliency.from_classifier(network, method="guided_backprop")
    with pytest.raises(ValueError, match="changes nothing: no ReLU, ReLU6 or Hardtanh"):
        model(torch.randn(1, 3, 8, 8))
