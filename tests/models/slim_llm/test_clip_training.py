"""SliM-LLM+: ranges trained block by block, beside the same written out and left to autograd."""

import json

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from salhub.models.slim_llm.clip_training import train_clipping
from salhub.quantization.decoder_blocks import decoder_blocks, first_inputs, linear_layers
from salhub.quantization.learned_clipping import LearnedClipping
from salhub.quantization.quantizer import packed_layers
from salhub.runner.run import run
from tests import small_llama
from tests.models.slim_llm.compressing import GROUP_SIZE, recipe
from tests.testers.recipe import RecipeTester

EPOCHS, BATCH, RATE = 4, 4, 0.01
WIDTHS = (1, 3, 2, 2, 3, 1)


class Straight(torch.autograd.Function):
    """Forward by a function, backward as if nothing had been done."""

    @staticmethod
    def forward(ctx, values, change):
        return change(values)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def rounded(weight: Tensor, upper: Tensor, lower: Tensor, widths: list[int]) -> Tensor:
    """Group after group, rows together."""
    columns = []
    for place, bits in enumerate(widths):
        group = weight[:, place * GROUP_SIZE : (place + 1) * GROUP_SIZE]
        up, low = (one[:, place, None].sigmoid() for one in (upper, lower))
        if bits == 1:
            mean = group.mean(1, keepdim=True).half().float()
            spread = (group - mean).abs().mean(1, keepdim=True) * (up + 0.5)
            signs = torch.where(group >= mean, 1.0, -1.0)
            columns.append(mean + signs * Straight.apply(spread, lambda one: one.half().float()))
            continue
        high = up * group.amax(1, keepdim=True).clamp(min=0)
        low = low * group.amin(1, keepdim=True).clamp(max=0)
        exact = (high - low) / (2**bits - 1)
        scale = Straight.apply(exact.clamp(min=1e-5), lambda one: one.half().float())
        zero = (-low / scale).round().detach()
        codes = (Straight.apply(group / scale, torch.round) + zero).clamp(0, 2**bits - 1)
        columns.append((codes - zero) * scale)
    return torch.cat(columns, 1)


@pytest.fixture(scope="module")
def example():
    """A block, what goes into it, and what it is to give."""
    model = small_llama.network()
    model.requires_grad_(False)
    block = next(iter(decoder_blocks(model).values()))
    for layer in linear_layers(block).values():
        layer.weight.mul_(8)  # so that blocks differ from what they are given
    ids = torch.arange(10 * 12).view(10, 12) * 11 % small_llama.VOCAB_SIZE
    inputs = first_inputs(model, ids, batch_size=BATCH)
    other = inputs.hidden + 0.05 * torch.randn(inputs.hidden.shape)
    targets = [block(one, **inputs.keywords) for one in (other, inputs.hidden)]
    return block, inputs, targets


