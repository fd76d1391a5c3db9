"""Every rule of a layer against its definition written out for dense matrices."""

import pytest
import torch
from torch import nn

from salhub.backbones.efficientnet_lite.modeling_efficientnet_lite import Conv2dSame
from salhub.models.salient_relevance.relevance_engine import RelevanceEngine
from salhub.models.salient_relevance.rules import PRESETS, RULES, rule_set
from tests.models.salient_relevance.dense import dense_relevance
from tests.models.salient_relevance.networks import Flat

EPSILON = 1e-3
LAYERS = {
    "plain": (lambda: nn.Conv2d(2, 3, 3), (2, 5, 4)),
    "padded": (lambda: nn.Conv2d(2, 3, 3, padding=1), (2, 4, 4)),
    "strided": (lambda: nn.Conv2d(2, 3, 3, stride=2, padding=1), (2, 5, 6)),
    "uneven": (lambda: nn.Conv2d(2, 2, (3, 2), stride=(2, 1), padding=(1, 0)), (2, 5, 4)),
    "patches": (lambda: nn.Conv2d(2, 3, (2, 3), stride=(2, 3)), (2, 4, 6)),
    "patches and a rest": (lambda: nn.Conv2d(2, 3, 2, stride=2), (2, 5, 4)),
    "patches of one dimension": (lambda: nn.Conv1d(3, 2, 2, stride=2), (3, 6)),
    "pointwise": (lambda: nn.Conv2d(3, 4, 1), (3, 3, 3)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2), (4, 3, 3)),
    "depthwise": (lambda: nn.Conv2d(3, 3, 3, padding=1, groups=3), (3, 4, 4)),
    "depthwise twice": (lambda: nn.Conv2d(2, 4, 3, padding=1, groups=2, stride=2), (2, 5, 5)),
    "dilated": (lambda: nn.Conv2d(2, 2, 3, dilation=2, padding=2), (2, 5, 5)),
    "same": (lambda: nn.Conv2d(2, 2, (2, 4), padding="same"), (2, 4, 5)),
    "valid": (lambda: nn.Conv2d(2, 2, 2, padding="valid"), (2, 4, 3)),
    "tensorflow same": (lambda: Conv2dSame(2, 3, 3, stride=2), (2, 6, 5)),
    "no bias": (lambda: nn.Conv2d(2, 3, 3, bias=False), (2, 4, 4)),
    "one dimension": (lambda: nn.Conv1d(3, 2, 3, stride=2, padding=1), (3, 7)),
    "three dimensions": (lambda: nn.Conv3d(1, 2, 2, padding=1), (1, 2, 3, 2)),
    "transposed": (
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
        (4, 2, 3),
    ),
    "linear": (lambda: nn.Linear(6, 5), (6,)),
    "linear over tokens": (lambda: nn.Linear(4, 3), (2, 4)),
}
BOUNDED = [rule for rule in RULES if rule != "z_box"]


def explain(network, pixels, rules, **settings):
    """Relevance (outputs, inputs) of every output with relevance 1."""
    outputs = network(pixels).shape[1]
    engine = RelevanceEngine(lambda logits: logits)
    labels = torch.arange(outputs)[None]
    found = engine.propagate(network, pixels, labels, rules, start="one", **settings)
    return found.relevance[0].flatten(1)


def build(name, signed=True, seed=0):
    make, shape = LAYERS[name]
    torch.manual_seed(seed)
    layer = make().double()
    pixels = torch.rand(1, *shape, dtype=torch.float64)
    return layer, pixels * 2 - 1 if signed else pixels


