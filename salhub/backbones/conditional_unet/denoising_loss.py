"""What is drawn to train a diffusion model, and the loss of its noise prediction."""

from dataclasses import dataclass

import torch
from torch import Tensor

from salhub.backbones.conditional_unet.configuration_conditional_unet import ConditionalUNetConfig
from salhub.backbones.conditional_unet.noise_schedule import add_noise
from salhub.runner.batches import Batch

# Draws of one step are told apart by these, and those of several sets by this distance.
_NOISE, _TIMESTEP, _DROP = 10, 11, 12
_NEXT_SET = 100


@dataclass(frozen=True)
class NoisyPictures:
    """Pictures somewhere on their way to noise.

    Args:
        sample: The noisy pictures, (B, C, H, W).
        noise: What was added, (B, C, H, W).
        timestep: How far they are, int64 (B,).
    """

    sample: Tensor
    noise: Tensor
    timestep: Tensor


def noisy_pictures(
    config: ConditionalUNetConfig, clean: Tensor, batch: Batch, which: int = 0
) -> NoisyPictures:
    """Add noise to pictures, each at a step of its own.

    Half of the steps are drawn, and the others mirror them, so that every batch has early and late
    ones.

    Args:
        config: Gives the noise schedule.
        clean: Pictures in [-1, 1], (B, C, H, W).
        batch: Draws noise and steps.
        which: Tells apart several sets of pictures of one step, which get draws of their own.

    Source: Song et al. 2021 (arXiv 2010.02502), published code, for the mirrored steps.
    """
    noise = batch.draw(
        lambda n, generator: torch.randn(n, *clean.shape[1:], generator=generator),
        _NOISE + which * _NEXT_SET,
    )
    timestep = batch.draw(
        lambda n, generator: _mirrored_steps(n, config.num_train_timesteps, generator),
        _TIMESTEP + which * _NEXT_SET,
    )
    noise, timestep = noise.to(clean.device, clean.dtype), timestep.to(clean.device)
    return NoisyPictures(add_noise(config, clean, noise, timestep), noise, timestep)


def _mirrored_steps(count: int, steps: int, generator: torch.Generator) -> Tensor:
    drawn = torch.randint(steps, (count - count // 2,), generator=generator)
    return torch.cat([drawn, steps - 1 - drawn])[:count]


def with_dropped_classes(
    config: ConditionalUNetConfig, class_labels: Tensor, probability: float, batch: Batch
) -> Tensor:
    """Replace some classes by the null class, as classifier-free guidance needs.

    Args:
        config: Gives the null class.
        class_labels: int64 (B,).
        probability: Share that is replaced, in [0, 1).
        batch: Draws which.

    Source: Ho and Salimans 2022 (arXiv 2207.12598), algorithm 1.
    """
    dropped = batch.draw(
        lambda n, generator: torch.rand(n, generator=generator) < probability, _DROP
    )
    return torch.where(dropped.to(class_labels.device), config.null_class, class_labels)


def squared_error(predicted: Tensor, target: Tensor) -> Tensor:
    """Sum of squares over the pixels of each picture, (B,)."""
    return (predicted - target).square().flatten(1).sum(1)
