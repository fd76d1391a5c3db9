"""NViT against slow arithmetic: weights set to zero, sums over weights, one picture at a time."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from salhub.models.nvit.configuration_nvit import NViTConfig
from salhub.models.nvit.importance import reference_constants, score_units
from salhub.models.nvit.modeling_nvit import NViTForImageClassification
from salhub.models.nvit.revit import revit_config
from salhub.models.nvit.shapes import STRUCTURES, NViTShape
from salhub.models.nvit.unit_weights import without_units
from tests.models.nvit.small_vit import network, pictures


def zeroed(model: NViTForImageClassification, mask: torch.Tensor) -> NViTForImageClassification:
    """The network with zeros in the weights of dead units, written out by the paper's table."""
    copy = NViTForImageClassification(model.config)
    copy.load_state_dict(model.state_dict())
    layout, net = model.layout, copy.nvit
    dead = ~mask[layout.place("embedding")]
    with torch.no_grad():
        for part in (net.embeddings.patch_projection.weight, net.embeddings.patch_projection.bias):
            part[dead] = 0
        for name in ("cls_token", "distillation_token", "position_embeddings"):
            getattr(net.embeddings, name)[..., dead] = 0
        norms = [net.final_norm]
        for block, layer in enumerate(net.layers):
            norms += [layer.attention_norm, layer.mlp_norm]
            attention, mlp = layer.attention, layer.mlp
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj, mlp.fc1):
                projection.weight[:, dead] = 0
            for projection in (attention.o_proj, mlp.fc2):
                projection.weight[dead] = 0
                projection.bias[dead] = 0
            for head, qk in itertools.product(range(attention.heads), range(attention.qk)):
                row = head * attention.qk + qk
                if not (
                    mask[layout.place("head", block)][head] and mask[layout.place("qk", block)][qk]
                ):
                    for projection in (attention.q_proj, attention.k_proj):
                        projection.weight[row] = 0
                        projection.bias[row] = 0
            for head, v in itertools.product(range(attention.heads), range(attention.v)):
                row = head * attention.v + v
                if not (
                    mask[layout.place("head", block)][head] and mask[layout.place("v", block)][v]
                ):
                    attention.v_proj.weight[row] = 0
                    attention.v_proj.bias[row] = 0
                    attention.o_proj.weight[:, row] = 0
            for neuron in range(mlp.fc1.out_features):
                if not mask[layout.place("mlp", block)][neuron]:
                    mlp.fc1.weight[neuron] = 0
                    mlp.fc1.bias[neuron] = 0
                    mlp.fc2.weight[:, neuron] = 0
        for norm in norms:
            norm.weight[dead] = 0
            norm.bias[dead] = 0
        for head in (copy.classifier, copy.distillation_classifier):
            head.weight[:, dead] = 0
    return copy.eval()


def mask_of(model: NViTForImageClassification, structures: tuple[str, ...]) -> torch.Tensor:
    """Every third unit of some structures is dead."""
    mask = torch.ones(model.layout.size, dtype=torch.bool)
    for name, _, place in model.layout:
        if name in structures:
            mask[place.start + 1 : place.stop : 3] = False
    return mask


