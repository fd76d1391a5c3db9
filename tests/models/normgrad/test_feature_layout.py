"""Where a layer's positions are, read from shapes."""

import pytest
import torch

from salhub.models.normgrad.feature_layout import infer_layout

CASES = {
    "feature map": ((2, 512, 7, 7), (224, 224), "channels_first", (7, 7), 0),
    "feature map of an odd crop": ((2, 64, 109, 109), (224, 224), "channels_first", (109, 109), 0),
    "channels last": ((2, 14, 14, 384), (224, 224), "channels_last", (14, 14), 0),
    "as many channels as rows": ((2, 14, 14, 14), (224, 224), "channels_first", (14, 14), 0),
    "vision transformer": ((2, 197, 768), (224, 224), "tokens", (14, 14), 1),
    "distilled": ((2, 198, 192), (224, 224), "tokens", (14, 14), 2),
    "with registers": ((2, 261, 384), (224, 224), "tokens", (16, 16), 5),
    "no class token": ((2, 49, 768), (224, 224), "tokens", (7, 7), 0),
    "wide picture": ((2, 1 + 14 * 28, 64), (224, 448), "tokens", (14, 28), 1),
    "tall picture": ((2, 1 + 28 * 14, 64), (448, 224), "tokens", (28, 14), 1),
    "side not divisible by the patch": ((2, 1 + 14 * 21, 64), (230, 340), "tokens", (14, 21), 1),
    "padded to the patch": ((2, 8 * 9, 64), (250, 258), "tokens", (8, 9), 0),
}


@pytest.mark.parametrize("case", CASES)
def test_layouts(case):
    shape, image_size, kind, grid, prefix = CASES[case]
    layout = infer_layout("layer", shape, image_size)
    assert (layout.kind, layout.grid, layout.prefix_tokens) == (kind, grid, prefix)


@pytest.mark.parametrize("leading", [(), (5,)])
def test_tokens_fold_row_by_row_without_the_prefix(leading):
    tokens = torch.randn(*leading, 2, 1 + 2 * 4, 3)
    folded = infer_layout("layer", (2, 9, 3), (32, 64)).fold(tokens)
    assert folded.shape == (*leading, 2, 3, 2, 4)
    for row in range(2):
        for column in range(4):
            assert torch.equal(folded[..., row, column], tokens[..., 1 + 4 * row + column, :])


def test_channels_last_folds():
    values = torch.randn(5, 2, 4, 6, 3)
    folded = infer_layout("layer", (2, 4, 6, 3), (32, 48)).fold(values)
    assert torch.equal(folded, values.permute(0, 1, 4, 2, 3))


@pytest.mark.parametrize("shape", [(2, 5), (2, 150, 64), (2, 3, 4, 5, 6), (2,)])
def test_shapes_without_positions(shape):
    with pytest.raises(ValueError, match=r"layer 'block' returns shape .*reshape_transform"):
        infer_layout("block", shape, (224, 224))
