"""Scores against loops of plain backward passes."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import (
    BatchFeature,
    BertConfig,
    BertForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
)

from salhub import CifarResNetConfig, SalUnConfig, SalUnForImageClassification
from salhub.models.salun import weight_saliency
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


@pytest.mark.parametrize("kind", ["batch_mean_grad", "fisher"])
def test_what_a_loss_or_a_loader_draws_follows_the_seed_only(kind):
    network, pairs = small_network(), TensorDataset(*samples(10))

    def noisy(model, batch):
        return model(batch[0] + torch.randn_like(batch[0])).square().sum(1)

    def found(seed):
        loader = DataLoader(pairs, 4, shuffle=True)
        return compute_saliency(network, loader, noisy, kind=kind, seed=seed)["5.weight"]

    state = torch.get_rng_state()
    first = found(1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert torch.equal(first, found(1)) and not torch.equal(first, found(2))


def test_batches_of_processors_and_of_inference_mode():
    class ByName(nn.Linear):
        def forward(self, pixel_values):
            return super().forward(pixel_values)

    model = ByName(3, 2)
    inputs, labels = torch.randn(4, 3), torch.tensor([0, 1, 1, 0])
    expected = compute_saliency(model, [(inputs, labels)])["weight"]
    with torch.inference_mode():
        batch = BatchFeature({"pixel_values": inputs.clone(), "labels": labels.clone()})
        assert torch.equal(compute_saliency(model, [batch])["weight"], expected)


def test_models_that_look_at_values_are_scored_sample_by_sample():
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        vocab_size=20, num_labels=2,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    batch = {
        "input_ids": torch.randint(20, (3, 5)),
        "attention_mask": torch.tensor([[1, 1, 1, 0, 0], [1] * 5, [1] * 4 + [0]]),
        "labels": torch.tensor([0, 1, 1]),
    }
    found = compute_saliency(model, [batch], kind="sum_abs")
    single = [{name: value[i : i + 1] for name, value in batch.items()} for i in range(3)]
    expected = [compute_saliency(model, [one]) for one in single]
    for name, values in found.items():
        torch.testing.assert_close(values, sum(one[name] for one in expected))


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
    with pytest.raises(ValueError, match=r"one number per sample.*reduction='none'"):
        compute_saliency(network, batches(), lambda model, batch: model(batch[0]).sum())
    with pytest.raises(ValueError, match="must not be detached"):
        compute_saliency(network, batches(), lambda model, batch: model(batch[0])[:, 0].detach())
    with pytest.raises(ValueError, match="one class number per sample"):
        compute_saliency(network, [(inputs, F.one_hot(labels, 5).float())])
    with pytest.raises(ValueError, match="no 'labels'"):
        compute_saliency(network, [{"input": inputs, "label": labels}])
    with pytest.raises(ValueError, match="are not finite"):
        compute_saliency(network, [(inputs * torch.nan, labels)])
    with pytest.raises(ValueError, match=r"a pair .*got 3 tensors"):
        compute_saliency(network, [(inputs, labels, labels)])
    for batch in (inputs, {"inputs": inputs, "labels": [0, 1, 2]}):
        with pytest.raises(TypeError, match="pair of tensors"):
            compute_saliency(network, [batch])
    for kind in ("batch_mean_grad", "fisher"):
        for label in (-100, 5):
            with pytest.raises(ValueError, match="labels must be classes 0 to 4"):
                compute_saliency(network, [(inputs, labels.clone().fill_(label))], kind=kind)
        with pytest.raises(ValueError, match="one number per sample"):
            compute_saliency(network, batches(), lambda m, b: m(b[0]).sum(), kind=kind)
    with pytest.raises(ValueError, match="are not finite"):
        nn.init.constant_(network[5].bias, torch.nan)
        compute_saliency(network, kind="magnitude")
    with pytest.raises(TypeError, match="device 'meta'"):
        compute_saliency(small_network().to("meta"), batches())
    with pytest.raises(ValueError, match="no parameter with requires_grad"):
        compute_saliency(small_network().requires_grad_(False), batches())
    with pytest.raises(TypeError, match="has no gradient"):
        whole = nn.Module()
        whole.weight = nn.Parameter(torch.ones(2, dtype=torch.int8), requires_grad=False)
        compute_saliency(whole, batches())


def test_our_classifier_is_looked_at_for_several_samples_at_once(monkeypatch):
    config = SalUnConfig(backbone_config=CifarResNetConfig(depth=8, width=4, num_labels=3))
    model = SalUnForImageClassification(config).eval()
    pictures, labels = torch.randn(6, 3, 32, 32), torch.arange(6) % 3
    pick = weight_saliency._picked

    def never_one_by_one(batch, samples):
        assert not isinstance(samples, int)
        return pick(batch, samples)

    monkeypatch.setattr(weight_saliency, "_picked", never_one_by_one)
    found = compute_saliency(model, [(pictures, labels)], kind="fisher")
    squares = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for picture, label in zip(pictures, labels, strict=True):
        loss = torch.nn.functional.cross_entropy(model(picture[None]).logits, label[None])
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        for total, gradient in zip(squares.values(), gradients, strict=True):
            total += gradient.square()
    for name, expected in squares.items():
        assert torch.allclose(found[name], expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_a_model_whose_weights_were_packed_is_refused():
    packed = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(3, 2)), {nn.Linear})
    with pytest.raises(TypeError, match=r"'0' is a Linear of .*use the model before quantization"):
        compute_saliency(packed, [(torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))])
