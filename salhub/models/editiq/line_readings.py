"""What an editor reads in each line of a transcript: to whom it goes, and whom to show."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from salhub.errors import plain_letters
from salhub.models.editiq.shots import Shot

Kind = Literal["statement", "question", "answer", "reaction", "address_all", "action"]
KINDS: tuple[str, ...] = get_args(Kind)
ALL = "all"
_FIELDS = ("id", "speaker", "addressee", "show", "kind", "intensity", "reaction_of")


@dataclass(frozen=True)
class LineReading:
    """What was read in a line.

    Args:
        id: Number of the line, from 0.
        speaker: Who speaks; None where that is not known.
        addressee: To whom; "all", or None where that is not known.
        show: Names of shots, the best one first.
        kind: One of `KINDS`.
        intensity: How strong it is, 0 to 1.
        reaction_of: Whose reaction is worth a shot, or None.
    """

    id: int
    speaker: str | None = None
    addressee: str | None = None
    show: tuple[str, ...] = ()
    kind: str = "statement"
    intensity: float = 0.5
    reaction_of: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {name: getattr(self, name) for name in _FIELDS} | {"show": list(self.show)}


class ReadingError(ValueError):
    """An answer that is no reading of the lines that were asked for."""


def read_answer(
    answer: Any, ids: Sequence[int], cast: Sequence[str], shots: Iterable[Shot]
) -> tuple[list[LineReading], list[str]]:
    """Check what a chat model or a function says of some lines.

    Args:
        answer: A list with a mapping a line, whose keys are those of `LineReading`; or a mapping
            with such a list under "lines".
        ids: The lines that were asked for.
        cast: Names of the actors.
        shots: The shots that there are.

    Returns:
        The readings in the order of `ids`, and sentences about names that were dropped.

    Raises:
        ReadingError: It has another form, or a line is missing.
    """
    if isinstance(answer, Mapping):
        answer = answer.get("lines")
    if not isinstance(answer, list | tuple):
        raise ReadingError("it is not a list of lines")
    people = {plain_letters(name): name for name in cast}
    known = {(shot.size, frozenset(shot.actors)): shot.name for shot in shots}
    found, notes = {}, []
    for entry in answer:
        if isinstance(entry, LineReading):
            entry = entry.to_dict()
        if not isinstance(entry, Mapping) or isinstance(entry.get("id"), bool):
            raise ReadingError("a line is not an object")
        if not isinstance(entry.get("id"), int):
            raise ReadingError("the id of a line is not a whole number")
        reading, dropped = _one(entry, people, known)
        if reading.id in found:
            raise ReadingError(f"line {reading.id} appears twice")
        found[reading.id] = reading
        notes += dropped
    missing = [one for one in ids if one not in found]
    if missing:
        raise ReadingError(f"{len(missing)} lines are missing, the first of them {missing[0]}")
    return [found[one] for one in ids], notes


def _one(
    entry: Mapping[str, Any],
    people: Mapping[str, str],
    known: Mapping[tuple[str, frozenset[str]], str],
) -> tuple[LineReading, list[str]]:
    unknown = set(entry) - set(_FIELDS)
    if unknown:
        raise ReadingError(f"a line has the unknown key {sorted(unknown)[0]!r}")
    number, notes = entry["id"], []
    kind = entry.get("kind", "statement")
    if kind not in KINDS:
        raise ReadingError(f"line {number} has the unknown kind {kind!r}")
    intensity = entry.get("intensity", 0.5)
    if isinstance(intensity, bool) or not isinstance(intensity, int | float):
        raise ReadingError(f"line {number} has the intensity {intensity!r}, which is not a number")
    if not 0 <= intensity <= 1:
        raise ReadingError(f"line {number} has the intensity {intensity}, outside of 0 to 1")
    names = {}
    for field in ("speaker", "addressee", "reaction_of"):
        given = entry.get(field)
        if given is not None and not isinstance(given, str):
            raise ReadingError(f"line {number} has {given!r} as {field}, which is not a name")
        is_all = field == "addressee" and given is not None and plain_letters(given) == ALL
        names[field] = ALL if is_all else people.get(plain_letters(given or ""))
        if given and names[field] is None:
            notes.append(f"Line {number} names '{given}' as {field}, who is not in the cast.")
    shows = entry.get("show") or []
    if not isinstance(shows, list | tuple) or not all(isinstance(one, str) for one in shows):
        raise ReadingError(f"line {number} has a 'show' that is not a list of names")
    kept = []
    for one in shows:
        name = _known_shot(one, people, known)
        if name is None:
            notes.append(f"Line {number} asks for the shot '{one}', which does not exist.")
        elif name not in kept:
            kept.append(name)
    reading = LineReading(
        number, names["speaker"], names["addressee"], tuple(kept), kind, float(intensity),
        names["reaction_of"],
    )  # fmt: skip
    return reading, notes


def _known_shot(
    name: str, people: Mapping[str, str], known: Mapping[tuple[str, frozenset[str]], str]
) -> str | None:
    """The shot of a name; that of an actor alone is the medium shot."""
    if plain_letters(name) in people:
        name = f"MS:{people[plain_letters(name)]}"
    try:
        shot = Shot.parse(name)
    except ValueError:
        return None
    actors = frozenset(people.get(plain_letters(one), one) for one in shot.actors)
    return known.get((shot.size, actors))


def with_speakers(
    readings: Sequence[LineReading], speakers: Sequence[str | None]
) -> list[LineReading]:
    """Put the speakers of the transcript in place of what was read; they are known."""
    return [
        replace(reading, speaker=speaker if speaker is not None else reading.speaker)
        for reading, speaker in zip(readings, speakers, strict=True)
    ]
