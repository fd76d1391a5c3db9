"""The arithmetic of SliM-LLM and GPTQ, beside the same written out weight by weight."""

import pytest
import torch
from torch import Tensor

from salhub.models.slim_llm.bit_allocation import (
    allocate_bits,
    allocate_by_error,
    group_means,
    weight_salience,
)
from salhub.models.slim_llm.column_updates import (
    RangeSearch,
    expected_errors,
    quantized_columns,
    salient_mask,
)
from salhub.models.slim_llm.group_scales import group_scales
from salhub.models.slim_llm.input_statistics import collected_inputs, inverse_factor

ROWS, COLUMNS, GROUP = 6, 72, 16
DAMPING = 0.01


@pytest.fixture(scope="module")
def layer() -> tuple[Tensor, Tensor, Tensor]:
    """A weight, inputs that depend on each other, and U."""
    draw = torch.Generator().manual_seed(3)
    weight = torch.randn(ROWS, COLUMNS, generator=draw)
    mixing = torch.randn(COLUMNS, COLUMNS, generator=draw)
    inputs = torch.randn(90, COLUMNS, generator=draw) @ mixing * 0.1
    factor, is_dead = inverse_factor(2 * inputs.T @ inputs / 3, DAMPING, "layer")
    assert not is_dead.any()
    return weight, inputs, factor


def rounded_alone(weight: Tensor, bits: int) -> Tensor:
    """Each row of a group by its range, or by its mean where there is one bit."""
    rows = []
    for row in weight.tolist():
        if bits == 1:
            mean = sum(row) / len(row)
            size = sum(abs(value - mean) for value in row) / len(row)
            rows.append([mean + size if value >= mean else mean - size for value in row])
            continue
        low, high = min(0.0, *row), max(0.0, *row)
        step = (high - low) / (2**bits - 1)
        zero = round(-low / step)
        codes = [min(max(round(value / step) + zero, 0), 2**bits - 1) for value in row]
        rows.append([(code - zero) * step for code in codes])
    return torch.tensor(rows)


