"""One computation written in many ways: its relevance, and the audit that accounts for it."""

import functools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from salhub.models.salient_relevance.modeling_salient_relevance import (
    SalientRelevanceForImageSaliency,
)

SMALL = {"preset": "epsilon_plus", "context_max_side": 16, "start": "one", "epsilon": 1e-9}


class Skipping(nn.Module):
    """A convolution, then a skip connection as the given function of the branch and its input."""

    def __init__(self, skip):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.branch = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)
        self.skip = skip

    def forward(self, x):
        x = F.relu(self.stem(x))
        return self.head(self.skip(self.branch(x), x).mean((2, 3)))


def pictures(count=1):
    return torch.rand(count, 3, 10, 10, generator=torch.Generator().manual_seed(1)) * 2 - 1


def explain(network, **settings):
    model = SalientRelevanceForImageSaliency.from_classifier(network.eval(), **SMALL, **settings)
    audit = model.conservation_audit(pictures(), [1])[0][0]
    return model.relevance(pictures(), [1]).relevance, audit


def in_place(y, x):
    y += x
    return y


def in_place_method(y, x):
    return y.add_(x, alpha=1)


EYE = torch.eye(4)
SKIPS = {
    (1, 1): {
        "sum": lambda y, x: y + x,
        "stack and sum": lambda y, x: torch.stack([y, x]).sum(0),
        "stack behind": lambda y, x: torch.stack([y, x], dim=-1).sum(-1),
        "stack and einsum": lambda y, x: torch.einsum("kbchw->bchw", torch.stack([y, x])),
        "cat and sum": lambda y, x: torch.cat([y[None], x[None]]).sum(dim=0),
        "list": lambda y, x: sum([y, x]),
        "reduce": lambda y, x: functools.reduce(torch.add, (y, x)),
        "in place": in_place,
        "in place by method": in_place_method,
        "difference": lambda y, x: y - (-x),
        "addcmul": lambda y, x: torch.addcmul(y, x, torch.ones(())),
        "baddbmm": lambda y, x: torch.baddbmm(
            y.flatten(2), EYE.expand(len(y), 4, 4), x.flatten(2)
        ).unflatten(2, y.shape[2:]),
        "cumulative": lambda y, x: torch.stack([y, x]).cumsum(0)[-1],
    },
    (0.5, 0.5): {
        "sum": lambda y, x: 0.5 * y + 0.5 * x,
        "stack and mean": lambda y, x: torch.stack((y, x)).mean(0),
        "lerp": lambda y, x: torch.lerp(y, x, 0.5),
        "halved": lambda y, x: (y + x) / 2,
    },
    (0.25, 0.75): {
        "sum": lambda y, x: 0.25 * y + (1 - 0.25) * x,
        "alpha": lambda y, x: torch.add(y * 0.25, x, alpha=0.75),
        "lerp": lambda y, x: y.lerp(x, torch.tensor(0.75)),
        "einsum": lambda y, x: torch.einsum(
            "k,kbchw->bchw", torch.tensor([0.25, 0.75]), torch.stack([y, x])
        ),
        "tensordot": lambda y, x: torch.tensordot(
            torch.tensor([0.25, 0.75]), torch.stack([y, x]), dims=1
        ),
        "subtracted": lambda y, x: torch.sub(y * 0.25, x, alpha=-0.75),
        "in place": lambda y, x: y.mul_(0.25).add_(x, alpha=0.75),
        "addcmul in place": lambda y, x: y.mul_(0.25).addcmul_(x, torch.ones(()), value=0.75),
    },
}  # fmt: skip


@pytest.mark.parametrize("weights", SKIPS)
def test_skip_has_one_relevance_and_closed_books_however_it_is_written(weights):
    expected = None
    for name, skip in SKIPS[weights].items():
        found, audit = explain(Skipping(skip))
        expected = found if expected is None else expected
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6, msg=name)
        assert audit.largest_accounted_error < 1e-5, name
        assert audit.accounted_error < 1e-5, name
    assert float(expected.abs().sum()) > 0


def windows(y, x):
    """Windows, and tokens before pictures: the first axis is not the batch."""
    y = y.unfold(2, 4, 4).unfold(3, 4, 4).permute(2, 3, 0, 1, 4, 5).flatten(0, 2)
    tokens = y.flatten(2).permute(2, 0, 1)
    tokens = F.layer_norm(F.linear(tokens, EYE, torch.ones(4)), (4,)) + tokens
    return tokens.unflatten(1, (4, -1)).mean(1).permute(1, 2, 0).unflatten(2, (4, 4))


def joined(y, x):
    """A class token and a mask, which hold relevance of their own."""
    tokens = torch.cat([torch.full((len(y), 4, 1), 0.3), y.flatten(2)], dim=2)
    tokens = tokens.masked_fill(torch.arange(65) == 7, 0.2)
    tokens = torch.where(torch.arange(65) == 9, torch.tensor(-0.4), tokens)
    return F.pad(tokens, (0, 1), value=0.5)[..., None]


