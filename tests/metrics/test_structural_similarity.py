"""Structural similarity against loops over windows."""

import math

import pytest
import torch

from salhub.metrics.structural_similarity import structural_similarity


def slow_similarity(first, second, data_range, size=11, sigma=1.5):
    """Equation 13 of the paper, window by window."""
    weights = [
        [
            math.exp(-((y - size // 2) ** 2 + (x - size // 2) ** 2) / (2 * sigma**2))
            for x in range(size)
        ]
        for y in range(size)
    ]
    weights = torch.tensor(weights, dtype=torch.float64)
    weights /= weights.sum()
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    found = []
    for top in range(first.shape[0] - size + 1):
        for left in range(first.shape[1] - size + 1):
            a = first[top : top + size, left : left + size].double()
            b = second[top : top + size, left : left + size].double()
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            var_a = (weights * (a - mean_a) ** 2).sum()
            var_b = (weights * (b - mean_b) ** 2).sum()
            cov = (weights * (a - mean_a) * (b - mean_b)).sum()
            found.append(
                (2 * mean_a * mean_b + c1)
                * (2 * cov + c2)
                / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
            )
    return torch.stack(found).mean().item()


@pytest.mark.parametrize("data_range", [1.0, 7.0])
def test_equals_the_formula_window_by_window(data_range):
    generator = torch.Generator().manual_seed(1)
    first = torch.rand(3, 14, 17, generator=generator) * data_range
    second = 0.5 * first + 0.5 * torch.rand(3, 14, 17, generator=generator) * data_range
    found = structural_similarity(first, second, data_range=data_range)
    for row in range(3):
        expected = slow_similarity(first[row], second[row], data_range)
        assert found[row].item() == pytest.approx(expected, abs=1e-10)


def test_known_values():
    maps = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(2))
    assert structural_similarity(maps, maps).tolist() == pytest.approx([1.0, 1.0])
    black, white = torch.zeros(1, 16, 16), torch.ones(1, 16, 16)
    # Only the luminance term is left: c1 / (1 + c1).
    assert structural_similarity(black, white).item() == pytest.approx(1e-4 / (1 + 1e-4))


def test_maps_smaller_than_the_window_are_refused():
    with pytest.raises(ValueError, match=r"window_size .* got 11 for maps of \(7, 7\)"):
        structural_similarity(torch.rand(1, 7, 7), torch.rand(1, 7, 7))
