"""Randomisation check: what is re-initialised, what is left alone, and what is compared."""

import pytest
import torch
from scipy import stats
from torch import nn

from salhub.metrics.randomization import (
    cascade_randomization,
    layer_stages,
    map_similarity,
    randomized_models,
)
from salhub.metrics.structural_similarity import structural_similarity


class Scale(nn.Module):
    """A module with a parameter and no reset_parameters."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(2.0, 4.0, 8))

    def forward(self, x):
        return x * self.scale[:, None, None]


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), Scale()),
                nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()),
            ]
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(8, 4)

    def features(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return x


LAYERS = ["classifier", "blocks.1", "blocks.0", "stem"]


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Network().eval()


def changed_names(before, after):
    after = dict(after.named_parameters())
    return {n for n, p in before.named_parameters() if not torch.equal(p, after[n])}


def test_stages_are_blocks_in_order(network):
    assert layer_stages(network) == LAYERS[::-1]
    assert layer_stages(network, "backbone.")[0] == "backbone.stem"


@pytest.mark.parametrize("mode", ["cascade", "independent"])
def test_only_the_named_layers_change_and_never_the_model(network, mode):
    weights = {n: p.clone() for n, p in network.state_dict().items()}
    random_state = torch.get_rng_state()
    for position, (name, copy) in enumerate(randomized_models(network, LAYERS, mode=mode)):
        expected = LAYERS[: position + 1] if mode == "cascade" else [name]
        changed = changed_names(network, copy)
        touched = {n for n, _ in network.named_parameters() if n.startswith(tuple(expected))}
        # A batch norm starts at ones and zeros, which is where the untrained network still is.
        assert changed == touched - {"blocks.0.1.weight", "blocks.0.1.bias"}
        assert not copy.training
    assert all(torch.equal(weights[n], p) for n, p in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_stops_skip_copies_but_not_randomisation(network):
    found = list(randomized_models(network, LAYERS, stops=["blocks.0"], seed=2))
    everywhere = dict(randomized_models(network, LAYERS, seed=2))
    assert [name for name, _ in found] == ["blocks.0"]
    expected = everywhere["blocks.0"].state_dict()
    assert all(torch.equal(expected[n], p) for n, p in found[0][1].state_dict().items())
    with pytest.raises(ValueError, match="stop 'head' is not one of the layers"):
        next(randomized_models(network, LAYERS, stops=["head"]))


def test_parameters_without_a_reset_keep_their_scale(network):
    network.blocks[0][3].scale.data = torch.linspace(100.0, 104.0, 8)
    _, copy = next(randomized_models(network, ["blocks.0"], seed=1))
    scale = copy.blocks[0][3].scale
    assert 95 < scale.mean().item() < 109
    assert not torch.equal(scale, network.blocks[0][3].scale)


def test_same_seed_gives_the_same_weights(network):
    def weights(seed):
        return next(c.stem.weight for _, c in randomized_models(network, ["stem"], seed=seed))

    assert torch.equal(weights(5), weights(5))
    assert not torch.equal(weights(5), weights(6))


def test_cascade_compares_with_the_trained_maps(network):
    pictures = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))

    def explain(model):
        return model.features(pictures).sum(dim=1).detach()

    steps = dict(cascade_randomization(network, explain, LAYERS, seed=3))
    assert list(steps) == LAYERS
    # These features do not depend on the classifier, so its randomisation changes nothing.
    assert steps["classifier"].rank_correlation.tolist() == pytest.approx([1.0, 1.0])
    assert steps["classifier"].structural_similarity.tolist() == pytest.approx([1.0, 1.0])
    assert (steps["stem"].rank_correlation.abs() < 0.9).all()


def test_similarity_is_spearman_signed_and_unsigned_and_ssim_of_scaled_maps():
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(2, 12, 13, generator=generator)
    second = 40 * (torch.randn(2, 12, 13, generator=generator) + 0.5 * first) - 7
    found = map_similarity(first, second)
    for row in range(2):
        a, b = first[row].flatten(), second[row].flatten()
        assert found.rank_correlation[row].item() == pytest.approx(stats.spearmanr(a, b).statistic)
        assert found.absolute_rank_correlation[row].item() == pytest.approx(
            stats.spearmanr(a.abs(), b.abs()).statistic
        )
        scaled = [(m[row] - m[row].min()) / (m[row].max() - m[row].min()) for m in (first, second)]
        expected = structural_similarity(scaled[0][None], scaled[1][None]).item()
        assert found.structural_similarity[row].item() == pytest.approx(expected, abs=1e-6)


def test_constant_maps_are_counted():
    maps = torch.rand(2, 12, 12, generator=torch.Generator().manual_seed(0))
    other = maps.clone()
    other[1] = 2.0
    found = map_similarity(maps, other)
    assert found.constant.tolist() == [False, True]
    assert torch.isnan(found.rank_correlation).tolist() == [False, True]
    assert torch.isfinite(found.structural_similarity).all()


def test_bad_input_is_named(network):
    with pytest.raises(ValueError, match="no layer 'head' with parameters"):
        next(randomized_models(network, ["head"]))
    with pytest.raises(ValueError, match="no layer 'pool' with parameters"):
        next(randomized_models(network, ["pool"]))
    with pytest.raises(ValueError, match="'cascade' or 'independent', got 'all'"):
        next(randomized_models(network, ["stem"], mode="all"))
