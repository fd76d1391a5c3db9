"""Fréchet distance against scipy's square root of a matrix, and cases that can be worked out."""

import numpy as np
import pytest
import scipy.linalg
import torch

from salhub.models.salun.frechet_distance import frechet_distance


def slow_distance(first: torch.Tensor, second: torch.Tensor) -> float:
    one, other = first.double().numpy(), second.double().numpy()
    covariances = np.atleast_2d(np.cov(one.T)), np.atleast_2d(np.cov(other.T))
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    shift = ((one.mean(0) - other.mean(0)) ** 2).sum()
    return float(shift + np.trace(covariances[0] + covariances[1] - 2 * root))


@pytest.mark.parametrize(("sizes", "width"), [((50, 80), 1), ((60, 40), 5), ((300, 200), 64)])
def test_equal_to_the_square_root_of_scipy(sizes, width):
    mixing = torch.randn(width, width)
    first = torch.randn(sizes[0], width) @ mixing
    second = torch.randn(sizes[1], width) * torch.linspace(0.1, 2, width) + 0.5
    found = frechet_distance(first, second)
    assert found == pytest.approx(slow_distance(first, second), rel=1e-6)
    assert found == pytest.approx(frechet_distance(second, first), rel=1e-9)


def with_moments(mean: torch.Tensor, deviations: torch.Tensor) -> torch.Tensor:
    """Features with exactly these means and, uncorrelated, these deviations."""
    width = len(mean)
    values = torch.linalg.qr(torch.randn(200, width + 1).double()).Q
    values = torch.cat([torch.ones(200, 1).double(), values], 1)
    centred = torch.linalg.qr(values).Q[:, 1 : width + 1]  # orthogonal to the ones
    return mean + centred * 199**0.5 * deviations


def test_normal_distributions_that_can_be_worked_out():
    mean = torch.tensor([0.0, 1.0, -2.0]).double()
    spread = torch.tensor([1.0, 0.5, 2.0]).double()
    other_mean, other_spread = mean + torch.tensor([3.0, 0.0, -4.0]), spread * 3
    # Uncorrelated: |m1 - m2|^2 + sum (s1 - s2)^2.
    expected = 25 + float(((spread - other_spread) ** 2).sum())
    found = frechet_distance(with_moments(mean, spread), with_moments(other_mean, other_spread))
    assert found == pytest.approx(expected, rel=1e-9)


def test_the_same_features_are_at_no_distance_and_turning_both_changes_nothing():
    first, second = torch.randn(40, 6), torch.randn(40, 6) * 2
    assert frechet_distance(first, first[torch.randperm(40)]) == pytest.approx(0, abs=1e-6)
    turn = torch.linalg.qr(torch.randn(6, 6).double()).Q
    expected = frechet_distance(first, second)
    assert frechet_distance(first @ turn.float(), second @ turn.float()) == pytest.approx(
        expected, rel=1e-5
    )


def test_features_that_never_vary_and_fewer_pictures_than_features():
    # Both covariances are singular, where the square root of scipy is not to be trusted.
    dead = torch.cat([torch.randn(30, 3), torch.zeros(30, 4)], 1)
    alive = frechet_distance(dead[:, :3], dead[:, :3] + 1)
    assert frechet_distance(dead, dead + torch.tensor([1.0] * 3 + [0.0] * 4)) == pytest.approx(
        alive, abs=1e-6
    )
    few = torch.randn(4, 20)
    assert frechet_distance(few, few + 1) == pytest.approx(20, rel=1e-4)


def test_bad_input_is_refused_in_one_sentence():
    good = torch.randn(5, 3)
    for first, second, message in (
        (good[0], good, r"first must have shape \(n, d\) with n at least 2, got \(3,\)"),
        (good[:1], good, r"n at least 2, got \(1, 3\)"),
        (good, good[:, :2], r"second must have shape \(n, 3\) .*got \(5, 2\)"),
        (torch.tensor(1.0), good, "first must have shape"),
        (good, good * torch.nan, "second has NaN or infinite features"),
        (good.index_fill(0, torch.tensor(1), torch.inf), good, "first has NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            frechet_distance(first, second)
