"""The models that the contour is built on, against slow, obvious arithmetic."""

import math

import numpy as np
import pytest
import torch

from salhub.models.active_contour.configuration_active_contour import SaliencyActiveContourConfig
from salhub.models.active_contour.contour_suite import make_contour_case
from salhub.models.active_contour.initial_contours import initial_level_set
from salhub.models.active_contour.level_set import smooth_step
from salhub.models.active_contour.modeling_active_contour import (
    SaliencyActiveContourForSegmentation,
)
from salhub.models.active_contour.region_forces import odds_pull, regions_of

SIZE = (26, 31)
STEPS = 6


def kernel(sigma, radius):
    grid = np.zeros((2 * radius + 1, 2 * radius + 1))
    for row in range(-radius, radius + 1):
        for column in range(-radius, radius + 1):
            grid[row + radius, column + radius] = math.exp(-(row**2 + column**2) / (2 * sigma**2))
    return grid / grid.sum()


def window(field, taps, pad="zeros"):
    """Sums of products, pixel by pixel."""
    radius, (height, width) = len(taps) // 2, field.shape
    mode = {"mode": "constant"} if pad == "zeros" else {"mode": "edge"}
    wide = np.pad(field, radius, **mode)
    found = np.zeros_like(field)
    for row in range(height):
        for column in range(width):
            part = wide[row : row + 2 * radius + 1, column : column + 2 * radius + 1]
            found[row, column] = (part * taps).sum()
    return found


def step(phi, epsilon):
    return 0.5 * (1 + 2 / math.pi * np.arctan(phi / epsilon))


def delta(phi, epsilon):
    return epsilon / math.pi / (epsilon**2 + phi**2)


def curvature(phi):
    down, across = np.gradient(phi)
    length = np.sqrt(down**2 + across**2 + 1e-10)
    return np.gradient(across / length)[1] + np.gradient(down / length)[0]


def laplacian(phi):
    wide = np.pad(phi, 1, mode="edge")
    return wide[:-2, 1:-1] + wide[2:, 1:-1] + wide[1:-1, :-2] + wide[1:-1, 2:] - 4 * phi


def local_means(image, side, taps):
    """m1 and m2 of a soft side."""
    one = window(side * image, taps) / np.maximum(window(side, taps), 1e-8)
    two = window((1 - side) * image, taps) / np.maximum(window(1 - side, taps), 1e-8)
    return one, two


def slow_lif(image, phi, sigma=3.0, epsilon=1.5, zeta=0.9, time_step=1.0):
    taps, smoothing = kernel(sigma, round(2 * sigma)), kernel(zeta, 2)
    for _ in range(STEPS):
        side = step(phi, epsilon)
        one, two = local_means(image, side, taps)
        fitted = one * side + two * (1 - side)
        phi = phi + time_step * delta(phi, epsilon) * (image - fitted) * (one - two)
        phi = window(phi, smoothing, "edge")
        yield phi


def slow_rsf(image, phi, sigma=3.0, epsilon=1.0, time_step=0.1, nu=0.001 * 255**2, mu=1.0):
    taps = kernel(sigma, round(2 * sigma))
    ones = window(np.ones_like(image), taps)
    for _ in range(STEPS):
        # The border of the public code: the third row and column from the edge.
        phi = phi.copy()
        phi[0], phi[-1] = phi[2].copy(), phi[-3].copy()
        phi[:, 0], phi[:, -1] = phi[:, 2].copy(), phi[:, -3].copy()
        one, two = local_means(image, step(phi, epsilon), taps)
        errors = [
            image**2 * ones - 2 * image * window(mean, taps) + window(mean**2, taps)
            for mean in (one, two)
        ]
        bend = curvature(phi)
        change = -delta(phi, epsilon) * (errors[0] - errors[1])
        change = change + nu * delta(phi, epsilon) * bend + mu * (laplacian(phi) - bend)
        phi = phi + time_step * change
        yield phi


def slow_chan_vese(image, phi, epsilon=1.0, time_step=0.1, nu=0.001 * 255**2):
    for _ in range(STEPS):
        side = step(phi, epsilon)
        one = (side * image).sum() / side.sum()
        two = ((1 - side) * image).sum() / (1 - side).sum()
        force = nu * curvature(phi) - (image - one) ** 2 + (image - two) ** 2
        phi = phi + time_step * delta(phi, epsilon) * force
        yield phi


