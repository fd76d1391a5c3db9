"""Who says what when: lines of a transcript, and what is checked of them."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from salhub.errors import did_you_mean, plain_letters

# Lines of subtitles that name who speaks: "ANNA: Hello", "<v Anna>Hello", "[Anna] Hello".
_VOICE = re.compile(r"^\s*<v(?:\.[\w.]+)?\s+([^>]+)>\s*(.*?)\s*(?:</v>)?\s*$", re.DOTALL)
_NAMED = re.compile(r"^\s*(?:>>\s*)?([^\W\d_][\w .'\u2019\-]{0,38}?)\s*:\s+(\S.*)$", re.DOTALL)
_BRACKETED = re.compile(r"^\s*\[([^\W\d_][\w .'\u2019\-]{0,38})\]\s*(\S.*)$", re.DOTALL)


@dataclass(frozen=True)
class Utterance:
    """One line of a transcript.

    Args:
        start: When it begins, in seconds of the film.
        end: When it ends, after `start`.
        text: What is said.
        speaker: Who says it; None where that is not known.

    Raises:
        ValueError: Times that are no numbers, negative, or in the wrong order.
    """

    start: float
    end: float
    text: str
    speaker: str | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start) and math.isfinite(self.end)):
            raise ValueError(
                f"The line {self.text[:40]!r} has the times {self.start} and {self.end}; give "
                "both in seconds."
            )
        if self.start < 0 or self.end <= self.start:
            raise ValueError(
                f"The line {self.text[:40]!r} goes from {self.start:g} s to {self.end:g} s; "
                "it must begin at 0 or later, and end after it begins."
            )


@dataclass(frozen=True)
class Transcript:
    """The lines of a film.

    Args:
        utterances: In the order of their beginnings; others are sorted, with a warning.
        warnings: What was mended or dropped while it was read.

    Example:
        >>> talk = Transcript((Utterance(0.0, 1.5, "Hello!", "anna"),))
        >>> talk.speakers
        ('anna',)
    """

    utterances: tuple[Utterance, ...]
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.utterances, key=lambda one: (one.start, one.end)))
        if ordered != tuple(self.utterances):
            note = "The lines of the transcript were not in order; they were sorted by time."
            object.__setattr__(self, "warnings", (*self.warnings, note))
        object.__setattr__(self, "utterances", ordered)

    @property
    def speakers(self) -> tuple[str, ...]:
        """Everybody who says a line, in the order of their first ones."""
        named = (one.speaker for one in self.utterances)
        return tuple(dict.fromkeys(name for name in named if name is not None))

    def check(self, duration: float, cast: Sequence[str]) -> Self:
        """Return the lines as they are used for a film, their speakers called as in the cast.

        Names that differ in case, spaces and accents of punctuation alone are the same. A line that
        runs past the end is cut there, and one without a speaker is nobody's; both are said.

        Args:
            duration: Length of the film in seconds.
            cast: Names of the people who are tracked.

        Raises:
            ValueError: Speakers who are not in the cast, all of them named; or lines that begin
                after the end of the film by more than a second.
        """
        by_letters = {plain_letters(name): name for name in cast}
        unknown = [name for name in self.speakers if plain_letters(name) not in by_letters]
        if unknown:
            hints = "".join(_nearest(name, by_letters) for name in unknown[:3])
            raise ValueError(
                f"The transcript has speakers who are not in the cast: {', '.join(unknown)}; the "
                f"cast is {', '.join(cast) or 'empty'}.{hints} Name the cast from left to right "
                "with cast=[...], or rename the speakers."
            )
        late = [one for one in self.utterances if one.start >= duration]
        if late and late[-1].start > duration + 1:
            raise ValueError(
                f"{len(late)} of {len(self.utterances)} lines of the transcript begin after "
                f"the film's end: the film has {duration:.1f} s and the last line begins at "
                f"{late[-1].start:.1f} s; give the transcript of this film, or shorten it."
            )
        notes = []
        kept = [one for one in self.utterances if one.start < duration]
        if late:
            notes.append(f"{len(late)} lines that begin at the film's end were left out.")
        cut = [one for one in kept if one.end > duration]
        if cut:
            notes.append(f"{len(cut)} lines run past the film's end and were cut there.")
        nobody = sum(one.speaker is None for one in kept)
        if nobody:
            notes.append(
                f"{nobody} of {len(kept)} lines have no speaker; they do not affect who is shown."
            )
        lines = tuple(
            replace(
                one,
                end=min(one.end, duration),
                speaker=None if one.speaker is None else by_letters[plain_letters(one.speaker)],
            )
            for one in kept
        )
        return type(self)(lines, (*self.warnings, *notes))


def _nearest(name: str, by_letters: dict[str, str]) -> str:
    hint = did_you_mean(plain_letters(name), by_letters, limit=1)
    for letters, spelled in by_letters.items():
        hint = hint.replace(f"'{letters}'", f"'{spelled}'")
    return hint.replace("mean", f"mean, for {name},") if hint else ""


def split_speaker(text: str) -> tuple[str | None, str]:
    """Part a subtitle into who speaks and what is said.

    Args:
        text: Such as "ANNA: Hello", "<v Anna>Hello" of WebVTT, or "[Anna] Hello".

    Returns:
        The name, or None where there is none, and the rest.

    Example:
        >>> split_speaker("ANNA: Hello"), split_speaker("It is 10:30 now")
        (('ANNA', 'Hello'), (None, 'It is 10:30 now'))
    """
    for pattern in (_VOICE, _BRACKETED, _NAMED):
        found = pattern.match(text)
        if found and len(found[1].split()) <= 4:
            return found[1].strip(), found[2].strip()
    return None, text.strip()
