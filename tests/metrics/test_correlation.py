"""Rank correlation against scipy."""

import numpy as np
import pytest
import torch
from scipy import stats

from salhub.metrics.correlation import average_ranks, rank_correlation


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_ranks_equal_scipy_with_many_ties(dtype):
    values = torch.randint(-4, 5, (6, 50), generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = stats.rankdata(values.numpy(), axis=-1)
    np.testing.assert_array_equal(average_ranks(values).numpy(), expected)


@pytest.mark.parametrize("levels", [3, 40, 10**6])
def test_rank_correlation_equals_scipy(levels):
    generator = torch.Generator().manual_seed(levels)
    first = torch.randint(levels, (5, 7, 9), generator=generator).float()
    second = first * 0.3 + torch.randint(levels, (5, 7, 9), generator=generator)
    found = rank_correlation(first, second)
    for row, (a, b) in enumerate(zip(first, second, strict=True)):
        expected = stats.spearmanr(a.flatten(), b.flatten()).statistic
        assert found[row].item() == pytest.approx(expected, abs=1e-12)


def test_constant_and_nan_rows_have_no_correlation():
    first = torch.tensor([[1.0, 1.0, 1.0], [1.0, torch.nan, 2.0], [3.0, 1.0, 2.0]])
    second = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 3.0, 2.0]])
    found = rank_correlation(first, second)
    assert torch.isnan(found).tolist() == [True, True, False]
    assert found[2].item() == pytest.approx(-1.0)


def test_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"same shape .* \(2, 3\) and \(2, 4\)"):
        rank_correlation(torch.zeros(2, 3), torch.zeros(2, 4))
