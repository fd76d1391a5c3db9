"""What summarizing texts gives: their sentences, and which of them stand for all."""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Self

from PIL import Image

from salhub.pipelines.result import TextResult, check_comparable
from salhub.viz import panels
from salhub.viz.shaded_text import Part, shaded_html, shaded_text

if TYPE_CHECKING:
    from salhub.models.lexrank.summarizing import RankedSentence, Summary

_WIDTH = 820
# More than this would be a picture that nobody can look at.
_MOST_SHOWN = 60
_HOW_TO_READ = "Stronger colour: more sentences resemble this one. Chosen sentences are at the top."


@dataclass(eq=False, repr=False)
class ExtractiveSummarizationResult(TextResult):
    """A summary of one text, or of several together.

    Args:
        found: The summary, with every sentence of the texts.
        model_name: The model that was asked.
    """

    found: "Summary"
    model_name: str = ""

    def __repr__(self) -> str:
        return (
            f"ExtractiveSummarizationResult({len(self.found.chosen)} of {len(self.sentences)} "
            f"sentences, model {self.model_name!r})"
        )

    @property
    def text(self) -> str:
        """The summary."""
        return self.found.text

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know of the summary: that it was cut, or why it is short."""
        return self.found.notes

    def summary(self) -> str:
        """Return the summary, and what a reader should know of it."""
        return "\n".join([self.text, *(f"({note})" for note in self.notes)])

    @property
    def sentences(self) -> "tuple[RankedSentence, ...]":
        """All sentences, in the order of the texts."""
        return self.found.sentences

    @property
    def chosen(self) -> "list[RankedSentence]":
        """The sentences of the summary, in its order."""
        return [self.sentences[place] for place in self.found.chosen]

    def shaded(self, document: int = 0) -> list[Part]:
        """One of the texts, in parts, each with its score, stretched from 0 to 1."""
        text, place = self.found.documents[document], 0
        scores = [sentence.score for sentence in self.sentences]
        lowest, room = min(scores), max(scores) - min(scores)
        parts: list[Part] = []
        for sentence in self.sentences:
            if sentence.document == document:
                parts.append((text[place : sentence.start], 0.0))
                value = (sentence.score - lowest) / room if room else 1.0
                parts.append((sentence.text, value))
                place = sentence.end
        return [part for part in [*parts, (text[place:], 0.0)] if part[0]]

    def plot(self) -> Image.Image:
        """Draw the summary above the texts, shaded by score."""
        summary = shaded_text([(self.text, 0.0)], width=_WIDTH)
        parts: list[Part] = []
        for number in range(len(self.found.documents)):
            parts += [*self.shaded(number), ("\n\n", 0.0)]
        shown = shaded_text(parts[: 2 * _MOST_SHOWN], width=_WIDTH)
        count = f"{len(self.found.chosen)} of {len(self.sentences)} sentences"
        title = f"{count} · {self.model_name}" if self.model_name else count
        joined = Image.new("RGB", (_WIDTH, summary.height + shown.height + 8), "#c4c4c4")
        joined.paste(summary, (0, 0))
        joined.paste(shown, (0, summary.height + 8))
        return panels([(joined, "")], title=title, note=_HOW_TO_READ, side=max(joined.size))

    def html(self) -> str:
        """Return the summary, and the texts shaded by score, as HTML."""
        texts = [shaded_html(self.shaded(n)) for n in range(len(self.found.documents))]
        notes = "".join(f"<p><em>{escape(note)}</em></p>\n" for note in self.notes)
        summary = f'<p dir="auto"><strong>{escape(self.text)}</strong></p>\n{notes}'
        return summary + "\n<hr>\n".join(texts)

    def to_dict(self) -> dict[str, Any]:
        """Return the summary and every sentence, ready for JSON."""
        return {
            "model": self.model_name,
            "summary": self.text,
            "notes": list(self.notes),
            "chosen": list(self.found.chosen),
            "sentences": [
                {
                    "text": sentence.text,
                    "score": sentence.score,
                    "rank": sentence.rank,
                    "document": sentence.document,
                    "start": sentence.start,
                    "end": sentence.end,
                    "chosen": sentence.is_chosen,
                    **({"supporters": list(sentence.supporters)} if sentence.is_chosen else {}),
                }
                for sentence in self.sentences
            ],
            "redundancy_dropped": [vars(one) for one in self.found.left_out],
        }

    @classmethod
    def compare(cls, results: Mapping[str, Self]) -> Image.Image:
        """Draw the summaries of several models below each other.

        Raises:
            ValueError: Nothing to compare.
        """
        check_comparable(results)
        parts: list[Part] = []
        for title, result in results.items():
            parts += [(title, 0.5), ("\n", 0.0), (result.text, 0.0), ("\n\n", 0.0)]
        picture = shaded_text(parts, width=_WIDTH)
        return panels([(picture, "")], title="Summaries", side=max(picture.size))