# padding="same" of an even kernel copies the input, as torch tells
@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("name", "signed"), [*((name, True) for name in LAYERS), ("grouped", False), ("linear", False)]
)
def test_rule_equals_its_dense_definition(name, signed, rule):
    layer, pixels = build(name, signed)
    rules = rule_set(first_rule=rule, epsilon=EPSILON, **alpha_beta_of(rule))
    bounds = tuple(torch.full_like(pixels, value) for value in (-1.5, 1.25))
    found = explain(Flat(layer), pixels, rules, epsilon=EPSILON, bounds=bounds)
    epsilon = 1e-9 if rule == "lrp_0" else EPSILON
    expected = dense_relevance(rule, layer, pixels, epsilon=epsilon, low=-1.5, high=1.25)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("bias_relevance", ["ignore", "uniform"])
@pytest.mark.parametrize("rule", BOUNDED)
@pytest.mark.parametrize("name", ["padded", "grouped", "tensorflow same", "same", "linear"])
def test_biases_follow_the_setting(name, rule, bias_relevance):
    layer, pixels = build(name)
    rules = rule_set(first_rule=rule, epsilon=EPSILON, **alpha_beta_of(rule))
    found = explain(Flat(layer), pixels, rules, epsilon=EPSILON, bias_relevance=bias_relevance)
    epsilon = 1e-9 if rule == "lrp_0" else EPSILON
    expected = dense_relevance(rule, layer, pixels, epsilon=epsilon, bias_relevance=bias_relevance)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)
    if bias_relevance == "uniform":
        ones = torch.ones(len(found), dtype=torch.float64)
        torch.testing.assert_close(found.sum(dim=1), ones, rtol=1e-9, atol=0)


def test_rule_behind_another_layer_is_the_rule_of_its_type():
    torch.manual_seed(0)
    first, second = nn.Conv2d(2, 3, 3).double(), nn.Conv2d(3, 2, 2).double()
    pixels = torch.rand(1, 2, 5, 5, dtype=torch.float64)
    rules = rule_set(
        first_rule="flat", convolution_rule="gamma", linear_rule="epsilon", epsilon=EPSILON
    )
    found = explain(Flat(second, first), pixels, rules, epsilon=EPSILON)
    hidden = first(pixels).detach()
    upper = dense_relevance("gamma", second, hidden, epsilon=EPSILON)
    lower = dense_relevance("flat", first, pixels, epsilon=EPSILON)
    torch.testing.assert_close(found, upper @ lower, rtol=1e-8, atol=1e-10)


def test_positive_contributions_of_negative_inputs_count():
    """The signed general form: without it a wholly negative input has no denominator."""
    layer, pixels = build("padded", signed=False)
    found = explain(Flat(layer), -pixels, rule_set(first_rule="z_plus"))
    assert float(found.min()) >= 0
    assert float(found.sum()) > 0


def alpha_beta_of(rule):
    return {"alpha": 2.0, "beta": 1.0} if rule == "alpha_beta" else {}


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_the_documented_ones(preset):
    rules = rule_set(preset)
    assert (rules.first.label, rules.convolution.label, rules.linear.label) == {
        "deep_taylor": ("z_box", "z_plus", "z_plus"),
        "sr_reference": ("lrp_0", "lrp_0", "positive_weights"),
        "epsilon_plus": ("z_plus", "z_plus", "epsilon"),
        "epsilon_plus_flat": ("flat", "z_plus", "epsilon"),
        "epsilon_gamma_box": ("z_box", "gamma(0.25)", "epsilon"),
        "epsilon_alpha2_beta1_flat": ("flat", "alpha2beta1", "epsilon"),
    }[preset]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "deep_tailor"}, "Did you mean 'deep_taylor'"),
        ({"first_rule": "z_bax"}, "Did you mean 'z_box'"),
        ({"convolution_rule": "z_box"}, "only pixels have bounds"),
        ({"linear_rule": "z_box"}, "only pixels have bounds"),
        ({"alpha": 2.0, "beta": 0.5}, "alpha - beta must be 1"),
        ({"alpha": 0.0, "beta": -1.0}, "alpha - beta must be 1"),
        ({"alpha": float("nan"), "beta": 0.0}, "alpha - beta must be 1"),
    ],
)
def test_rules_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        rule_set(**settings)
