"""Relevance through whole networks: conservation, splits, gates, and what is refused."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from salhub.models.salient_relevance.modeling_salient_relevance import (
    SalientRelevanceForImageSaliency,
)
from salhub.models.salient_relevance.relevance_engine import RelevanceEngine
from salhub.models.salient_relevance.rules import rule_set
from tests.models.salient_relevance.networks import Gated, Residual, SmallNet, trained

BOUNDS = (torch.full((1, 3, 1, 1), -1.0), torch.full((1, 3, 1, 1), 1.0))


def pixels(count=2, size=12, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    return torch.rand(count, 3, size, size, generator=generator, dtype=dtype) * 2 - 1


def explain(network, images, rules, labels=None, **settings):
    engine = RelevanceEngine(lambda logits: logits)
    return engine.propagate(network, images, labels, rules, **settings)


ZERO_BIAS_RULES = {
    "epsilon": {"first_rule": "epsilon", "convolution_rule": "epsilon", "linear_rule": "epsilon"},
    "z_plus": {"first_rule": "z_plus", "convolution_rule": "z_plus", "linear_rule": "z_plus"},
    "alpha_beta": {
        "first_rule": "alpha_beta",
        "convolution_rule": "alpha_beta",
        "linear_rule": "alpha_beta",
        "alpha": 2.0,
        "beta": 1.0,
    },
    "gamma": {"first_rule": "gamma", "convolution_rule": "gamma", "linear_rule": "gamma"},
    "z_box": {},
    "flat": {"first_rule": "flat"},
    "w_square": {"first_rule": "w_square"},
}


@pytest.mark.parametrize("name", ZERO_BIAS_RULES)
def test_network_without_biases_conserves_relevance(name):
    network = trained(SmallNet(bias=False, norm=False))
    if name == "alpha_beta":
        # a window of few inputs may have contributions of one sign only: nothing to give beta to
        network = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.ReLU(), nn.Flatten())
        network = trained(network.append(nn.Linear(600, 4, bias=False)))
    rules = rule_set(epsilon=1e-12, **ZERO_BIAS_RULES[name])
    labels = torch.arange(4).expand(2, 4)
    found = explain(network, pixels(), rules, labels, start="one", epsilon=1e-12, bounds=BOUNDS)
    reached = found.relevance.sum(dim=(2, 3, 4))
    torch.testing.assert_close(reached, torch.ones(2, 4), rtol=1e-5, atol=0)


def test_lrp_0_of_a_linear_network_is_gradient_times_input():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.AvgPool2d(2),
        nn.Conv2d(4, 4, 3, stride=2, bias=False, groups=2),
        nn.Flatten(),
        nn.Linear(16, 3, bias=False),
    ).double()
    images = pixels(size=12, dtype=torch.float64)
    labels = torch.tensor([[0, 2], [1, 1]])
    names = dict.fromkeys(("first_rule", "convolution_rule", "linear_rule"), "lrp_0")
    found = explain(network, images, rule_set(**names), labels, epsilon=1e-12)
    probe = images.clone().requires_grad_()
    for t in range(2):
        score = network(probe).gather(1, labels[:, t : t + 1]).sum()
        expected = torch.autograd.grad(score, probe)[0] * images
        torch.testing.assert_close(found.relevance[:, t], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("spelling", ["add", "inplace", "method", "functional"])
def test_residual_sum_is_split_however_it_is_written(spelling):
    """Relevance of x + f(x): each branch gets the share of what it added, and no more."""
    torch.manual_seed(0)
    network = nn.Sequential(Residual(3, spelling, bias=False), nn.Flatten()).double()
    images = pixels(1, 3, torch.float64)
    rules = rule_set(first_rule="epsilon", epsilon=1e-12)
    labels = torch.arange(27)[None]
    found = explain(network, images, rules, labels, start="one", epsilon=1e-12)
    branch = network[0].branch
    matrix = torch.autograd.functional.jacobian(branch, images).reshape(27, 27)
    total = branch(images).flatten() + images.flatten()
    identity = torch.eye(27, dtype=torch.float64)
    expected = (matrix + identity) * images.flatten() / total[:, None]
    torch.testing.assert_close(found.relevance[0].flatten(1), expected.detach())
    ones = torch.ones(27, dtype=torch.float64)
    torch.testing.assert_close(found.relevance[0].flatten(1).sum(1), ones, rtol=1e-6, atol=0)


def test_in_place_code_gives_what_plain_code_gives():
    for spelling in ("inplace", "method", "functional"):
        plain, other = trained(SmallNet()), trained(SmallNet(spelling=spelling))
        rules = rule_set("epsilon_plus")
        expected, found = (explain(net, pixels(), rules).relevance for net in (plain, other))
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_difference_of_branches_and_constants():
    class Difference(nn.Module):
        def forward(self, x):
            return (x[:, :1] * 3 - x[:, 1:2] + 0.5 - (-x[:, 2:]) / 2).flatten(1)

    images = pixels(1, 2).abs() + 0.1
    a, b, c = images[0].flatten(1)
    labels = torch.arange(4)[None]
    found = explain(Difference(), images, rule_set("epsilon_plus"), labels, start="one")
    relevance = found.relevance[0].flatten(2)  # (outputs, channels, positions)
    total = 3 * a - b + 0.5 + c / 2
    expected = torch.stack((3 * a, -b, c / 2)) / total  # the constant keeps 0.5 / total
    for position in range(4):
        torch.testing.assert_close(
            relevance[position, :, position], expected[:, position], rtol=1e-4, atol=1e-5
        )
    assert int((relevance != 0).sum()) == 12


def test_squeeze_excite_gate_counts_as_a_constant():
    learned, fixed = trained(Gated()), trained(Gated(learned=False))
    images = pixels(1)
    with torch.no_grad():
        hidden = F.silu(learned.stem(images))
        fixed.fixed_gate = torch.sigmoid(learned.squeeze(hidden.mean((2, 3), keepdim=True)))
    rules = rule_set("epsilon_plus")
    labels = torch.tensor([[1]])
    found, expected = (explain(net, images, rules, labels).relevance for net in (learned, fixed))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
    assert float(found.abs().sum()) > 0


def test_concatenated_and_split_branches_conserve():
    class Inception(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(3, 2, 3, padding=1, bias=False)
            self.b = nn.Conv2d(3, 4, 1, bias=False)
            self.head = nn.Linear(6, 2, bias=False)

        def forward(self, x):
            y = torch.cat((F.relu(self.a(x)), F.relu(self.b(x))), dim=1)
            first, second = y.chunk(2, dim=1)
            y = torch.cat([second.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2), first], 1)
            y = F.interpolate(F.pad(y, (1, 2, 0, 1)), scale_factor=2, mode="bilinear")
            return self.head(F.adaptive_avg_pool2d(y, 1).view(len(y), -1))

    rules = rule_set("epsilon_plus", epsilon=1e-12)
    found = explain(trained(Inception()), pixels(), rules, start="one", epsilon=1e-12)
    torch.testing.assert_close(
        found.relevance.sum(dim=(2, 3, 4)), torch.ones(2, 1), rtol=1e-5, atol=0
    )


def test_padding_made_elsewhere_gets_no_relevance():
    """The flat rule spreads over the real inputs of a window, whoever has padded it."""
    inside = trained(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(100, 2)))
    outside = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(100, 2))
    outside[1].load_state_dict(inside[0].state_dict())
    outside[3].load_state_dict(inside[2].state_dict())
    for settings in ({"first_rule": "flat"}, {"first_rule": "w_square"}, {}):
        expected, found = (
            explain(net, pixels(size=5), rule_set(**settings), bounds=BOUNDS).relevance
            for net in (inside, outside)
        )
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_normalisation_inside_the_network_moves_the_bounds():
    class Normalising(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network
            self.register_buffer("std", torch.tensor([0.5, -0.25, 2.0]).view(1, 3, 1, 1))

        def forward(self, raw):
            return self.network((raw - 0.3) / self.std)

    network, raw = trained(SmallNet()), pixels()
    wrapped = Normalising(network)
    low, high = ((bound - 0.3) / wrapped.std for bound in BOUNDS)
    inner = (torch.minimum(low, high), torch.maximum(low, high))
    found = explain(wrapped, raw, rule_set(), bounds=BOUNDS).relevance
    expected = explain(network, (raw - 0.3) / wrapped.std, rule_set(), bounds=inner).relevance
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_views_of_the_memory_layout_and_flags_by_position():
    """Code that assumes the usual layout, or passes keepdim=True by position, runs as it is."""

    class Viewing(nn.Module):
        def __init__(self, modern):
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 4, 3), nn.Linear(400, 3)
            self.modern = modern

        def forward(self, x):
            x = self.stem(x)
            if self.modern:
                x = F.relu(x) * torch.sigmoid(x.mean(dim=(2, 3), keepdim=True))
                return self.head(x.flatten(1))
            x = F.relu(x) * torch.sigmoid(x.mean((2, 3), True))
            return self.head(x.view(x.size(0), -1))

    found, expected = (
        explain(trained(Viewing(modern)), pixels(), rule_set("epsilon_plus")).relevance
        for modern in (False, True)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert float(found.abs().sum()) > 0


def test_first_layer_may_be_linear_on_viewed_pixels():
    class Perceptron(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(432, 3)

        def forward(self, x):
            return self.layer(x.view(x.size(0), -1))

    network = trained(Perceptron())
    found = explain(network, pixels(), rule_set(), bounds=BOUNDS, start="one")
    weight = network.layer.weight.detach()[found.class_labels[:, 0]]
    values = pixels().flatten(1)
    box = weight * values + weight.clamp(min=0) - weight.clamp(max=0)
    expected = box / box.sum(1, keepdim=True)
    torch.testing.assert_close(found.relevance[:, 0].flatten(1), expected, rtol=1e-4, atol=1e-7)


def test_classes_together_are_the_classes_one_by_one():
    network = trained(SmallNet())
    labels = torch.tensor([[0, 3, 1], [2, 2, 0]])
    for preset in ("deep_taylor", "epsilon_gamma_box", "epsilon_alpha2_beta1_flat"):
        rules = rule_set(preset)
        together = explain(network, pixels(), rules, labels, bounds=BOUNDS).relevance
        for t in range(3):
            alone = explain(network, pixels(), rules, labels[:, t : t + 1], bounds=BOUNDS)
            torch.testing.assert_close(together[:, t], alone.relevance[:, 0], rtol=0, atol=0)


@pytest.mark.parametrize("start", ["logit", "one", "softmax_contrast"])
def test_start_of_the_relevance(start):
    network, labels = trained(SmallNet()), torch.tensor([[1, 0], [3, 2]])
    rules = rule_set("epsilon_plus")
    found = explain(network, pixels(), rules, labels, start=start)
    basis = explain(network, pixels(), rules, torch.arange(4).expand(2, 4), start="one").relevance
    logits = network(pixels()).detach()
    for b in range(2):
        for t in range(2):
            c = int(labels[b, t])
            seed = torch.zeros(4)
            seed[c] = logits[b, c] if start == "logit" else 1.0
            if start == "softmax_contrast":
                others = [k for k in range(4) if k != c]
                seed[others] -= logits[b, others].softmax(0)
            expected = (seed[:, None, None, None] * basis[b]).sum(
                0
            )  # a pass is linear in its start
            torch.testing.assert_close(found.relevance[b, t], expected, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(found.start[b, t], seed.sum(), rtol=1e-5, atol=1e-6)


# --- what is refused ------------------------------------------------------------------------------


class Wrapped(nn.Module):
    """A convolution, then something that has no rule, then a mean."""

    def __init__(self, odd: nn.Module):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.odd = odd

    def forward(self, x):
        return self.odd(self.stem(x)).flatten(2).mean(2)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.LSTM(4, 4, batch_first=True)

    def forward(self, x):
        return self.cell(x.flatten(2).transpose(1, 2))[0].transpose(1, 2)


class CustomFunction(nn.Module):
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 2 * x

        @staticmethod
        def backward(ctx, gradient):
            return 2 * gradient

    def forward(self, x):
        return F.relu(self.Double.apply(x))


class LastCustomFunction(CustomFunction):
    def forward(self, x):
        return self.Double.apply(x)


class DeviationAsFeature(nn.Module):
    def forward(self, x):
        return x + x.std((2, 3), keepdim=True)


class Exponential(nn.Module):
    def forward(self, x):
        return F.relu(x).exp()


class OwnKernel(nn.Module):
    def forward(self, x):
        return F.conv2d(x, x[:, :, :3, :3])


class LogSum(nn.Module):
    def forward(self, x):
        return x.logcumsumexp(dim=1)


class BatchStatistics(nn.Module):
    def forward(self, x):
        return F.batch_norm(x, None, None, training=True)


REFUSED = {
    "recurrent": (Recurrent(), r"'odd.cell' \(LSTM\).*lstm"),
    "custom function": (CustomFunction(), r"'odd' \(CustomFunction\).*DoubleBackward"),
    "deviation": (DeviationAsFeature(), r"'odd' \(DeviationAsFeature\).*'std' other than to scale"),
    "exponential": (Exponential(), r"'odd' \(Exponential\).*'exp' other than to scale"),
    "kernel": (OwnKernel(), r"'odd' \(OwnKernel\).*weights depend on the picture"),
    "no rule": (LogSum(), r"'odd' \(LogSum\).*'logcumsumexp'"),
    "batch statistics": (BatchStatistics(), r"'odd' \(BatchStatistics\).*batch statistics"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_layer_without_a_rule_is_named(name):
    odd, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as caught:
        explain(Wrapped(odd).eval(), pixels(1, 6), rule_set("epsilon_plus"))
    assert "deep_taylor" in str(caught.value)
    assert "NormGrad" in str(caught.value)


def test_custom_function_at_the_very_end_is_seen_too():
    network = nn.Sequential(nn.Conv2d(3, 2, 6), nn.Flatten(), LastCustomFunction())
    with pytest.raises(ValueError, match="DoubleBackward"):
        explain(network, pixels(1, 6), rule_set("epsilon_plus"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_scripted_parts_are_refused():
    network = nn.Sequential(torch.jit.script(nn.Conv2d(3, 2, 6)), nn.Flatten())
    with pytest.raises(ValueError, match="scripted"):
        SalientRelevanceForImageSaliency.from_classifier(network)


def test_box_rule_without_bounds_is_refused():
    with pytest.raises(ValueError, match="input_low and input_high"):
        explain(trained(SmallNet()), pixels(), rule_set())


def test_logits_that_do_not_depend_on_the_pixels():
    class Deaf(nn.Module):
        def forward(self, x):
            return torch.ones(len(x), 3)

    with pytest.raises(ValueError, match="do not depend on the pixels"):
        explain(Deaf(), pixels(), rule_set("epsilon_plus"))


def test_relevance_that_is_not_finite_names_where_it_began():
    torch.manual_seed(0)
    layers = [nn.Linear(2, 2) for _ in range(6)]
    for layer in layers:
        # contributions of 1e10 cancel to an output of 1, and grow ten billion times a layer
        layer.weight.data = torch.tensor([[1e10, -1e10], [0.0, 1.0]])
        layer.bias.data = torch.tensor([1.0, 0.0])
    rules = rule_set("epsilon_plus", first_rule="lrp_0", linear_rule="lrp_0")
    with pytest.raises(ValueError, match=r"not finite from layer '\d' down.*deep_taylor"):
        explain(nn.Sequential(*layers), torch.ones(1, 2), rules, torch.tensor([[0]]), start="one")


def test_class_out_of_range_of_a_plain_module():
    with pytest.raises(ValueError, match="class 9 is out of range: the classifier has 4"):
        explain(trained(SmallNet()), pixels(1), rule_set("epsilon_plus"), torch.tensor([[9]]))


# --- fully convolutional classifiers --------------------------------------------------------------


def test_positions_of_a_fully_convolutional_classifier_are_averaged_by_their_softmax():
    network = trained(nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 2, 3)))
    found = explain(network, pixels(), rule_set("epsilon_plus"), torch.tensor([[0, 1]] * 2))
    with torch.no_grad():
        logits = network(pixels())
    for picture in range(2):
        for label in range(2):
            scores = [float(z) for z in logits[picture, label].flatten()]
            weights = [math.exp(z) for z in scores]
            score = sum(w * z for w, z in zip(weights, scores, strict=True)) / sum(weights)
            assert float(found.logits[picture, label]) == pytest.approx(score, rel=1e-5)
            assert float(found.start[picture, label]) == pytest.approx(score, rel=1e-5)


def test_logits_of_another_shape_are_refused():
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten(2))
    with pytest.raises(ValueError, match=r"logits of shape \(batch, classes\) or .*, got \(1, 5"):
        explain(network, pixels(1), rule_set("epsilon_plus"))


class SharedWeights(nn.Module):
    def __init__(self, is_tied: bool) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.last = nn.Conv2d(3, 4, 1), nn.Linear(4, 5)
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.b.bias.data += 2
        if is_tied:
            self.b.weight = self.a.weight
        else:
            self.b.weight.data.copy_(self.a.weight.data)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        hidden = self.b(self.a(self.first(pictures).relu()).relu()).relu()
        return self.last(hidden.mean((2, 3)))


@pytest.mark.parametrize(
    "preset", ["epsilon_plus", "epsilon_gamma_box", "epsilon_alpha2_beta1_flat"]
)
def test_layers_may_share_a_weight_and_not_the_bias(preset):
    pictures = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    bounds = torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1)
    tied, apart = (
        RelevanceEngine(lambda logits: logits).propagate(
            SharedWeights(is_tied).eval(), pictures, None, rule_set(preset), bounds=bounds
        )
        for is_tied in (True, False)
    )
    assert float(apart.relevance.abs().max()) > 0
    torch.testing.assert_close(tied.relevance, apart.relevance, rtol=0, atol=0)
