"""A chat model, or any function, that reads a transcript; its answers are checked."""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from salhub.models.editiq.line_readings import (
    KINDS,
    LineReading,
    ReadingError,
    read_answer,
    with_speakers,
)
from salhub.models.editiq.reading_rules import read_by_rules
from salhub.models.editiq.shots import Shot
from salhub.models.editiq.stages import StageStore
from salhub.models.editiq.utterances import Transcript
from salhub.pipelines.chat import Chat

# Lines that are read together, and those before them that are shown again.
LINES, OVERLAP = 20, 4
MAX_NEW_TOKENS = 1600
_SYSTEM = """You are a film editor. You cut a recording of a static wide shot into a film by \
choosing a shot for every line that is spoken. Answer with a JSON list and nothing else."""
_ASK = """The actors from left to right: {cast}.
The shots: {shots}.
{before}Read these lines:
{lines}
Answer with a JSON list of one object for each of the lines {first} to {last}, with these keys:
"id": the number of the line;
"speaker": who speaks, or null;
"addressee": to whom, "all", or null;
"show": names of shots, the best one first;
"kind": one of {kinds};
"intensity": from 0 to 1;
"reaction_of": whose reaction should be shown during the line, or null."""


class Understanding(NamedTuple):
    """What was read in a transcript.

    Args:
        readings: One a line.
        warnings: What was dropped, and where rules took the place of a model.
    """

    readings: tuple[LineReading, ...]
    warnings: tuple[str, ...]


def read_by_chat(
    chat: Chat,
    transcript: Transcript,
    cast: Sequence[str],
    shots: Sequence[Shot],
    reaction_after: float,
    *,
    store: StageStore | None = None,
    name: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Understanding:
    """Let a chat model read a transcript, some lines at once.

    An answer of another form is asked for once more; then rules read these lines, and that is said.

    Args:
        chat: The model.
        transcript: Lines whose speakers are called as in the cast.
        cast: Names of the actors from left to right.
        shots: The shots that there are.
        reaction_after: As of `read_by_rules`.
        store: Keeps answers by their question and the name of the model.
        name: Of the model.
        progress: Called with the lines that are read, and all of them.
    """
    lines, store = transcript.utterances, store or StageStore(None)
    rules = read_by_rules(transcript, cast, reaction_after)
    found: list[LineReading] = []
    warnings: list[str] = []
    for first in range(0, len(lines), LINES):
        ids = range(first, min(first + LINES, len(lines)))
        messages = _messages(transcript, cast, shots, ids)
        digest = hashlib.sha256(json.dumps([name, messages]).encode()).hexdigest()[:24]
        kept = store.get(f"lines-{first}", digest) if name else None
        answer, reason = (kept["answer"], None) if kept else (None, None)
        parsed = None
        for _ in range(1 if kept else 2):
            answer = answer if kept else chat.generate([messages])[0]
            try:
                parsed = read_answer(_json_of(answer), ids, cast, shots)
                break
            except ReadingError as error:
                reason = str(error)
        if parsed is None:
            warnings.append(
                f"The language model's answer for the lines {ids[0]} to {ids[-1]} could not "
                f"be used, because {reason}; the rules read them instead."
            )
            found += rules[ids[0] : ids[-1] + 1]
        else:
            if name:
                store.put(f"lines-{first}", digest, {"answer": answer})
            found += parsed[0]
            warnings += parsed[1]
        if progress is not None:
            progress(ids[-1] + 1, len(lines))
    readings = with_speakers(found, [line.speaker for line in lines])
    return Understanding(tuple(readings), tuple(warnings))


def read_by_function(
    function: Callable[..., Any],
    transcript: Transcript,
    cast: Sequence[str],
    shots: Sequence[Shot],
) -> Understanding:
    """Let a function read a transcript.

    Args:
        function: Takes the lines as a list of {"id", "start", "end", "speaker", "text"}, the names
            of the cast and those of the shots; gives what `read_answer` takes.
        transcript, cast, shots: As of `read_by_chat`.

    Raises:
        ValueError: Its answer has another form.
    """
    lines = transcript.utterances
    given = [
        {"id": i, "start": o.start, "end": o.end, "speaker": o.speaker, "text": o.text}
        for i, o in enumerate(lines)
    ]
    answer = function(given, list(cast), [shot.name for shot in shots])
    try:
        readings, notes = read_answer(answer, range(len(lines)), cast, shots)
    except ReadingError as error:
        raise ValueError(
            "The function that reads the transcript returned an invalid answer, because "
            f"{error}; it must return a list of objects with id, addressee, show, kind, "
            "intensity and reaction_of."
        ) from None
    return Understanding(
        tuple(with_speakers(readings, [line.speaker for line in lines])), tuple(notes)
    )


def _messages(
    transcript: Transcript, cast: Sequence[str], shots: Sequence[Shot], ids: range
) -> list[dict[str, str]]:
    lines = transcript.utterances
    shown = [f"{n}. {lines[n].speaker or '?'}: {lines[n].text}" for n in range(ids[-1] + 1)]
    earlier = shown[max(0, ids[0] - OVERLAP) : ids[0]]
    before = "What came before:\n" + "\n".join(earlier) + "\n" if earlier else ""
    question = _ASK.format(
        cast=", ".join(cast),
        shots=", ".join(shot.name for shot in shots),
        before=before,
        lines="\n".join(shown[ids[0] :]),
        first=ids[0],
        last=ids[-1],
        kinds=", ".join(KINDS),
    )
    return [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": question}]


def _json_of(answer: str) -> Any:
    """The JSON in an answer, which may stand between other words or in a block of code."""
    text = answer.strip()
    block = re.search(r"```(?:json)?\s*(.*?)```", text, re.DOTALL)
    text = block[1] if block else text
    decoder = json.JSONDecoder()
    for place in (i for i, letter in enumerate(text) if letter in "[{"):
        try:
            return decoder.raw_decode(text[place:])[0]
        except ValueError:
            continue
    raise ReadingError("it holds no JSON")
