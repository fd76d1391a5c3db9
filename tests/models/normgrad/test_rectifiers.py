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
    "clamp(min=0)": (lambda x: x.clamp(min=0), INFINITY),
    "torch.clamp(x, 0, 2)": (lambda x: torch.clamp(x, 0, 2), 2.0),
    "clip(0)": (lambda x: x.clip(0), INFINITY),
    "clamp_": (lambda x: x.clamp_(0.0), INFINITY),
    "clamp with a tensor": (lambda x: x.clamp(min=torch.zeros(())), INFINITY),
    "clamp_min": (lambda x: torch.clamp_min(x, 0), INFINITY),
    "clamp_min_": (lambda x: x.clamp_min_(0), INFINITY),
    "nn.Threshold": ([nn.Threshold(0, 0), nn.Threshold(0.0, 0.0, inplace=True)], INFINITY),
    "F.threshold": (lambda x: F.threshold(x, 0, 0), INFINITY),
    "torch.threshold": (lambda x: torch.threshold(x, 0, 0), INFINITY),
    "torch.maximum": (lambda x: torch.maximum(x, torch.zeros(()).double()), INFINITY),
    "torch.maximum, swapped": (lambda x: torch.maximum(torch.zeros_like(x), x), INFINITY),
    "torch.max": (lambda x: torch.max(x, x.new_zeros(1)), INFINITY),
    "torch.where": (lambda x: torch.where(x > 0, x, 0.0), INFINITY),
    "torch.where, swapped": (lambda x: torch.where(x <= 0, torch.zeros_like(x), x), INFINITY),
    "Tensor.where": (lambda x: x.where(x >= 0, 0.0), INFINITY),
    "masked_fill": (lambda x: x.masked_fill(x < 0, 0.0), INFINITY),
    "masked_fill_": (lambda x: x.masked_fill_(x < 0, 0.0), INFINITY),
    "product": (lambda x: x * (x > 0), INFINITY),
    "product, swapped": (lambda x: (x > 0).to(x.dtype) * x, INFINITY),
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
    "a clamp from -1 to 1": lambda x: x.clamp(-1, 1),
    "Threshold at 0.5": nn.Threshold(0.5, 0.0),
    "an elementwise maximum": lambda x: torch.maximum(x, 0.1 * x),
    "an activation made with torch.where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "an assignment by the sign": lambda x: assigned(x.clone()),
    "SELU": lambda x: F.selu(x.clone(), inplace=True),
    "CELU": lambda x: torch.celu_(x.clone()),
}
WRITTEN_OUT = {
    "SiLU": lambda x: x * torch.sigmoid(x),
    "SiLU, swapped": lambda x: x.sigmoid() * x,
    "SiLU in place": lambda x: x.clone().mul_(x.sigmoid()),
    "SiLU, divided": lambda x: x / (1 + torch.exp(-x)),
    "QuickGELU": lambda x: x * torch.sigmoid(1.702 * x),
    "GELU": lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)),
    "GELU by tanh": lambda x: 0.5 * x * (1 + torch.tanh(0.798 * (x + 0.0447 * torch.pow(x, 3)))),
    "Mish": lambda x: x * torch.tanh(torch.log(1 + torch.exp(x))),
    "Hardswish": lambda x: x * F.relu6(x + 3) / 6,
    "Hardswish, its gate first": lambda x: x * (F.relu6(x + 3) / 6),
    "Hardswish by hardsigmoid": lambda x: x * F.hardsigmoid(x),
}


def assigned(x):
    x[x < 0] = 0
    return x


@pytest.mark.parametrize("name", WRITTEN_OUT)
@pytest.mark.parametrize("method", ["deconvnet", "guided_backprop"])
@pytest.mark.parametrize("has_relu", [False, True])
def test_curved_activations_written_out_are_refused(name, method, has_relu):
    second = nn.ReLU() if has_relu else None
    network = RectifierNet(WRITTEN_OUT[name])
    if second is not None:
        network.second = nn.Sequential(network.second, second)
    model = NormGradForImageSaliency.from_classifier(network, method=method)
    with pytest.raises(ValueError, match="a value times a squashed function of itself"):
        model(torch.randn(1, 3, 8, 8))


class Gated(nn.Module):
    """Gates, attention and guards around one ReLU, none of them an activation."""

    def __init__(self):
        super().__init__()
        self.first, self.gate = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 1)
        self.classifier = nn.Linear(6, 3)

    def rectify(self, x):
        return F.relu(x)

    def forward(self, pixel_values):
        x = self.rectify(self.first(pixel_values))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        x = x * torch.ones_like(x)
        x = torch.where(torch.ones_like(x, dtype=torch.bool), x, 0.0)
        x = x * torch.sigmoid(self.gate(x))
        x = x * torch.rsqrt((x * x).mean(1, keepdim=True) + 1e-6)
        tokens = x.flatten(2).transpose(1, 2).clamp(-65000, 65000)
        scores = tokens @ tokens.transpose(1, 2)
        weights = torch.exp(scores - scores.amax(-1, keepdim=True))
        weights = weights / weights.sum(-1, keepdim=True)
        tokens = (weights @ tokens) / tokens.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        return self.classifier(tokens.mean(1))


def test_gates_attention_and_guards_keep_their_true_gradient():
    class Guided(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            context.save_for_backward(x)
            return x.clamp(min=0)

        @staticmethod
        def backward(context, gradient):
            return gradient.clamp(min=0) * (context.saved_tensors[0] > 0)

    network = spread_weights(Gated())
    pixels = torch.randn(1, 3, 8, 8)
    model = NormGradForImageSaliency.from_classifier(network, method="guided_backprop")
    found = model(pixels, 1).saliency
    network.rectify = Guided.apply
    leaf = pixels.clone().requires_grad_()
    (expected,) = torch.autograd.grad(network(leaf)[0, 1], leaf)
    torch.testing.assert_close(found, expected.abs().amax(1), rtol=1e-4, atol=1e-7)


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
