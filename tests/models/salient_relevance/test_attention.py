"""Normalisation, attention and products of signals, against loops over single entries."""

import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import ViTConfig, ViTForImageClassification

from salhub.models.salient_relevance.relevance_engine import RelevanceEngine
from salhub.models.salient_relevance.rules import rule_set
from tests.models.salient_relevance import dense_attention
from tests.models.salient_relevance.dense import away_from_zero

EPSILON = 1e-3
TINY = 1e-10  # where one way of writing has more sums to stabilise than another


class Written(nn.Module):
    """A network of one expression."""

    def __init__(self, expression, **parts):
        super().__init__()
        self.expression = expression
        self.parts = nn.ModuleDict(parts)
        self.unused = nn.Parameter(torch.zeros(1, dtype=torch.float64))  # gives the precision

    def forward(self, x):
        return self.expression(x, **self.parts).flatten(1)


def signals(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, *shape, generator=generator, dtype=torch.float64) * 2 - 1


def explain(network, inputs, epsilon=EPSILON, **settings):
    """Relevance (outputs, inputs...) of every output with relevance 1, and its books."""
    labels = torch.arange(network(inputs).shape[1])[None]
    rules = rule_set(first_rule="epsilon", linear_rule="epsilon", epsilon=epsilon)
    settings.update(start="one", epsilon=epsilon, with_audit=True)
    found = RelevanceEngine(lambda logits: logits).propagate(
        network, inputs, labels, rules, **settings
    )
    return found.relevance[0], [ledger.rows() for ledger in found.ledgers]


def assert_closed(relevance, books):
    """What is not handed down is in the books, step by step and on the whole way."""
    for one, rows in zip(relevance, books, strict=True):
        assert all(row.accounted_error < 1e-5 for row in rows)
        taken = sum(row.bias_share + row.stabiliser_share for row in rows)
        assert float(one.sum()) + taken == pytest.approx(1, abs=1e-5)


NORMS = {
    "layer": (
        nn.LayerNorm(4),
        (3, 4),
        [list(range(4 * r, 4 * r + 4)) for r in range(3)],
        lambda w: w.repeat(3),
    ),
    "layer of two axes": (nn.LayerNorm((3, 4)), (3, 4), [list(range(12))], torch.flatten),
    "group": (
        nn.GroupNorm(2, 4),
        (4, 3),
        [list(range(6)), list(range(6, 12))],
        lambda w: w.repeat_interleave(3),
    ),
    "instance": (
        nn.InstanceNorm1d(4, affine=True),
        (4, 3),
        [list(range(3 * r, 3 * r + 3)) for r in range(4)],
        lambda w: w.repeat_interleave(3),
    ),
}


@pytest.mark.parametrize("name", NORMS)
def test_normalisation_equals_loops_over_entries(name):
    layer, shape, rows, spread = NORMS[name]
    torch.manual_seed(1)
    layer = layer.double()
    for parameter in layer.parameters():
        parameter.data = torch.randn(parameter.shape, dtype=torch.float64)
    inputs = signals(*shape)
    found, books = explain(Written(lambda x, layer: layer(x), layer=layer), inputs)
    assert_closed(found, books)
    assert {row.layer_type for row in books[0]} == {"normalisation"}
    weight, bias = (spread(value.detach()) for value in (layer.weight, layer.bias))
    for j, one in enumerate(torch.eye(inputs.numel(), dtype=torch.float64)):
        expected = dense_attention.normalisation(rows, weight, bias, inputs[0], one, EPSILON)
        torch.testing.assert_close(found[j], expected, rtol=1e-6, atol=1e-8)


def by_hand(x, layer):
    centred = x - x.mean(-1, keepdim=True)
    variance = centred.pow(2).mean(-1, keepdim=True)
    return layer.weight * centred / torch.sqrt(variance + layer.eps) + layer.bias


