"""What classifying one picture gives: the likeliest classes, and ways to look at them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from PIL import Image

from salhub.pipelines.result import PipelineResult, check_comparable, finite
from salhub.viz import bars, compare, enlarge, panels
from salhub.viz.text import percentage

_SIDE = 360
# More bars than this could not be read.
_MOST_BARS = 10
_HOW_TO_READ = (
    "The longer a bar, the likelier the class; the network always answers with one of its own."
)


@dataclass(eq=False, repr=False)
class ImageClassificationResult(PipelineResult):
    """The likeliest classes of one picture.

    Args:
        image: The picture as it was classified: RGB, turned upright.
        labels: Names of the classes, most likely first.
        scores: Probability that the model gives each of them, in [0, 1].
        class_labels: Index of each of them.
        model_name: The model that was asked.

    Raises:
        ValueError: No class, or not one score and one index a class.

    Example:
        >>> photo = Image.new("RGB", (32, 32))
        >>> result = ImageClassificationResult(photo, ["cat", "dog"], [0.7, 0.2], [3, 5])
        >>> result.label, result.score
        ('cat', 0.7)
    """

    image: Image.Image
    labels: list[str]
    scores: list[float]
    class_labels: list[int]
    model_name: str = ""

    def __post_init__(self) -> None:
        counts = {len(self.labels), len(self.scores), len(self.class_labels)}
        if len(counts) > 1 or not self.labels:
            raise ValueError(
                "A result needs at least one class, with one score and one index each, got "
                f"{len(self.labels)} names, {len(self.scores)} scores and "
                f"{len(self.class_labels)} indices."
            )

    def __repr__(self) -> str:
        return (
            f"ImageClassificationResult({self.label!r}, score {percentage(self.score)}, "
            f"{self.image.width} x {self.image.height} pixels, model {self.model_name!r})"
        )

    @property
    def label(self) -> str:
        """Name of the most likely class."""
        return self.labels[0]

    @property
    def score(self) -> float:
        """Probability of the most likely class, in [0, 1]."""
        return self.scores[0]

    @property
    def class_label(self) -> int:
        """Index of the most likely class."""
        return self.class_labels[0]

    def plot(self) -> Image.Image:
        """Draw the picture beside bars of its likeliest classes."""
        title = f"“{self.label}” · probability {percentage(self.score)}"
        return panels(
            [(enlarge(self.image, _SIDE), "Picture"), (self._bars(), "Likeliest classes")],
            title=f"{title} · {self.model_name}" if self.model_name else title,
            note=_HOW_TO_READ,
            side=_SIDE,
        )

    @classmethod
    def compare(cls, results: Mapping[str, Self]) -> Image.Image:
        """Draw what several models make of one picture side by side.

        Args:
            results: Name of the model or setting -> its result.

        Returns:
            RGB picture.

        Raises:
            ValueError: Nothing to compare, or results of pictures of different sizes.
        """
        check_comparable(results)
        picture = enlarge(next(iter(results.values())).image, _SIDE)
        return compare(
            ["Picture", *results],
            [("", [picture, *(result._bars() for result in results.values())])],
            note=_HOW_TO_READ,
            side=_SIDE,
            most_columns=4,
        )

    def _bars(self) -> Image.Image:
        shown = list(zip(self.labels, self.scores, strict=True))[:_MOST_BARS]
        return bars(shown, size=(_SIDE, _SIDE))

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the pixels, ready for JSON."""
        classes = zip(self.labels, self.class_labels, self.scores, strict=True)
        return {
            "model": self.model_name,
            "label": self.label,
            "class_label": int(self.class_label),
            "score": finite(self.score),
            "predictions": [
                {"label": label, "class_label": int(index), "score": finite(score)}
                for label, index, score in classes
            ],
            "width": self.image.width,
            "height": self.image.height,
            "summary": self.summary(),
        }

    def summary(self) -> str:
        """Return one sentence: the answer, and what comes next."""
        first, *others = [
            f"'{label}' ({percentage(score)})"
            for label, score in zip(self.labels, self.scores, strict=True)
        ]
        if not others:
            return f"{first} is the most likely class."
        return f"{first} is the most likely class, then {', '.join(others)}."
