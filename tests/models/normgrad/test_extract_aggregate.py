"""Closed forms of extract and aggregate against outer products that are really built."""

import pytest
import torch
import torch.nn.functional as F

from salhub.models.normgrad.extract_aggregate import (
    AGGREGATES,
    EXTRACTS,
    convolution_map,
    extract_aggregate,
    extract_aggregate_pairs,
)
from tests.models.normgrad.networks import Operators

PAIRS = [(extract, aggregate) for extract in EXTRACTS for aggregate in AGGREGATES]


def built_extract(x, g, extract):
    """Every position's share of the parameter gradient, (B, parameters, H, W)."""
    if extract == "bias":
        return g
    if extract == "scaling":
        return g * x
    batch, channels, height, width = x.shape
    if extract == "conv1x1":
        return torch.einsum("bihw,bjhw->bijhw", g, x).flatten(1, 2)
    window = F.unfold(x, 3, padding=1).view(batch, channels, 9, height, width)
    if extract == "conv3x3_depthwise":
        return torch.einsum("bihw,bijhw->bijhw", g, window).flatten(1, 2)
    return torch.einsum("bihw,bjkhw->bijkhw", g, window).flatten(1, 3)


def built_aggregate(e, aggregate):
    """One number a position, axis 1 folded by the definition."""
    return {
        "sum": lambda: e.sum(1),
        "norm": lambda: (e**2).sum(1).sqrt(),
        "filter_norm": lambda: (e.clamp(min=0) ** 2).sum(1).sqrt(),
        "max": lambda: e.max(1).values,
        "max_abs": lambda: e.abs().max(1).values,
        "abs_sum": lambda: e.abs().sum(1),
    }[aggregate]()


def pair_of(signs, dtype=torch.float64):
    x, g = torch.randn(2, 7, 5, 6, dtype=dtype), torch.randn(2, 7, 5, 6, dtype=dtype)
    if signs == "one sign":  # the largest product is then a product of the smallest factors
        return x.abs() + 0.1, -g.abs() - 0.1
    if signs == "zeros":
        return torch.relu(x), g * (torch.rand_like(g) > 0.5)
    return x, g


