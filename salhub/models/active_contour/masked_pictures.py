"""Pictures with masks: the drawn suite, or a folder of people's own."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from salhub.data.picture_decoding import decode_picture, picture_endings
from salhub.models.active_contour.contour_suite import DEGRADATIONS, KINDS, make_contour_case
from salhub.models.active_contour.image_processing_active_contour import (
    SaliencyActiveContourImageProcessor,
)

# The word that stands for the drawn suite where a folder could stand.
SUITE = "suite"
_LOSSY = ("JPEG", "MPO", "JPEG2000", "WEBP", "AVIF", "HEIF")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MaskedPicture:
    """A picture and where its object is.

    Args:
        name: "star/noise/3" of the suite, or the file's name.
        pixels: float32 (C, H, W) in 0..255.
        mask: bool (H, W).
    """

    name: str
    pixels: Tensor
    mask: np.ndarray


def draw_suite(
    seeds: Sequence[int],
    *,
    kinds: Sequence[str] = KINDS,
    degradations: Sequence[str] = DEGRADATIONS,
    size: int = 128,
) -> list[MaskedPicture]:
    """Draw the suite, all kinds under all degradations for each seed; see `make_contour_case`."""
    read, drawn = SaliencyActiveContourImageProcessor().read, []
    for kind in kinds:
        for degradation in degradations:
            for seed in seeds:
                image, mask = make_contour_case(kind, degradation, seed, size)
                name = f"{kind}/{degradation}/{seed}"
                drawn.append(MaskedPicture(name, read(image).pixels, mask))
    return drawn


def read_masked_folder(
    folder: str | os.PathLike[str], processor: SaliencyActiveContourImageProcessor
) -> list[MaskedPicture]:
    """Read a folder with the folders "images" and "masks", whose files are called alike.

    Masks are pictures, any tone but black inside; of JPEG and other lossy files, whose black is not
    kept, what is above half of the brightest tone, which is logged. They are turned as their EXIF
    orientation says, as pictures are, and brought to the working size of their picture by the
    nearest pixel.

    Args:
        folder: The folder.
        processor: Reads the pictures and says their working size.

    Raises:
        FileNotFoundError: A folder is missing, or a picture has no mask.
        ValueError: No picture, or a mask of another size or with one side alone.
    """
    images, masks = Path(folder) / "images", Path(folder) / "masks"
    for one in (images, masks):
        if not one.is_dir():
            raise FileNotFoundError(
                f"{folder} has no folder '{one.name}'; put pictures into images, and masks "
                "with the same file names into masks."
            )
    endings = picture_endings()
    found = {path.stem: path for path in masks.iterdir() if path.suffix.lower() in endings}
    pictures, lossy = [], []
    for path in sorted(images.iterdir()):
        if path.suffix.lower() not in endings:
            continue
        if path.stem not in found:
            raise FileNotFoundError(f"{path.name} has no mask with the same name in {masks}.")
        pixels = processor.read(path).pixels
        mask, is_lossy = _read_mask(found[path.stem])
        if is_lossy:
            lossy.append(found[path.stem].name)
        if mask.shape != tuple(pixels.shape[1:]):
            raise ValueError(
                f"{path.name} is {tuple(pixels.shape[1:])} but its mask {mask.shape}; they "
                "must have the same size."
            )
        height, width = processor.working_size(mask.shape, processor.longest_edge)
        mask = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
        pixels = processor.preprocess(pixels)["pixel_values"][0]
        pictures.append(MaskedPicture(path.name, pixels, np.asarray(mask)))
        if pictures[-1].mask.all() or not pictures[-1].mask.any():
            raise ValueError(f"The mask of {path.name} has no pixels inside or none outside.")
    if not pictures:
        raise ValueError(f"{images} has no pictures; put some there.")
    if lossy:
        logger.warning(
            "%d masks are lossy files, such as %s: everything above half of their brightest "
            "tone is inside; save masks as PNG to keep every tone.",
            len(lossy),
            lossy[0],
        )
    return pictures


def _read_mask(path: Path) -> tuple[np.ndarray, bool]:
    """What is inside, bool (H, W), and whether the file does not keep tones as they were."""
    picture = decode_picture(path.read_bytes(), path.name)
    is_lossy = picture.format in _LOSSY
    # Turning makes a copy, which has no format.
    tones = np.asarray(ImageOps.exif_transpose(picture).convert("L"))
    return tones > (tones.max() / 2 if is_lossy else 0), is_lossy