@pytest.mark.parametrize("bias_relevance", ["absorb", "ignore", "uniform"])
@pytest.mark.parametrize("way", [windows, joined])
def test_audit_closes_where_the_first_axis_is_no_batch_and_where_constants_join(
    way, bias_relevance
):
    _, audit = explain(Skipping(way), bias_relevance=bias_relevance)
    assert audit.largest_accounted_error < 1e-5
    assert audit.accounted_error < 1e-5
    if way is joined:
        constants = [row.bias_share for row in audit.rows if row.layer_type == "constant"]
        assert len(constants) == 4
        if bias_relevance == "uniform":  # shared out to what stands beside them
            assert constants == pytest.approx([0] * 4, abs=1e-6)
            assert audit.reached == pytest.approx(1, rel=1e-4)
        else:
            assert any(abs(share) > 1e-3 for share in constants)


def test_books_of_a_batch_are_those_of_its_pictures_together():
    model = SalientRelevanceForImageSaliency.from_classifier(
        Skipping(SKIPS[1, 1]["stack and sum"]).eval(), **SMALL
    )
    audits = model.conservation_audit(pictures(3), [0, 1, 2])
    together = model._engine.propagate(
        model.backbone, pictures(3), torch.tensor([[0], [1], [2]]), model.config.rules,
        start="one", epsilon=1e-9, with_audit=True,
    )  # fmt: skip
    for index, row in enumerate(together.ledgers[0].rows()):
        one_by_one = sum(audit[0].rows[index].relevance_in for audit in audits)
        assert row.relevance_in == pytest.approx(one_by_one, rel=1e-4, abs=1e-6)


class Activated(nn.Module):
    def __init__(self, activation):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Conv2d(3, 4, 3), nn.Linear(256, 3)
        self.activation = activation

    def forward(self, x):
        return self.head(self.activation(self.stem(x)).flatten(1))


def clipped_in_place(x):
    gate = x + 3
    gate.clamp_(0, 6)
    x *= gate
    return x.div_(6)


ROOT = math.sqrt(2 / math.pi)
ACTIVATIONS = {
    F.hardswish: [
        lambda x: x * F.relu6(x + 3) / 6,
        lambda x: x * F.relu6(x + 3, inplace=True) * (1 / 6),
        lambda x: x * torch.clip(x + 3, 0, 6) / 6,
        lambda x: F.hardtanh(3 + x, 0, 6).mul(x).div(6),
        lambda x: x * torch.minimum(torch.maximum(x + 3, torch.zeros(())), torch.tensor(6.0)) / 6,
        lambda x: x * torch.where(x + 3 > 0, torch.where(x < 3, x + 3, 6.0), 0.0) / 6,
        lambda x: x * F.hardsigmoid(x),
        clipped_in_place,
    ],
    F.gelu: [lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))],
    functools.partial(F.gelu, approximate="tanh"): [
        lambda x: 0.5 * x * (1 + torch.tanh(ROOT * (x + 0.044715 * torch.pow(x, 3)))),
        lambda x: 0.5 * x * (1 + torch.tanh(ROOT * x * (1 + 0.044715 * x * x))),
    ],
    F.silu: [lambda x: x * torch.sigmoid(x), lambda x: x / (1 + torch.exp(-x))],
    F.mish: [lambda x: x * F.softplus(x).tanh()],
    F.softsign: [lambda x: x / (1 + x.abs())],
    F.relu6: [lambda x: x.clip(0, 6), lambda x: torch.clamp(x, min=0).clip(max=6)],
    torch.square: [
        lambda x: x * x,
        lambda x: x**2,
        lambda x: F.relu(x) * x - x * F.relu(-x),
        lambda x: torch.where(x > 0, x * x, x.abs() * -x),
    ],
    F.elu: [lambda x: torch.where(x > 0, x, torch.exp(x) - 1)],
}  # fmt: skip


@pytest.mark.parametrize("index", range(len(ACTIVATIONS)))
def test_activation_written_by_hand_is_the_activation(index):
    of_torch, by_hand = list(ACTIVATIONS.items())[index]
    expected, _ = explain(Activated(of_torch))
    for activation in by_hand:
        found, audit = explain(Activated(activation))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
        assert audit.accounted_error < 1e-5


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
def test_checkpointed_parts_are_explained_like_others():
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(4, 4, 3), nn.GroupNorm(2, 4), nn.GELU(), nn.MaxPool2d(2))

    class Checkpointed(Activated):
        def __init__(self, way):
            super().__init__(way)
            self.block, self.head = block, nn.Linear(36, 3)

        def forward(self, x):
            return self.head(self.activation(self.block, F.relu(self.stem(x))).flatten(1))

    plain, books = explain(Checkpointed(lambda block, x: block(x)))
    again = Checkpointed(lambda block, x: checkpoint(block, x, use_reentrant=False))
    found, audit = explain(again)
    torch.testing.assert_close(found, plain, rtol=0, atol=0)
    assert audit == books
    # and what relevance has run is still a network that can be trained
    again.train()(pictures()).sum().backward()
    assert again.stem.weight.grad is not None

    hidden = Checkpointed(lambda block, x: checkpoint(block, x, use_reentrant=True))
    with pytest.raises(
        ValueError, match=r"checkpoint with use_reentrant=True.*use_reentrant=False"
    ):
        explain(hidden)
