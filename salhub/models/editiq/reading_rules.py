"""English rules that read a transcript as an editor does, without any weights."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from salhub.models.editiq.line_readings import ALL, LineReading
from salhub.models.editiq.utterances import Transcript, Utterance

# Seconds of silence after which the lines of one person are two speeches.
_PAUSE = 1.0
# Seconds between lines that belong to one conversation.
_FAR = 6.0
# "Everybody knows it" speaks of people, "Everybody, listen" to them.
_EVERYBODY = re.compile(
    r"(^|[.!?]\s+)(and |so |now |well,? |come on,? )?"
    r"(everyone|everybody|friends|folks|guys)\s*[,:!]"
    r"|,\s*(everyone|everybody|friends|folks)\s*[.!?]"
    r"|\b(all of (you|us)|you (two|three|all|guys|both)|both of you|my (dear )?friends|"
    r"ladies and gentlemen|let'?s all|let us all|we all|us all)\b",
    re.IGNORECASE,
)
_QUESTION = re.compile(
    r"^(and |but |so |well,? )?(who|what|where|when|why|how|which|do|does|did|is|are|was|were|can|"
    r"could|will|would|have|has|shall|should)\b[^.!]*$",
    re.IGNORECASE,
)
_ACTION = re.compile(r"^\s*[\[(*].*[\])*]\s*$", re.DOTALL)


class Turn(NamedTuple):
    """Lines of one person without a pause.

    Args:
        speaker: Who speaks; None where that is not known.
        first: Number of the first line.
        last: Number of the last one.
        start: When it begins, in seconds.
        end: When it ends.
    """

    speaker: str | None
    first: int
    last: int
    start: float
    end: float


def turns_of(transcript: Transcript) -> list[Turn]:
    """Join the lines of one person that follow each other closely."""
    found: list[Turn] = []
    for number, line in enumerate(transcript.utterances):
        last = found[-1] if found else None
        is_same = last is not None and last.speaker == line.speaker and line.speaker is not None
        if is_same and line.start - last.end < _PAUSE:
            found[-1] = last._replace(last=number, end=max(last.end, line.end))
        else:
            found.append(Turn(line.speaker, number, number, line.start, line.end))
    return found


def read_by_rules(
    transcript: Transcript, cast: Sequence[str], reaction_after: float
) -> list[LineReading]:
    """Read every line by its words, its mark and who speaks before and after.

    The addressee is somebody whose name is called, else who speaks next, else who spoke before, or
    the other one of two. Questions end with a mark or begin with a word of asking. Long speeches
    and exclamations are worth the reaction of their addressee.

    Args:
        transcript: Lines whose speakers are called as in the cast.
        cast: Names of the actors.
        reaction_after: Seconds of a speech after which its listener counts.

    Example:
        >>> talk = Transcript((Utterance(0, 2, "Ben, where were you?", "anna"),))
        >>> read_by_rules(talk, ["anna", "ben"], 8.0)[0].addressee
        'ben'
    """
    lines, turns = transcript.utterances, turns_of(transcript)
    turn_of = {n: t for t, turn in enumerate(turns) for n in range(turn.first, turn.last + 1)}
    found: list[LineReading] = []
    for number, line in enumerate(lines):
        place = turn_of[number]
        called = [name for name in cast if name != line.speaker and _calls(line.text, name)]
        addressee = _addressee(line, called, turns, place, cast)
        kind = _kind(line, called, found[-1] if found else None)
        show: tuple[str, ...] = ()
        if kind == "address_all":
            addressee, show = ALL, ("WIDE",)
        elif line.speaker is not None:
            show = (f"MS:{line.speaker}",)
        is_strong = line.text.rstrip("\"' )").endswith("!")
        turn = turns[place]
        is_long = turn.end - turn.start > reaction_after
        can_react = is_long or (is_strong and line.end - line.start > reaction_after / 2)
        reactor = addressee if can_react and addressee not in (None, ALL) else None
        intensity = 0.9 if is_strong else 0.6 if kind == "question" else 0.5
        found.append(LineReading(number, line.speaker, addressee, show, kind, intensity, reactor))
    return found


def _calls(text: str, name: str) -> bool:
    return re.search(rf"\b{re.escape(name)}\b", text, re.IGNORECASE) is not None


def _kind(line: Utterance, called: Sequence[str], before: LineReading | None) -> str:
    if line.speaker is None and _ACTION.match(line.text):
        return "action"
    if len(called) >= 2 or _EVERYBODY.search(line.text):
        return "address_all"
    last = re.split(r"(?<=[.!?])\s+", line.text.strip())[-1]
    if last.rstrip("\"' )").endswith("?") or _QUESTION.match(last):
        return "question"
    if before is not None and before.kind == "question" and before.speaker != line.speaker:
        return "answer"
    return "statement"


def _addressee(
    line: Utterance, called: Sequence[str], turns: Sequence[Turn], place: int, cast: Sequence[str]
) -> str | None:
    if len(called) == 1:
        return called[0]
    if line.speaker is None:
        return None
    after, before = turns[place + 1 : place + 2], turns[max(0, place - 1) : place]
    for near in (*after, *before):
        distance = max(near.start - turns[place].end, turns[place].start - near.end)
        if near.speaker not in (None, line.speaker) and distance < _FAR:
            return near.speaker
    others = [name for name in cast if name != line.speaker]
    return others[0] if len(others) == 1 else None
