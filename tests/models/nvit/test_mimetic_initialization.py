"""Attention that begins as that of trained networks: products of its matrices, and positions."""

import torch

from salhub.models.nvit.configuration_nvit import NViTConfig
from salhub.models.nvit.mimetic_initialization import initialize_mimetic, waves
from salhub.models.nvit.modeling_nvit import NViTForImageClassification
from tests.models.nvit.small_vit import UNEVEN


def fresh(**settings):
    torch.manual_seed(0)
    model = NViTForImageClassification(NViTConfig(**settings))
    initialize_mimetic(model)
    return model


@torch.no_grad()
def test_products_of_projections_are_near_the_identity_and_its_negative():
    width = 64
    model = fresh(
        hidden_size=width, num_hidden_layers=1, num_attention_heads=2, qk_head_dim=64,
        v_head_dim=32, intermediate_size=128, image_size=32, patch_size=8,
    )  # fmt: skip
    attention = model.nvit.layers[0].attention
    # As wide as the network, a head loses nothing of what its product is to be.
    for rows in (slice(0, 64), slice(64, 128)):
        product = attention.q_proj.weight[rows].T @ attention.k_proj.weight[rows]
        noise = product - 0.7 * torch.eye(width)
        assert abs(float(product.diagonal().mean()) - 0.7) < 0.05
        assert abs(float(noise.std()) - 0.7 * width**-0.5) < 0.01
    product = attention.o_proj.weight @ attention.v_proj.weight
    noise = product + 0.4 * torch.eye(width)
    assert abs(float(product.diagonal().mean()) + 0.4) < 0.05
    assert abs(float(noise.std()) - 0.4 * width**-0.5) < 0.01
    assert not attention.q_proj.bias.any() and not attention.o_proj.bias.any()


@torch.no_grad()
def test_a_narrow_head_has_the_nearest_product_of_its_rank():
    model = fresh(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, qk_head_dim=8, v_head_dim=16,
        intermediate_size=32, image_size=32, patch_size=8,
    )  # fmt: skip
    attention = model.nvit.layers[0].attention
    product = attention.q_proj.weight[:8].T @ attention.k_proj.weight[:8]
    sizes = torch.linalg.svdvals(product)
    # The largest singular values of what was wanted, each split evenly among both matrices.
    assert sizes[7] > 0.9 and sizes[8] < 1e-4
    for weight in (attention.q_proj.weight[:8], attention.k_proj.weight[:8]):
        torch.testing.assert_close(weight.norm(dim=1).square(), sizes[:8], rtol=1e-4, atol=1e-5)


def test_positions_are_alike_where_they_are_near():
    found = waves(8, 128)
    likeness = torch.nn.functional.normalize(found, dim=1) @ found[0]
    rows = likeness.view(8, 8)
    assert (rows[0, :4].diff() < 0).all() and torch.allclose(rows, rows.T, atol=1e-5)
    expected = [torch.sin(torch.tensor(2.0)), torch.cos(torch.tensor(2.0))]
    torch.testing.assert_close(found[16 + 3, [0, 32]], torch.stack(expected))  # row 2, column 3
    torch.testing.assert_close(found[16 + 3, 64], torch.sin(torch.tensor(3.0)))
    assert waves(3, 7)[:, 4:].abs().sum() == 0


def test_any_shape_gets_numbers_of_order_one():
    model = fresh(**UNEVEN)
    with torch.no_grad():
        found = model(torch.randn(4, 3, 16, 16), output_hidden_states=True)
    for states in found.hidden_states:
        assert 0.3 < float(states[:, 2:].std()) < 5
    assert torch.isfinite(found.logits).all()
