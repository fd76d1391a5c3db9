"""What is done to finished maps."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from salhub.ops.maps import (
    combine_layers,
    gaussian_smooth,
    is_constant,
    layer_weights,
    min_max,
    normalized_weights,
    resize_maps,
)


def test_min_max_stretches_every_map_by_itself():
    maps = torch.randn(2, 3, 4, 5) * torch.tensor([1.0, 1e-20, 1e20])[:, None, None]
    for one, scaled in zip(maps.flatten(0, 1), min_max(maps).flatten(0, 1), strict=True):
        expected = (one - one.min()) / (one.max() - one.min())
        torch.testing.assert_close(scaled, expected)
        assert (scaled.min(), scaled.max()) == (0, 1)


def test_min_max_of_a_constant_map_is_zero():
    maps = torch.stack([torch.full((3, 3), 2.5), torch.zeros(3, 3), torch.eye(3)])
    scaled = min_max(maps)
    assert scaled[:2].eq(0).all()
    torch.testing.assert_close(scaled[2], torch.eye(3))


def test_min_max_of_the_largest_floats_does_not_overflow():
    largest = torch.finfo(torch.float32).max
    scaled = min_max(torch.tensor([[[-largest, largest], [0.0, largest]]]))
    torch.testing.assert_close(scaled, torch.tensor([[[0.0, 1.0], [0.5, 1.0]]]))


def test_rounding_noise_is_constant_and_a_faint_pattern_is_not():
    noise = 1 + torch.rand(4, 4) * 1e-7
    faint = 1 + torch.rand(4, 4) * 1e-3
    assert is_constant(torch.stack([noise, faint, faint * 1e-30])).tolist() == [True, False, False]


def test_resize_is_bilinear_with_pixel_centres():
    one = torch.tensor([[[0.0, 4.0]]])
    # Centres of four pixels over two lie at -0.25, 0.25, 0.75, 1.25 of the source.
    torch.testing.assert_close(resize_maps(one, (1, 4)), torch.tensor([[[0.0, 1.0, 3.0, 4.0]]]))
    assert resize_maps(torch.zeros(2, 3, 4, 5), (8, 6)).shape == (2, 3, 8, 6)
    assert resize_maps(one, (1, 2)) is one


@pytest.mark.parametrize("shape", [(2, 3, 7, 5), (1, 1, 1), (4, 1), (2, 1, 30)])
@pytest.mark.parametrize("size", [(24, 16), (1, 1), (3, 40)])
def test_resize_is_that_of_torch_and_maps_stay_in_one_piece(shape, size):
    maps = torch.randn(shape, dtype=torch.float64)
    found = resize_maps(maps, size)
    planes = maps.reshape(-1, 1, *shape[-2:])
    expected = F.interpolate(planes, size=size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, expected.reshape(found.shape))
    assert found.shape == (*shape[:-2], *size) and found.is_contiguous()


@pytest.mark.parametrize("sigma", [0.5, 1.5, 3.0, 25.0])
def test_gaussian_is_that_of_scipy(sigma):
    maps = torch.randn(2, 17, 12, dtype=torch.float64)
    radius = max(1, int(np.ceil(4 * sigma)))
    expected = [ndimage.gaussian_filter(one, sigma, mode="nearest", radius=radius) for one in maps]
    torch.testing.assert_close(gaussian_smooth(maps, sigma), torch.from_numpy(np.stack(expected)))


def test_gaussian_keeps_constants_and_zero_sigma_keeps_all():
    torch.testing.assert_close(gaussian_smooth(torch.ones(1, 9, 4), 2.0), torch.ones(1, 9, 4))
    maps = torch.randn(1, 4, 4)
    assert gaussian_smooth(maps, 0.0) is maps


def test_layer_weights():
    assert layer_weights("uniform", 4) == [0.25] * 4
    assert layer_weights("linear", 3) == pytest.approx([1 / 6, 2 / 6, 3 / 6])
    assert normalized_weights([2, 6], 2) == [0.25, 0.75]


def test_combinations_by_their_formulas():
    maps = [torch.rand(2, 4, 4, dtype=torch.float64) * 5 - 2 for _ in range(3)]
    scaled = [
        (m - m.amin((1, 2), True)) / (m.amax((1, 2), True) - m.amin((1, 2), True)) for m in maps
    ]
    a, b, c = scaled
    weights = [0.5, 0.3, 0.2]
    torch.testing.assert_close(combine_layers(maps, weights), a**0.5 * b**0.3 * c**0.2)
    torch.testing.assert_close(combine_layers(maps, weights, "sum"), 0.5 * a + 0.3 * b + 0.2 * c)
    torch.testing.assert_close(combine_layers(maps, weights, "plain_product"), a * b * c)
    torch.testing.assert_close(
        combine_layers(maps, weights, product_eps=0.1),
        (a + 0.1) ** 0.5 * (b + 0.1) ** 0.3 * (c + 0.1) ** 0.2,
    )


def test_uniform_product_ranks_as_the_plain_one():
    maps = [torch.rand(1, 6, 6, dtype=torch.float64) for _ in range(3)]
    weighted = combine_layers(maps, layer_weights("uniform", 3)).flatten()
    plain = combine_layers(maps, [], "plain_product").flatten()
    torch.testing.assert_close(weighted**3, plain)


def test_a_layer_of_weight_zero_changes_nothing():
    maps = [torch.rand(1, 6, 6), torch.rand(1, 6, 6)]
    torch.testing.assert_close(combine_layers(maps, [1.0, 0.0]), min_max(maps[0]))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: resize_maps(torch.zeros(1, 2, 2), (0, 3)), "whole pixels above 0"),
        (lambda: gaussian_smooth(torch.zeros(1, 2, 2), -1.0), "sigma must be"),
        (lambda: gaussian_smooth(torch.zeros(1, 2, 2), float("nan")), "sigma must be"),
        (lambda: layer_weights("linaer", 2), "Did you mean 'linear'"),
        (lambda: layer_weights("linear", 0), "1 or more layers"),
        (lambda: normalized_weights([1.0], 2), "one number per layer"),
        (lambda: normalized_weights([1.0, -1.0], 2), "0 or more"),
        (lambda: normalized_weights([0.0, 0.0], 2), "at least one positive"),
        (lambda: combine_layers([torch.zeros(1, 2, 2)], [1.0], "prodct"), "Did you mean 'product'"),
        (
            lambda: combine_layers([torch.zeros(1, 2, 2), torch.zeros(1, 3, 3)], [1, 1]),
            "maps must have the same shape, got",
        ),
    ],
)
def test_bad_arguments_get_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
