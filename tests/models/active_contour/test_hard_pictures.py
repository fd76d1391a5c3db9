"""Pictures that are no drawn suite: what fills the frame, textures, and histograms of one class."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from salhub.models.active_contour.configuration_active_contour import SaliencyActiveContourConfig
from salhub.models.active_contour.modeling_active_contour import (
    SaliencyActiveContourForSegmentation,
)
from salhub.models.active_contour.picture_restoration import remove_spikes
from salhub.models.active_contour.saliency_maps import border_difference, two_classes


def grey(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32))[None, None]


def disk(radius: float, inside: float, outside: float, size: int = 96) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size] - size / 2 + 0.5
    noise = np.random.default_rng(0).standard_normal((size, size))
    return np.where(np.hypot(rows, columns) < radius, inside, outside) + 3 * noise


@pytest.mark.parametrize("radius", [12, 44])
@pytest.mark.parametrize(("inside", "outside"), [(180, 60), (60, 180)])
def test_the_object_is_what_is_unlike_the_frame_however_large_it_is(radius, inside, outside):
    picture = disk(radius, inside, outside)
    output = SaliencyActiveContourForSegmentation(SaliencyActiveContourConfig()).eval()(
        grey(picture)
    )
    truth = np.abs(picture - inside) < np.abs(picture - outside)
    found = output.masks[0].numpy()
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.97


def test_as_much_light_as_dark_is_a_guess():
    rows = np.full((96, 96), 120.0)
    rows[20:40, 20:40], rows[60:80, 60:80] = 200, 40
    assert bool(border_difference(grey(rows)).is_unsure)
    rows[60:80, 60:80] = 120
    assert not bool(border_difference(grey(rows)).is_unsure)


def test_a_texture_has_no_spikes():
    noise = np.random.default_rng(0).standard_normal((96, 96))
    # Even ground with grains of a few pixels here and there, neither black nor white.
    grains = gaussian_filter(noise, 0.7) * (np.random.default_rng(1).random((96, 96)) < 0.2)
    picture = grey(120 + 60 * grains / np.abs(grains).max() + 0.5 * noise)
    picture[..., 0, 0], picture[..., 0, 1] = 0, 255
    same, share = remove_spikes(picture)
    assert float(share) == 0 and torch.equal(same, picture)
    salted = picture.clone()
    salted[..., ::5, ::5] = 255
    cleaned, share = remove_spikes(salted)
    assert float(share) > 0.03 and float((cleaned[..., 1:-1, 1:-1] > 250).float().mean()) == 0


def test_a_threshold_that_parts_off_a_few_pixels_is_not_taken():
    random = np.random.default_rng(0)
    # A broad slope and some bright pixels: two Gaussians fit nothing but those.
    values = np.concatenate([random.uniform(0, 0.5, 9900), random.uniform(0.95, 1.0, 100)])
    values = torch.from_numpy(values.astype(np.float32)).reshape(1, 100, 100)
    least, otsu = two_classes(values), two_classes(values, "otsu")
    assert 0.3 < float(least.shares[0, 1]) < 0.7
    assert torch.equal(least.threshold, otsu.threshold)
