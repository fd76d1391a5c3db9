"""A picture as an explainer saw it, what it found there, and words for what was done to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from PIL import Image
from torch import Tensor

from salhub.data.picture_fit import FittedPicture, clipped
from salhub.viz.text import percentage

# From this on, a squeezed picture no longer looks like itself.
_SQUEEZED = 2.0
# A shorter side that is shrunk so many times leaves little to recognize.
_UNRECOGNIZABLE = 4.0
# A whole picture is said to be seen small from this share of its usual scale on.
_SMALL = 0.75


@dataclass(eq=False)
class View:
    """A picture, and how it was brought to the network.

    Args:
        picture: RGB, upright.
        fitted: What the network is given.
        crop: As its image processor would have cut it, where it is seen whole instead.
        crop_logits: Class scores (C,) of that crop, once they are known.
    """

    picture: Image.Image
    fitted: FittedPicture
    crop: FittedPicture | None = None
    crop_logits: Tensor | None = None

    def notes(
        self,
        predictions: Sequence[tuple[str, int, float]],
        crop_answer: tuple[str, int, float] | None,
    ) -> list[str]:
        """Return sentences on what was done to the picture.

        Args:
            predictions: (name, index, score) of the likeliest classes of what was seen.
            crop_answer: The likeliest class of the crop, where it is known.
        """
        found = self._geometry()
        if crop_answer is not None and predictions and crop_answer[1] != predictions[0][1]:
            name, _, score = crop_answer
            found.append(
                "With the usual crop of the image processor (fit='crop'), the answer would "
                f"be '{name}' ({percentage(score)})."
            )
        return found

    def _geometry(self) -> list[str]:
        fitted, (width, height) = self.fitted, self.picture.size
        down, across = fitted.enlargement
        seen = f"{fitted.size[1]} x {fitted.size[0]} pixels"
        if fitted.fit == "crop":
            left, top, right, bottom = clipped(fitted.box, (height, width))
            share = percentage((right - left) * (bottom - top) / (width * height))
            return [f"The network saw only the middle of the picture, {share} of it (fit='crop')."]
        if fitted.fit == "letterbox":
            kept = max(1, round(min(width * across, height * down)))
            return [
                f"The network only accepts {seen}, so the whole picture was shrunk to fit, "
                f"with bars at its sides, and its shorter side to {kept}. It was trained on "
                f"larger pictures without bars.{self._advice(min(fitted.size) / kept)}"
            ]
        squeezed = max(down / across, across / down)
        if fitted.fit == "squeeze" and squeezed >= _SQUEEZED:
            return [
                f"The image processor squeezed the picture {squeezed:.1f} times, to "
                f"{seen}.{self._advice(squeezed)}"
            ]
        if self.crop is not None and fitted.fit == "whole":
            usual = min(self.crop.size) / min(width, height)
            if max(down, across) < _SMALL * usual:
                times = usual / min(down, across)
                return [
                    f"The picture is so long that the network saw it {times:.1f} times "
                    f"smaller than usual.{self._advice(times)}"
                ]
        return []

    def _advice(self, times: float) -> str:
        """What to do where a side is so many times smaller than usual; empty below a limit."""
        if times < _UNRECOGNIZABLE:
            return ""
        cut = "" if self.crop is None else ", or set fit='crop'"
        return f" Little detail is left: crop the picture to the part that matters{cut}."


@dataclass(eq=False)
class Explained:
    """One map of one picture.

    Args:
        view: The picture.
        saliency: The map over what the network was given, float32 (h, w).
        logits: Class scores (C,).
        class_label: The class explained.
        degenerate: Whether the map is constant.
        class_similarity: How alike the map of another class is, where it was compared.
        silent_layers: Names of the layers that the map has nothing of.
    """

    view: View
    saliency: Tensor
    logits: Tensor
    class_label: int
    degenerate: bool
    class_similarity: float | None = None
    silent_layers: tuple[str, ...] = ()

    @classmethod
    def of_outputs(cls, view: View, outputs: Any, row: int, place: int | None = None) -> Self:
        """Take one picture out of an `ImageSaliencyOutput`.

        Args:
            view: The picture.
            outputs: What the model returned.
            row: Its place among the pictures.
            place: That of the class, where several were asked for.
        """
        one = row if place is None else (row, place)
        similarity = getattr(outputs, "class_similarity", None)
        silent = getattr(outputs, "silent_layers", None) or ()
        silent = silent[row] if silent else ()
        return cls(
            view,
            outputs.saliency[one].float().cpu(),
            outputs.logits[row].float().cpu(),
            int(outputs.class_labels[one]),
            bool(outputs.degenerate[one]),
            None if similarity is None else float(similarity[row]),
            silent if place is None or not silent else silent[place],
        )