@pytest.mark.parametrize("structures", [*((one,) for one in STRUCTURES), STRUCTURES], ids=str)
def test_zeroed_weights_masks_and_smaller_networks_answer_alike(structures):
    model, (pixels, _) = network(), pictures()
    mask = mask_of(model, structures)
    assert not mask.all()
    with torch.no_grad():
        expected = zeroed(model, mask)(pixels).logits
        assert float((model(pixels).logits - expected).abs().max()) > 1e-2
        small = without_units(model, mask)
        assert NViTShape.of(small.config) == model.layout.shape_of(mask)
        torch.testing.assert_close(model(pixels, mask=mask).logits, expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(small(pixels).logits, expected, rtol=0, atol=1e-5)
        ordinary = without_units(model, mask, keep_norm_width=False)(pixels).logits
    # Norms over the channels that are left say something else.
    assert torch.allclose(ordinary, expected, atol=1e-5) == ("embedding" not in structures)


def test_a_smaller_network_can_be_pruned_again():
    model, (pixels, _) = network(), pictures()
    once = without_units(model, mask_of(model, STRUCTURES))
    again = mask_of(once, STRUCTURES)
    with torch.no_grad():
        expected = zeroed(once, again)(pixels).logits
        found = without_units(once, again)(pixels).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def weight_sums(model: NViTForImageClassification, loss: torch.Tensor) -> torch.Tensor:
    """The sums of w dL/dw that the published code takes, unit by unit."""
    named = dict(model.named_parameters())
    slopes = torch.autograd.grad(loss, list(named.values()), retain_graph=True)
    products = {
        name: (weight * slope).detach()
        for (name, weight), slope in zip(named.items(), slopes, strict=True)
    }
    layout, total = model.layout, torch.zeros(model.layout.size, dtype=torch.float64)
    patch = "nvit.embeddings.patch_projection"
    residual = products[f"{patch}.weight"].sum((1, 2, 3)) + products[f"{patch}.bias"]
    for block, layer in enumerate(model.nvit.layers):
        at = f"nvit.layers.{block}"
        heads = layer.attention.heads
        q, k, v = (
            products[f"{at}.attention.{name}_proj.weight"].sum(1).view(heads, -1)
            + products[f"{at}.attention.{name}_proj.bias"].view(heads, -1)
            for name in "qkv"
        )
        total[layout.place("head", block)] = q.sum(1) + k.sum(1) + v.sum(1)
        total[layout.place("qk", block)] = q.sum(0)
        # That of the keys is equal, so that counting queries alone loses nothing.
        torch.testing.assert_close(
            _without_bias(products, at, "q", heads),
            _without_bias(products, at, "k", heads),
            rtol=0,
            atol=1e-10,
        )
        total[layout.place("v", block)] = v.sum(0)
        fc1 = products[f"{at}.mlp.fc1.weight"]
        total[layout.place("mlp", block)] = fc1.sum(1) + products[f"{at}.mlp.fc1.bias"]
        for name in ("attention.o_proj", "mlp.fc2"):
            residual = residual + products[f"{at}.{name}.weight"].sum(1)
            residual = residual + products[f"{at}.{name}.bias"]
        for name in ("attention.q_proj", "attention.k_proj", "attention.v_proj", "mlp.fc1"):
            residual = residual + products[f"{at}.{name}.weight"].sum(0)
    total[layout.place("embedding")] = residual
    return total


def _without_bias(products, at, name, heads):
    rows = products[f"{at}.attention.{name}_proj.weight"].sum(1)
    return (rows + products[f"{at}.attention.{name}_proj.bias"]).view(heads, -1).sum(0)


def divided(model: NViTForImageClassification, sums: torch.Tensor) -> torch.Tensor:
    sums = sums.clone()
    for name, constant in reference_constants(len(model.nvit.layers)).items():
        for own, _, place in model.layout:
            if own == name:
                sums[place] /= constant
    return sums


def test_scores_are_the_squared_sums_over_weights():
    model, (pixels, labels) = network(torch.float64), pictures(6, torch.float64)
    batches = [(pixels[:3], labels[:3]), (pixels[3:], labels[3:])]
    squares = []
    for own, classes in batches:
        sums = weight_sums(model, F.cross_entropy(model(own).logits, classes))
        squares.append(divided(model, sums).square())
    expected = torch.stack(squares).mean(0)
    found = score_units(model, batches).values
    assert float(expected.max()) > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    plain = score_units(model, batches, score_constants={}).values
    assert not torch.allclose(plain, found)


def test_scores_of_samples_are_those_of_one_backward_pass_each():
    model, (pixels, labels) = network(torch.float64), pictures(5, torch.float64)
    losses = F.cross_entropy(model(pixels).logits, labels, reduction="none")
    squares = [divided(model, weight_sums(model, one)).square() for one in losses]
    found = score_units(model, [(pixels, labels)], score="per_sample").values
    torch.testing.assert_close(found, torch.stack(squares).mean(0), rtol=1e-10, atol=1e-10)
    assert not torch.allclose(found, score_units(model, [(pixels, labels)]).values)


def test_scores_of_a_masked_network_are_those_of_the_smaller_one():
    model, (pixels, labels) = network(torch.float64), pictures(4, torch.float64)
    mask = mask_of(model, STRUCTURES)
    found = score_units(model, [(pixels, labels)], mask=mask).values
    small = score_units(without_units(model, mask), [(pixels, labels)]).values
    assert not found[~mask].any()
    torch.testing.assert_close(found[mask], small, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("sites", ["weights", "activations"])
def test_curvature_is_that_of_the_gates(sites):
    model, (pixels, labels) = network(torch.float64), pictures(2, torch.float64)

    def loss(gates):
        logits = model(pixels, gates=gates, gate_sites=sites).logits
        return F.cross_entropy(logits, labels)

    ones = torch.ones(model.layout.size, dtype=torch.float64)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        hessian = torch.autograd.functional.hessian(loss, ones)
    generator = torch.Generator().manual_seed(7)
    draws = []
    for _ in range(3):
        signs = torch.randint(2, (1, len(ones)), generator=generator)[0].double() * 2 - 1
        draws.append(signs * (hessian @ signs))
    found = score_units(
        model, [(pixels, labels)], score="hvp", gate_sites=sites, seed=7, num_probes=3
    ).values
    torch.testing.assert_close(found, torch.stack(draws).mean(0).abs(), rtol=1e-8, atol=1e-9)


def test_the_other_scores_sum_over_the_weights_that_are_removed():
    model, (pixels, labels) = network(torch.float64), pictures(3, torch.float64)
    named = dict(model.named_parameters())
    loss = F.cross_entropy(model(pixels).logits, labels)
    slopes = dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))
    magnitude = score_units(model, [], score="magnitude").values
    taylor = score_units(model, [(pixels, labels)], score="taylor_abs", score_constants={}).values
    full = torch.ones(model.layout.size, dtype=torch.bool)
    for unit in range(0, model.layout.size, 11):
        mask = full.clone()
        mask[unit] = False
        others = dict(zeroed(model, mask).to(torch.float64).named_parameters())
        # What the table sets to zero for this unit alone.
        gone = {name: (others[name] == 0) & (named[name] != 0) for name in named}
        squares = sum(float(named[n].detach().square()[gone[n]].sum()) for n in named)
        assert float(magnitude[unit]) == pytest.approx(squares, rel=1e-5)
        products = sum(float((named[n].detach() * slopes[n]).abs()[gone[n]].sum()) for n in named)
        assert float(taylor[unit]) == pytest.approx(products, rel=1e-8)


@pytest.mark.parametrize(
    ("hidden_size", "variant", "millions", "gmacs"),
    [(384, "code", 23.12, 4.70), (384, "paper", 22.43, 4.53),
     (176, "code", 5.34, 1.14), (176, "paper", 4.88, 0.99)],
)  # fmt: skip
def test_revit_has_the_size_that_was_counted(hidden_size, variant, millions, gmacs):
    config = revit_config(hidden_size, variant=variant, distilled=True, num_labels=1000)
    shape = NViTShape.of(config)
    assert shape.num_parameters(config) / 1e6 == pytest.approx(millions, abs=0.006)
    assert shape.macs(config) / 1e9 == pytest.approx(gmacs, abs=0.006)


def test_weights_are_counted_as_they_are():
    for settings in ({}, {"distilled": False}, {"qkv_bias": False}):
        model = network(**settings)
        shape = NViTShape.of(model.config)
        assert shape.num_parameters(model.config) == model.num_parameters()
    assert NViTShape.of(NViTConfig()).macs(NViTConfig()) / 1e9 == pytest.approx(1.26, abs=0.01)
