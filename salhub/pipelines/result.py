"""What the results of all pipelines have in common: ways to look at them, and to keep them."""

import io
import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from salhub.errors import did_you_mean
from salhub.files import write_bytes

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")


class PipelineResult(ABC):
    """Base of what a pipeline gives for one input."""

    # Endings that `save` writes.
    suffixes: ClassVar[tuple[str, ...]] = (*PICTURE_SUFFIXES, ".json")
    # Picture that `save` writes -> the method that draws it.
    views: ClassVar[Mapping[str, str]] = {"plot": "plot"}

    @abstractmethod
    def plot(self) -> Image.Image:
        """Draw the result with all it takes to read it."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return everything but the pixels, ready for JSON."""

    @abstractmethod
    def summary(self) -> str:
        """Return one sentence that says what was found."""

    def raw(self) -> np.ndarray:
        """Return the numbers that `save` writes to .npy, where it does."""
        raise NotImplementedError

    def save(self, path: str | os.PathLike, view: str = "plot") -> Path:
        """Write the result; the file appears as a whole or not at all.

        Args:
            path: Its ending says what is written, see `suffixes`: .png and .jpg a picture, .json
                `to_dict()`, .npy the raw numbers, which not every kind of result has.
            view: Which picture, one of `views`.

        Returns:
            The path written.

        Raises:
            ValueError: Another ending or view.
            FileNotFoundError: The folder does not exist.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix not in self.suffixes:
            raise ValueError(
                f"'{path.name}' ends in none of {', '.join(self.suffixes)}."
                f"{did_you_mean(suffix, self.suffixes)}"
            )
        if view not in self.views:
            raise ValueError(
                f"view must be one of {', '.join(self.views)}, got {view!r}."
                f"{did_you_mean(view, self.views)}"
            )
        if not path.absolute().parent.is_dir():
            raise FileNotFoundError(f"The folder '{path.parent}' does not exist; make it first.")
        write_bytes(path, self._encode(suffix, view))
        return path

    def _repr_png_(self) -> bytes:
        return self._encode(".png", "plot")

    def _encode(self, suffix: str, view: str) -> bytes:
        buffer = io.BytesIO()
        if suffix == ".npy":
            np.save(buffer, self.raw(), allow_pickle=False)
        elif suffix == ".json":
            text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
            buffer.write(f"{text}\n".encode())
        else:
            picture = getattr(self, self.views[view])()
            # Full colour resolution: the default blurs the letters of captions.
            jpeg = {"format": "JPEG", "quality": 92, "subsampling": 0}
            picture.save(buffer, **({"format": "PNG"} if suffix == ".png" else jpeg))
        return buffer.getvalue()


def finite(value: float) -> float | None:
    """Return a number for JSON, which has no NaN."""
    return float(value) if math.isfinite(value) else None
