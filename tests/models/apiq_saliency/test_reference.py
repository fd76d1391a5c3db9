"""The arithmetic of ApiQ with saliency, beside the same written out and left to autograd."""

import math

import pytest
import torch
from torch import Tensor
from transformers import BloomConfig, BloomForCausalLM

from salhub.models.apiq_saliency.block_training import (
    Stage,
    TrainedWeight,
    TrainingSettings,
    normalized,
    train_weights,
)
from salhub.models.apiq_saliency.saliency import (
    SaliencyFile,
    SaliencyFolder,
    check_saliency,
    estimate_saliency,
    save_saliency,
)
from salhub.quantization.decoder_blocks import decoder_blocks, linear_layers
from salhub.quantization.learned_clipping import LearnedClipping
from tests import small_llama
from tests.quantization.test_learned_clipping import GROUP, restated

ROWS, COLUMNS, RANK, ALPHA = 6, 16, 2, 4.0


@pytest.fixture(scope="module")
def llama():
    return small_llama.network()


@pytest.fixture(scope="module")
def windows() -> Tensor:
    draw = torch.Generator().manual_seed(5)
    return torch.randint(small_llama.VOCAB_SIZE, (5, 12), generator=draw)


@pytest.fixture(scope="module")
def saliency(llama, windows) -> dict[str, Tensor]:
    return estimate_saliency(llama, windows, batch_size=2)


def layers_of(model) -> dict:
    return {
        f"{name}.{layer}": linear
        for name, block in decoder_blocks(model).items()
        for layer, linear in linear_layers(block).items()
    }


def test_saliency_is_the_sum_of_squared_gradients_of_each_window(llama, windows, saliency):
    layers = layers_of(llama)
    assert saliency.keys() == layers.keys()
    slow = {name: torch.zeros_like(one.weight) for name, one in layers.items()}
    for window in windows:
        llama.zero_grad()
        llama(input_ids=window[None], labels=window[None]).loss.backward()
        for name, one in layers.items():
            slow[name] += one.weight.grad.square()
    llama.zero_grad()
    for name, wanted in slow.items():
        torch.testing.assert_close(saliency[name], wanted, rtol=1e-3, atol=1e-12)
        assert float(wanted.max()) > 0
    # The square of the gradient of all windows is another quantity.
    llama(input_ids=windows, labels=windows).loss.backward()
    together = next(iter(layers.values())).weight.grad.square()
    llama.zero_grad()
    assert float((together - next(iter(slow.values()))).abs().max() / together.max()) > 0.1


def test_saliency_of_a_family_whose_blocks_give_more_than_hidden_states():
    torch.manual_seed(0)
    bloom = BloomForCausalLM(BloomConfig(vocab_size=40, hidden_size=16, n_layer=2, n_head=2)).eval()
    windows = torch.arange(24).view(2, 12)
    found = estimate_saliency(bloom, windows)
    name = "transformer.h.0.mlp.dense_h_to_4h"
    wanted = torch.zeros_like(found[name])
    for window in windows:
        bloom.zero_grad()
        bloom(input_ids=window[None], labels=window[None]).loss.backward()
        wanted += bloom.get_submodule(name).weight.grad.square()
    torch.testing.assert_close(found[name], wanted, rtol=1e-3, atol=1e-12)


def test_saliency_in_short_products_is_nearly_the_same(llama, windows, saliency):
    short = estimate_saliency(llama, windows, batch_size=2, dtype=torch.bfloat16)
    for name, wanted in saliency.items():
        away = (short[name] - wanted).norm() / wanted.norm()
        assert short[name].dtype == torch.float32 and 1e-5 < away < 0.05, name


