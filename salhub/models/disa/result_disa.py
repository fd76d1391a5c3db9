"""What naming one picture gives: classes by the adapted and the frozen CLIP, and what mattered."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from PIL import Image

from salhub.pipelines.result import PICTURE_WRITERS, PipelineResult, check_comparable, finite
from salhub.processing import Box, place_map
from salhub.viz import bars, compare, enlarge, overlay, panels
from salhub.viz.text import percentage

_SIDE = 280
_MOST_BARS = 8
# What is left of the light of a patch that is hidden in training.
_HIDDEN_LIGHT = 0.2
# What is left of the darkness of a place that CLIP does not see.
_UNSEEN = 0.25
_HOW_TO_READ = (
    "Longer bars mean more likely classes among those you gave; one of them always wins. "
    "Brighter areas are more similar to the text for the frozen CLIP. Dark patches are the "
    "least similar ones, which training hides in one of its passes."
)
_CROPPED = " The pale border was cut off before CLIP saw the picture."


@dataclass(eq=False, repr=False)
class ZeroShotImageClassificationResult(PipelineResult):
    """The likeliest of some classes, whatever they are, for one picture.

    Args:
        image: The picture as it was classified: RGB, turned upright.
        labels: The classes, likeliest first.
        scores: Probability of each among those that were asked for, in [0, 1].
        frozen_scores: The same by the CLIP without prompts; None where it was not asked.
        frozen_label: The likeliest class by the CLIP without prompts, which may be none of
            `labels` where these are the best few; None where it was not asked.
        frozen_score: Its probability by that CLIP.
        num_classes: How many classes were asked for; those of `labels` unless given.
        saliency: How much each patch has to do with `explained`, float32 (h, w) in [0, 1].
        kept: The patches that the masked pass of training would see, bool (h, w).
        explained: The text that the map is of.
        texts: What CLIP read for each of `labels`.
        viewed_box: left, top, right, bottom of what CLIP saw, in pixels of the picture.
        model_name: The model that was asked.
        method: The preset of its prompts, such as "disa"; "zero_shot" for a frozen CLIP.
        notes: Sentences of doubt about the answer, and about what was left out.

    Raises:
        ValueError: No class, or not one score a class.
    """

    writers = {**PICTURE_WRITERS, ".npy": "write_array", ".json": "write_json"}
    views = {"plot": "plot", "overlay": "overlay", "mask": "mask_picture"}

    image: Image.Image
    labels: list[str]
    scores: list[float]
    frozen_scores: list[float] | None
    saliency: np.ndarray
    kept: np.ndarray
    explained: str
    texts: list[str]
    viewed_box: Box
    model_name: str = ""
    method: str = "disa"
    notes: list[str] = field(default_factory=list)
    frozen_label: str | None = None
    frozen_score: float | None = None
    num_classes: int | None = None

    def __post_init__(self) -> None:
        counts = {len(self.labels), len(self.scores), len(self.frozen_scores or self.scores)}
        if not self.labels or len(counts) > 1:
            raise ValueError(
                f"A result needs one score for each class, got {len(self.labels)} classes and "
                f"{len(self.scores)} scores."
            )
        self.num_classes = self.num_classes or len(self.labels)
        if self.frozen_scores is not None and self.frozen_label is None:
            place = int(np.argmax(self.frozen_scores))
            self.frozen_label, self.frozen_score = self.labels[place], self.frozen_scores[place]

    def __repr__(self) -> str:
        return (
            f"ZeroShotImageClassificationResult({self.label!r}, score {percentage(self.score)}, "
            f"{_classes(self.num_classes)}, model {self.model_name!r})"
        )

    @property
    def label(self) -> str:
        """The likeliest class."""
        return self.labels[0]

    @property
    def score(self) -> float:
        """Its probability among those that were asked for."""
        return self.scores[0]

    def raw(self) -> np.ndarray:
        """Return the map in the size of the picture, float32 (H, W); 0 where CLIP did not look."""
        return place_map(self.saliency, self.viewed_box, (self.image.height, self.image.width))

    def overlay(self) -> Image.Image:
        """Draw the map over the picture."""
        return overlay(self.image, self.raw(), viewed_box=self.viewed_box)

    def mask_picture(self) -> Image.Image:
        """Draw the picture with the hidden patches dark, and pale what CLIP did not see."""
        left, top, right, bottom = self.viewed_box
        height, width = self.kept.shape
        rows = (np.arange(self.image.height) + 0.5 - top) / (bottom - top) * height
        columns = (np.arange(self.image.width) + 0.5 - left) / (right - left) * width
        inside = np.outer((rows >= 0) & (rows < height), (columns >= 0) & (columns < width))
        kept = self.kept[
            np.clip(rows.astype(int), 0, height - 1)[:, None],
            np.clip(columns.astype(int), 0, width - 1)[None],
        ]
        light = np.where(kept, 1.0, _HIDDEN_LIGHT)[..., None]
        given = np.asarray(self.image, dtype=np.float32)
        pixels = np.where(inside[..., None], given * light, 255 - (255 - given) * _UNSEEN)
        return Image.fromarray(np.rint(pixels).astype(np.uint8))

    def bars(self, *, frozen: bool = False) -> Image.Image:
        """Draw the probabilities of the likeliest classes, by the adapted or the frozen CLIP."""
        scores = self.frozen_scores if frozen and self.frozen_scores is not None else self.scores
        shown = list(zip(self.labels, scores, strict=True))[:_MOST_BARS]
        return bars(shown, size=(_SIDE, _SIDE))

    def plot(self) -> Image.Image:
        """Draw picture, probabilities, map and mask, with how to read them."""
        items = [(enlarge(self.image, _SIDE), "Picture"), (self.bars(), self._caption())]
        if self.frozen_scores is not None:
            items.append((self.bars(frozen=True), "Frozen CLIP"))
        items += [
            (enlarge(self.overlay(), _SIDE), f"Where “{self.explained}” is"),
            (enlarge(self.mask_picture(), _SIDE), "Patches most similar to it"),
        ]
        title = f"“{self.label}” · probability {percentage(self.score)}"
        return panels(
            items,
            title=f"{title} · {self.model_name}" if self.model_name else title,
            lead=" ".join(self.notes),
            note=f"{_HOW_TO_READ}{_CROPPED if self._is_cropped else ''}",
            side=_SIDE,
        )

    @property
    def _is_cropped(self) -> bool:
        left, top, right, bottom = self.viewed_box
        return left > 1 or top > 1 or right < self.image.width - 1 or bottom < self.image.height - 1

    @classmethod
    def compare(cls, results: Mapping[str, Self]) -> Image.Image:
        """Draw what several models make of one picture side by side.

        Args:
            results: Name of the model or setting -> its result.

        Raises:
            ValueError: Nothing to compare, or results of pictures of different sizes.
        """
        check_comparable(results)
        first = next(iter(results.values()))
        rows = [
            ("", [enlarge(first.image, _SIDE), *(one.bars() for one in results.values())]),
            (
                "",
                [
                    enlarge(first.mask_picture(), _SIDE),
                    *(enlarge(one.overlay(), _SIDE) for one in results.values()),
                ],
            ),
        ]
        return compare(["Picture", *results], rows, note=_HOW_TO_READ, side=_SIDE, most_columns=4)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the pixels, ready for JSON."""
        frozen = self.frozen_scores or [None] * len(self.labels)
        rows = zip(self.labels, self.texts, self.scores, frozen, strict=True)
        return {
            "model": self.model_name,
            "method": self.method,
            "label": self.label,
            "score": finite(self.score),
            "frozen_label": self.frozen_label,
            "frozen_score": None if self.frozen_score is None else finite(self.frozen_score),
            "classes": self.num_classes,
            "predictions": [
                {
                    "label": label,
                    "text": text,
                    "score": finite(score),
                    "frozen_score": None if own is None else finite(own),
                }
                for label, text, score, own in rows
            ],
            "explained": self.explained,
            "patches": list(self.kept.shape),
            "patches_kept": int(self.kept.sum()),
            "viewed_box": [float(one) for one in self.viewed_box],
            "notes": list(self.notes),
            "width": self.image.width,
            "height": self.image.height,
            "summary": self.summary(),
        }

    def summary(self) -> str:
        """Return the notes, and one sentence: both answers."""
        first = f"'{self.label}' ({percentage(self.score)})"
        sentence = f"{first} is the most likely of {_classes(self.num_classes)}."
        if self.frozen_score is not None:
            own = percentage(self.frozen_score)
            says = "agrees" if self.frozen_label == self.label else f"says '{self.frozen_label}'"
            sentence = f"{sentence[:-1]}; the frozen CLIP {says} ({own})."
        return " ".join([*self.notes, sentence])

    def _caption(self) -> str:
        return "CLIP" if self.method == "zero_shot" else f"With prompts ({self.method})"


def _classes(count: int | None) -> str:
    return "1 class" if count == 1 else f"{count} classes"
