"""Mosaics: which pictures are used, and where each tile lands."""

import pytest
import torch

from salhub.data.mosaic import assemble, confident_pictures, draw_mosaics


def test_only_right_and_confident_pictures_qualify():
    probabilities = torch.tensor([[0.9, 0.1], [0.89, 0.11], [0.05, 0.95], [0.95, 0.05]])
    labels = torch.tensor([0, 0, 1, 1])
    assert confident_pictures(probabilities, labels, 0.9).tolist() == [0, 2]


def test_mosaics_hold_distinct_classes_and_spend_pictures_evenly():
    labels = torch.arange(30) // 3  # three pictures of each of ten classes
    candidates = torch.arange(2, 30)
    mosaics = draw_mosaics(candidates, labels, 14, grid_size=2, seed=1)
    used = [member for mosaic in mosaics for member in mosaic.members]
    assert all(len(set(mosaic.class_labels)) == 4 for mosaic in mosaics)
    assert all(m.class_labels == tuple(labels[list(m.members)].tolist()) for m in mosaics)
    counts = [used.count(int(candidate)) for candidate in candidates]
    assert sum(counts) == 56
    assert max(counts) - min(counts) <= 1
    # The first seven mosaics use every picture at most once.
    assert max(used[:24].count(picture) for picture in used[:24]) == 1


def test_seed_decides_the_draw_and_global_state_is_kept():
    candidates, labels = torch.arange(40), torch.arange(40)
    state = torch.get_rng_state()
    first = draw_mosaics(candidates, labels, 5, seed=0)
    assert first == draw_mosaics(candidates, labels, 5, seed=0)
    assert first != draw_mosaics(candidates, labels, 5, seed=1)
    assert torch.equal(torch.get_rng_state(), state)


def test_tiles_are_laid_out_row_by_row():
    tiles = torch.rand(9, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    picture = assemble(tiles)
    assert picture.shape == (3, 12, 15)
    for cell in range(9):
        row, column = divmod(cell, 3)
        found = picture[:, row * 4 : row * 4 + 4, column * 5 : column * 5 + 5]
        assert torch.equal(found, tiles[cell])


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"pictures of 4 classes, found 3"):
        draw_mosaics(torch.arange(6), torch.arange(6) // 2, 1)
    with pytest.raises(ValueError, match="at least 1, got 2 and 0"):
        draw_mosaics(torch.arange(6), torch.arange(6), 0)
    with pytest.raises(ValueError, match=r"tiles must be \(n \* n, C, h, w\), got \(3, 3, 4, 4\)"):
        assemble(torch.zeros(3, 3, 4, 4))
    with pytest.raises(ValueError, match=r"threshold .* got 90"):
        confident_pictures(torch.rand(2, 3), torch.tensor([0, 1]), 90)
