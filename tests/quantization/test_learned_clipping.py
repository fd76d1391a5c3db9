"""Ranges of weights that are learned, beside the same left to autograd."""

import pytest
import torch
from torch import Tensor

from salhub.quantization import learned_clipping
from salhub.quantization.learned_clipping import LearnedClipping

ROWS, GROUP = 5, 8


class Straight(torch.autograd.Function):
    """Forward by a function, backward as if nothing had been done."""

    @staticmethod
    def forward(ctx, values, change):
        return change(values)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def as_stored(values: Tensor) -> Tensor:
    return Straight.apply(values, lambda one: one.half().float())


def restated(
    weight: Tensor, upper: Tensor, lower: Tensor, widths: list[int], symmetric: bool = False
) -> Tensor:
    """Group after group, all of it left to autograd."""
    columns = []
    for place, bits in enumerate(widths):
        group = weight[:, place * GROUP : (place + 1) * GROUP]
        up, low = (one[:, place, None].sigmoid() for one in (upper, lower))
        if bits == 1:
            mean = group.mean(1, keepdim=True).half().float()
            spread = (group - mean).abs().mean(1, keepdim=True)
            scale = as_stored((spread * (up + 0.5)).clamp(1e-5, 1e4))
            columns.append(mean + torch.where(group >= mean, 1.0, -1.0) * scale)
            continue
        top = 2**bits - 1
        high = up * group.amax(1, keepdim=True).clamp(min=0)
        low = low * group.amin(1, keepdim=True).clamp(max=0)
        if symmetric:
            scale = torch.maximum(high.abs(), low.abs()) / (2 ** (bits - 1) - 1)
        else:
            scale = (high - low) / top
        scale = as_stored(scale.clamp(1e-5, 1e4))
        zero = 2 ** (bits - 1) - 1 if symmetric else (-low / scale).round()
        codes = (Straight.apply(group / scale, torch.round) + zero).clamp(0, top)
        columns.append((codes - zero) * scale)
    return torch.cat(columns, 1)


def example(columns: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(ROWS, columns, generator=draw)
    weight[1] += 3  # of one sign
    weight[2] = 0
    weight[3] *= 1e-6
    return weight, torch.rand(ROWS, columns, generator=draw)


def moved(clipping: LearnedClipping) -> LearnedClipping:
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for logits in (clipping.upper, clipping.lower):
            logits.copy_(4 * torch.randn(logits.shape, generator=draw))
    return clipping


@pytest.mark.parametrize(
    ("widths", "columns", "symmetric"),
    [
        ([2, 2, 2], 24, False),
        ([3, 3, 3], 20, False),
        ([1, 2, 3, 4, 1], 40, False),
        ([4, 1, 5, 1], 27, False),
        ([1, 1], 16, False),
        ([2, 4, 3], 22, True),
    ],
)
@pytest.mark.parametrize("importance", [False, True])
def test_values_and_gradients_are_those_that_autograd_finds(widths, columns, symmetric, importance):
    weight, counted = example(columns)
    clipping = moved(LearnedClipping(weight, GROUP, widths, symmetric=symmetric))
    used = counted if importance else None
    rounded, error = clipping.with_error(used)
    wanted = torch.randn(ROWS, columns, generator=torch.Generator().manual_seed(2))
    ((rounded * wanted).sum() + 0.7 * error).backward()

    upper, lower = (
        one.detach().clone().requires_grad_() for one in (clipping.upper, clipping.lower)
    )
    slow = restated(weight, upper, lower, widths, symmetric)
    slow_error = ((slow - weight).square() * (counted if importance else 1)).sum()
    ((slow * wanted).sum() + 0.7 * slow_error).backward()
    torch.testing.assert_close(rounded, slow, rtol=0, atol=1e-7)
    torch.testing.assert_close(error, slow_error)
    torch.testing.assert_close(clipping.upper.grad, upper.grad, rtol=1e-4, atol=1e-5)
    lower_gradient = torch.zeros_like(lower) if lower.grad is None else lower.grad
    torch.testing.assert_close(clipping.lower.grad, lower_gradient, rtol=1e-4, atol=1e-5)
    assert float(clipping.upper.grad[0].abs().min()) > 0 or symmetric


def test_rows_that_are_rounded_apart_give_what_they_give_together(monkeypatch):
    weight, counted = example(40)
    found = []
    for together in (2**17, 80):
        monkeypatch.setattr(learned_clipping, "_NUMBERS_TOGETHER", together)
        clipping = moved(LearnedClipping(weight, GROUP, [1, 2, 3, 4, 1]))
        rounded, error = clipping.with_error(counted)
        (rounded.square().sum() + error).backward()
        found.append((rounded, clipping.upper.grad, clipping.lower.grad, error))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=0)


@pytest.mark.parametrize("symmetric", [False, True])
def test_what_is_stored_is_what_was_trained(symmetric):
    weight, _ = example(36)
    widths = [2, 3, 4, 2, 3] if symmetric else [1, 2, 3, 4, 1]
    clipping = moved(LearnedClipping(weight, GROUP, widths, symmetric=symmetric))
    stored = clipping.quantized()
    assert torch.equal(stored.dequantize(), clipping().detach())
    assert stored.group_bits.tolist() == widths
    if symmetric:
        # Where other programs have it; the steps are below 0.
        assert stored.zeros[0].tolist() == [2 ** (bits - 1) for bits in widths]


def test_weights_of_one_sign_have_a_range_that_holds_zero():
    weight = torch.tensor([[2.0, 2.2, 2.6, 3.0], [-3.0, -2.5, -2.1, -2.0]])
    stored = LearnedClipping(weight, 4, 2).quantized()
    assert stored.zeros[:, 0].tolist() == [0, 3]
    # A step of a third of 3, and not of the third of 1 that the weights span.
    assert stored.scales[:, 0].tolist() == pytest.approx([0.982, 0.982], abs=1e-3)
    assert float((stored.dequantize() - weight).abs().max()) <= 0.982


def test_one_bit_begins_with_the_scale_that_is_best_in_squares():
    weight, _ = example(GROUP)
    clipping = LearnedClipping(weight[:1], GROUP, 1)
    errors = []
    for logit in (-0.05, 0.0, 0.05):
        with torch.no_grad():
            clipping.upper.fill_(logit)
        errors.append(clipping.with_error()[1].item())
    assert errors[1] < errors[0] and errors[1] < errors[2]


def test_a_pass_keeps_no_matrix_of_the_size_of_the_weight():
    weight, _ = example(64)
    clipping = LearnedClipping(weight, GROUP, 2)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one) or one, lambda x: x):
        clipping()
    large = [one for one in kept if one.numel() >= weight.numel()]
    assert [one.data_ptr() for one in large] == [weight.data_ptr()]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"group_bits": 6}, "need 2 widths from 1 to 5, got"),
        ({"group_bits": [2, 2, 2]}, "16 columns in groups of 8 need 2 widths"),
        ({"group_bits": 1, "symmetric": True}, "from 2 to 5 where symmetric, got"),
    ],
)
def test_wrong_widths_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        LearnedClipping(torch.zeros(2, 16), 8, **arguments)
    with pytest.raises(TypeError, match=r"float32, got torch\.float16"):
        LearnedClipping(torch.zeros(2, 16).half(), 8, 2)
