"""Pictures from noise by DDIM, ancestral DDPM sampling being its special case, and sheets of them.

Source: Song et al., "Denoising Diffusion Implicit Models", 2021 (arXiv 2010.02502), equations 12
and 16; Ho et al., 2020 (arXiv 2006.11239), algorithm 2.
"""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from salhub.backbones.conditional_unet.modeling_conditional_unet import (
    ConditionalUNetForDiffusion,
    check_class_labels,
)
from salhub.backbones.conditional_unet.noise_schedule import alpha_bars
from salhub.modeling import attribution_scope

_SEED_LIMIT = 2**63 - 1
_GAP = 2  # pixels between the pictures of a sheet


def sample(
    model: ConditionalUNetForDiffusion,
    class_labels: Tensor,
    num_steps: int = 50,
    guidance_scale: float = 2.0,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> Tensor:
    """Draw pictures of the given classes.

    In every step the clean picture is predicted, clipped to [-1, 1], and the noise is recomputed
    from the clipped picture, as the posterior of Ho et al. does. With `eta=1` and
    `num_steps=num_train_timesteps` this is ancestral DDPM sampling with the posterior variance.

    Every picture has a random stream of its own: one seed a picture is drawn from `generator`, in
    order, and all its noise comes from that seed, on the CPU. So a picture does not depend on what
    is sampled beside it or on the device, and sampling in several calls with one generator gives
    the pictures of one call.

    Args:
        model: Predicts the noise; it is held in evaluation mode, without gradients.
        class_labels: Class of each picture in [0, num_classes), int64 (B,); without guidance also
            num_classes, for a picture of no class.
        num_steps: Steps from noise to picture, 1 to num_train_timesteps, evenly spaced and always
            with the noisiest one.
        guidance_scale: How far to go beyond the class's own prediction, at least 0; see
            `ConditionalUNetForDiffusion.forward`.
        eta: Share of the posterior noise that is added in each step, 0 (the picture follows from
            its first noise alone) to 1.
        generator: Draws the seeds; torch's default generator unless given.
        progress: Whether to show a bar.

    Returns:
        float32 pictures in [-1, 1], shape (B, C, H, W), on the model's device.

    Raises:
        TypeError: Classes that are not int64.
        ValueError: Classes that are not of shape (B,) or out of range, or another argument out of
            its range.

    Example:
        >>> from salhub import ConditionalUNetConfig
        >>> model = ConditionalUNetForDiffusion(ConditionalUNetConfig())
        >>> sample(model, torch.tensor([3, 7]), num_steps=2).shape
        torch.Size([2, 1, 16, 16])
    """
    _check(model, class_labels, num_steps, guidance_scale, eta)
    config = model.config
    streams = _streams(len(class_labels), generator)
    shape = (config.num_channels, config.image_size, config.image_size)
    class_labels = class_labels.to(model.device)
    bars = alpha_bars(config).tolist()
    steps = _steps(config.num_train_timesteps, num_steps)
    noisy = _noise(streams, shape, model.device)
    with attribution_scope(model), torch.no_grad():
        for step, next_step in tqdm(
            zip(steps, [*steps[1:], -1], strict=True), total=num_steps, disable=not progress
        ):
            timestep = torch.full_like(class_labels, step)
            noise_pred = model(
                noisy.to(model.dtype), timestep, class_labels, guidance_scale=guidance_scale
            ).noise_pred.float()
            next_bar = bars[next_step] if next_step >= 0 else 1.0
            noisy, deviation = _denoise(noisy, noise_pred, bars[step], next_bar, eta)
            if deviation > 0:
                noisy = noisy + deviation * _noise(streams, shape, model.device)
    return noisy


def _denoise(
    noisy: Tensor, noise_pred: Tensor, bar: float, next_bar: float, eta: float
) -> tuple[Tensor, float]:
    """One step of DDIM: the mean of the next picture, and the deviation of the noise to add."""
    clean = ((noisy - (1 - bar) ** 0.5 * noise_pred) / bar**0.5).clamp(-1, 1)
    noise = (noisy - bar**0.5 * clean) / (1 - bar) ** 0.5
    variance = eta**2 * (1 - next_bar) / (1 - bar) * (1 - bar / next_bar)  # equation 16, squared
    direction = max(0.0, 1 - next_bar - variance) ** 0.5
    return next_bar**0.5 * clean + direction * noise, variance**0.5


def _steps(num_train_timesteps: int, num_steps: int) -> list[int]:
    # From the last step down ("trailing" in Lin et al., 2023, arXiv 2305.08891, table 2): the model
    # must be told that what it starts from is pure noise.
    stride = num_train_timesteps / num_steps
    return [round(num_train_timesteps - index * stride) - 1 for index in range(num_steps)]


def _streams(count: int, generator: torch.Generator | None) -> list[torch.Generator]:
    device = "cpu" if generator is None else generator.device
    seeds = torch.randint(_SEED_LIMIT, (count,), generator=generator, device=device)
    return [torch.Generator().manual_seed(seed) for seed in seeds.tolist()]


def _noise(
    streams: list[torch.Generator], shape: tuple[int, int, int], device: torch.device
) -> Tensor:
    return torch.stack([torch.randn(shape, generator=stream) for stream in streams]).to(device)


def _check(
    model: ConditionalUNetForDiffusion,
    class_labels: Tensor,
    num_steps: int,
    guidance_scale: float,
    eta: float,
) -> None:
    if class_labels.ndim != 1 or len(class_labels) == 0:
        raise ValueError(
            "class_labels must have shape (B,), one class per picture, got "
            f"{tuple(class_labels.shape)}."
        )
    check_class_labels(model.config, class_labels, len(class_labels), guidance_scale)
    steps = model.config.num_train_timesteps
    is_whole = isinstance(num_steps, int) and not isinstance(num_steps, bool)
    if not (is_whole and 1 <= num_steps <= steps):
        raise ValueError(f"num_steps must be a whole number from 1 to {steps}, got {num_steps}.")
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must be in [0, 1], got {eta}.")


def draw_sample_sheet(
    model: Any,
    *,
    rows: int | None = None,
    columns: int = 8,
    num_steps: int = 25,
    guidance_scale: float = 2.0,
    seed: int = 0,
    scale: int = 2,
) -> Image.Image:
    """Generate some pictures of every class; column by column they begin with the same noise.

    Args:
        model: A `ConditionalUNetForDiffusion`, or a model with one as `backbone`.
        rows: How many classes; None for all.
        columns: Pictures of each class.
        num_steps: As of `sample`; no more than the model has.
        guidance_scale: As of `sample`.
        seed: Of the noise.
        scale: Pixels of the sheet for one of a picture.

    Returns:
        The sheet: class 0 in the first row.
    """
    unet = getattr(model, "backbone", model)
    rows = rows or unet.config.num_classes
    num_steps = min(num_steps, unet.config.num_train_timesteps)
    pictures = []
    for one in range(rows):
        generator = torch.Generator().manual_seed(seed)
        classes = torch.full((columns,), one)
        pictures.append(sample(unet, classes, num_steps, guidance_scale, generator=generator))
    return sheet_of(torch.cat(pictures), columns, scale)


def save_sample_sheet(model: Any, path: Path, **settings: Any) -> None:
    """Write the sheet of `draw_sample_sheet` to a file."""
    draw_sample_sheet(model, **settings).save(path)


def sheet_of(pictures: Tensor, columns: int, scale: int = 2) -> Image.Image:
    """Lay pictures out in rows.

    Args:
        pictures: In [-1, 1], (N, C, H, W), C being 1 or 3.
        columns: Pictures in a row.
        scale: Pixels of the sheet for one of a picture.
    """
    count, channels, height, width = pictures.shape
    rows = -(-count // columns)
    sheet = torch.full(
        (channels, rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP), 255
    )
    for index, picture in enumerate(as_bytes(pictures)):
        top, left = index // columns * (height + _GAP), index % columns * (width + _GAP)
        sheet[:, top : top + height, left : left + width] = picture
    array = sheet.byte().permute(1, 2, 0).numpy()
    image = Image.fromarray(array.squeeze(-1) if channels == 1 else array)
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def as_bytes(pictures: Tensor) -> Tensor:
    """Pictures in [-1, 1] as uint8, rounded."""
    return ((pictures.cpu().float() + 1) * 127.5).round().clamp(0, 255).byte()