@pytest.mark.parametrize("num_targets", [1, 2])
def test_logits_are_those_of_a_training_written_out(example, num_targets):
    block, inputs, targets = example
    targets = targets[:num_targets]
    layers, slow = {}, {}
    for name, layer in linear_layers(block).items():
        widths = list(WIDTHS[: layer.in_features // GROUP_SIZE])
        clipping = LearnedClipping(layer.weight.detach(), GROUP_SIZE, widths)
        layers[name] = clipping
        logits = [nn.Parameter(one.detach().clone()) for one in (clipping.upper, clipping.lower)]
        slow[name] = (layer.weight.detach(), *logits, widths)
    torch.manual_seed(7)
    found = train_clipping(block, layers, inputs, targets, epochs=EPOCHS, learning_rate=RATE)
    torch.manual_seed(7)
    optimizer = torch.optim.AdamW(
        [one for _, *logits, _ in slow.values() for one in logits],
        lr=RATE,
        weight_decay=0,
        eps=1e-16,
    )
    losses = []
    for _ in range(EPOCHS):
        order, spent = torch.randperm(10), 0.0
        for rows in (order[:4], order[4:8], order[8:]):
            weights = {f"{name}.weight": rounded(*one) for name, one in slow.items()}
            outputs = functional_call(block, weights, (inputs.hidden[rows],), dict(inputs.keywords))
            loss = sum((outputs - wanted[rows]).square().mean() for wanted in targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            spent += float(loss.detach()) * len(rows) / 10
        losses.append(spent)
    assert found == pytest.approx(losses, rel=1e-3)
    assert found[-1] < found[0]
    for name, (_, upper, lower, widths) in slow.items():
        clipping = layers[name]
        several = [place for place, bits in enumerate(widths) if bits > 1]
        for one, other in ((clipping.upper, upper), (clipping.lower, lower)):
            # A gradient near 0 may have either sign, which the first steps follow.
            away = (one - other).detach().abs()
            assert float(away.median()) < 1e-5 and float((away > 1e-3).float().mean()) < 0.02, name
        assert float((clipping.upper[:, several] - 4).detach().abs().max()) > 2 * RATE
    assert all(one.grad is None for one in block.parameters())


class TestSlimLLMPlus(RecipeTester):
    @pytest.fixture
    def make(self, sources):
        options = {"preset": "plus", "clip_epochs": 3, "aug_loss": True}
        return lambda folder, **more: recipe(folder, sources, **{**options, **more})

    def test_the_loss_of_every_block_falls_and_its_outputs_come_nearer(self, make, tmp_path):
        errors = {}
        for rate in (1e-2, 1e-9):
            folder = tmp_path / f"{rate}"
            made = make(folder, clip_epochs=12, clip_learning_rate=rate)
            run(made)
            for line in (folder / "log.jsonl").read_text().splitlines():
                found = json.loads(line)
                if rate == 1e-2:
                    assert found["loss/last"] < found["loss/first"]
                errors.setdefault(rate, []).append(found["loss/last"])
        assert all(one < other for one, other in zip(*errors.values(), strict=True))

    def test_searched_ranges_are_nearer_from_the_start(self, make, tmp_path):
        losses = {}
        for ranges in ("wide", "search"):
            run(make(tmp_path / ranges, initial_ranges=ranges, clip_epochs=1))
            first, *_ = (tmp_path / ranges / "log.jsonl").read_text().splitlines()
            losses[ranges] = json.loads(first)["loss/first"]
        assert losses["search"] < 0.9 * losses["wide"]

    def test_bits_are_those_of_slim_llm_and_symmetric_ones_can_be_exported(self, make, tmp_path):
        plus, plain = make(tmp_path / "plus"), make(
            tmp_path / "plain", preset="reference", clip_epochs=None, aug_loss=False,
            binary_scale="centered",
        )  # fmt: skip
        for one in (plus, plain):
            run(one)
        folders = [tmp_path / name / "config.json" for name in ("plus", "plain")]
        first, second = (
            json.loads(path.read_text())["quantization_config"]["group_bits"] for path in folders
        )
        for name in first:
            assert ".1." in name or first[name] == second[name]
        even = make(tmp_path / "even", bits=2.5, bits_granularity="module", symmetric=True)
        run(even)
        assert all(layer.is_symmetric for layer in packed_layers(even.run.model).values())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"clip_epochs": 5}, "clip_epochs trains the ranges of individually rounded"),
        (
            {"preset": "plus", "search_range": 0.2},
            "clip_epochs trains the ranges of individually rounded",
        ),
        (
            {"preset": "plus", "clip_epochs": -1},
            "clip_epochs must be an integer, 0 or more",
        ),
        ({"preset": "gptq", "clip_epochs": 5}, "clip_epochs"),
        ({"initial_ranges": "search"}, "initial_ranges has no effect without clip_epochs or"),
        ({"aug_loss": True}, "aug_loss applies to trained ranges; use it with preset=plus"),
        ({"preset": "plus", "clip_learning_rate": 0}, "clip_learning_rate must be a finite number"),
    ],
)
def test_options_that_would_do_nothing_are_refused(tmp_path, sources, options, words):
    with pytest.raises(ValueError, match=words):
        recipe(tmp_path / "out", sources, **options)
