"""What moves denominators away from zero, at the values where signs are easily lost."""

import math

import pytest
import torch

from salhub.models.salient_relevance.relevance_functions import quotient, stabilise

EDGES = [0.0, -0.0, 1e-45, -1e-45, -1e-36, 3.0, -3.0, math.inf, -math.inf, math.nan]


def moved(value: float, epsilon: float) -> float:
    """Python's own arithmetic; zero goes up, and -0 down."""
    return value + math.copysign(epsilon, value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_every_kind_of_number_moves_in_its_own_direction(dtype):
    values = torch.tensor(EDGES, dtype=dtype)
    found = stabilise(values, 0.5)
    expected = [moved(value, 0.5) for value in values.tolist()]
    assert found.dtype == dtype
    torch.testing.assert_close(
        found, torch.tensor(expected, dtype=dtype), rtol=0, atol=0, equal_nan=True
    )


@pytest.mark.parametrize("epsilon", [0.25, -0.25])
def test_quotients_of_views_by_a_stabiliser_of_any_sign(epsilon):
    values = torch.arange(-6.0, 6).view(3, 4).t()[::2]
    relevance = torch.linspace(1, 2, 6).view(2, 3)
    expected = [
        [r / (2 * moved(v, abs(epsilon))) for r, v in zip(*rows, strict=True)]
        for rows in zip(relevance.tolist(), values.tolist(), strict=True)
    ]
    torch.testing.assert_close(quotient(relevance, values, epsilon, 2), torch.tensor(expected))
    assert values[0, 0] == -6  # what was given is not changed
