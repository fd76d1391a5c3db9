"""A sheet of generated pictures, one row a class."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from salhub.backbones.conditional_unet.sampling import sample

_GAP = 2


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
