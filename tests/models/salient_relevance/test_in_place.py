"""Operations in place, through views of what is used again elsewhere."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from salhub.models.salient_relevance.rules import rule_set
from tests.models.salient_relevance.test_relevance_mode import explain, pixels


def flattened(y):
    z = y.flatten(2)
    F.relu(z, inplace=True)
    return y


def sliced(y):
    y[:, :3].relu_()
    return y


def added(y):
    v = y[:, :3]
    v += 1
    return y


def transposed(y):
    y.transpose(1, 2).mul_(2)
    return y


def base_changed(y):
    v = y[:, :3]
    y.relu_()
    return v


def view_of_view(y):
    v = y.flatten(2)
    v.view(v.shape).add_(1)
    return v


def assigned(y):
    y[:, :3] = 0
    return y


class Changing(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 3), nn.LazyLinear(2)
        self.change = change

    def forward(self, x):
        return self.head(self.change(self.stem(x)).flatten(1))


CHANGES = [flattened, sliced, added, transposed, base_changed, view_of_view, assigned]


@pytest.mark.parametrize("change", CHANGES)
def test_reading_what_was_changed_through_a_view_is_refused(change):
    network = Changing(change).eval()
    with torch.no_grad():
        network(pixels())
    with pytest.raises(ValueError, match=r"Changing.*(through a view by|assignment).*NormGrad"):
        explain(network, pixels(), rule_set("epsilon_plus"))


def test_views_changed_in_place_that_nothing_else_reads_are_explained():
    def in_place(y):
        z = y.flatten(2)
        z.relu_()
        z += 1
        return F.dropout(z, 0.5, False, True)

    network = Changing(in_place).eval()
    with torch.no_grad():
        network(pixels())
    plain = Changing(lambda y: y.flatten(2).relu() + 1).eval()
    plain.head = nn.Linear(400, 2)
    plain.load_state_dict(network.state_dict())
    found, expected = (explain(net, pixels(), rule_set("epsilon_plus")) for net in (network, plain))
    torch.testing.assert_close(found.logits, plain(pixels()).detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.relevance, expected.relevance, rtol=0, atol=0)


def test_pass_that_computes_other_logits_is_refused():
    def copied_by_us_alone(y):
        y.permute(0, 2, 3, 1).permute(0, 3, 1, 2).contiguous().mul_(2)
        return y

    network = Changing(copied_by_us_alone).eval()
    with torch.no_grad():
        network(pixels())
    with pytest.raises(ValueError, match=r"relevance pass gives logits that differ by .*NormGrad"):
        explain(network, pixels(), rule_set("epsilon_plus"))
