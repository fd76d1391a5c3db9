"""Every method of the family against a slow restatement: virtual layers are really inserted."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from salhub.models.normgrad.extract_aggregate import AGGREGATES, EXTRACTS
from salhub.models.normgrad.modeling_normgrad import NormGradForImageSaliency
from tests.models.normgrad.networks import SmallNet, spread_weights

LAYERS = ["input", "stem", "blocks.0.0", "blocks.1", "last"]
CLASSES = torch.tensor([1, 3])


class PositionwiseIdentity(nn.Module):
    """The virtual layer with a parameter of its own at every position, so that each position's
    share of the shared parameter's gradient can be read off."""

    def __init__(self, extract, shape):
        super().__init__()
        batch, channels, height, width = shape
        self.extract, self.positions = extract, (height, width)
        size = 9 if "3x3" in extract else 1
        identity = torch.zeros(channels, channels, size, dtype=torch.float64)
        identity[range(channels), range(channels), size // 2] = 1
        start = {
            "bias": torch.zeros(channels),
            "scaling": torch.ones(channels),
            "conv1x1": identity.flatten(1),
            "conv3x3": identity.flatten(1),
            "conv3x3_depthwise": identity.sum(1),
        }[extract].double()
        shares = start.expand(batch, height * width, *start.shape).clone()
        self.parameter = nn.Parameter(shares)

    def forward(self, x):
        flat = x.flatten(2).transpose(1, 2)  # (B, positions, K)
        if self.extract == "bias":
            y = flat + self.parameter
        elif self.extract == "scaling":
            y = flat * self.parameter
        else:
            size = 3 if "3x3" in self.extract else 1
            window = F.unfold(x, size, padding=size // 2).transpose(1, 2)
            if self.extract == "conv3x3_depthwise":
                y = (window.unflatten(-1, (x.shape[1], 9)) * self.parameter).sum(-1)
            else:
                y = torch.einsum("bpij,bpj->bpi", self.parameter, window)
        return y.transpose(1, 2).unflatten(2, self.positions)


def shared_identity(extract, channels):
    """The virtual layer as a person would insert it, and its parameter."""
    if "conv" in extract:
        size = 1 if extract == "conv1x1" else 3
        groups = channels if extract == "conv3x3_depthwise" else 1
        layer = nn.Conv2d(channels, channels, size, padding=size // 2, groups=groups, bias=False)
        nn.init.dirac_(layer.weight, groups=groups)
        return layer.double(), layer.weight
    if extract == "bias":
        beta = nn.Parameter(torch.zeros(channels, 1, 1, dtype=torch.float64))
        return (lambda x: x + beta), beta
    alpha = nn.Parameter(torch.ones(channels, 1, 1, dtype=torch.float64))
    return (lambda x: x * alpha), alpha


def insert(network, layer, virtual):
    """Runs `virtual` after a layer of the network (or on the pixels)."""
    if layer == "input":
        return network.register_forward_pre_hook(lambda module, args: (virtual(args[0]),))
    module = network.get_submodule(layer)
    return module.register_forward_hook(lambda module, args, output: virtual(output.clone()))


def scores_with(network, layer, virtual, pixels):
    handle = insert(network, layer, virtual)
    try:
        logits = network(pixels)
    finally:
        handle.remove()
    return logits, logits.gather(1, CLASSES[:, None]).sum()


def aggregate_of(shares, aggregate):
    return {
        "sum": lambda: shares.sum(-1),
        "norm": lambda: shares.square().sum(-1).sqrt(),
        "filter_norm": lambda: shares.clamp(min=0).square().sum(-1).sqrt(),
        "max": lambda: shares.amax(-1),
        "max_abs": lambda: shares.abs().amax(-1),
        "abs_sum": lambda: shares.abs().sum(-1),
    }[aggregate]()


@pytest.fixture
def network():
    return spread_weights(SmallNet()).double()


@pytest.fixture
def pixels():
    return torch.randn(2, 3, 12, 10, dtype=torch.float64)


def assert_same(found, expected):
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert expected.abs().max() > 0


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("extract", EXTRACTS)
def test_maps_are_the_gradients_of_a_layer_really_inserted(network, pixels, extract, layer):
    model = NormGradForImageSaliency.from_classifier(network, output_size="native")
    found = model.forward_grid(
        pixels, CLASSES, methods=[(extract, name) for name in AGGREGATES], layers=[layer]
    )
    height, width = next(iter(found.values())).saliency.shape[-2:]
    channels = {"input": 3, "stem": 6, "blocks.0.0": 8, "blocks.1": 8, "last": 10}[layer]
    virtual = PositionwiseIdentity(extract, (2, channels, height, width))
    logits, score = scores_with(network, layer, virtual, pixels)
    torch.testing.assert_close(logits, network(pixels))  # the inserted layer changes nothing
    (shares,) = torch.autograd.grad(score, virtual.parameter)
    shares = shares.flatten(2)  # (B, positions, parameters)
    for aggregate in AGGREGATES:
        expected = aggregate_of(shares, aggregate).unflatten(1, (height, width))
        assert_same(found[f"{extract}/{aggregate}", layer].saliency, expected)
    # Summed over the positions, the shares are the gradient of the shared layer's parameter.
    layer_of_torch, parameter = shared_identity(extract, channels)
    _, score = scores_with(network, layer, layer_of_torch, pixels)
    (whole,) = torch.autograd.grad(score, parameter)
    torch.testing.assert_close(shares.sum((0, 1)), whole.flatten())


def gradient_at(network, layer, pixels, classes=CLASSES):
    """(activation, gradient) of a layer by plain autograd."""
    kept = {}
    if layer == "input":
        kept["x"] = pixels.clone().requires_grad_()
        logits = network(kept["x"].clone())
    else:

        def keep(module, args, output):
            kept["x"] = output
            return output.clone()

        handle = network.get_submodule(layer).register_forward_hook(keep)
        logits = network(pixels)
        handle.remove()
    (gradient,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), kept["x"])
    return kept["x"].detach(), gradient


NAMED = {
    "gradient": lambda x, g: g.abs().amax(1),
    "gradient_sum": lambda x, g: g.sum(1),
    "grad_x_input": lambda x, g: (g * x).sum(1),
    "linear_approx": lambda x, g: (g * x).sum(1),
    "hires_cam": lambda x, g: (g * x).sum(1).relu(),
    "grad_cam": lambda x, g: (g.mean((2, 3), keepdim=True) * x).sum(1).relu(),
    "grad_cam_signed": lambda x, g: (g.mean((2, 3), keepdim=True) * x).sum(1),
    "norm_grad": lambda x, g: g.norm(dim=1) * x.norm(dim=1),
    "norm_grad_selective": lambda x, g: (g * x).clamp(min=0).norm(dim=1),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("method", NAMED)
def test_named_methods_by_their_formulas(network, pixels, method, layer):
    model = NormGradForImageSaliency.from_classifier(
        network, method=method, layers=[layer], output_size="native"
    )
    assert_same(
        model(pixels, CLASSES).saliency, NAMED[method](*gradient_at(network, layer, pixels))
    )


@pytest.mark.parametrize(
    ("method", "layer"),
    [("gradient", "input"), ("grad_x_input", "input"), ("norm_grad", "blocks.1")],
)
def test_default_layers(network, pixels, method, layer):
    model = NormGradForImageSaliency.from_classifier(network, method=method, output_size="native")
    assert_same(
        model(pixels, CLASSES).saliency, NAMED[method](*gradient_at(network, layer, pixels))
    )


def test_cam_is_the_head_weight_times_the_averaged_maps(pixels):
    network = spread_weights(
        nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU()),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6, 5),
        )
    ).double()
    model = NormGradForImageSaliency.from_classifier(network, method="cam", output_size="native")
    output = model(pixels, CLASSES)
    features = network[0](pixels)
    expected = torch.einsum("bk,bkhw->bhw", network[3].weight[CLASSES], features)
    assert_same(output.saliency, expected.detach())
    # The mean of a class activation map is the logit without its bias.
    bias = network[3].bias[CLASSES]
    chosen = output.logits.gather(1, CLASSES[:, None])[:, 0]
    torch.testing.assert_close(
        output.saliency.double().mean((1, 2)), chosen - bias, rtol=1e-5, atol=0
    )


