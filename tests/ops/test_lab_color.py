import pytest
import torch

from salhub.ops.lab_color import (
    relative_luminance_to_lightness,
    srgb_to_lab,
    srgb_to_linear,
)


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [  # published D65 values of the sRGB primaries
        ((1.0, 0.0, 0.0), (53.24, 80.09, 67.20)),
        ((0.0, 1.0, 0.0), (87.73, -86.18, 83.18)),
        ((0.0, 0.0, 1.0), (32.30, 79.19, -107.86)),
        ((1.0, 1.0, 1.0), (100.0, 0.0, 0.0)),
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
    ],
)
def test_primaries(rgb, lab):
    found = srgb_to_lab(torch.tensor(rgb, dtype=torch.float64).view(3, 1, 1)).flatten()
    torch.testing.assert_close(found, torch.tensor(lab, dtype=torch.float64), atol=0.02, rtol=0)


def test_grey_has_no_hue_and_the_lightness_of_its_luminance():
    grey = torch.linspace(0, 1, 11, dtype=torch.float64).view(1, 1, 11)
    lab = srgb_to_lab(grey.expand(3, 1, 11))
    assert lab[1:].abs().max() < 1e-12
    expected = relative_luminance_to_lightness(srgb_to_linear(grey))
    torch.testing.assert_close(lab[:1], expected, atol=1e-12, rtol=0)


def test_batches_and_wrong_channel_counts():
    pictures = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(srgb_to_lab(pictures)[1], srgb_to_lab(pictures[1]))
    with pytest.raises(ValueError, match=r"\(4, 2, 2\)"):
        srgb_to_lab(torch.rand(4, 2, 2))
