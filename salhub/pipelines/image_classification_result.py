"""What classifying one picture gives: the likeliest classes, and ways to look at them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from PIL import Image

from salhub.ops.class_scores import ScoreFunction
from salhub.pipelines.result import PipelineResult, check_comparable, finite
from salhub.viz import bars, compare, enlarge, message_panel, panels
from salhub.viz.text import score_words

_SIDE = 360
# More bars than this could not be read.
_MOST_BARS = 10
# So few classes that most pictures show none of them.
_FEW_CLASSES = 50
_HOW_TO_READ = {
    "softmax": "Longer bars mean more likely classes. The network always chooses one of its own "
    "classes.",
    "sigmoid": "Longer bars mean more likely classes. Each class is judged independently.",
    "none": "The network predicts numbers, not classes.",
}


@dataclass(eq=False, repr=False)
class ImageClassificationResult(PipelineResult):
    """The likeliest classes of one picture.

    Args:
        image: The picture as it was classified: RGB, turned upright.
        labels: Names of the classes, most likely first.
        scores: Probability that the model gives each of them, in [0, 1]; of a network that predicts
            numbers, the numbers.
        class_labels: Index of each of them.
        model_name: The model that was asked.
        score_function: "softmax", one class of several; "sigmoid", each class by itself; "none", a
            network that predicts numbers.
        notes: Sentences of doubt about the answer, and what to know of every answer of the model.
        num_classes: How many classes the network knows; None where that is not known.

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
    score_function: ScoreFunction = "softmax"
    notes: list[str] = field(default_factory=list)
    num_classes: int | None = None

    def __post_init__(self) -> None:
        counts = {len(self.labels), len(self.scores), len(self.class_labels)}
        if len(counts) > 1 or not self.labels:
            raise ValueError(
                "A result needs at least one class, each with one score and one index, got "
                f"{len(self.labels)} names, {len(self.scores)} scores and "
                f"{len(self.class_labels)} indices."
            )

    def __repr__(self) -> str:
        return (
            f"ImageClassificationResult({self.label!r}, score {self._words(self.score)}, "
            f"{self.image.width} x {self.image.height} pixels, model {self.model_name!r})"
        )

    @property
    def label(self) -> str:
        """Name of the most likely class."""
        return self.labels[0]

    @property
    def score(self) -> float:
        """Score of the most likely class: a probability in [0, 1], or a number; see `scores`."""
        return self.scores[0]

    @property
    def class_label(self) -> int:
        """Index of the most likely class."""
        return self.class_labels[0]

    def plot(self) -> Image.Image:
        """Draw the picture beside bars of its likeliest classes."""
        kind = "value" if self.score_function == "none" else "probability"
        title = f"“{self.label}” · {kind} {self._words(self.score)}"
        caption = "Values" if self.score_function == "none" else "Likeliest classes"
        return panels(
            [(enlarge(self.image, _SIDE), "Picture"), (self._bars(), caption)],
            title=f"{title} · {self.model_name}" if self.model_name else title,
            lead=" ".join(self.notes),
            note=_HOW_TO_READ[self.score_function],
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
            note=" ".join(
                dict.fromkeys(_HOW_TO_READ[result.score_function] for result in results.values())
            ),
            side=_SIDE,
            most_columns=4,
        )

    def _bars(self) -> Image.Image:
        shown = list(zip(self.labels, self.scores, strict=True))[:_MOST_BARS]
        if self.score_function == "none":
            lines = [f"{label}: {self._words(score)}" for label, score in shown]
            return message_panel((_SIDE, _SIDE), "\n".join(lines))
        return bars(shown, size=(_SIDE, _SIDE))

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the pixels, ready for JSON."""
        classes = zip(self.labels, self.class_labels, self.scores, strict=True)
        return {
            "model": self.model_name,
            "label": self.label,
            "class_label": int(self.class_label),
            "score": finite(self.score),
            "score_function": self.score_function,
            "num_classes": self.num_classes,
            "predictions": [
                {"label": label, "class_label": int(index), "score": finite(score)}
                for label, index, score in classes
            ],
            "notes": list(self.notes),
            "width": self.image.width,
            "height": self.image.height,
            "summary": self.summary(),
        }

    def summary(self) -> str:
        """Return the notes, the answer and what comes next, and how few classes there are."""
        return " ".join([*self.notes, self._sentence(), *self._choice()])

    def _sentence(self) -> str:
        first, *others = [
            f"'{label}' ({self._words(score)})"
            for label, score in zip(self.labels, self.scores, strict=True)
        ]
        if self.score_function == "none":
            return f"The network predicts {', '.join([first, *others])}."
        if not others:
            return f"{first} is the most likely class."
        return f"{first} is the most likely class, then {', '.join(others)}."

    def _choice(self) -> list[str]:
        if self.score_function != "softmax" or (self.num_classes or _FEW_CLASSES) >= _FEW_CLASSES:
            return []
        return [f"The network always chooses one of its {self.num_classes} classes."]

    def _words(self, score: float) -> str:
        return score_words(score, self.score_function)