def test_the_factor_is_that_of_the_inverse(layer):
    _, inputs, factor = layer
    hessian = (2 * inputs.T @ inputs / 3).double()
    hessian += DAMPING * hessian.diagonal().mean() * torch.eye(COLUMNS)
    assert torch.equal(factor, factor.triu())
    product = factor.double().T @ factor.double() @ hessian
    torch.testing.assert_close(product, torch.eye(COLUMNS).double(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_rounding_covers_the_range_of_a_row(layer, bits):
    block = layer[0][:, :GROUP]
    found = group_scales(block, bits).rounded(block)
    torch.testing.assert_close(found, rounded_alone(block, bits), rtol=0, atol=1e-6)
    assert all(len(row.unique()) <= 2**bits for row in found)


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("allow_uniform", [True, False])
def test_bits_are_allocated_as_in_a_search_that_makes_everything_anew(layer, bits, allow_uniform):
    weight, inputs, factor = layer
    salience = group_means(weight_salience(weight, factor), GROUP)
    squares = (weight / factor.diagonal()).square()
    by_hand = [
        float(squares[:, begin : begin + GROUP].mean()) for begin in range(0, COLUMNS, GROUP)
    ]
    assert salience.tolist() == pytest.approx(by_hand)
    found = allocate_bits(weight, inputs, salience, bits, GROUP, allow_uniform=allow_uniform)
    # Four whole groups, and a narrow one that is not swapped.
    order = sorted(range(4), key=lambda place: by_hand[place])
    wanted = (inputs @ weight.T).softmax(1).clamp(min=1e-6)
    tried = {}
    for count in (0, 1):
        widths = [bits] * 5
        for place in order[:count]:
            widths[place] -= 1
        for place in order[4 - count :]:
            widths[place] += 1
        parts = weight.split(GROUP, dim=1)
        pairs = zip(parts, widths, strict=True)
        written = torch.cat([rounded_alone(part, width) for part, width in pairs], dim=1)
        given = (inputs @ written.T).softmax(1).clamp(min=1e-6)
        divergence = float((given * (given / wanted).log()).sum(1).mean())
        tried[count] = (divergence, widths)
    if not allow_uniform:
        assert found.divergences[0] is None
        del tried[0]
    for count, (divergence, _) in tried.items():
        assert found.divergences[count] == pytest.approx(divergence, rel=1e-3)
    best = min(tried, key=lambda count: tried[count][0])
    assert (found.num_swapped, found.group_bits.tolist()) == (best, tried[best][1])


def test_two_or_three_groups_can_be_swapped_and_one_cannot():
    draw = torch.Generator().manual_seed(0)
    for columns, most in ((8, 0), (16, 1), (24, 1), (12, 0)):
        weight = torch.randn(4, columns, generator=draw)
        inputs = torch.randn(20, columns, generator=draw)
        salience = torch.arange(len(weight.split(8, dim=1))).float()
        found = allocate_bits(weight, inputs, salience, 2, 8, allow_uniform=False)
        assert found.num_swapped == most == len(found.divergences) - 1
        assert found.group_bits.float().mean() == 2


SEARCHES = {
    "reference": RangeSearch(binary_scale="abs", search_steps=12),
    "salience": RangeSearch(weights="salience", norm=2.0, search_steps=12),
    "mask": RangeSearch(salience_weight=8.0, search_steps=12),
    "none": RangeSearch(search_range=0.0),
}


def written_alone(
    weight: Tensor,
    widths: list[int],
    factor: Tensor,
    search: RangeSearch,
    taken: Tensor,
    *,
    updates: bool,
) -> tuple[Tensor, Tensor]:
    """Weights row by row and column by column, and the scales that were found."""
    left, written = weight.clone(), torch.zeros_like(weight)
    scales = torch.zeros(len(weight), len(widths))
    for group, bits in enumerate(widths):
        places = range(group * GROUP, min((group + 1) * GROUP, COLUMNS))
        block = left[:, places.start : places.stop].clone()
        costs = 1 / factor.diagonal()[places.start : places.stop] ** 2
        counted = torch.ones_like(block)
        if search.weights == "salience":
            counted = counted * (costs / costs.mean())
        elif search.salience_weight != 1:
            counted[salient_mask(block**2 * costs)] = search.salience_weight
        for row in range(len(weight)):
            values = block[row]
            low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
            step, zero, mean = (high - low) / (2**bits - 1), 0.0, 0.0
            if bits == 1:
                mean = float(values.mean().half())
                around = values.mean() if search.binary_scale == "centered" else 0.0
                step = float((values - around).abs().mean().half())
            else:
                zero, losses = round(-low / step), {}
                for factor_ in search.factors:
                    codes = ((values / (step * factor_)).round() + zero).clamp(0, 2**bits - 1)
                    error = ((codes - zero) * step * factor_ - values).abs() ** search.norm
                    kept = float(torch.tensor(step * factor_).half())
                    losses.setdefault(kept, float((counted[row] * error).sum()))
                step = min(losses, key=losses.get)
                # Of two that are equally good but for rounding, either may be taken; and so may
                # either neighbour in half precision.
                own = float(taken[row, group])
                near = min(losses, key=lambda one: abs(one - own))
                if abs(near - own) < 1e-3 * own and losses[near] <= losses[step] * (1 + 1e-5):
                    step = own
            scales[row, group] = step
            for column in places:
                value = left[row, column]
                if bits == 1:
                    near = mean + step if value >= mean else mean - step
                else:
                    code = min(max(round(float(value) / step) + zero, 0), 2**bits - 1)
                    near = (code - zero) * step
                written[row, column] = near
                if updates:
                    error = (value - near) / factor[column, column]
                    left[row, column:] -= error * factor[column, column:]
    return written, scales


@pytest.mark.parametrize("name", SEARCHES)
def test_columns_are_written_as_one_by_one(layer, name):
    weight, _, factor = layer
    other = weight.flip(0) * 0.7
    widths = [[2, 1, 3, 2, 2], [3, 2, 1, 4, 3]]
    bits = [torch.tensor(one, dtype=torch.uint8) for one in widths]
    for backbone in ("gptq", "rtn"):
        found = quantized_columns(
            [weight, other], bits, factor, GROUP, SEARCHES[name], backbone=backbone
        )
        for one, own, made in zip((weight, other), widths, found, strict=True):
            expected, scales = written_alone(
                one, own, factor, SEARCHES[name], made.scales, updates=backbone == "gptq"
            )
            torch.testing.assert_close(made.scales.float(), scales, rtol=0, atol=1e-6)
            # A mean may be rounded to either neighbour in half precision; a step is some 0.5.
            torch.testing.assert_close(made.dequantize(), expected, rtol=0, atol=1e-3)


def test_inputs_that_do_not_depend_on_each_other_leave_nothing_to_make_up_for(layer):
    bits = [torch.tensor([2, 1, 3, 2, 2], dtype=torch.uint8)]
    by_columns, rounded = (
        quantized_columns(
            [layer[0]], bits, torch.eye(COLUMNS), GROUP, RangeSearch(), backbone=backbone
        )[0]
        for backbone in ("gptq", "rtn")
    )
    assert torch.equal(by_columns.codes, rounded.codes)
    assert torch.equal(by_columns.scales, rounded.scales)


def test_updates_lower_the_error_of_the_outputs(layer):
    weight, inputs, factor = layer
    bits = [torch.full((5,), 2, dtype=torch.uint8)]
    errors = [
        (inputs @ (quantized_columns(
            [weight], bits, factor, GROUP, RangeSearch(), backbone=backbone
        )[0].dequantize() - weight).T).norm()
        for backbone in ("gptq", "rtn")
    ]  # fmt: skip
    assert errors[0] < 0.8 * errors[1]


def test_rows_that_are_alike_or_empty_are_written_exactly():
    weight = torch.tensor([0.0, 0.5, -2.0]).unsqueeze(1).expand(3, 8).contiguous()
    for bits in (1, 2, 3):
        widths = [torch.tensor([bits, bits], dtype=torch.uint8)]
        [made] = quantized_columns([weight], widths, torch.eye(8), 4, RangeSearch(search_range=0))
        torch.testing.assert_close(made.dequantize(), weight, rtol=1e-3, atol=1e-6)


def test_layers_that_read_the_same_share_what_is_collected():
    torch.manual_seed(0)
    first, second, third = (torch.nn.Linear(6, 6) for _ in range(3))
    batches = torch.randn(5, 2, 7, 6)
    layers = {"first": first, "second": second, "third": third}
    with collected_inputs(layers, most_rows=20, num_sequences=10) as found:
        for batch in batches:
            third(first(batch) + second(batch))
    assert [one.layers for one in found] == [["first", "second"], ["third"]]
    rows = batches.flatten(0, 2)
    torch.testing.assert_close(found[0].hessian, 2 * rows.T @ rows / 10)
    assert (found[0].num_sequences, found[0].num_tokens) == (10, 70)
    assert torch.equal(found[0].rows, batches[:, :, ::3][:, :, :2].reshape(20, 6))
    assert not first._forward_pre_hooks and not third._forward_hooks


def test_dead_columns_and_broken_inputs():
    hessian = torch.eye(4)
    hessian[2, 2] = 0
    factor, is_dead = inverse_factor(hessian, 0.01, "layer")
    assert is_dead.tolist() == [False, False, True, False] and torch.isfinite(factor).all()
    with pytest.raises(ValueError, match=r"inputs of model\.layers\.3 are not finite"):
        inverse_factor(hessian / 0, 0.01, "model.layers.3")


def test_errors_decide_as_a_search_of_all_counts_does():
    draw = torch.Generator().manual_seed(3)
    errors = torch.rand(3, 9, generator=draw).sort(dim=0, descending=True).values
    found = allocate_by_error(errors, 2, swappable=8)
    worth = [float(errors[0, place] - errors[2, place]) for place in range(9)]
    order = sorted(range(8), key=lambda place: worth[place])
    sums = []
    for count in range(5):
        widths = [2] * 9
        for place in order[:count]:
            widths[place] = 1
        for place in order[8 - count :]:
            widths[place] = 3
        sums.append((sum(float(errors[w - 1, p]) for p, w in enumerate(widths)), widths))
    best = min(range(5), key=lambda count: sums[count][0])
    assert (found.num_swapped, found.group_bits.tolist()) == (best, sums[best][1])
    assert found.divergences == pytest.approx([total / sums[0][0] for total, _ in sums])
    # Where a bit is worth the same everywhere, nothing is swapped.
    assert (
        allocate_by_error(
            torch.tensor([[4.0] * 6, [2.0] * 6, [1.0] * 6]), 3, swappable=6
        ).num_swapped
        == 0
    )


def test_expected_errors_are_those_of_rounding_weighted_by_what_they_cost(layer):
    weight, _, factor = layer
    search = RangeSearch(weights="salience", norm=2.0, search_range=0.4, search_steps=6)
    found = expected_errors(weight, 2, factor, GROUP, search)
    for width in (1, 2, 3):
        for place, begin in enumerate(range(0, COLUMNS, GROUP)):
            columns = slice(begin, min(begin + GROUP, COLUMNS))
            costs = 1 / factor.diagonal()[columns] ** 2
            block = weight[:, columns]
            tried = [
                ((rounded_alone_in(block, width, shrink) - block) ** 2 * costs).sum(1)
                for shrink in (search.factors if width > 1 else [1.0])
            ]
            expected = float(torch.stack(tried).min(0).values.sum())
            assert float(found[width - 1, place]) == pytest.approx(expected, rel=2e-3)


def rounded_alone_in(block: Tensor, bits: int, shrink: float) -> Tensor:
    """As `rounded_alone`, in a range that is shrunk."""
    if bits == 1:
        return rounded_alone(block, 1)
    top = 2**bits - 1
    low, high = block.amin(1, keepdim=True).clamp(max=0), block.amax(1, keepdim=True).clamp(min=0)
    step = (high - low) / top
    zero = (-low / step).round()
    codes = ((block / (step * shrink)).round() + zero).clamp(0, top)
    return (codes - zero) * step * shrink
