"""Bootstrap intervals: seeded, calibrated, and by group."""

import numpy as np
import pytest

from salhub.metrics.bootstrap import bootstrap_mean


def test_interval_agrees_with_the_normal_theory():
    values = np.random.default_rng(0).normal(2.0, 3.0, size=400)
    found = bootstrap_mean(values, num_resamples=5000)
    half = 1.96 * values.std(ddof=1) / 20
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.03)
    assert found.high == pytest.approx(values.mean() + half, abs=0.03)
    assert found.standard_deviation == pytest.approx(values.std(ddof=1))
    assert (found.n, found.num_not_finite) == (400, 0)


def test_groups_widen_the_interval_of_repeated_values():
    base = np.random.default_rng(1).normal(size=50)
    repeated, groups = np.repeat(base, 4), np.repeat(np.arange(50), 4)
    alone = bootstrap_mean(base)
    grouped = bootstrap_mean(repeated, groups)
    naive = bootstrap_mean(repeated)
    assert (grouped.low, grouped.high) == pytest.approx((alone.low, alone.high))
    assert naive.high - naive.low < 0.6 * (grouped.high - grouped.low)


def test_groups_of_unequal_size_weigh_their_members():
    values, groups = [1.0, 1.0, 1.0, 5.0], ["a", "a", "a", "b"]
    found = bootstrap_mean(values, groups, num_resamples=4000)
    assert found.mean == pytest.approx(2.0)
    assert (found.low, found.high) == (1.0, 5.0)


def test_seed_decides_the_interval():
    values = np.random.default_rng(2).normal(size=30)
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3)
    assert bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)


def test_values_that_are_not_finite_are_counted():
    found = bootstrap_mean([1.0, np.nan, 3.0, np.inf])
    assert (found.mean, found.n, found.num_not_finite) == (2.0, 2, 2)
    nothing = bootstrap_mean([np.nan, np.nan])
    assert np.isnan(nothing.mean)
    assert (nothing.n, nothing.num_not_finite) == (0, 2)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="0 values"):
        bootstrap_mean([])
    with pytest.raises(ValueError, match="2 values and 3 groups"):
        bootstrap_mean([1.0, 2.0], [0, 1, 2])
    with pytest.raises(ValueError, match="between 0 and 1, got 95"):
        bootstrap_mean([1.0], confidence=95)
