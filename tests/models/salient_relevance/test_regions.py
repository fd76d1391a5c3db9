import pytest
import torch

from salhub.models.salient_relevance.regions import (
    area_fraction,
    connected_components,
    top_area_mask,
    total_variation,
)


def flood_count(mask, diagonal):
    """Components by flood fill, one pixel at a time."""
    left = {(y, x) for y, x in mask.nonzero().tolist()}
    steps = [(0, 1), (1, 0), (0, -1), (-1, 0)]
    if diagonal:
        steps += [(1, 1), (1, -1), (-1, 1), (-1, -1)]
    count = 0
    while left:
        count += 1
        border = [left.pop()]
        while border:
            y, x = border.pop()
            for dy, dx in steps:
                if (y + dy, x + dx) in left:
                    left.remove((y + dy, x + dx))
                    border.append((y + dy, x + dx))
    return count


@pytest.mark.parametrize("connectivity", [4, 8])
def test_components_equal_a_flood_fill(connectivity):
    masks = torch.rand(5, 17, 23) < torch.linspace(0.1, 0.7, 5)[:, None, None]
    found = connected_components(masks, connectivity)
    assert found.tolist() == [flood_count(mask, connectivity == 8) for mask in masks]
    assert connected_components(torch.zeros(1, 3, 3, dtype=torch.bool)).tolist() == [0]


def test_top_area_marks_the_highest_pixels_and_nothing_in_a_constant_map():
    saliency = torch.stack((torch.rand(10, 12), torch.full((10, 12), 0.1)))
    mask = top_area_mask(saliency, 0.05)
    assert mask.sum(dim=(1, 2)).tolist() == [6, 0]
    assert float(saliency[0][mask[0]].min()) > float(saliency[0][~mask[0]].max())
    assert area_fraction(mask).tolist() == pytest.approx([0.05, 0.0])


def test_total_variation_by_hand():
    checkerboard = (torch.arange(8)[:, None] + torch.arange(8)) % 2
    half = torch.zeros(8, 8)
    half[:, 4:] = 3.0
    maps = torch.stack((checkerboard * 2.0 - 5, half, torch.ones(8, 8)))
    expected = torch.tensor([2 * 8 * 7 / 64, 8 / 64, 0.0])
    torch.testing.assert_close(total_variation(maps), expected)
    torch.testing.assert_close(total_variation(maps * 7 + 2), expected)


def test_wrong_input_is_named():
    with pytest.raises(TypeError, match="bool"):
        connected_components(torch.rand(1, 3, 3))
    with pytest.raises(ValueError, match=r"\(3, 3\)"):
        area_fraction(torch.ones(3, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="connectivity must be 4 or 8, got 6"):
        connected_components(torch.ones(1, 3, 3, dtype=torch.bool), 6)
    with pytest.raises(ValueError, match=r"fraction must be in \(0, 1\], got 0"):
        top_area_mask(torch.rand(1, 3, 3), 0.0)
    with pytest.raises(ValueError, match="NaN"):
        total_variation(torch.full((1, 3, 3), torch.nan))
