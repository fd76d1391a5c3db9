"""The noise process: how much of a picture and how much noise there is after each step.

Source: Ho et al., "Denoising Diffusion Probabilistic Models", 2020 (arXiv 2006.11239), section 2:
alpha_t = 1 - beta_t, alpha-bar_t is the product of the alphas up to step t, and
x_t = sqrt(alpha-bar_t) x_0 + sqrt(1 - alpha-bar_t) epsilon (equation 4). Steps count from 0 here.
"""

import functools

import torch
from torch import Tensor

from salhub.backbones.conditional_unet.configuration_conditional_unet import ConditionalUNetConfig
from salhub.backbones.conditional_unet.modeling_conditional_unet import check_timestep


def betas(config: ConditionalUNetConfig) -> Tensor:
    """Variance of the noise added in each step.

    Returns:
        float64 of shape (num_train_timesteps,), evenly spaced from `beta_start` to `beta_end`.

    Example:
        >>> betas(ConditionalUNetConfig())[[0, -1]].tolist()
        [0.0001, 0.02]
    """
    return torch.linspace(
        config.beta_start, config.beta_end, config.num_train_timesteps, dtype=torch.float64
    )


def alpha_bars(config: ConditionalUNetConfig) -> Tensor:
    """Share of the variance that is still the picture after each step.

    Returns:
        float64 of shape (num_train_timesteps,), falling, in (0, 1).

    Example:
        >>> round(float(alpha_bars(ConditionalUNetConfig())[0]), 6)
        0.9999
    """
    return torch.cumprod(1 - betas(config), dim=0)


def add_noise(
    config: ConditionalUNetConfig, clean_sample: Tensor, noise: Tensor, timestep: Tensor
) -> Tensor:
    """Return the pictures as they are at a step of the noise process (equation 4).

    Args:
        config: Gives the noise schedule.
        clean_sample: Pictures in [-1, 1], floating point (B, C, H, W).
        noise: Standard normal numbers of the same shape.
        timestep: Step of each picture, in [0, num_train_timesteps), int64 (B,).

    Returns:
        Noisy pictures of the same shape.

    Raises:
        TypeError: Steps that are not int64.
        ValueError: Noise of another shape, not one step a picture, or a step out of range.

    Example:
        >>> clean, noise = torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
        >>> noisy = add_noise(ConditionalUNetConfig(), clean, noise, torch.tensor([999]))
        >>> round(float(noisy.mean()), 4)
        0.0064
    """
    signal_rate, noise_rate = _rates_at(config, clean_sample, noise, timestep)
    return signal_rate * clean_sample + noise_rate * noise


def _rates_at(
    config: ConditionalUNetConfig, sample: Tensor, noise: Tensor, timestep: Tensor
) -> tuple[Tensor, Tensor]:
    """sqrt(alpha-bar) and sqrt(1 - alpha-bar) of each picture, with ones for its other axes."""
    if noise.shape != sample.shape:
        raise ValueError(
            f"noise must have the pictures' shape {tuple(sample.shape)}, got {tuple(noise.shape)}."
        )
    check_timestep(config, timestep, len(sample))
    rates = _rates(
        config.num_train_timesteps,
        config.beta_start,
        config.beta_end,
        sample.device,
        sample.dtype,
    )
    shape = (-1, *[1] * (sample.ndim - 1))
    signal_rate, noise_rate = (rate[timestep].reshape(shape) for rate in rates)
    return signal_rate, noise_rate


@functools.lru_cache(maxsize=32)
def _rates(
    num_train_timesteps: int,
    beta_start: float,
    beta_end: float,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    config = ConditionalUNetConfig(
        num_train_timesteps=num_train_timesteps, beta_start=beta_start, beta_end=beta_end
    )
    # A tensor made under inference mode could not be used in training later.
    with torch.inference_mode(False):
        # The roots in float64: in float32, 1 - alpha-bar of the first step has three digits.
        bars = alpha_bars(config)
        return tuple(rate.to(device, dtype) for rate in (bars.sqrt(), (1 - bars).sqrt()))
