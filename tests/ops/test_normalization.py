"""Normalisation of a single value: by running statistics, or refused with the layer's name."""

import pytest
import torch
from torch import nn

from salhub.ops.normalization import single_values_normalized


def state_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


NORMS = {
    "batch, rows": (nn.BatchNorm1d(3), (1, 3)),
    "batch, 1 x 1": (nn.BatchNorm2d(3), (1, 3, 1, 1)),
    "instance, 1 x 1": (nn.InstanceNorm2d(3, affine=True, track_running_stats=True), (2, 3, 1, 1)),
}


@pytest.mark.parametrize("kind", NORMS)
def test_a_single_value_is_normalized_by_the_running_statistics(kind, caplog):
    norm, shape = NORMS[kind]
    with torch.no_grad():
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
    network, values = nn.Sequential(norm), torch.randn(shape)
    network.train()
    before, expected = state_of(norm), norm.eval()(values)
    norm.train()
    with pytest.raises(ValueError, match="Expected more than 1"):
        network(values)
    before["num_batches_tracked"] = norm.num_batches_tracked.clone()
    with single_values_normalized(network):
        assert torch.equal(network(values), expected)
        assert torch.equal(network(values), expected)
        assert norm.training
    after = state_of(norm)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert caplog.text.count("single value per channel") == 1 and "'0'" in caplog.text
    assert not norm._forward_hooks and not norm._forward_pre_hooks


def test_more_values_are_normalized_as_ever():
    norm, values = nn.BatchNorm2d(3), torch.randn(1, 3, 2, 2)
    plain = nn.BatchNorm2d(3)
    with single_values_normalized(norm):
        assert torch.equal(norm(values), plain(values))
    assert torch.equal(norm.running_var, plain.running_var)


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm2d(4, track_running_stats=False), nn.InstanceNorm2d(4), nn.GroupNorm(4, 4)]
)
@pytest.mark.parametrize("is_training", [True, False])
def test_without_running_statistics_the_layer_is_named(norm, is_training):
    network = nn.Sequential(nn.Identity(), norm).train(is_training)
    with (
        pytest.raises(ValueError, match=rf"'1' \({type(norm).__name__}\).*batch_size"),
        single_values_normalized(network),
    ):
        network(torch.ones(1, 4, 1, 1))
    assert network.training == is_training and not norm._forward_pre_hooks


def test_a_pass_that_fails_leaves_the_layer_in_training():
    class Failing(nn.BatchNorm1d):
        def forward(self, values):
            raise RuntimeError("no")

    norm = Failing(2)
    with pytest.raises(RuntimeError, match="no"), single_values_normalized(norm):
        norm(torch.ones(1, 2))
    assert norm.training
