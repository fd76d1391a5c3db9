"""Scores against loops of plain backward passes."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

from salhub.models.salun.weight_saliency import KINDS, compute_saliency
from tests.models.salun.networks import batches, samples, small_network


def gradient(network, inputs, labels, reduction="mean") -> dict[str, torch.Tensor]:
    """By `backward`, on a copy."""
    network = copy.deepcopy(network).eval()
    F.cross_entropy(network(inputs), labels, reduction=reduction).backward()
    return {name: p.grad for name, p in network.named_parameters()}


def expected_scores(network, kind) -> dict[str, torch.Tensor]:
    inputs, labels = samples(10)
    names = [name for name, _ in network.named_parameters()]
    singles = [gradient(network, inputs[i : i + 1], labels[i : i + 1]) for i in range(10)]
    means = [gradient(network, *batch) for batch in batches()]
    weights = dict(network.named_parameters())
    formulas = {
        "batch_mean_grad": lambda n: sum(one[n] for one in means).abs(),
        "sample_mean_grad": lambda n: (sum(one[n] for one in singles) / 10).abs(),
        "sum_abs": lambda n: sum(one[n].abs() for one in singles),
        "fisher": lambda n: sum(one[n] ** 2 for one in singles),
        "weight_times_grad": lambda n: (weights[n] * sum(one[n] for one in singles) / 10).abs(),
        "magnitude": lambda n: weights[n].abs(),
    }
    return {name: formulas[kind](name).detach() for name in names}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "random"])
def test_equal_to_backward_passes_one_by_one(kind):
    network = small_network()
    found = compute_saliency(network, batches(), kind=kind)
    expected = expected_scores(network, kind)
    assert list(found) == list(expected)
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=1e-4, atol=1e-6)


def test_the_kinds_differ_where_the_last_batch_is_short():
    network = small_network()
    by_batch = compute_saliency(network, batches(), kind="batch_mean_grad")
    by_sample = compute_saliency(network, batches(), kind="sample_mean_grad")
    ratio = (by_batch["5.weight"] / by_sample["5.weight"])[by_sample["5.weight"] > 0]
    assert float(ratio.max() - ratio.min()) > 0.1


def test_samples_are_cut_into_parts_that_fit(monkeypatch):
    from salhub.models.salun import weight_saliency

    network = small_network()
    whole = compute_saliency(network, batches(), kind="fisher")
    monkeypatch.setattr(weight_saliency, "_SAMPLE_GRADIENT_BYTES", 1)
    for name, values in compute_saliency(network, batches(), kind="fisher").items():
        torch.testing.assert_close(values, whole[name], rtol=1e-5, atol=1e-9)


def test_random_scores_follow_the_seed_and_ignore_the_data():
    network = small_network()
    first = compute_saliency(network, kind="random", seed=1)
    assert torch.equal(
        first["0.weight"], compute_saliency(network, kind="random", seed=1)["0.weight"]
    )
    assert not torch.equal(first["0.weight"], compute_saliency(network, kind="random")["0.weight"])


@pytest.mark.parametrize("kind", ["batch_mean_grad", "fisher"])
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(kind, fails):
    network = small_network().train()
    network[5].weight.grad = torch.ones_like(network[5].weight)
    state = copy.deepcopy(network.state_dict())
    generator = torch.get_rng_state()
    data = [*batches(), (torch.zeros(1, 3, 6, 6), torch.tensor([0]))] if fails else batches()
    try:
        compute_saliency(network, data, kind=kind)
    except RuntimeError:
        assert fails
    assert all(module.training for module in network.modules())
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert torch.equal(network[5].weight.grad, torch.ones_like(network[5].weight))
    assert network[0].weight.grad is None and network[0].weight.requires_grad
    assert torch.equal(torch.get_rng_state(), generator)


def test_works_without_gradients_around_it_and_on_transformers_models():
    config = ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        image_size=8, patch_size=4, num_labels=3,
    )  # fmt: skip
    model = ViTForImageClassification(config)
    batch = {"pixel_values": torch.randn(3, 3, 8, 8), "labels": torch.tensor([0, 1, 2])}
    with torch.no_grad():
        found = compute_saliency(model, [batch])
        per_sample = compute_saliency(model, [batch], kind="sum_abs")
    assert found.keys() == per_sample.keys() == dict(model.named_parameters()).keys()
    assert float(found["classifier.weight"].sum()) > 0


def test_frozen_and_tied_parameters_are_named(caplog):
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    network[1].weight = network[0].weight
    network[2].bias.requires_grad_(False)
    found = compute_saliency(network, [(torch.randn(2, 3), torch.tensor([0, 2]))])
    assert list(found) == ["0.weight", "0.bias", "1.bias", "2.weight"]
    assert "1 frozen parameters get no score: 2.bias" in caplog.text
    assert "tied to a parameter that is scored already: 1.weight" in caplog.text


def test_bad_input_is_refused_in_one_sentence():
    network, (inputs, labels) = small_network(), samples(3)
    with pytest.raises(ValueError, match="Did you mean 'fisher'"):
        compute_saliency(network, batches(), kind="fischer")
    with pytest.raises(ValueError, match="all scores are 0: there was no data"):
        compute_saliency(network, [])
    with pytest.raises(ValueError, match=r"one number a sample.*reduction='none'"):
        compute_saliency(network, batches(), lambda model, batch: model(batch[0]).sum())
    with pytest.raises(ValueError, match="must not be detached"):
        compute_saliency(network, batches(), lambda model, batch: model(batch[0])[:, 0].detach())
    with pytest.raises(ValueError, match="one class number a sample"):
        compute_saliency(network, [(inputs, F.one_hot(labels, 5).float())])
    with pytest.raises(ValueError, match="no 'labels'"):
        compute_saliency(network, [{"input": inputs, "label": labels}])
    with pytest.raises(ValueError, match="is not finite"):
        compute_saliency(network, [(inputs * torch.nan, labels)])
    with pytest.raises(TypeError, match="device 'meta'"):
        compute_saliency(small_network().to("meta"), batches())
    with pytest.raises(ValueError, match="no parameter with requires_grad"):
        compute_saliency(small_network().requires_grad_(False), batches())
    with pytest.raises(TypeError, match="has no gradient"):
        whole = nn.Module()
        whole.weight = nn.Parameter(torch.ones(2, dtype=torch.int8), requires_grad=False)
        compute_saliency(whole, batches())