def slow_saliency_driven(image, saliency, phi, alpha=0.25, sigma=3.0, epsilon=1.5, zeta=0.9):
    """LIF and the global fit of the saliency, as the specification words the functional."""
    taps, smoothing = kernel(sigma, round(2 * sigma)), kernel(zeta, 2)
    for _ in range(STEPS):
        side = step(phi, epsilon)
        one, two = local_means(image, side, taps)
        first = (saliency * side).sum() / side.sum()
        second = (saliency * (1 - side)).sum() / (1 - side).sum()
        force = (image - one * side - two * (1 - side)) * (one - two)
        fitted = first * side + second * (1 - side)
        force = force + alpha * (saliency - fitted) * (first - second)
        phi = window(phi + delta(phi, epsilon) * force, smoothing, "edge")
        yield phi


@pytest.fixture(scope="module")
def image():
    rng = np.random.default_rng(0)
    grid = np.full(SIZE, 70.0)
    grid[8:18, 9:22] = 190.0
    return np.clip(grid + 12 * rng.standard_normal(SIZE), 0, 255).astype(np.float32).astype(float)


def model_of(preset, **settings):
    settings = {"max_iterations": STEPS, "tolerance": 0, **settings}
    config = SaliencyActiveContourConfig.from_preset(preset, **settings)
    return SaliencyActiveContourForSegmentation(config).eval()


def trace(model, image, start, **inputs):
    """The level set after each step."""
    found = []
    pictures = torch.from_numpy(image)[None, None]
    model(
        pictures,
        init_level_set=start[None],
        iter_callback=lambda number, phi: found.append(phi[0].clone().numpy()),
        callback_every=1,
        **inputs,
    )
    return found[1:]


def assert_same(found, expected):
    assert len(found) == STEPS
    for one, other in zip(found, expected, strict=True):
        assert np.abs(one - other).max() <= 1e-5


@pytest.mark.parametrize(
    ("preset", "slow", "height"),
    [
        ("lif", slow_lif, 1),
        ("lif_paper", lambda i, p: slow_lif(i, p, epsilon=1.0, zeta=0.45, time_step=0.025), 1),
        ("rsf", slow_rsf, 2),
        ("chan_vese", slow_chan_vese, 2),
    ],
)
def test_presets_are_what_was_published(image, preset, slow, height):
    start = initial_level_set("box", SIZE)
    found = trace(model_of(preset), image, start)
    assert_same(found, slow(image, height * start.double().numpy()))


def test_the_saliency_joins_the_local_fit(image):
    # Multiples of 1/256 are the same numbers in single and double precision.
    saliency = (np.random.default_rng(1).integers(0, 257, SIZE) / 256).astype(np.float32)
    start = initial_level_set("box", SIZE)
    model = model_of("lif", alpha=0.25, saliency="tensor")
    found = trace(model, image, start, saliency=torch.from_numpy(saliency)[None])
    expected = slow_saliency_driven(image, 255 * saliency.astype(float), start.double().numpy())
    assert_same(found, expected)


def test_the_force_of_the_saliency_goes_down_its_energy():
    # That of the edges in the tuned preset is the slope of no energy.
    generator = torch.Generator().manual_seed(0)
    phi = (2 * torch.rand(1, 1, *SIZE, generator=generator) - 1).requires_grad_()
    odds = 2 * torch.rand(1, *SIZE, generator=generator) - 1
    found = odds_pull(regions_of(smooth_step(phi, 0.5)), odds)
    [slope] = torch.autograd.grad(found.energy.sum(), phi)
    assert (slope.sign() == -found.force.sign()).all()


@pytest.mark.parametrize("preset", ["lif_paper", "rsf", "chan_vese"])
def test_energy_falls(preset):
    image, _ = make_contour_case("disk", "clean", seed=1, size=48)
    model = model_of(preset, max_iterations=60, check_every=10, init="box")
    energy = model(255 * torch.from_numpy(image)[None, None]).energy[0]
    energy = energy[energy.isfinite()]
    assert len(energy) >= 3
    assert energy[-1] < 0.9 * energy[0]
    assert (energy.diff() <= 1e-3 * energy[0]).all()