def test_saliency_that_was_stopped_goes_on(llama, windows, saliency, tmp_path):
    whole = SaliencyFolder(tmp_path / "whole", llama)
    whole.fill(llama, windows, batch_size=2)
    assert all(torch.equal(whole[name], one) for name, one in saliency.items())
    # Only the last block is there, as of a run that was stopped then.
    begun = SaliencyFolder(tmp_path / "begun", llama)
    (tmp_path / "begun").mkdir()
    last = "block-0001.safetensors"
    (tmp_path / "begun" / last).write_bytes((tmp_path / "whole" / last).read_bytes())
    begun.fill(llama, windows, batch_size=2)
    assert all(torch.equal(begun[name], one) for name, one in saliency.items())
    assert not list((tmp_path / "begun").glob("inputs-*"))


def test_the_model_is_left_as_it_was(llama, windows):
    before = {name: one.clone() for name, one in llama.state_dict().items()}
    logits = llama(windows).logits
    estimate_saliency(llama, windows)
    assert all(one.grad is None for one in llama.parameters())
    assert torch.equal(llama(windows).logits, logits)
    assert all(torch.equal(one, before[name]) for name, one in llama.state_dict().items())


def test_saliency_is_read_from_a_file_and_refused_where_it_is_of_another_model(
    llama, saliency, tmp_path
):
    path = save_saliency(saliency, tmp_path / "saliency.safetensors")
    read, layers = SaliencyFile(path), layers_of(llama)
    assert all(torch.equal(read[name], one) for name, one in saliency.items())
    check_saliency(read, layers)
    name = "model.layers.0.mlp.up_proj"
    wrong = {
        f"The saliency has no {name} and lacks 1 of 14 layers": None,
        f"saliency of {name} has the shape": torch.ones(2, 3),
        "is not finite": torch.full((24, 16), float("nan")),
        "has negative values": saliency[name] - 1,
        "is 0 everywhere": torch.zeros(24, 16),
    }
    for words, values in wrong.items():
        other = {**saliency, name: values}
        if values is None:
            del other[name]
        with pytest.raises(ValueError, match=words):
            check_saliency(other, layers)
    with pytest.raises(FileNotFoundError, match=r"The saliency file .*none\.safetensors does not"):
        SaliencyFile(tmp_path / "none.safetensors")


def fail(sentence: str):
    raise AssertionError(sentence)


def settings(**others) -> TrainingSettings:
    stages = [Stage("weights", 1, 0, 1), Stage("joint", 2, 1, 1), Stage("outputs", 1, 1, 0)]
    given = {
        "stages": stages,
        "batch_size": 2,
        "lora_learning_rate": 1e-2,
        "clip_learning_rate": 5e-2,
        "weight_decay": 0.1,
        "lr_scheduler": "constant",
        "regularized": "before_lora",
        "normalize_saliency": True,
    }
    return TrainingSettings(**(given | others))


def example() -> tuple[Tensor, Tensor, Tensor]:
    """A weight, importance and inputs of both paths, (2, S, L, m)."""
    draw = torch.Generator().manual_seed(2)
    inputs = torch.randn(5, 7, COLUMNS, generator=draw)
    both = torch.stack([inputs, inputs + 0.1 * torch.randn(5, 7, COLUMNS, generator=draw)])
    importance = torch.rand(ROWS, COLUMNS, generator=draw).square() * 3
    return torch.randn(ROWS, COLUMNS, generator=draw), importance, both


def trained(
    factor: float = 0.5, bits: int = 2, importance: bool = True, **others
) -> tuple[TrainedWeight, Tensor, list]:
    weight, counted, (full, quantized) = example()
    torch.manual_seed(3)
    counted = normalized(counted) if importance else None
    one = TrainedWeight(weight, LearnedClipping(weight, GROUP, bits), RANK, ALPHA, counted)
    history = train_weights(
        {"layer": one},
        lambda weights, rows: [rows @ weights["layer"].T],
        quantized,
        [[full @ weight.T], [quantized @ weight.T]],
        settings(**others),
        factor=factor,
        name="block",
        fail=fail,
    )
    with torch.no_grad():
        return one, one.effective()[0], history.losses


