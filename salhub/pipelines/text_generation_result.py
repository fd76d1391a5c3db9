"""What continuing a text gives: the text, what was added, and ways to look at it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any, Self

from PIL import Image

from salhub.pipelines.result import TextResult, check_comparable
from salhub.viz import panels
from salhub.viz.shaded_text import Part, shaded_text

_WIDTH = 820
_HOW_TO_READ = "Your text is shaded; the model wrote the rest."
_GIVEN = 0.4


@dataclass(eq=False, repr=False)
class TextGenerationResult(TextResult):
    """A text that a language model has continued.

    Args:
        prompt: The text that was given.
        completion: What the model added to it.
        tokens: The pieces that it wrote, with that of an end where it came to one.
        token_ids: Their numbers.
        model_name: The model that was asked.
        notes: What a reader should know: what was drawn, and where something was cut.

    Example:
        >>> TextGenerationResult("The film", " is good.", [" is", " good", "."], [7, 8, 9]).text
        'The film is good.'
    """

    prompt: str
    completion: str
    tokens: list[str]
    token_ids: list[int]
    model_name: str = ""
    notes: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        return (
            f"TextGenerationResult({self.prompt[-40:]!r} + {self.completion[:40]!r}, "
            f"{len(self.token_ids)} tokens, model {self.model_name!r})"
        )

    @property
    def text(self) -> str:
        """The text that was given, and what the model added."""
        return self.prompt + self.completion

    def summary(self) -> str:
        """Return the text, and what a reader should know of it."""
        return "\n".join([self.text, *(f"({note})" for note in self.notes)])

    def plot(self) -> Image.Image:
        """Draw the text, the given part of it shaded."""
        picture = shaded_text(self._parts(), width=_WIDTH)
        title = f"{len(self.token_ids)} tokens"
        return panels(
            [(picture, "")],
            title=f"{title} · {self.model_name}" if self.model_name else title,
            lead=" ".join(self.notes),
            note=_HOW_TO_READ,
            side=max(picture.size),
        )

    def _parts(self) -> list[Part]:
        return [(self.prompt, _GIVEN), (self.completion, 0.0)]

    def html(self) -> str:
        """Return the text as HTML, what was given in bold."""
        notes = "".join(f"<p><em>{escape(note)}</em></p>\n" for note in self.notes)
        text = f"<strong>{escape(self.prompt)}</strong>{escape(self.completion)}"
        return f'<p dir="auto" style="white-space: pre-wrap">{text}</p>\n{notes}'

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return {
            "model": self.model_name,
            "prompt": self.prompt,
            "completion": self.completion,
            "text": self.text,
            "tokens": list(self.tokens),
            "token_ids": list(self.token_ids),
            "notes": list(self.notes),
        }

    @classmethod
    def compare(cls, results: Mapping[str, Self]) -> Image.Image:
        """Draw what several models made of one text below each other.

        Raises:
            ValueError: Nothing to compare.
        """
        check_comparable(results)
        parts: list[Part] = []
        for title, result in results.items():
            parts += [(title, 1.0), ("\n", 0.0), *result._parts(), ("\n\n", 0.0)]
        picture = shaded_text(parts, width=_WIDTH)
        return panels([(picture, "")], title="Continued", note=_HOW_TO_READ, side=max(picture.size))
