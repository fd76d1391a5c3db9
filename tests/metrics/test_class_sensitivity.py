"""Class sensitivity: signs, and constant maps that must be counted."""

import pytest
import torch
from scipy import stats

from salhub.metrics.class_sensitivity import class_sensitivity


def test_each_picture_gets_its_own_rank_correlation():
    generator = torch.Generator().manual_seed(0)
    most, least = torch.randn(2, 4, 6, 7, generator=generator).unbind()
    least[0] = most[0]
    least[1] = -most[1]
    found = class_sensitivity(most, least)
    expected = [
        stats.spearmanr(a.flatten(), b.flatten()).statistic
        for a, b in zip(most, least, strict=True)
    ]
    assert found.rho.tolist() == pytest.approx(expected)
    assert found.mean == pytest.approx(sum(expected) / 4)
    assert found.mean_absolute == pytest.approx(sum(map(abs, expected)) / 4)
    assert found.mean < found.mean_absolute
    assert found.standard_deviation == pytest.approx(torch.tensor(expected).double().std().item())


def test_constant_maps_are_counted_not_dropped():
    most = torch.rand(3, 5, 5, generator=torch.Generator().manual_seed(1))
    least = most.clone()
    least[1] = 0.0
    least[2] = 0.3
    least[2, 0, 0] += 3e-8
    found = class_sensitivity(most, least)
    assert found.num_not_finite == 2
    assert found.mean == pytest.approx(1.0)


def test_different_shapes_are_refused():
    with pytest.raises(ValueError, match="most_likely and least_likely must have the same shape"):
        class_sensitivity(torch.rand(1, 4, 4), torch.rand(1, 4, 5))