@pytest.mark.parametrize("regularized", ["before_lora", "after_lora"])
@pytest.mark.parametrize("normalize", [True, False])
def test_training_is_that_of_a_plain_loop(regularized, normalize):
    found, effective, losses = trained(regularized=regularized, normalize_saliency=normalize)
    weight, counted, (full, quantized) = example()
    counted = counted / counted.mean()
    torch.manual_seed(3)
    lora_a = torch.empty(RANK, COLUMNS)
    lora_a.uniform_(-1 / math.sqrt(COLUMNS), 1 / math.sqrt(COLUMNS)).requires_grad_()
    lora_b = torch.zeros(ROWS, RANK, requires_grad=True)
    upper, lower = (torch.full((ROWS, 2), 4.0, requires_grad=True) for _ in range(2))
    groups = [{"params": [lora_a, lora_b], "lr": 1e-2}, {"params": [upper, lower], "lr": 5e-2}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.1, eps=1e-16)
    unit, slow_losses = None, []
    for with_outputs, with_weights in ((0, 1), (1, 1), (1, 1), (1, 0)):
        sums = 0.0
        for rows in torch.randperm(5).split(2):
            rounded = restated(weight, upper, lower, [2, 2])
            read = quantized[rows]
            made = read @ rounded.T + ALPHA / RANK * (read @ lora_a.T) @ lora_b.T
            loss = (made - full[rows] @ weight.T).square().mean()
            loss = loss + (made - read @ weight.T).square().mean()
            unit = loss.detach() if with_outputs and unit is None else unit
            away = rounded - weight
            if regularized == "after_lora":
                away = away + ALPHA / RANK * lora_b @ lora_a
            penalty = (counted * away.square()).sum()
            if normalize:
                penalty = penalty / weight.square().sum() * (1 if unit is None else unit)
            optimizer.zero_grad()
            (with_outputs * loss + 0.5 * with_weights * penalty).backward()
            if not with_outputs and regularized == "before_lora":
                lora_a.grad = lora_b.grad = None
            optimizer.step()
            sums += float(loss.detach()) * len(rows) * with_outputs
        slow_losses.append(sums / 5)
    wanted = restated(weight, upper, lower, [2, 2]) + ALPHA / RANK * lora_b @ lora_a
    torch.testing.assert_close(found.clipping.upper, upper, rtol=0, atol=1e-3)
    torch.testing.assert_close(found.lora_B, lora_b, rtol=0, atol=1e-4)
    torch.testing.assert_close(effective, wanted.detach(), rtol=0, atol=1e-3)
    assert losses == pytest.approx(slow_losses, rel=1e-3)


def test_without_a_factor_it_is_plain_apiq_to_the_bit():
    stages = [Stage("outputs", 3, 1, 0)]
    plain = trained(0.5, importance=False, stages=stages)[1]
    assert torch.equal(trained(0.0, stages=[Stage("joint", 3, 1, 1)])[1], plain)
    assert not torch.equal(trained(0.5, stages=[Stage("joint", 3, 1, 1)])[1], plain)


def test_saliency_that_is_the_same_everywhere_is_none():
    weight, _, _ = example()
    assert torch.equal(normalized(torch.full_like(weight, 4.0)), torch.ones_like(weight))
    stages = [Stage("joint", 2, 1, 1)]
    none = trained(0.5, importance=False, stages=stages)[1]
    weight, _, (full, quantized) = example()
    torch.manual_seed(3)
    one = TrainedWeight(
        weight, LearnedClipping(weight, GROUP, 2), RANK, ALPHA, torch.ones_like(weight)
    )
    train_weights(
        {"layer": one},
        lambda weights, rows: [rows @ weights["layer"].T],
        quantized,
        [[full @ weight.T], [quantized @ weight.T]],
        settings(stages=stages),
        factor=0.5,
        name="block",
        fail=fail,
    )
    torch.testing.assert_close(one.effective()[0].detach(), none, rtol=0, atol=1e-6)


