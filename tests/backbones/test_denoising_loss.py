"""What is drawn to train a diffusion model: noise, steps in pairs, hidden classes."""

import math

import pytest
import torch

from salhub.backbones.conditional_unet.configuration_conditional_unet import ConditionalUNetConfig
from salhub.backbones.conditional_unet.recipe_conditional_unet import (
    noisy_pictures,
    squared_error,
    with_dropped_classes,
)
from salhub.runner.batches import Share, step_batches

CONFIG = ConditionalUNetConfig(image_size=4, channel_multipliers=[1], num_train_timesteps=20)
MANY = 20_000


def batch_of(count: int, step: int = 3, **settings):
    [batch] = step_batches(torch.arange(count), seed=1, step=step, epoch=0, **settings)
    return batch


def shares_of(count: int, processes: int, largest: int | None = None):
    return [
        batch
        for index in range(processes)
        for batch in step_batches(
            torch.arange(count), seed=1, step=3, epoch=0, share=Share(index, processes),
            largest=largest,
        )
    ]  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, 7, 8])
def test_half_of_the_steps_mirror_the_others(count):
    steps = noisy_pictures(CONFIG, torch.zeros(count, 1, 4, 4), batch_of(count)).timestep.tolist()
    half = math.ceil(count / 2)
    assert len(steps) == count and all(0 <= step < 20 for step in steps)
    assert [19 - step for step in steps[: count - half]] == steps[half:]


def test_every_step_is_as_likely_and_noise_is_standard_normal():
    found = noisy_pictures(CONFIG, torch.zeros(MANY, 1, 4, 4), batch_of(MANY))
    assert found.timestep.bincount(minlength=20).float().std() < 5 * (MANY / 20) ** 0.5
    assert found.timestep.bincount(minlength=20).min() > 0.85 * MANY / 20
    assert abs(float(found.noise.mean())) < 0.01
    assert float(found.noise.std()) == pytest.approx(1, abs=0.01)


def test_pictures_are_as_noisy_as_their_steps_say():
    clean = torch.rand(9, 1, 4, 4) * 2 - 1
    found = noisy_pictures(CONFIG, clean, batch_of(9))
    for picture, noise, step, sample in zip(
        clean, found.noise, found.timestep.tolist(), found.sample, strict=True
    ):
        bar = 1.0
        for index in range(step + 1):
            bar *= 1 - (1e-4 + (0.02 - 1e-4) * index / 19)
        expected = bar**0.5 * picture + (1 - bar) ** 0.5 * noise
        torch.testing.assert_close(sample, expected, rtol=0, atol=1e-6)


def test_sets_and_steps_have_draws_of_their_own():
    clean = torch.zeros(8, 1, 4, 4)
    first = noisy_pictures(CONFIG, clean, batch_of(8))
    others = [
        noisy_pictures(CONFIG, clean, batch_of(8), which=1),
        noisy_pictures(CONFIG, clean, batch_of(8, step=4)),
    ]
    for other in others:
        assert not torch.equal(first.timestep, other.timestep)
        assert float((first.noise * other.noise).mean()) < 0.5
        half = first.timestep[:4], other.timestep[:4]
        assert not torch.equal(half[0], 19 - half[1])


@pytest.mark.parametrize(("processes", "largest"), [(2, None), (3, 2)])
def test_draws_do_not_depend_on_how_a_step_is_shared(processes, largest):
    clean, labels = torch.rand(7, 1, 4, 4), torch.arange(7) % 3
    whole = noisy_pictures(CONFIG, clean, batch_of(7))
    dropped = with_dropped_classes(CONFIG, labels, 0.5, batch_of(7))
    rows = []
    for batch in shares_of(7, processes, largest):
        part = noisy_pictures(CONFIG, clean[batch.rows], batch)
        for name in ("sample", "noise", "timestep"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[batch.rows]), name
        found = with_dropped_classes(CONFIG, labels[batch.rows], 0.5, batch)
        assert torch.equal(found, dropped[batch.rows])
        rows += [] if batch.is_padding else batch.rows.tolist()
    assert sorted(rows) == list(range(7))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.6])
def test_the_asked_share_of_the_classes_is_hidden(share):
    labels = torch.arange(MANY) % 10
    found = with_dropped_classes(CONFIG, labels, share, batch_of(MANY))
    hidden = found == CONFIG.num_classes
    assert torch.equal(found[~hidden], labels[~hidden])
    assert float(hidden.float().mean()) == pytest.approx(share, abs=5 * (0.25 / MANY) ** 0.5)
    # Not one class more than another.
    assert float(hidden.float().view(-1, 10).mean(0).std()) < 0.03


def test_the_error_is_a_sum_over_the_pixels():
    predicted, target = torch.randn(2, 3, 2, 2), torch.randn(2, 3, 2, 2)
    expected = [
        sum((a - b) ** 2 for a, b in zip(p.flatten().tolist(), t.flatten().tolist(), strict=True))
        for p, t in zip(predicted, target, strict=True)
    ]
    torch.testing.assert_close(squared_error(predicted, target), torch.tensor(expected))
