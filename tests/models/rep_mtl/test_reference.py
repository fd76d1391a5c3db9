"""The terms of Rep-MTL against the paper's equations, sample by sample and C x C by C x C."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from salhub.models.rep_mtl.rep_mtl_regularizer import RepMTLRegularizer
from salhub.models.rep_mtl.rep_mtl_terms import (
    cross_task_alignment,
    position_shares,
    rep_mtl_terms,
    specific_saliency,
)


def network(shape=(6, 5, 3, 4), tasks=3, dtype=torch.float64, seed=0):
    """Features, heads and the loss of each sample of each task."""
    torch.manual_seed(seed)
    batch, channels = shape[:2]
    encoder = nn.Conv2d(2, channels, 1).to(dtype)
    heads = nn.ModuleList(nn.Conv2d(channels, 2, 1) for _ in range(tasks)).to(dtype)
    pictures = torch.rand(batch, 2, *shape[2:], dtype=dtype)
    targets = torch.rand(tasks, batch, 2, *shape[2:], dtype=dtype)
    shared = encoder(pictures).relu()
    samples = [
        (head(shared).tanh() - target).square().flatten(1).mean(1)
        for head, target in zip(heads, targets, strict=True)
    ]
    return encoder, heads, shared, samples


def per_sample_saliency(shared, samples, create_graph=False):
    """Equation 3, a backward pass for each task and sample."""
    batch = len(shared)
    rows = []
    for of_task in samples:
        rows.append(
            torch.stack([
                torch.autograd.grad(
                    of_task[b] / batch, shared, retain_graph=True, create_graph=create_graph
                )[0][b]
                for b in range(batch)
            ])
        )  # fmt: skip
    return torch.stack(rows)  # (T, B, C, H, W)


def literal_entropy(saliency):
    """Equations 4 to 6, position by position."""
    tasks, batch, _, height, width = saliency.shape
    terms = []
    for b, y, x in itertools.product(range(batch), range(height), range(width)):
        size = [saliency[t, b, :, y, x].mean().abs() for t in range(tasks)]
        total = sum(size)
        if float(total.detach()) == 0:
            continue
        shares = [one / total for one in size]
        terms.append(sum(-p * p.log() for p in shares if float(p.detach()) > 0))
    return sum(terms) / len(terms)


def literal_alignment(saliency, temperature, reduction, denominator):
    """Equations 7 to 9 with every C x C matrix."""
    tasks, batch = saliency.shape[:2]
    flat = saliency.flatten(3)

    def direction(matrix):
        return (matrix / matrix.norm()).flatten()

    anchors = []
    for b in range(batch):
        columns = torch.stack([flat[t, b].mean(1) for t in range(tasks)], 1)  # (C, T)
        anchors.append(direction(columns @ columns.T))
    total = 0
    for b in range(batch):
        others = [(anchors[b] @ anchors[k] / temperature).exp() for k in range(batch) if k != b]
        for t in range(tasks):
            positive = (anchors[b] @ direction(flat[t, b] @ flat[t, b].T) / temperature).exp()
            below = sum(others) + (positive if denominator == "infonce" else 0)
            total = total - (positive / below).log()
    return total / batch / (tasks if reduction == "mean" else 1)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("denominator", ["negatives", "infonce"])
@pytest.mark.parametrize("shape", [(6, 5, 3, 4), (4, 9, 2, 2)])
def test_terms_are_those_of_a_backward_pass_for_each_sample(reduction, denominator, shape):
    _, _, shared, samples = network(shape)
    terms = rep_mtl_terms(
        shared,
        [one.mean() for one in samples],
        temperature=0.3,
        reduction=reduction,
        denominator=denominator,
    )
    saliency = per_sample_saliency(shared, samples)
    torch.testing.assert_close(terms.saliency, saliency.flatten(3), rtol=1e-10, atol=1e-14)
    assert abs(float((terms.tsr - literal_entropy(saliency)).detach())) < 1e-10
    expected = literal_alignment(saliency, 0.3, reduction, denominator)
    assert abs(float((terms.csa - expected).detach())) < 1e-10


def test_gradients_of_the_weights_are_those_of_the_literal_terms():
    """Through the second derivative, in the encoder and in the heads."""
    encoder, heads, shared, samples = network((3, 4, 2, 2), tasks=2)
    weights = [*encoder.parameters(), *heads.parameters()]
    terms = rep_mtl_terms(shared, [one.mean() for one in samples])
    found = torch.autograd.grad(terms.tsr + terms.csa, weights, retain_graph=True)
    saliency = per_sample_saliency(shared, samples, create_graph=True)
    literal = literal_entropy(saliency) + literal_alignment(saliency, 0.5, "mean", "negatives")
    expected = torch.autograd.grad(literal, weights)
    for one, other in zip(found, expected, strict=True):
        assert float(other.abs().max()) > 1e-6
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-12)


def test_each_term_moves_encoder_and_heads():
    for kept in ("tsr", "csa"):
        encoder, heads, shared, samples = network()
        terms = rep_mtl_terms(shared, [one.mean() for one in samples])
        getattr(terms, kept).backward()
        for module in (encoder, *heads):
            assert float(module.weight.grad.abs().max()) > 1e-9, (kept, module)


def test_the_cheap_form_is_the_literal_one_where_channels_are_many_or_few():
    for shape in ((3, 5, 64, 3, 2), (2, 4, 3, 5, 7), (2, 3, 4, 1, 1)):
        saliency = torch.randn(shape, dtype=torch.float64, generator=generator())
        found = cross_task_alignment(saliency.flatten(3), temperature=0.5).loss
        expected = literal_alignment(saliency, 0.5, "mean", "negatives")
        assert abs(float(found - expected)) < 1e-10


def test_both_terms_are_free_of_scale_in_single_precision():
    saliency = torch.randn(3, 6, 8, 12, generator=generator())
    expected = cross_task_alignment(saliency.double(), temperature=0.5)
    entropy, _ = specific_saliency(saliency.double())
    for scale in (1.0, 1e-6, 1e-12, 1e6):
        scaled = saliency * scale
        found = cross_task_alignment(scaled, temperature=0.5)
        assert float(found.similarity) == pytest.approx(float(expected.similarity), abs=1e-5)
        assert float(found.loss) == pytest.approx(float(expected.loss), abs=1e-5)
        assert float(specific_saliency(scaled)[0]) == pytest.approx(float(entropy), abs=1e-5)


def test_terms_lie_in_their_ranges():
    for seed in range(5):
        _, _, shared, samples = network(seed=seed)
        terms = rep_mtl_terms(shared, [one.mean() for one in samples], temperature=0.2)
        assert 0 <= float(terms.tsr.detach()) <= math.log(3) + 1e-12
        assert 0 <= float(terms.similarity) <= 1 + 1e-12
        assert abs(float(terms.csa.detach()) - math.log(5)) <= 1 / 0.2


def test_silent_positions_and_samples_give_no_nan():
    saliency = torch.randn(2, 4, 3, 5, generator=generator(), dtype=torch.float64)
    saliency[:, :, :, 0] = 0  # a position where all tasks are silent
    saliency[:, 1] = 0  # a sample without any
    saliency[0, 2] = 0  # a sample that one task has no label for
    saliency.requires_grad_()
    entropy, silent = specific_saliency(saliency)
    assert float(silent) == pytest.approx((4 + 4) / 20)
    alignment = cross_task_alignment(saliency, temperature=0.5)
    (entropy + alignment.loss).backward()
    assert saliency.grad.isfinite().all() and float(saliency.grad.abs().max()) > 0
    # What is left counts as if the silent ones were not there.
    alive = saliency.detach()[:, [0, 2, 3]]
    parts = alive.mean(2).abs()[:, :, 1:]
    shares = parts / parts.sum(0)
    assert float(entropy) == pytest.approx(float(-torch.xlogy(shares, shares).sum(0).mean()))
    assert float(position_shares(saliency.detach())[:, 1].abs().max()) == 0
    everything = torch.zeros(2, 3, 4, 5, requires_grad=True)
    total = (
        specific_saliency(everything)[0] + cross_task_alignment(everything, temperature=0.5).loss
    )
    total.backward()
    assert float(total) == 0 and everything.grad.eq(0).all()


def test_vectors_and_tokens_are_maps_of_other_shapes():
    torch.manual_seed(0)
    features = torch.rand(4, 6, 5, dtype=torch.float64, requires_grad=True)  # (B, N, C)
    weights = torch.rand(2, 5, dtype=torch.float64, requires_grad=True)

    def losses(tokens):
        return [(tokens @ weight).square().mean() for weight in weights]

    of_tokens = rep_mtl_terms(features, losses(features))
    maps = features.detach().transpose(1, 2)[..., None].requires_grad_()
    of_maps = rep_mtl_terms(maps, losses(maps[..., 0].transpose(1, 2)))
    assert float(of_tokens.tsr) == pytest.approx(float(of_maps.tsr), abs=1e-12)
    assert float(of_tokens.csa) == pytest.approx(float(of_maps.csa), abs=1e-12)
    vectors = features.detach()[:, 0].clone().requires_grad_()
    assert rep_mtl_terms(vectors, losses(vectors)).saliency.shape == (2, 4, 5, 1)


def test_pictures_of_each_task_are_paired_by_place_or_left_apart():
    torch.manual_seed(0)
    weights = torch.rand(2, 5, dtype=torch.float64, requires_grad=True)
    maps = [torch.rand(4, 5, 3, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    losses = [
        (one * weight[:, None, None]).sum(1).square().mean()
        for one, weight in zip(maps, weights, strict=True)
    ]
    saliency = torch.stack([torch.autograd.grad(loss, one, retain_graph=True)[0]
                            for loss, one in zip(losses, maps, strict=True)])  # fmt: skip
    paired = rep_mtl_terms(maps, losses)
    assert float(paired.tsr) == pytest.approx(float(literal_entropy(saliency)), abs=1e-10)
    expected = literal_alignment(saliency, 0.5, "mean", "negatives")
    assert float(paired.csa) == pytest.approx(float(expected), abs=1e-10)
    apart = rep_mtl_terms(maps, losses, multi_input="per_task")
    own = [literal_alignment(saliency[[t]], 0.5, "mean", "negatives") for t in range(2)]
    assert apart.tsr is None
    assert float(apart.csa) == pytest.approx(float(sum(own) / 2), abs=1e-10)


def test_the_logarithm_divides_each_saliency_by_its_loss():
    _, _, shared, samples = network()
    plain = per_sample_saliency(shared, samples)
    means = torch.stack([one.mean() for one in samples]).detach()
    found = RepMTLRegularizer()(shared, [one.mean() for one in samples])
    expected = plain / (means + 1e-8)[:, None, None, None, None]
    torch.testing.assert_close(found.saliency, expected.flatten(3), rtol=1e-10, atol=1e-14)
    logs = float((means + 1e-8).log().sum())
    assert float(found.loss) == pytest.approx(logs + 0.9 * float(found.tsr + found.csa), abs=1e-10)


def test_without_factors_it_is_equal_weighting_bit_for_bit():
    encoder, _, shared, samples = network(dtype=torch.float32)
    losses = [one.mean() for one in samples]
    plain = torch.autograd.grad(torch.stack(losses).sum(), encoder.weight, retain_graph=True)[0]
    found = RepMTLRegularizer(0, 0, log_transform=False)(shared, losses)
    assert found.saliency is None
    assert torch.equal(torch.autograd.grad(found.loss, encoder.weight)[0], plain)


def test_bfloat16_features_have_terms_in_full_precision():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encoder, _, shared, samples = network(dtype=torch.float32)
        assert shared.dtype == torch.bfloat16
        found = RepMTLRegularizer()(shared, [one.float().mean() for one in samples])
    found.loss.backward()
    assert found.tsr.dtype == found.csa.dtype == found.saliency.dtype == torch.float32
    assert encoder.weight.grad.isfinite().all()
    exact = RepMTLRegularizer()(*_plain())
    assert float(found.tsr) == pytest.approx(float(exact.tsr), abs=0.02)
    assert float(found.csa) == pytest.approx(float(exact.csa), abs=0.02)


def _plain():
    _, _, shared, samples = network(dtype=torch.float32)
    return shared, [one.mean() for one in samples]


def bad_calls():
    _, _, shared, samples = network((3, 4, 2, 2), tasks=2)
    first, second = (one.mean() for one in samples)
    fused = shared.flatten(2).float()[:, None]

    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, values):
            ctx.save_for_backward(values)
            return values.square()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, gradient):
            return 2 * ctx.saved_tensors[0] * gradient

    attended = F.scaled_dot_product_attention(fused, fused, fused).square().mean()
    return {
        "one task": ([first], "two tasks or more, got 1"),
        "no scalar": ([first, samples[1]], "task '1' must be a scalar"),
        "another network": (
            {"a": first, "b": torch.rand((), requires_grad=True)},
            "'b' does not depend on the shared features",
        ),
        "no graph": ({"a": first, "b": torch.ones(())}, "'b' does not depend"),
        "not a number": ({"a": first, "b": second * math.nan}, "loss of task 'b' is nan"),
        "fused attention": ([first, attended], "without a second derivative.*eager"),
        "once": ([first, Once.apply(shared).mean()], "The saliency of task '1' does not depend on"),
    }, shared  # fmt: skip


@pytest.mark.parametrize("case", list(bad_calls()[0]))
def test_what_cannot_be_trained_by_is_refused(case):
    calls, shared = bad_calls()
    losses, sentence = calls[case]
    with pytest.raises(ValueError, match=sentence):
        rep_mtl_terms(shared, losses)


def test_settings_out_of_range_are_refused():
    for keywords, sentence in (
        ({"lambda_tsr": -1}, "lambda_tsr must be 0 or more"),
        ({"csa_temperature": 0}, "csa_temperature must be above 0"),
        ({"multi_input": "per_task"}, "shares no positions"),
        ({"multi_input": "pairs"}, "multi_input must be one of index, per_task"),
        ({"csa_reduction": "men"}, "csa_reduction must be one of.*Did you mean 'mean'"),
        ({"csa_denominator": "all"}, "csa_denominator must be one of"),
        ({"apply_every": 0}, "apply_every must be 1 or more"),
        ({"start_step": -1}, "start_step must be 0 or more"),
        ({"lambda_csa": float("inf")}, "lambda_csa must be 0 or more, got inf"),
    ):
        with pytest.raises(ValueError, match=sentence):
            RepMTLRegularizer(**keywords)
    _, _, shared, samples = network()
    with pytest.raises(ValueError, match=r"task 'b' is -.*no logarithm"):
        RepMTLRegularizer()(shared, {"a": samples[0].mean(), "b": -samples[1].mean()})
    with pytest.raises(TypeError, match="lambda_tsr must be a number, got 'much'"):
        RepMTLRegularizer("much")
    losses = [samples[0].mean(), samples[1].mean()]
    with pytest.raises(ValueError, match="reduction must be one of mean, sum"):
        rep_mtl_terms(shared, losses, reduction="none")
    with pytest.raises(ValueError, match="temperature must be above 0, got nan"):
        rep_mtl_terms(shared, losses, temperature=float("nan"))


def test_what_is_not_computed_is_said_once(caplog):
    regularizer = RepMTLRegularizer()
    _, _, shared, samples = network((1, 4, 2, 2))
    for _ in range(2):
        found = regularizer(shared, [one.mean() for one in samples])
        assert found.csa is None and found.tsr is not None
    assert caplog.text.count("A batch of one picture has nothing to compare with") == 1
    found = regularizer(shared, {"a": samples[0].mean()})
    assert found.tsr is None and "Only task 'a' has a loss" in caplog.text


def test_steps_between_terms():
    regularizer = RepMTLRegularizer(start_step=3, apply_every=2)
    assert [step for step in range(9) if regularizer.is_due(step)] == [3, 5, 7]
    _, _, shared, samples = network()
    assert regularizer(shared, [one.mean() for one in samples], step=4).saliency is None


def test_in_a_plain_loop_the_terms_fall():
    """Twenty lines of anybody's: less entropy with its factor than without, likewise alignment."""
    found = {}
    for factors in ((0.0, 0.0), (3.0, 0.0), (0.0, 3.0)):
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        heads = nn.ModuleDict({name: nn.Conv2d(8, 1, 1) for name in ("left", "right")})
        optimizer = torch.optim.Adam([*encoder.parameters(), *heads.parameters()], 1e-2)
        regularizer = RepMTLRegularizer(*factors)
        watching = RepMTLRegularizer()
        pictures = torch.rand(8, 3, 6, 6)
        targets = {"left": pictures[:, :1], "right": pictures[:, 1:2] * pictures[:, 2:]}
        for _ in range(40):
            shared = encoder(pictures)
            losses = {name: F.mse_loss(heads[name](shared), targets[name]) for name in heads}
            optimizer.zero_grad()
            regularizer(shared, losses).loss.backward()
            optimizer.step()
        shared = encoder(pictures)
        losses = {name: F.mse_loss(heads[name](shared), targets[name]) for name in heads}
        found[factors] = watching(shared, losses)
    assert float(found[3.0, 0.0].tsr) < float(found[0.0, 0.0].tsr) - 0.05
    assert float(found[0.0, 3.0].csa) < float(found[0.0, 0.0].csa) - 0.05


def generator():
    return torch.Generator().manual_seed(0)