@pytest.mark.parametrize("signs", ["mixed", "one sign", "zeros"])
@pytest.mark.parametrize(("extract", "aggregate"), PAIRS)
def test_closed_form_is_the_built_product(extract, aggregate, signs):
    x, g = pair_of(signs)
    expected = built_aggregate(built_extract(x, g, extract), aggregate)
    torch.testing.assert_close(
        extract_aggregate(x, g, extract, aggregate), expected, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize(("extract", "aggregate"), PAIRS)
def test_float32_stays_within_1e5_of_float64(extract, aggregate):
    x, g = pair_of("mixed")
    expected = built_aggregate(built_extract(x, g, extract), aggregate)
    found = extract_aggregate(x.float(), g.float(), extract, aggregate)
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize(("extract", "aggregate"), PAIRS)
def test_a_leading_axis_of_scores_is_a_loop(extract, aggregate):
    x, g = torch.randn(2, 4, 5, 5), torch.randn(3, 2, 4, 5, 5)
    together = extract_aggregate(x, g, extract, aggregate)
    for index in range(3):
        torch.testing.assert_close(
            together[index], extract_aggregate(x, g[index], extract, aggregate)
        )


GEOMETRIES = {
    "pointwise": {"kernel_size": 1},
    "strided": {"kernel_size": 3, "stride": 2, "padding": 1},
    "dilated": {"kernel_size": 3, "padding": 2, "dilation": 2},
    "grouped": {"kernel_size": 3, "padding": 1, "groups": 3},
    "depthwise": {"kernel_size": 3, "padding": 1, "groups": 6},
    "depthwise, twice the channels": {"kernel_size": 3, "groups": 6, "out_channels": 12},
    "uneven": {"kernel_size": (1, 4), "stride": (2, 1), "padding": (0, 3), "dilation": (1, 2)},
    "all at once": {
        "kernel_size": (3, 2),
        "stride": 2,
        "padding": (2, 1),
        "dilation": (1, 2),
        "groups": 2,
    },
    "reflected": {"kernel_size": 5, "padding": 2, "padding_mode": "reflect", "groups": 3},
    "replicated": {"kernel_size": 3, "padding": 1, "padding_mode": "replicate"},
    "circular": {"kernel_size": 3, "padding": 1, "padding_mode": "circular", "stride": 2},
}


def weight_gradient_shares(convolution, x, g):
    """Weight gradient of each single output position, by differentiating one after another."""
    shares = torch.zeros(g.shape[0], convolution.weight.numel(), *g.shape[-2:], dtype=g.dtype)
    for sample in range(g.shape[0]):
        output = convolution(x[sample : sample + 1])[0]
        for row in range(g.shape[-2]):
            for column in range(g.shape[-1]):
                score = (output[:, row, column] * g[sample, :, row, column]).sum()
                share = torch.autograd.grad(score, convolution.weight, retain_graph=True)[0]
                shares[sample, :, row, column] = share.flatten()
    return shares


@pytest.mark.parametrize("name", GEOMETRIES)
def test_convolution_map_is_the_real_weight_gradient_position_by_position(name):
    geometry = dict(GEOMETRIES[name])
    out_channels = geometry.pop("out_channels", 6)
    convolution = torch.nn.Conv2d(6, out_channels, bias=False, **geometry).double()
    x = torch.randn(2, 6, 7, 6, dtype=torch.float64)
    g = torch.randn_like(convolution(x))
    shares = weight_gradient_shares(convolution, x, g)
    (whole,) = torch.autograd.grad((convolution(x) * g).sum(), convolution.weight)
    torch.testing.assert_close(shares.sum((0, 2, 3)), whole.flatten())
    # A convolution whose zeros lie between the groups has no parameter there to be counted.
    for aggregate in AGGREGATES:
        expected = built_aggregate(shares, aggregate)
        found = convolution_map(x, g, aggregate, **geometry)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_one_group_a_channel_and_a_kernel_of_one_is_the_scaling():
    x, g = pair_of("mixed")
    for aggregate in AGGREGATES:
        torch.testing.assert_close(
            convolution_map(x, g, aggregate, kernel_size=1, groups=7),
            extract_aggregate(x, g, "scaling", aggregate),
        )


@pytest.mark.parametrize(("extract", "aggregate"), PAIRS)
def test_more_channels_than_one_block(extract, aggregate, monkeypatch):
    monkeypatch.setattr("salhub.models.normgrad.extract_aggregate.NUMBERS_AT_ONCE", 150)
    x, g = pair_of("mixed")
    expected = built_aggregate(built_extract(x, g, extract), aggregate)
    torch.testing.assert_close(extract_aggregate(x, g, extract, aggregate), expected)


@pytest.mark.parametrize("pairs", [PAIRS, PAIRS[::5], [("scaling", "max"), ("conv3x3", "norm")]])
def test_pairs_together_are_those_alone_with_fewer_operators(pairs):
    x, g = torch.randn(2, 4, 5, 5), torch.randn(3, 2, 4, 5, 5)
    with Operators() as alone:
        expected = {pair: extract_aggregate(x, g, *pair) for pair in pairs}
    with Operators() as together:
        found = extract_aggregate_pairs(x, g, pairs)
    torch.testing.assert_close(found, expected)
    assert together.count <= alone.count


def test_the_sixteen_pairs_of_the_paper_share_their_statistics():
    x = torch.randn(1, 4, 5, 5)
    pairs = [(extract, aggregate) for extract in EXTRACTS[:4] for aggregate in AGGREGATES[:4]]
    with Operators() as operators:
        extract_aggregate_pairs(x, x, pairs)
    assert operators.count <= 130  # 236 when each map took its own


def test_the_outer_product_is_never_built():
    # Built, it would be 4096 x 36864 numbers at each of 256 positions: 154 GB.
    x, g = torch.ones(1, 4096, 16, 16), torch.ones(1, 4096, 16, 16)
    inner = extract_aggregate(x, g, "conv3x3", "norm")[0, 8, 8]
    assert inner.item() == pytest.approx((4096 * 4096 * 9) ** 0.5, rel=1e-6)


def test_half_precision_accumulates_in_float32():
    x = torch.full((1, 64, 2, 2), 200.0, dtype=torch.float16)
    found = extract_aggregate(x, x, "conv1x1", "norm")
    assert found.dtype == torch.float32
    # ||x||^2 = 64 * 200^2 is far beyond the largest float16.
    torch.testing.assert_close(found, torch.full((1, 2, 2), 64 * 200.0**2))


def test_tiny_gradients_do_not_vanish():
    x, g = torch.full((1, 2, 2, 2), 1e-12), torch.full((1, 2, 2, 2), 1e-24)
    found = extract_aggregate(x, g, "conv1x1", "norm")
    torch.testing.assert_close(found, torch.full((1, 2, 2), 2e-36), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda x: extract_aggregate(x, x, "conv1", "norm"), "Did you mean 'conv1x1'"),
        (lambda x: extract_aggregate(x, x, "bias", "nrom"), "Did you mean 'norm'"),
        (lambda x: extract_aggregate(x[0], x, "bias", "norm"), "must have shape"),
        (lambda x: extract_aggregate(x, x[:, :2], "bias", "norm"), "activation's shape"),
        (lambda x: convolution_map(x, x, "norm", kernel_size=3), r"\(1, 3, 3\), got \(1, 5, 5\)"),
        (lambda x: convolution_map(x, x, "norm", kernel_size=1, groups=3), "groups must divide"),
        (lambda x: convolution_map(x[0], x, "norm", kernel_size=1), "layer_input must have"),
        (lambda x: convolution_map(x, x, "mean", kernel_size=1), "aggregate must be one of"),
    ],
)
def test_bad_arguments_get_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(torch.zeros(1, 4, 5, 5))
