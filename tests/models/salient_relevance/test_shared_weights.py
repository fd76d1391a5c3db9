"""Weights that relevance shares with the classifier: their edits are seen, and none are made."""

import pytest
import torch
from torch import nn

from salhub.models.salient_relevance.private_network import PrivateNetwork
from salhub.models.salient_relevance.relevance_engine import RelevanceEngine
from salhub.models.salient_relevance.rules import rule_set


def as_they_are(logits):
    return logits


def picture():
    generator = torch.Generator().manual_seed(5)
    return torch.rand(1, 3, 12, 12, generator=generator) * 2 - 1


@pytest.mark.parametrize("linear_rule", ["epsilon", "z_plus"])
def test_weights_are_shared_and_edits_without_a_version_are_still_seen(linear_rule):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(432, 8), nn.ReLU(), nn.Linear(8, 3))
    for parameter in network.parameters():
        parameter.data.uniform_(0.1, 1)
    images = picture().abs()
    rules = rule_set(first_rule=linear_rule, linear_rule=linear_rule)
    engine, label = RelevanceEngine(as_they_are), torch.tensor([[1]])
    private = engine.private_network(network, images, rules.derives_weights)
    assert private.shared == {id(parameter) for parameter in network.parameters()}
    assert private.network[1].weight.data_ptr() == network[1].weight.data_ptr()

    def relevance(engine):
        return engine.propagate(network, images, label, rules, start="one").relevance

    for layer in (network[1], network[3]):
        for edited in (layer.weight, layer.bias):
            before = relevance(engine)
            edited.data.copy_(edited.data.flip(0) * 1.5)  # the same storage and version
            found, fresh = relevance(engine), relevance(RelevanceEngine(as_they_are))
            torch.testing.assert_close(found, fresh, rtol=0, atol=0)
            assert not torch.equal(found, before)
    assert all(p.requires_grad and p.grad is None for p in network.parameters())


def test_modified_weights_are_made_again_after_an_edit_that_other_rules_saw():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(432, 3))
    engine, images = RelevanceEngine(as_they_are), picture()
    derived = rule_set(first_rule="z_plus")
    plain = rule_set(first_rule="epsilon", linear_rule="epsilon", convolution_rule="epsilon")
    for rules in (derived, plain, derived, plain, derived):
        found = engine.propagate(network, images, None, rules).relevance
        fresh = RelevanceEngine(as_they_are).propagate(network, images, None, rules).relevance
        torch.testing.assert_close(found, fresh, rtol=0, atol=0)
        network[1].weight.data.mul_(-0.5)


def test_weights_that_a_forward_pass_changes_are_not_shared():
    class Growing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(432, 3)

        def forward(self, x):
            self.layer.weight.data.mul_(1.0001)
            return self.layer(x.flatten(1))

    network = Growing()
    private = PrivateNetwork(network, as_they_are, picture())
    before = network.layer.weight.detach().clone()
    private.logits(picture())
    assert torch.equal(network.layer.weight, before)
