"""What is done before the contour moves: restoration, saliency and its classes, and windows."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from salhub.models.active_contour.contour_suite import make_contour_case
from salhub.models.active_contour.level_set import GaussianWindow, gaussian_taps, window_radius
from salhub.models.active_contour.picture_restoration import (
    edge_blur,
    filtered,
    median3,
    noise_level,
    remove_spikes,
)
from salhub.models.active_contour.saliency_maps import (
    border_difference,
    frequency_tuned,
    spectral_residual,
    two_classes,
)


def picture(kind="disk", degradation="clean", seed=0, size=96):
    image, mask = make_contour_case(kind, degradation, seed, size)
    return 255 * torch.from_numpy(image)[None, None], mask


def ones(value):
    return torch.tensor([float(value)])


def test_the_median_is_that_of_nine_pixels():
    noise = torch.randn(2, 3, 20, 23, generator=torch.Generator().manual_seed(0))
    expected = ndimage.median_filter(noise.numpy(), (1, 1, 3, 3), mode="nearest")
    assert (median3(noise).numpy() == expected).all()


@pytest.mark.parametrize("deviation", [3.0, 10.0, 40.0])
def test_noise_is_measured_whatever_is_drawn(deviation):
    rows, columns = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    grid = rows + 2 * columns + 60.0 * (torch.hypot(rows - 40, columns - 50) < 20)
    noise = torch.randn(1, 1, 96, 96, generator=torch.Generator().manual_seed(1))
    assert noise_level(grid + deviation * noise).item() == pytest.approx(deviation, rel=0.1)


def test_spikes_are_replaced_and_nothing_else():
    clean, _ = picture()
    spiked = clean.clone()
    at = torch.rand(clean.shape, generator=torch.Generator().manual_seed(2)) < 0.05
    spiked[at] = 255.0
    found, share = remove_spikes(spiked)
    assert share.item() == pytest.approx(at.float().mean().item(), abs=0.01)
    assert (found - clean).abs().median() == 0
    assert ((found - clean).abs() > 60).float().mean() < 0.002
    assert torch.equal(remove_spikes(clean)[0], clean)


def test_smoothing_is_that_of_a_gaussian():
    noise = torch.randn(1, 1, 60, 70, generator=torch.Generator().manual_seed(3))
    found = filtered(noise, ones(1.5))[0, 0].numpy()
    expected = ndimage.gaussian_filter(noise[0, 0].numpy(), 1.5, mode="mirror", truncate=8)
    assert np.abs(found - expected).max() < 1e-4


@pytest.mark.parametrize("sigma", [1.5, 2.0, 3.0])
def test_a_blur_is_measured_and_undone(sigma):
    rows, columns = np.mgrid[:128, :128]
    mask = np.hypot(rows - 64, columns - 60) < 30
    blurred = torch.from_numpy(ndimage.gaussian_filter(100.0 * mask, sigma)).float()[None]
    width = edge_blur(blurred, blurred > 30).item()
    # The smoothing of the measure is 0.7, and pixels have a width.
    assert math.sqrt(width**2 - 0.7**2) == pytest.approx(sigma, rel=0.12)
    sharper = filtered(blurred[None], ones(0), ones(sigma), ones(0.02))[0, 0].numpy()
    before, after = (np.abs(one - 100.0 * mask).mean() for one in (blurred[0].numpy(), sharper))
    assert after < 0.75 * before


def test_sharp_edges_look_sharp_also_under_noise_and_clutter():
    for degradation in ("clean", "bias", "multi", "noise", "clutter"):
        drawn, mask = picture("star", degradation, seed=1, size=128)
        smooth = filtered(drawn, ones(0.7 if degradation == "noise" else 0.0))[0]
        assert edge_blur(smooth, torch.from_numpy(mask)[None]).item() < 1.55, degradation


def test_shading_is_taken_off_and_the_object_stands_out():
    drawn, mask = picture("tee", "bias")
    found = border_difference(drawn).values[0].numpy()
    assert np.median(found[mask]) > 40
    assert np.abs(np.median(found[~mask])) < 3
    # A plane alone, without an object at the frame, leaves nothing.
    rows, columns = torch.meshgrid(torch.arange(40.0), torch.arange(30.0), indexing="ij")
    plane = (2 * rows - columns + 50)[None, None]
    assert border_difference(plane).values.abs().max() < 1e-2


def test_an_object_at_the_frame_does_not_tilt_the_plane():
    drawn = torch.full((1, 1, 60, 60), 50.0)
    drawn += 2 * torch.randn(drawn.shape, generator=torch.Generator().manual_seed(0))
    drawn[..., 20:40, :25] = 200.0
    values = border_difference(drawn).values[0]
    assert values[45:, 30:].abs().median() < 3 and values[25:35, 5:20].median() > 140


def test_polarity_is_guessed_and_can_be_set():
    drawn, mask = picture("disk", "noise")
    inside = torch.from_numpy(mask)
    for given, sign in (("auto", 1), ("bright", 1), ("dark", -1), ("both", 1)):
        value = border_difference(drawn, given).values[0][inside].mean().item()
        assert math.copysign(1, value) == sign
    even = drawn.clone()
    half = torch.zeros(1, 1, 96, 96)
    half[..., 20:40, 20:40], half[..., 60:80, 60:80] = 50.0, -50.0
    even[:] = 100 + half + torch.randn(half.shape, generator=torch.Generator().manual_seed(0))
    assert border_difference(even).is_unsure.item()
    assert not border_difference(drawn).is_unsure.item()


def slow_two_classes(values, bins=256):
    """Kittler and Illingworth, threshold by threshold."""
    values = np.sort(values.ravel().astype(np.float64))
    low, high = values[round(0.0005 * (len(values) - 1))], values[round(0.9995 * (len(values) - 1))]
    width = (high - low) / bins
    numbers = np.clip(np.floor((values - low) / width), 0, bins - 1)
    best = (np.inf, None)
    for threshold in range(bins - 1):
        sides = numbers[numbers <= threshold], numbers[numbers > threshold]
        shares = [len(side) / len(numbers) for side in sides]
        if min(shares) <= 0.002:
            continue
        cost = sum(
            share * (math.log(side.var() + 1 / 12) - 2 * math.log(share))
            for share, side in zip(shares, sides, strict=True)
        )
        best = min(best, (cost, low + (threshold + 1) * width))
    return best[1]


@pytest.mark.parametrize("degradation", ["noise", "multi", "clutter"])
def test_classes_are_parted_at_minimum_error(degradation):
    drawn, _ = picture("three", degradation)
    values = border_difference(drawn).values
    found = two_classes(values)
    expected = slow_two_classes(values[0].numpy())
    assert found.threshold.item() == pytest.approx(expected, rel=1e-4)
    odds, (low, high) = found.log_odds(values), found.means[0].tolist()
    # The wider of two Gaussians would claim both ends.
    assert (odds[values > high] >= 3).all() and (odds[values < low] <= -3).all()


def test_otsu_is_that_of_scikit_image():
    filters = pytest.importorskip("skimage.filters", reason="scikit-image is not installed")
    drawn, _ = picture("star", "bias")
    found = two_classes(drawn[:, 0], "otsu").threshold.item()
    assert found == pytest.approx(filters.threshold_otsu(drawn[0, 0].numpy()), abs=1.5)


def test_frequency_tuned_contrast_is_the_distance_from_the_mean():
    drawn, _ = picture("disk", "noise", size=192)
    image = drawn[0, 0].numpy().astype(np.float64)
    smooth = ndimage.gaussian_filter(image, 192 / 128, mode="mirror", truncate=8)
    found = frequency_tuned(drawn)[0].numpy()
    assert np.abs(found - np.abs(image.mean() - smooth)).max() < 1e-2


def test_spectral_residual_points_at_what_is_odd():
    stripes = torch.sin(torch.arange(128.0)).expand(128, 128) * 60 + 120
    odd = stripes.clone()
    odd[60:70, 60:70] = 250.0
    found = spectral_residual(odd[None, None])[0]
    row, column = divmod(found.argmax().item(), 128)
    assert 50 <= row < 80 and 50 <= column < 80


@pytest.mark.parametrize("size", [(40, 52), (200, 170)])
def test_windows_are_convolutions_with_zeros_outside(size):
    field = torch.randn(2, *size, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor(2.6)
    taps = gaussian_taps(sigma, window_radius(2.6)).double().numpy()
    expected = field.numpy().astype(np.float64)
    for axis in (1, 2):
        expected = ndimage.convolve1d(expected, taps, axis=axis, mode="constant")
    assert np.abs(GaussianWindow(sigma, size)(field).numpy() - expected).max() < 1e-5
