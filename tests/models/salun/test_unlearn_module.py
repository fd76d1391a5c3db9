"""Unlearning of any module, against descent written out."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

from salhub.entries import recipe_named
from salhub.models.salun.masked_optimizer import closed_weights_digest
from salhub.models.salun.unlearn_module import METHODS, unlearn
from salhub.models.salun.weight_mask import make_mask
from salhub.models.salun.weight_saliency import compute_saliency
from salhub.runner.run import DivergedError


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))


def data(seed: int, number: int = 12) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(number, 6, generator=generator)
    return [(part, part[:, :4].argmax(1)) for part in inputs.split(5)]


FORGET, RETAIN = data(1), data(2, 20)


@pytest.mark.parametrize("method", METHODS)
def test_steps_equal_descent_written_out(method):
    options = {"num_train_epochs": 2, "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 0.01}
    if method == "l1-sparse":
        options["l1_weight"] = 0.02
    found = unlearn(network(), FORGET, RETAIN, method=method, seed=3, **options)

    model, velocity = network(), {}
    mask = None
    if method == "salun":
        mask = make_mask(compute_saliency(network(), FORGET), 0.5).tensors
    generator = torch.Generator().manual_seed(3)
    model.train()
    for epoch in range(2):
        steps = []
        if method == "ga":
            steps += [(x, y, -1) for x, y in FORGET]
        if method in ("salun", "rl"):
            for x, y in FORGET:
                wrong = (y + torch.randint(1, 4, y.shape, generator=generator)) % 4
                assert not (wrong == y).any()
                steps.append((x, wrong, 1))
        if method != "ga":
            steps += [(x, y, 1) for x, y in RETAIN]
        for x, y, sign in steps:
            loss = sign * F.cross_entropy(model(x), y)
            if method == "l1-sparse":
                loss = loss + 0.02 * (1 - epoch / 2) * sum(
                    p.abs().sum() for p in model.parameters()
                )
            named = dict(model.named_parameters())
            gradients = torch.autograd.grad(loss, list(named.values()))
            with torch.no_grad():
                for (name, p), gradient in zip(named.items(), gradients, strict=True):
                    velocity[name] = 0.9 * velocity.get(name, 0) + gradient + 0.01 * p
                    moved = p - 0.05 * velocity[name]
                    p.copy_(moved if mask is None else torch.where(mask[name], moved, p))
    for name, expected in model.state_dict().items():
        assert torch.allclose(found.model.state_dict()[name], expected, atol=1e-5), name
    assert (found.mask is None) == (method != "salun") and len(found.losses) == 2


@pytest.mark.parametrize("method", METHODS)
def test_the_defaults_are_those_of_the_command(method):
    options = recipe_named(method, "unlearn").recipe_class.arguments_class
    names = ("num_train_epochs", "learning_rate", "momentum", "weight_decay", "mask_ratio")
    named = {n: getattr(options, n) for n in (*names, "alpha", "l1_weight") if hasattr(options, n)}
    assert len(named) >= len(names)
    found = unlearn(network(), FORGET, RETAIN, method=method)
    assert len(found.losses) == options.num_train_epochs
    expected = unlearn(network(), FORGET, RETAIN, method=method, **named)
    assert found.losses == expected.losses
    others = {name: 0.5 * value for name, value in named.items() if isinstance(value, float)}
    for name, value in others.items():
        if name != "mask_ratio":
            changed = unlearn(network(), FORGET, RETAIN, method=method, **{name: value})
            assert changed.losses != found.losses, name
    for name, value in expected.model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], value), name


def test_closed_weights_keep_their_bits_and_the_mode_stays():
    model = network().eval()
    before = copy.deepcopy(model)
    found = unlearn(model, FORGET, RETAIN, mask_ratio=0.3, weight_decay=0.1, learning_rate=0.1)
    assert found.model is model and not model.training
    assert found.closed_weights_sha256 == closed_weights_digest(model, found.mask)
    for name, parameter in model.named_parameters():
        closed = ~found.mask.tensors[name]
        assert torch.equal(parameter[closed], dict(before.named_parameters())[name][closed])
    own = unlearn(network(), FORGET, RETAIN, method="rl", mask=found.mask)
    assert own.mask.num_open == found.mask.num_open


def test_a_model_of_transformers_and_batches_with_names_forget():
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        image_size=8, patch_size=4, num_labels=3,
    )  # fmt: skip
    model, labels = ViTForImageClassification(config), torch.arange(24) % 3
    pixels = torch.randn(24, 3, 8, 8) + labels[:, None, None, None] * 2 - 2
    everything = [{"pixel_values": pixels, "labels": labels}]
    unlearn(model, everything, everything, method="ft", num_train_epochs=60, learning_rate=0.05)
    with torch.no_grad():
        assert (model(pixels).logits.argmax(1) == labels).all()
    is_gone = labels == 2
    forget, retain = (
        [{"pixel_values": pixels[rows], "labels": labels[rows]}] for rows in (is_gone, ~is_gone)
    )
    unlearn(model, forget, retain, num_train_epochs=40, learning_rate=0.05)
    with torch.no_grad():
        right = model(pixels).logits.argmax(1) == labels
    assert not right[is_gone].any() and right[~is_gone].all()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"method": "salum"}, ValueError, "Did you mean 'salun'"),
        ({"forget": iter(FORGET)}, TypeError, "forget is read once per epoch"),
        ({"forget": []}, ValueError, "nothing to forget"),
        ({"method": "ft", "retain": []}, ValueError, "'ft' trains on the retained data"),
        ({"mask_ratio": 50}, ValueError, "mask_ratio must be a share above 0 and at most 1"),
        (
            {"method": "ga", "saliency": "random"},
            ValueError,
            "no mask is made here; give mask_ratio",
        ),
        ({"saliency": "nonsense"}, ValueError, "saliency must be one of"),
        ({"method": "ft", "alpha": 2.0}, ValueError, "method 'ft' has no option 'alpha'"),
        ({"l1_weight": 0.1}, ValueError, "method 'salun' has no option 'l1_weight'"),
        ({"alpha": -1.0}, ValueError, "alpha must be 0 or more"),
        ({"num_train_epochs": 0}, ValueError, "num_train_epochs must be an integer, 1 or more"),
        ({"learning_rate": -1.0}, ValueError, "learning_rate must be a finite number above 0"),
        ({"model": nn.Linear(6, 1)}, ValueError, "only one class"),
    ],
)
def test_requests_that_cannot_be_met_are_refused(change, error, words):
    arguments = {"model": network(), "forget": FORGET, "retain": RETAIN, **change}
    if "model" in change:
        arguments["forget"] = [(x, torch.zeros_like(y)) for x, y in FORGET]
        arguments["mask"] = make_mask(compute_saliency(change["model"], kind="random"), 0.5)
    before = copy.deepcopy(arguments["model"].state_dict())
    with pytest.raises(error, match=words):
        unlearn(**arguments)
    for name, value in arguments["model"].state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("number", [1, 5])
def test_a_model_that_gives_no_numbers_any_more_is_not_given_back(number):
    model = network().eval()
    with pytest.raises(DivergedError, match="no longer gives finite numbers after 'rl'"):
        unlearn(model, FORGET, RETAIN, method="rl", num_train_epochs=number, learning_rate=1e30)
    assert not model.training
