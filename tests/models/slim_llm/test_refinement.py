"""Codes and scales that are changed once they are there lower the error as far as they can."""

import pytest
import torch

from salhub.models.slim_llm.column_updates import RangeSearch, quantized_columns
from salhub.models.slim_llm.input_statistics import inverse_factor
from salhub.models.slim_llm.refinement import fitted_scales, refined, refined_codes

ROWS, COLUMNS, GROUP = 5, 40, 16


@pytest.fixture(scope="module", params=[[2, 1, 3], [3, 2, 4]])
def layer(request):
    """A weight, the Hessian of its inputs, and what column updates make of it."""
    draw = torch.Generator().manual_seed(1)
    weight = torch.randn(ROWS, COLUMNS, generator=draw)
    inputs = torch.randn(90, COLUMNS, generator=draw) @ torch.randn(
        COLUMNS, COLUMNS, generator=draw
    )
    hessian = inputs.T @ inputs / 90 + 0.5 * torch.eye(COLUMNS)
    factor, _ = inverse_factor(hessian, 1e-9, "layer")
    bits = [torch.tensor(request.param, dtype=torch.uint8)]
    [written] = quantized_columns([weight], bits, factor, GROUP, RangeSearch(search_range=0.0))
    return weight, hessian, written


def errors(weight, hessian, written) -> torch.Tensor:
    """Of every row."""
    away = (written.dequantize() - weight).double()
    return ((away @ hessian.double()) * away).sum(1)


def test_codes_are_those_of_trying_every_one(layer):
    weight, hessian, written = layer
    found = refined_codes(weight, written, hessian)
    codes = written.codes.clone()
    for column in range(COLUMNS):
        top = 2 ** int(written.group_bits[column // GROUP])
        tried = []
        for code in range(top):
            codes[:, column] = code
            tried.append(errors(weight, hessian, _with(written, codes)))
        codes[:, column] = torch.stack(tried).argmin(0).to(torch.uint8)
    assert torch.equal(found.codes, codes)
    before, after = errors(weight, hessian, written), errors(weight, hessian, found)
    assert (after <= before).all() and after.sum() < before.sum()


def _with(written, codes):
    return type(written)(
        codes, GROUP, written.group_bits, written.scales, written.zeros, written.means
    )


def test_scales_are_those_of_least_squares(layer):
    weight, hessian, written = layer
    found = fitted_scales(weight, written, hessian)
    root = torch.linalg.cholesky(hessian.double(), upper=True)
    for row in range(ROWS):
        columns, rest = [], weight[row].double().clone()
        for group, bits in enumerate(written.group_bits.tolist()):
            places = slice(group * GROUP, min((group + 1) * GROUP, COLUMNS))
            code = written.codes[row, places].double()
            one = torch.zeros(COLUMNS, dtype=torch.float64)
            one[places] = 2 * code - 1 if bits == 1 else code - written.zeros[row, group]
            columns.append(root @ one)
            if bits == 1:
                rest[places] -= written.means[row, group]
        design = torch.stack(columns, dim=1)
        best = torch.linalg.lstsq(design, (root @ rest)[:, None]).solution[:, 0]
        torch.testing.assert_close(found.scales[row].double(), best, rtol=5e-3, atol=1e-4)
    assert (errors(weight, hessian, found) <= errors(weight, hessian, written) * 1.0001).all()


def test_more_rounds_are_better_and_none_changes_nothing(layer):
    weight, hessian, written = layer
    found = [
        errors(weight, hessian, refined(weight, written, hessian, rounds)).sum()
        for rounds in (0, 1, 3)
    ]
    assert found[0] == errors(weight, hessian, written).sum()
    assert found[0] > found[1] >= found[2]


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_steps_below_zero_of_symmetric_grids_are_fitted_too(bits):
    generator = torch.Generator().manual_seed(bits)
    weight = torch.randn(12, COLUMNS, generator=generator)
    hessian = torch.eye(COLUMNS)
    factor, _ = inverse_factor(hessian, 1e-9, "layer")
    widths = [torch.full((-(-COLUMNS // GROUP),), bits, dtype=torch.uint8)]
    search = RangeSearch(search_range=0.0, symmetric=True)
    [written] = quantized_columns([weight], widths, factor, GROUP, search)
    assert (written.scales < 0).any() and (written.scales > 0).any()
    found = refined(weight, written, hessian, 1)
    assert torch.equal(found.scales.sign(), written.scales.sign())
    before, after = errors(weight, hessian, written), errors(weight, hessian, found)
    assert (after <= before * 1.0001).all() and after.sum() < before.sum()