def test_layer_norm_by_hand_is_layer_norm():
    layer = nn.LayerNorm(4).double()
    layer.weight.data = signals(4)[0]
    layer.bias.data = signals(4, seed=1)[0]
    inputs = signals(3, 4)
    plain, _ = explain(Written(lambda x, layer: layer(x), layer=layer), inputs, TINY)
    written, books = explain(Written(by_hand, layer=layer), inputs, TINY)
    assert_closed(written, books)
    torch.testing.assert_close(written, plain, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("bias_relevance", ["ignore", "uniform"])
def test_bias_of_a_normalisation_follows_the_setting(bias_relevance):
    layer = nn.LayerNorm(4).double()
    layer.weight.data, layer.bias.data = signals(4)[0], signals(4, seed=1)[0]
    inputs = signals(4)
    found, books = explain(
        Written(lambda x, layer: layer(x), layer=layer), inputs, bias_relevance=bias_relevance
    )
    assert_closed(found, books)
    for j, one in enumerate(torch.eye(4, dtype=torch.float64)):
        bias = torch.zeros(4) if bias_relevance == "ignore" else layer.bias.detach()
        weight = layer.weight.detach()
        rows = [[0, 1, 2, 3]]
        expected = dense_attention.normalisation(rows, weight, bias, inputs[0], one, EPSILON)
        if bias_relevance == "uniform":
            expected = expected + (1 - expected.sum()) / 4
        torch.testing.assert_close(found[j], expected, rtol=1e-6, atol=1e-8)


def rms_by_hand(x):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


@pytest.mark.parametrize(
    "scaling",
    [
        lambda x: F.rms_norm(x, (4,), torch.arange(1.0, 5.0, dtype=torch.float64)),
        lambda x: F.normalize(x, dim=-1),
        lambda x: F.local_response_norm(x, 2),
        rms_by_hand,
        lambda x: x / x.norm(dim=-1, keepdim=True),
        lambda x: x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=1e-6),
        lambda x: x / (x.std(dim=-1, keepdim=True) + 1e-6),
    ],
)
def test_relevance_passes_what_only_scales(scaling):
    inputs = signals(3, 4)
    found, _ = explain(Written(scaling), inputs)
    torch.testing.assert_close(found, torch.eye(12, dtype=torch.float64).view(12, 3, 4))