def test_the_regularizer_alone_finds_the_ranges_of_a_search_by_brute_force():
    draw = torch.Generator().manual_seed(4)
    weight = torch.randn(6, 256, generator=draw)
    counted = normalized(torch.rand(6, 256, generator=draw).square())
    one = TrainedWeight(weight, LearnedClipping(weight, 256, 2), RANK, ALPHA, counted)

    def errors(ratios: Tensor) -> Tensor:
        """Of ranges from ratios[0] times the lowest to ratios[1] times the highest weight."""
        low, high = ratios[0] * weight.amin(1), ratios[1] * weight.amax(1)
        scale = ((high - low) / 3)[:, None]
        zero = (-low[:, None] / scale).round()
        codes = ((weight / scale).round() + zero).clamp(0, 3)
        return (counted * ((codes - zero) * scale - weight).square()).sum(1)

    ratios = torch.linspace(0.3, 1, 40)
    tried = torch.stack([errors(pair) for pair in torch.cartesian_prod(ratios, ratios)])
    best, begun = tried.amin(0), one.clipping.with_error(counted)[0].detach()
    begun = (counted * (begun - weight).square()).sum(1)
    train_weights(
        {"layer": one},
        lambda weights, rows: [],
        torch.zeros(1, 1, 1),
        [],
        settings(
            stages=[Stage("weights", 120, 0, 1)], clip_learning_rate=0.1, weight_decay=0.0,
            lr_scheduler="cosine",
        ),
        factor=1e6,
        name="block",
        fail=fail,
    )  # fmt: skip
    reached = (counted * (one.clipping().detach() - weight).square()).sum(1)
    # Descent may stop in a valley beside the deepest, as it did for one row of the six.
    assert float((reached - best).sum()) < 0.03 * float((begun - best).sum())
    assert bool((reached <= best + 0.3 * (begun - best)).all()), (reached, best, begun)
    # Which had no gradient, and no decay.
    assert not one.lora_B.any()


def test_saliency_keeps_weights_near_and_costs_little_of_the_outputs():
    draw = torch.Generator().manual_seed(6)
    weight, inputs = torch.randn(8, 64, generator=draw), torch.randn(4, 40, 64, generator=draw)
    counted = normalized(torch.rand(8, 64, generator=draw).square())
    found = {}
    for factor in (0.0, 0.1):
        torch.manual_seed(3)
        one = TrainedWeight(weight, LearnedClipping(weight, 64, 2), RANK, ALPHA, counted)
        history = train_weights(
            {"layer": one},
            lambda weights, rows: [rows @ weights["layer"].T],
            inputs,
            [[inputs @ weight.T]],
            settings(stages=[Stage("joint", 30, 1, 1)], clip_learning_rate=0.02),
            factor=factor,
            name="block",
            fail=fail,
        )
        found[factor] = float(one.relative_error()), history.losses
    (plain, losses), (near, near_losses) = found[0.0], found[0.1]
    assert near < plain, (near, plain)
    assert near_losses[-1] < 1.1 * losses[-1]
    thirds = [sum(losses[begin : begin + 10]) for begin in (0, 10, 20)]
    assert thirds[0] > thirds[1] > thirds[2]


def test_what_is_no_number_ends_the_training_with_its_place():
    weight, _, (_, quantized) = example()
    one = TrainedWeight(weight, LearnedClipping(weight, GROUP, 2), RANK, ALPHA)
    broken = quantized.clone()
    broken[:] = math.inf
    with pytest.raises(
        AssertionError, match=r"loss of the block layers\.7 is nan in epoch 2, step 1;"
    ):
        train_weights(
            {"layer": one},
            lambda weights, rows: [rows @ weights["layer"].T],
            broken,
            [[quantized @ weight.T]],
            settings(),
            factor=1.0,
            name="layers.7",
            fail=fail,
        )
