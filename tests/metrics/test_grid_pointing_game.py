"""Grid pointing game on maps whose score is known by hand."""

import pytest
import torch

from salhub.metrics.grid_pointing_game import grid_pointing_game


def test_mass_and_hit_of_hand_made_maps():
    saliency = torch.tensor(
        [
            [
                [1.0, 0.0, 2.0, 0.0],
                [0.0, 1.0, 0.0, 0.0],
                [0.0, 0.0, 0.0, 0.0],
                [4.0, 0.0, 0.0, 0.0],
            ],
            [
                [-9.0, 0.0, 2.0, 0.0],
                [0.0, 0.0, 0.0, 0.0],
                [0.0, 0.0, 0.0, 0.0],
                [0.0, 0.0, 0.0, 1.0],
            ],
        ]
    )
    score = grid_pointing_game(saliency, torch.tensor([0, 1]), grid_size=2)
    assert score.mass.tolist() == pytest.approx([2 / 8, 2 / 3])
    assert score.hit.tolist() == [False, True]
    assert score.empty.tolist() == [False, False]


def test_equals_slices_cell_by_cell():
    saliency = torch.randn(9, 12, 18, generator=torch.Generator().manual_seed(0))
    cells = torch.arange(9)
    score = grid_pointing_game(saliency, cells, grid_size=3)
    for cell in range(9):
        row, column = divmod(cell, 3)
        positive = saliency[cell].double().clamp(min=0)
        inside = positive[row * 4 : row * 4 + 4, column * 6 : column * 6 + 6]
        assert score.mass[cell].item() == pytest.approx((inside.sum() / positive.sum()).item())
        peak_row, peak_column = divmod(int(saliency[cell].argmax()), 18)
        assert score.hit[cell].item() == ((peak_row // 4, peak_column // 6) == (row, column))


def test_maps_that_point_nowhere_score_zero_and_are_counted():
    constant = torch.full((8, 8), 0.3)
    resized = constant.clone()
    resized[0, 0] += 3e-8  # one unit in the last place, as resizing leaves it
    negative = -torch.rand(8, 8, generator=torch.Generator().manual_seed(0)) - 0.1
    maps = torch.stack([constant, resized, torch.zeros(8, 8), negative])
    score = grid_pointing_game(maps, torch.zeros(4, dtype=torch.int64))
    assert score.empty.all()
    assert not score.hit.any()
    assert score.mass.tolist() == [0.0] * 4


@pytest.mark.parametrize(
    ("shape", "cells", "message"),
    [
        ((1, 5, 4), [0], "5x4 do not divide into a 2x2 grid"),
        ((1, 4, 4), [4], r"cells must lie in 0\.\.3, got \[4\]"),
        ((2, 4, 4), [0], "cells must be 2 integers"),
        ((4, 4), [0], r"shape \(N, H, W\), got \(4, 4\)"),
    ],
)
def test_bad_input_is_named(shape, cells, message):
    with pytest.raises(ValueError, match=message):
        grid_pointing_game(torch.rand(shape), torch.tensor(cells))


def test_nan_is_refused():
    with pytest.raises(ValueError, match="NaN or infinity"):
        grid_pointing_game(torch.full((1, 4, 4), torch.nan), torch.tensor([0]))


def test_cells_that_are_no_tensor_and_impossible_grids_are_named():
    maps = torch.rand(1, 4, 4)
    with pytest.raises(TypeError, match=r"cells must be a torch tensor of 1 integers.*got list"):
        grid_pointing_game(maps, [0])
    for cell in (torch.tensor([0.0]), torch.tensor([True])):
        with pytest.raises(ValueError, match="cells must be 1 integers"):
            grid_pointing_game(maps, cell)
    with pytest.raises(ValueError, match="cells must be 0 or more, got -1"):
        grid_pointing_game(maps, torch.tensor([-1]))
    for grid_size in (0, -2, 2.0):
        with pytest.raises(ValueError, match=f"grid_size must be .* at least 1, got {grid_size}"):
            grid_pointing_game(maps, torch.tensor([0]), grid_size=grid_size)


def test_cells_of_any_integer_type_count():
    maps = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = grid_pointing_game(maps, torch.tensor([3, 1]))
    found = grid_pointing_game(maps, torch.tensor([3, 1], dtype=torch.uint8))
    assert torch.equal(found.mass, expected.mass)