PRODUCTS = {
    "matmul": lambda a, b: a @ b,
    "bmm": torch.bmm,
    "einsum": lambda a, b: torch.einsum("bik,bkj->bij", a, b),
    "linear": lambda a, b: F.linear(a[0], b[0].mT)[None],
    "baddbmm": lambda a, b: torch.baddbmm(torch.zeros(1, 2, 4, dtype=a.dtype), a, b),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_product_of_two_signals_is_split_half_and_half(name):
    inputs = signals(18)

    def expression(x):
        return PRODUCTS[name](x[:, :6].reshape(1, 2, 3), x[:, 6:].reshape(1, 3, 4))

    first, second = inputs[0, :6].reshape(2, 3), inputs[0, 6:].reshape(3, 4)
    epsilon = TINY if name == "baddbmm" else EPSILON
    found, books = explain(Written(expression), inputs, epsilon)
    assert_closed(found, books)
    for j, one in enumerate(torch.eye(8, dtype=torch.float64)):
        parts = dense_attention.product(first, second, one.view(2, 4), epsilon)
        expected = torch.cat([part.flatten() for part in parts])
        torch.testing.assert_close(found[j], expected, rtol=1e-6, atol=1e-8)


def test_product_of_two_signals_with_spread_remainders_conserves():
    inputs = signals(12).abs()
    network = Written(lambda x: x[:, :6].view(1, 2, 3) @ x[:, 6:].view(1, 3, 2))
    found, books = explain(network, inputs, bias_relevance="uniform")
    assert_closed(found, books)
    torch.testing.assert_close(found.sum(1), torch.ones(4, dtype=torch.float64))


def test_constant_matrices_are_linear_layers_on_either_side():
    inputs, left, right = signals(3, 4), signals(2, 3, seed=1)[0], signals(4, 2, seed=2)[0]
    found, books = explain(Written(lambda x: left @ x @ right), inputs)
    assert_closed(found, books)
    for j in range(4):
        expected = torch.zeros(3, 4, dtype=torch.float64)
        row, column = divmod(j, 2)
        # left is applied first as written, then right
        middle = left @ inputs[0]
        total = middle[row] @ right[:, column]
        for k in range(4):
            share = middle[row, k] * right[k, column] / away_from_zero(total, EPSILON)
            for t in range(3):
                part = left[row, t] * inputs[0, t, k] / away_from_zero(middle[row, k], EPSILON)
                expected[t, k] += part * share
        torch.testing.assert_close(found[j], expected, rtol=1e-6, atol=1e-8)


def test_gated_product_of_equal_signals_is_split_half_and_half():
    inputs = signals(6)
    found, books = explain(Written(lambda x: F.silu(x[:, :3]) * x[:, 3:]), inputs)
    assert not any(books)  # nothing is lost, so nothing is booked
    expected = torch.cat([torch.eye(3), torch.eye(3)], dim=1).double() / 2
    torch.testing.assert_close(found, expected)


def test_softmax_equals_its_expansion_at_the_scores():
    inputs = signals(3, 4)
    found, books = explain(Written(lambda x: (3 * x).softmax(dim=-1)), inputs)
    assert_closed(found, books)
    for j, one in enumerate(torch.eye(12, dtype=torch.float64)):
        expected = dense_attention.softmax(3 * inputs[0], one.view(3, 4))
        torch.testing.assert_close(found[j], expected, rtol=1e-6, atol=1e-8)


def test_masked_scores_get_nothing():
    inputs, mask = signals(4), torch.tensor([[False, True, False, True]])
    masks = {
        "fill": lambda x: x.masked_fill(mask, -torch.inf),
        "add": lambda x: x + torch.zeros(1, 4).masked_fill(mask, -torch.inf),
        "where": lambda x: torch.where(mask, -torch.inf, x),
    }
    allowed = ~mask[0]
    for masked in masks.values():
        found, books = explain(
            Written(lambda x, m=masked: m(x).softmax(-1)[:, allowed]), inputs, TINY
        )
        assert_closed(found, books)
        assert bool((found[:, mask[0]] == 0).all())
        expected = [
            dense_attention.softmax(inputs[:, allowed], one[None])[0]
            for one in torch.eye(2, dtype=torch.float64)
        ]
        torch.testing.assert_close(found[:, allowed], torch.stack(expected), rtol=1e-6, atol=1e-8)


def layers(size=4):
    torch.manual_seed(2)
    names = ("query", "key", "value", "output")
    return {name: nn.Linear(size, size).double() for name in names}


def split(x):
    return x.unflatten(-1, (2, 2)).transpose(1, 2)


def merge(x):
    return x.transpose(1, 2).flatten(2)


def eager(x, query, key, value, output):
    scores = split(query(x)) @ split(key(x)).transpose(-2, -1) * 2**-0.5
    weights = F.dropout(scores.softmax(dim=-1, dtype=torch.float64), 0.1, training=False)
    return output(merge(weights @ split(value(x))))


def fused(x, query, key, value, output):
    states = (split(layer(x)) for layer in (query, key, value))
    return output(merge(F.scaled_dot_product_attention(*states)))


def with_einsum(x, query, key, value, output):
    scores = torch.einsum("bhid,bhjd->bhij", split(query(x)), split(key(x))) / math.sqrt(2)
    mixed = torch.einsum("bhij,bhjd->bhid", scores.softmax(-1), split(value(x)))
    return output(merge(mixed))


def packed(need_weights):
    parts = layers()
    module = nn.MultiheadAttention(4, 2, batch_first=True).double()
    names = ("query", "key", "value")
    module.in_proj_weight.data = torch.cat([parts[name].weight.data for name in names])
    module.in_proj_bias.data = torch.cat([parts[name].bias.data for name in names])
    module.out_proj.load_state_dict(parts["output"].state_dict())
    return Written(
        lambda x, attend: attend(x, x, x, need_weights=need_weights)[0], attend=module
    ).eval()


ATTENTIONS = {
    "eager": lambda: Written(eager, **layers()),
    "fused": lambda: Written(fused, **layers()),
    "einsum": lambda: Written(with_einsum, **layers()),
    "module of torch": lambda: packed(False),
    "module of torch with weights": lambda: packed(True),
}


@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention_equals_loops_over_entries_however_it_is_written(name):
    inputs, network = signals(3, 4), ATTENTIONS[name]()
    found, books = explain(network, inputs, TINY)
    assert_closed(found, books)
    for j in (0, 5, 11):
        one = torch.zeros(3, 4, dtype=torch.float64)
        one.view(-1)[j] = 1
        expected = dense_attention.attention(layers(), inputs[0], one, 2, TINY)
        torch.testing.assert_close(found[j], expected, rtol=1e-6, atol=1e-8)
    assert [row.layer_type for row in books[0]].count("product") == 2


@pytest.mark.parametrize("scale", [None, 0.7, -2.0, 0.0])
def test_attention_in_one_step_equals_its_steps(scale):
    def attend(x):
        parts = x.view(1, 2, 38).split([8, 12, 18], dim=2)
        query, key, value = (p.unflatten(2, (-1, n)) for p, n in zip(parts, (2, 2, 3), strict=True))
        return F.scaled_dot_product_attention(query, key, value, scale=scale)

    inputs, labels = signals(76), torch.tensor([[0, 9]])
    arguments = (Written(attend), inputs, labels, rule_set("epsilon_plus"))
    engine = RelevanceEngine(lambda logits: logits)
    settings = {"start": "one", "epsilon": EPSILON}
    at_once = engine.propagate(*arguments, **settings).relevance
    in_steps = engine.propagate(*arguments, **settings, with_audit=True).relevance
    torch.testing.assert_close(at_once, in_steps, rtol=1e-9, atol=1e-12)


class Operators(TorchDispatchMode):
    """Counts what runs."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def test_a_vision_transformer_takes_few_operators():
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2}
    sizes |= {"image_size": 8, "patch_size": 4}
    counts = []
    for layers in (1, 2):
        config = ViTConfig(num_hidden_layers=layers, **sizes)
        network = ViTForImageClassification(config).eval().requires_grad_(False)
        engine = RelevanceEngine(lambda outputs: outputs.logits)
        epsilon = dict.fromkeys(("first_rule", "convolution_rule", "linear_rule"), "epsilon")
        arguments = (network, torch.rand(1, 3, 8, 8), None, rule_set(**epsilon))
        engine.propagate(*arguments)
        with Operators() as operators:
            engine.propagate(*arguments)
        counts.append(operators.counts)
    # Patches are products of matrices, and attention keeps one matrix of scores.
    assert not {"convolution", "convolution_backward", "clamp"} & counts[0].keys()
    arithmetic = {"mm", "addmm", "bmm", "mul", "mul_", "add", "add_", "div", "sub_"}
    arithmetic |= {"copysign", "bitwise_and", "bitwise_or_"}  # two in place of a slower one
    in_a_layer = counts[1] - counts[0]
    assert sum(in_a_layer[name] for name in arithmetic) <= 95, in_a_layer


def test_causal_and_grouped_attention():
    inputs = signals(3, 8)

    def grouped(x):
        query, key = x.view(1, 3, 4, 2).transpose(1, 2), x[..., :4].view(1, 3, 2, 2).transpose(1, 2)
        return F.scaled_dot_product_attention(query, key, key, is_causal=True, enable_gqa=True)

    network = Written(grouped)
    found, books = explain(network, inputs)
    assert_closed(found, books)
    tokens = found.view(4, 3, 2, 3, 8).abs().sum(dim=(0, 2, 4))  # of each output token, input token
    assert bool((tokens.triu(1) == 0).all())
    assert bool((tokens.tril() > 0)[torch.ones(3, 3).tril().bool()].all())
