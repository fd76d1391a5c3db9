"""What explaining one text gives: sentences, the words behind them, and ways to look at them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any, Self

import numpy as np
from PIL import Image

from salhub.models.verbalizer.explaining import TextMap
from salhub.models.verbalizer.realization import Phrase
from salhub.models.verbalizer.verbalizer import Verbalization
from salhub.pipelines.result import TextResult, check_comparable, finite
from salhub.viz import panels
from salhub.viz.shaded_text import Part, shaded_html, shaded_text
from salhub.viz.text import percentage

_WIDTH = 820
# More than this would be a picture that nobody can look at.
_MOST_CHARACTERS = 6000
_HOW_TO_READ = (
    "Amber words speak for the class, blue words against it; stronger colours mean more weight."
)


@dataclass(eq=False, repr=False)
class SaliencyVerbalizationResult(TextResult):
    """Why a classifier gave a text its class, in words.

    Args:
        told: What is said.
        found: The scores that it rests on.
        model_name: The model that was asked.
        doubt: A sentence that the text is none the classifier can know, or None.
        truncation: A sentence that the end of the text was left out, or None.
        notes: Sentences to read before the explanation: what makes the answer doubtful, and that
            another class than the classifier's own answer is explained.
        predictions: The most likely classes as (name, index, probability), most likely first.
    """

    told: Verbalization
    found: TextMap
    model_name: str = ""
    doubt: str | None = None
    truncation: str | None = None
    notes: list[str] = field(default_factory=list)
    predictions: list[tuple[str, int, float]] = field(default_factory=list)

    def __repr__(self) -> str:
        return (
            f"SaliencyVerbalizationResult({self.label!r}, probability "
            f"{percentage(self.probability)}, {self.text!r}, model {self.model_name!r})"
        )

    @property
    def text(self) -> str:
        """The explanation; before it what makes it doubtful, after it what was left out."""
        sentences = (*self.notes, self.told.text, self.truncation)
        return " ".join(one for one in sentences if one)

    @property
    def label(self) -> str | None:
        """Name of the class that is explained."""
        return self.told.label

    @property
    def label_id(self) -> int:
        """Index of that class."""
        return self.found.class_label

    @property
    def probability(self) -> float:
        """Its probability, in [0, 1]."""
        return self.found.probability

    @property
    def phrases(self) -> list[Phrase]:
        """What is named, the most important first, then what speaks against."""
        return self.told.phrases

    @property
    def coverage(self) -> float:
        """Share of the positive evidence that is named, in [0, 1]."""
        return self.told.coverage

    @property
    def audit(self) -> dict[str, Any]:
        """Whether the explanation says what the scores show; see `audit` of the method."""
        return self.told.audit

    @property
    def searches(self) -> dict[str, list]:
        """Search -> what it found, [(words, coverage)]."""
        return self.told.searches

    @property
    def tokens(self) -> list[str]:
        """The words of the text."""
        return self.found.words.strings

    @property
    def scores(self) -> np.ndarray:
        """Their scores in logits, float32 (n,); above 0 speaks for the class."""
        return self.found.scores.astype(np.float32)

    @property
    def offsets(self) -> np.ndarray:
        """Start and end of each word in the text, int64 (n, 2)."""
        return self.found.words.spans

    def shaded(self) -> list[Part]:
        """The text in parts, each with its score by the largest one, in [-1, 1]."""
        text, place = self.found.words.text, 0
        largest = float(np.abs(self.found.scores).max(initial=0)) or 1.0
        parts: list[Part] = []
        for (start, end), score in zip(self.offsets.tolist(), self.found.scores, strict=True):
            parts.append((text[place:start], 0.0))
            parts.append((text[start:end], float(score) / largest))
            place = end
        return [part for part in [*parts, (text[place:], 0.0)] if part[0]]

    def plot(self) -> Image.Image:
        """Draw the explanation above the text, whose words are shaded by score."""
        sentence = shaded_text([(self.text, 0.0)], width=_WIDTH)
        heat = shaded_text(_shortened(self.shaded()), width=_WIDTH)
        joined = Image.new("RGB", (_WIDTH, sentence.height + heat.height + 8), "#c4c4c4")
        joined.paste(sentence, (0, 0))
        joined.paste(heat, (0, sentence.height + 8))
        title = f"{self.label} ({percentage(self.probability)})"
        title = f"{title} · {self.model_name}" if self.model_name else title
        return panels([(joined, "")], title=title, note=_HOW_TO_READ, side=max(joined.size))

    def html(self) -> str:
        """Return the explanation, and the text shaded by score, as HTML."""
        verdict = f"{self.label} ({percentage(self.probability)})"
        return (
            f"<p>{escape(verdict)}</p>\n"
            f'<p dir="auto"><strong>{escape(self.text)}</strong></p>\n{shaded_html(self.shaded())}'
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything that was found, ready for JSON."""
        delta = self.found.convergence_delta
        words = zip(self.tokens, self.found.scores, self.offsets.tolist(), strict=True)
        return {
            "model": self.model_name,
            "text": self.text,
            "label": self.label,
            "label_id": self.label_id,
            "probability": finite(self.probability),
            "predictions": [
                {"label": label, "label_id": index, "probability": finite(share)}
                for label, index, share in self.predictions
            ],
            "notes": list(self.notes),
            "contrast": self.told.other,
            "coverage": finite(self.coverage),
            "phrases": [phrase.to_dict() for phrase in self.phrases],
            "words": [
                {"word": word, "score": float(score), "start": start, "end": end}
                for word, score, (start, end) in words
            ],
            "audit": self.audit,
            "convergence_delta": None if delta is None else finite(delta),
            "truncated": self.found.is_truncated,
            "doubt": self.doubt,
            "prompt": self.told.prompt,
            "llm_text": self.told.llm_text,
        }

    @classmethod
    def compare(cls, results: Mapping[str, Self]) -> Image.Image:
        """Draw what several models say of a text, each above the words that it rests on.

        Raises:
            ValueError: Nothing to compare.
        """
        check_comparable(results)
        parts: list[Part] = []
        for title, result in results.items():
            heading = f"{title}: {result.label} ({percentage(result.probability)})"
            parts += [(heading, 0.0), ("\n", 0.0), (result.text, 0.0), ("\n", 0.0)]
            parts += [*_shortened(result.shaded()), ("\n\n", 0.0)]
        picture = shaded_text(parts, width=_WIDTH)
        return panels(
            [(picture, "")], title="Explanations", note=_HOW_TO_READ, side=max(picture.size)
        )


def _shortened(parts: list[Part]) -> list[Part]:
    """Parts up to a number of characters, and a mark where some are left out."""
    length, kept = 0, []
    for part in parts:
        length += len(part[0])
        if length > _MOST_CHARACTERS:
            return [*kept, (" …", 0.0)]
        kept.append(part)
    return kept
