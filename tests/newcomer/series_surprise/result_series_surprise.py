"""What is said of a series."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from salhub.pipelines.result import PipelineResult, check_comparable

_WIDTH, _HEIGHT = 480, 120


@dataclass(frozen=True)
class SeriesSurpriseResult(PipelineResult):
    """A series and how much each of its values surprises.

    Args:
        values: float32 (N,).
        saliency: float32 (N,), standard deviations from the mean, 0 or more.
        stands_out: bool (N,).
        model_name: Name of the model.
    """

    writers = {**PipelineResult.writers, ".npy": "write_array"}

    values: np.ndarray
    saliency: np.ndarray
    stands_out: np.ndarray
    model_name: str = ""

    def raw(self) -> np.ndarray:
        """Return the surprise of each value."""
        return self.saliency

    def plot(self) -> Image.Image:
        """Draw a bar a value, as high as it surprises; those that stand out are red."""
        picture = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
        draw = ImageDraw.Draw(picture)
        step = _WIDTH / len(self.values)
        highest = max(float(self.saliency.max()), 1e-6)
        for place, (height, is_out) in enumerate(zip(self.saliency, self.stands_out, strict=True)):
            top = _HEIGHT * (1 - float(height) / highest)
            color = "#b3261e" if is_out else "#5f6b7a"
            draw.rectangle([place * step, top, (place + 1) * step - 1, _HEIGHT], fill=color)
        return picture

    def summary(self) -> str:
        """Return how many values stand out."""
        return f"{int(self.stands_out.sum())} of {len(self.values)} values stand out."

    def to_dict(self) -> dict[str, Any]:
        """Return the values and their surprise, ready for JSON."""
        return {
            "model": self.model_name,
            "summary": self.summary(),
            "values": self.values.tolist(),
            "saliency": self.saliency.tolist(),
            "stands_out": self.stands_out.tolist(),
        }

    @classmethod
    def compare(cls, results: Mapping[str, "SeriesSurpriseResult"]) -> Image.Image:
        """Draw the results of several models below each other."""
        check_comparable(results)
        picture = Image.new("RGB", (_WIDTH, _HEIGHT * len(results)), "white")
        for row, result in enumerate(results.values()):
            picture.paste(result.plot(), (0, row * _HEIGHT))
        return picture
