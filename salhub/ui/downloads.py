"""Files that a visitor takes home, written into the folder that gradio serves and cleans."""

import io
import re

import numpy as np
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder
from PIL import Image


def file_stem(*parts: str) -> str:
    """Return a file name that every system accepts, without a suffix.

    Example:
        >>> file_stem("my photo", "norm_grad", "espresso maker")
        'my-photo-norm_grad-espresso-maker'
    """
    words = (re.sub(r"[^\w]+", "-", part).strip("-") for part in parts)
    return "-".join(word for word in words if word)[:80] or "map"


def picture_file(picture: Image.Image, stem: str) -> str:
    """Write a picture as PNG and return its path."""
    buffer = io.BytesIO()
    # Level 1: the file is made on every change of a control, and mostly not taken.
    picture.save(buffer, "PNG", compress_level=1)
    return save_bytes_to_cache(buffer.getvalue(), f"{stem}.png", get_upload_folder())


def array_file(values: np.ndarray, stem: str) -> str:
    """Write a map as a NumPy file and return its path."""
    buffer = io.BytesIO()
    np.save(buffer, values)
    return save_bytes_to_cache(buffer.getvalue(), f"{stem}.npy", get_upload_folder())