def test_linear_approximation_at_the_last_maps_sums_to_the_logit_without_bias(pixels):
    network = SmallNet()
    # The maps that are averaged need a name.
    network.last = nn.Sequential(network.last, nn.ReLU6())
    network = spread_weights(network).double()
    model = NormGradForImageSaliency.from_classifier(
        network, method="linear_approx", layers=["last"], output_size="native"
    )
    output = model(pixels, CLASSES)
    logit = output.logits.gather(1, CLASSES[:, None])[:, 0]
    torch.testing.assert_close(
        output.saliency.double().sum((1, 2)) + network.classifier.bias[CLASSES].detach(),
        logit,
        rtol=1e-6,
        atol=1e-6,
    )


PROPER = {
    "strided": nn.Conv2d(8, 6, 3, stride=2, padding=1),
    "dilated": nn.Conv2d(8, 6, 3, padding=2, dilation=2),
    "grouped": nn.Conv2d(8, 6, 3, padding=1, groups=2),
    "depthwise": nn.Conv2d(8, 16, 5, padding=2, groups=8),
    "same": nn.Conv2d(8, 6, (3, 4), padding="same", dilation=(1, 2)),
    "valid": nn.Conv2d(8, 6, 3, padding="valid"),
    "reflected": nn.Conv2d(8, 6, 3, padding=1, padding_mode="reflect"),
}


