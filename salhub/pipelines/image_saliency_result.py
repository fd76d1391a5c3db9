"""What explaining one picture gives: the map, the answer it explains, and ways to look at it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
from PIL import Image
from scipy import ndimage

from salhub.ops.class_scores import ScoreFunction
from salhub.pipelines.result import PICTURE_WRITERS, PipelineResult, check_comparable, finite
from salhub.viz import ColorBar, compare, message_panel, overlay, paint, panels
from salhub.viz.overlay import is_signed
from salhub.viz.text import percentage, score_words

# The share of what the network saw that counts as most salient.
_SALIENT_SHARE = 0.05
# A map of single pixels has no region; this share of the longer side is averaged first.
_BLUR_SHARE = 1 / 32
# Figures are smaller than this; painting a 50-megapixel map for them would be waste.
_LARGEST_SIDE = 1024

_DEGENERATE = "The map is constant: it does not show where the network looked"
_BRIGHTER = "Brighter areas matter more for this answer."
_SIGNED = "Orange areas speak for this answer, blue areas against it."
_SOME_SIGNED = (
    "In orange and blue maps, orange areas speak for the answer and blue areas against it."
)
_CROPPED = "The pale border was cut off before the network saw the picture."


@dataclass(eq=False, repr=False)
class ImageSaliencyResult(PipelineResult):
    """The explanation of one picture.

    Args:
        image: The picture as it was explained: RGB, turned upright.
        saliency: How much each pixel matters, float32, shape (H, W), the size of the picture; 0
            where the network did not look. Negative values speak against the class.
        label: Name of the explained class.
        class_label: Index of the explained class.
        probability: Probability the classifier gives it, in [0, 1]; of a network that predicts
            numbers, the number.
        predictions: The most likely classes as (name, index, probability), most likely first.
        degenerate: Whether the map is constant and so says nothing.
        model_name: The model that made the map.
        viewed_box: left, top, right, bottom of what the network saw, in pixels of the picture;
            None for all of it. Larger than the picture where it was seen with bars beside it.
        fit: How the picture was brought to the network: "whole" in its own proportions, "squeeze"
            whole in others, "letterbox" whole with bars beside it, "crop" cut at its edges.
        score_function: "softmax", one class of several; "sigmoid", each class by itself; "none", a
            network that predicts numbers.
        notes: Sentences to read before the map: what makes the answer doubtful, and what was done
            to the picture. That another class than the likeliest is explained is added to them.

    Raises:
        ValueError: The map is not the size of the picture, or holds NaN or infinite values.

    Example:
        >>> import salhub
        >>> explain = salhub.pipeline("normgrad-efficientnet-lite0")
        >>> result = explain("sample:cat")
        >>> figure = result.plot()
        >>> result.save("cat.png")  # doctest: +SKIP
    """

    writers = {**PICTURE_WRITERS, ".npy": "write_array", ".json": "write_json"}
    views = {"plot": "plot", "overlay": "overlay", "map": "map_picture"}

    image: Image.Image
    saliency: np.ndarray
    label: str
    class_label: int
    probability: float
    predictions: list[tuple[str, int, float]] = field(default_factory=list)
    degenerate: bool = False
    model_name: str = ""
    viewed_box: tuple[float, float, float, float] | None = None
    fit: Literal["whole", "squeeze", "letterbox", "crop"] = "whole"
    score_function: ScoreFunction = "softmax"
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.saliency = np.asarray(self.saliency, dtype=np.float32)
        size = (self.image.height, self.image.width)
        if self.saliency.shape != size:
            raise ValueError(
                f"The map has shape {self.saliency.shape} but the picture is {size[0]} "
                f"pixels high and {size[1]} wide; resize it with "
                "salhub.processing.map_to_picture."
            )
        if not np.isfinite(self.saliency).all():
            raise ValueError("The map holds NaN or infinite values.")
        if self.viewed_box is None:
            self.viewed_box = (0.0, 0.0, float(size[1]), float(size[0]))
        self.notes = list(dict.fromkeys([*self.notes, *self._own_answer()]))

    def __repr__(self) -> str:
        return (
            f"ImageSaliencyResult({self.label!r}, {self._words}, "
            f"{self.image.width} x {self.image.height} pixels, model {self.model_name!r})"
        )

    @property
    def signed(self) -> bool:
        """Whether the map tells evidence against the class from evidence for it."""
        return is_signed(self.saliency)

    def plot(self) -> Image.Image:
        """Draw the photo, the map, and the map over the photo, with how to read them."""
        small = self._shrunk()
        title = f"{self._answer} · {self.model_name}" if self.model_name else self._answer
        return panels(
            [
                (small.image, "Photo"),
                (small.map_picture(), "Map"),
                (small.overlay(), "Map over the photo"),
            ],
            title=title,
            lead=" ".join(self.notes),
            note=self._how_to_read(),
            color_bar=None if self.degenerate else ColorBar.for_map(self.signed),
        )

    @classmethod
    def compare(cls, results: Mapping[str, Self]) -> Image.Image:
        """Draw several explanations of one picture side by side.

        Args:
            results: Name of the method or setting -> its result.

        Returns:
            RGB picture.

        Raises:
            ValueError: Nothing to compare, or results of pictures of different sizes.
        """
        check_comparable(results)
        small = {name: result._shrunk() for name, result in results.items()}
        first = next(iter(small.values()))
        one_answer = len({(result.label, result.probability) for result in small.values()}) == 1
        headings = [
            name if one_answer else f"{name}: “{result.label}” ({result._number})"
            for name, result in small.items()
        ]
        maps = [one.map_picture() if one.degenerate else one.overlay() for one in small.values()]
        kinds = {result.signed for result in small.values() if not result.degenerate}
        doubts = dict.fromkeys(note for result in small.values() for note in result.notes)
        notes = [_BRIGHTER] if False in kinds else []
        if True in kinds:
            notes.append(_SIGNED if len(kinds) == 1 else _SOME_SIGNED)
        if any(result._is_cropped for result in small.values()):
            notes.append(_CROPPED)
        return compare(
            ["Photo", *headings],
            [("", [first.image, *maps])],
            title=first._answer if one_answer else None,
            lead=" ".join(doubts),
            note=" ".join(notes),
            color_bar=ColorBar.for_map(next(iter(kinds))) if len(kinds) == 1 else None,
        )

    def overlay(self, alpha: float = 0.8) -> Image.Image:
        """Draw the map over the photo, in the photo's size.

        Args:
            alpha: Opacity of the strongest colour, in [0, 1].
        """
        shown = np.zeros_like(self.saliency) if self.degenerate else self.saliency
        return overlay(self.image, shown, alpha, viewed_box=self.viewed_box)

    def map_picture(self) -> Image.Image:
        """Draw the map alone, in the photo's size; a constant map is a sentence saying so."""
        if self.degenerate:
            return message_panel(self.image.size, f"{_DEGENERATE}.")
        return paint(self.saliency, viewed_box=self.viewed_box)

    def raw(self) -> np.ndarray:
        """Return the map, float32, (H, W)."""
        return self.saliency

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the pixels, ready for JSON.

        Positions are pixels of the picture, from its upper left corner.
        """
        peak = self.peak()
        return {
            "model": self.model_name,
            "label": self.label,
            "class_label": int(self.class_label),
            **self._score(self.probability),
            "score_function": self.score_function,
            "predictions": [
                {"label": label, "class_label": int(index), **self._score(score)}
                for label, index, score in self.predictions
            ],
            "notes": list(self.notes),
            "degenerate": bool(self.degenerate),
            "signed": self.signed,
            "width": self.image.width,
            "height": self.image.height,
            "fit": self.fit,
            "viewed_box": [float(edge) for edge in self.viewed_box],
            "smallest": float(self.saliency.min()),
            "largest": float(self.saliency.max()),
            "peak": None if peak is None else {"x": peak[0], "y": peak[1]},
            "most_salient_box": self.most_salient_box(),
            "summary": self.summary(),
        }

    def summary(self) -> str:
        """Return the notes, the class and where the most important area is."""
        return " ".join([*self.notes, self.reading()])

    def reading(self) -> str:
        """Return the summary without the notes."""
        number = self._words if self.score_function == "none" else self._number
        answer = f"{self.label}, {number}"
        box = self.most_salient_box()
        if box is None:
            return f"{answer}. {_DEGENERATE}."
        left, top, right, bottom = box
        where = self._where((left + right) // 2, (top + bottom) // 2)
        area = f"Most important area: {where} (x {left}-{right}, y {top}-{bottom})."
        return f"{answer}. {area} {_SIGNED}" if self.signed else f"{answer}. {area}"

    def peak(self) -> tuple[int, int] | None:
        """Return x and y of the pixel that matters most, or None for a constant map."""
        importance = self._importance()
        if importance is None:
            return None
        y, x = np.unravel_index(int(importance.argmax()), importance.shape)
        return int(x), int(y)

    def most_salient_box(self) -> list[int] | None:
        """Return left, top, right, bottom around the most salient region.

        The 5 % of what the network saw that matter most, after a slight blur, fall into connected
        regions; this is the bounding box of the one with the largest sum. None for a constant map.
        """
        importance = self._importance()
        if importance is None:
            return None
        blur = max(1, round(_BLUR_SHARE * max(importance.shape)))
        smooth = ndimage.uniform_filter(importance, blur, mode="constant")
        left, top, right, bottom = self.viewed_box
        viewed = min(right - left, self.image.width) * min(bottom - top, self.image.height)
        count = max(1, round(_SALIENT_SHARE * viewed))
        threshold = np.partition(smooth, -count, axis=None)[-count]
        regions, number = ndimage.label((smooth >= threshold) & (smooth > 0))
        sums = ndimage.sum_labels(smooth, regions, range(1, number + 1))
        rows, columns = ndimage.find_objects(regions)[int(np.argmax(sums))]
        return [int(edge) for edge in (columns.start, rows.start, columns.stop, rows.stop)]

    def _importance(self) -> np.ndarray | None:
        """Evidence for the class; where there is none at all, the size of what is against it."""
        if self.degenerate or not self.saliency.any():
            return None
        positive = np.maximum(self.saliency, 0).astype(np.float64)
        return positive if positive.any() else np.abs(self.saliency).astype(np.float64)

    def _where(self, x: int, y: int) -> str:
        row = ("upper", "middle", "lower")[min(2, 3 * y // self.image.height)]
        column = ("left", "centre", "right")[min(2, 3 * x // self.image.width)]
        return "centre" if (row, column) == ("middle", "centre") else f"{row} {column}"

    def _own_answer(self) -> list[str]:
        if self.score_function == "none" or not self.predictions:
            return []
        own, index, probability = self.predictions[0]
        if index == self.class_label:
            return []
        return [f"The network's own answer is '{own}' ({percentage(probability)})."]

    @property
    def _answer(self) -> str:
        return f"“{self.label}” · {self._words}"

    @property
    def _number(self) -> str:
        return score_words(self.probability, self.score_function)

    @property
    def _words(self) -> str:
        return f"{'value' if self.score_function == 'none' else 'probability'} {self._number}"

    def _score(self, score: float) -> dict[str, float | None]:
        name = "value" if self.score_function == "none" else "probability"
        return {name: finite(score)}

    @property
    def _is_cropped(self) -> bool:
        left, top, right, bottom = self.viewed_box
        width, height = self.image.size
        return left > 0.5 or top > 0.5 or right < width - 0.5 or bottom < height - 0.5

    def _how_to_read(self) -> str:
        if self.degenerate:
            sentences = [f"{_DEGENERATE}; try another layer, class or method."]
        else:
            sentences = [_SIGNED if self.signed else _BRIGHTER]
        if self._is_cropped:
            sentences.append(_CROPPED)
        return " ".join(sentences)

    def _shrunk(self) -> Self:
        """Return the same result for a picture no larger than a figure needs."""
        scale = _LARGEST_SIDE / max(self.image.size)
        if scale >= 1:
            return self
        size = tuple(max(1, round(edge * scale)) for edge in self.image.size)
        across, down = size[0] / self.image.width, size[1] / self.image.height
        left, top, right, bottom = self.viewed_box
        saliency = Image.fromarray(self.saliency).resize(size, Image.Resampling.BOX)
        return replace(
            self,
            image=self.image.resize(size, Image.Resampling.LANCZOS),
            saliency=np.asarray(saliency),
            viewed_box=(left * across, top * down, right * across, bottom * down),
        )