@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize("name", PROPER)
def test_proper_maps_are_weight_gradients_position_by_position(name, aggregate, pixels):
    convolution = PROPER[name]
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), convolution, nn.Tanh(), nn.AdaptiveAvgPool2d(2)
    )
    network.append(nn.Flatten())
    network.append(nn.Linear(4 * convolution.out_channels, 5))
    spread_weights(network).double()
    model = NormGradForImageSaliency.from_classifier(
        network, virtual_identity=False, aggregate=aggregate, layers=["2"], output_size="native"
    )
    found = model(pixels, CLASSES).saliency
    convolution.weight.requires_grad_()
    _, g = gradient_at(network, "2", pixels)
    inputs = network[1](network[0](pixels)).detach()
    expected = torch.zeros(2, *g.shape[-2:], dtype=torch.float64)
    for sample in range(2):
        output = convolution(inputs[sample : sample + 1])[0]
        for row in range(g.shape[-2]):
            for column in range(g.shape[-1]):
                score = (output[:, row, column] * g[sample, :, row, column]).sum()
                (share,) = torch.autograd.grad(score, convolution.weight, retain_graph=True)
                expected[sample, row, column] = aggregate_of(share.flatten(), aggregate)
    assert_same(found, expected)


def test_proper_at_padding_that_depends_on_the_input_size(pixels):
    from salhub.backbones.efficientnet_lite.modeling_efficientnet_lite import Conv2dSame

    convolution = Conv2dSame(4, 6, 3, stride=2, groups=2)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), convolution, nn.AdaptiveAvgPool2d(2), nn.Flatten())
    network.append(nn.Linear(24, 5))
    spread_weights(network).double()
    model = NormGradForImageSaliency.from_classifier(
        network, method="norm_grad_proper", layers=["1"], output_size="native"
    )
    _, g = gradient_at(network, "1", pixels)
    inputs = network[0](pixels)
    left, right, top, bottom = convolution.same_padding(*pixels.shape[-2:])
    assert (left, right, top, bottom) == (0, 1, 0, 1)
    window = F.unfold(F.pad(inputs, (0, 1, 0, 1)), 3, stride=2).unflatten(1, (2, -1))
    halves = g.flatten(2).unflatten(1, (2, -1))
    squares = (window.square().sum(2) * halves.square().sum(2)).sum(1)
    assert_same(model(pixels, CLASSES).saliency, squares.sqrt().unflatten(1, g.shape[-2:]).detach())


def test_equal_to_captum_where_both_know_the_method(pixels):
    attr = pytest.importorskip("captum.attr", reason="captum is in the dev and bench extras")
    network = spread_weights(SmallNet())
    pixels = pixels.float()
    model = NormGradForImageSaliency.from_classifier(network, output_size="native")
    maps = model.forward_grid(
        pixels, CLASSES, methods=["grad_cam", "linear_approx"], layers=["blocks.1", "input"]
    )
    layer = network.blocks[1]
    grad_cam = attr.LayerGradCam(network, layer).attribute(
        pixels, target=CLASSES, relu_attributions=True
    )
    assert_same(maps["grad_cam", "blocks.1"].saliency, grad_cam[:, 0].detach())
    product = attr.LayerGradientXActivation(network, layer).attribute(pixels, target=CLASSES)
    assert_same(maps["linear_approx", "blocks.1"].saliency, product.sum(1).detach())
    at_input = attr.InputXGradient(network).attribute(
        pixels.clone().requires_grad_(), target=CLASSES
    )
    assert_same(maps["linear_approx", "input"].saliency, at_input.sum(1).detach())
