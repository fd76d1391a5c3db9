"""Scripts for a stage: beats of a play, their lines, and how an editor would cut them."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from salhub.models.editiq.utterances import Utterance

NAMES = ("anna", "ben", "cleo", "dan")
_WORDS_PER_SECOND = 2.6
_OPENING, _INSERT_AFTER, _INSERT = 2.5, 5.0, 2.0
_STATEMENTS = (
    "I walked along the river until the lights of the town went out.",
    "The letter came on a Monday and nobody dared to open it.",
    "My father kept bees, and he never wore gloves in all his life.",
    "We painted the whole house yellow because the shop had nothing else.",
    "There is a door behind the curtain that leads to the old kitchen.",
    "The train was late again, so I read the paper twice.",
    "I found the key under the third stone, just as you said.",
    "Every winter the lake freezes and the children skate to school.",
    "He sold the piano and bought a boat that does not float.",
    "The doctor told me to rest, and so I bought a bicycle.",
    "Some people count sheep, but I count the cracks in the ceiling.",
    "The garden has been growing wild since the summer we moved in.",
    "I never liked that painting, yet I miss it on the wall.",
    "The baker on the corner knows all the secrets of this street.",
    "It rained for nine days and the cellar filled with apples.",
    "They closed the theatre, and the mice took over the stage.",
)
_QUESTIONS = (
    "Did you see who took the lamp from the table?",
    "Where were you when the music stopped last night?",
    "Why did you never tell me about the letter?",
    "How long have you known about the door?",
    "Do you still believe what the captain wrote?",
    "What would you do with a boat that sinks?",
    "Who else has a key to the cellar?",
    "Would you come with me if I left tomorrow?",
)
_ANSWERS = (
    "I was in the garden, and I saw nothing at all.",
    "Nobody asked me, so I kept it to myself.",
    "Since the spring, when the ice broke on the lake.",
    "I would sell it, and buy the piano back.",
    "The captain lied, and everybody in town knows it.",
    "Only the baker, and he would never use it.",
)
_SHORT = ("Not now.", "Yes, now.", "You lied.", "I did not.", "Give it back.", "Never.",
          "Let go.", "You first.")  # fmt: skip
_TO_ALL = (
    "Everyone, listen to me for a moment.",
    "My friends, tonight we open the door.",
    "Let us all drink to the captain.",
    "All of you know what happened here.",
)
_STRONG = ("Stop, that is not what happened at all!", "No, the lamp was mine, and you knew it!")


@dataclass(frozen=True)
class Span:
    """What an editor shows for a while.

    Args:
        start: From when, in seconds.
        end: Until when.
        shot: Name of the shot.
        accepted: Names of further shots that are as good.
    """

    start: float
    end: float
    shot: str
    accepted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Gesture:
    """Somebody moves for a while: "speech", "gesture", a large one, or "walk" by some pixels."""

    start: float
    end: float
    actor: int
    kind: str
    distance: float = 0.0


@dataclass
class Script:
    """A scene as it is written.

    Args:
        names: The actors from left to right.
        lines: What is said.
        gestures: Who moves when.
        reference: The edit by the rule of each beat.
        beats: Name and beginning of each beat.
    """

    names: tuple[str, ...]
    lines: list[Utterance] = field(default_factory=list)
    gestures: list[Gesture] = field(default_factory=list)
    reference: list[Span] = field(default_factory=list)
    beats: list[tuple[str, float]] = field(default_factory=list)


class _Writer:
    def __init__(self, draw: np.random.Generator, names: tuple[str, ...]) -> None:
        self.draw, self.script, self.now = draw, Script(names), 0.6
        self.names = names

    def pick(self, texts: tuple[str, ...]) -> str:
        return texts[int(self.draw.integers(len(texts)))]

    def gap(self) -> None:
        self.now += float(self.draw.uniform(0.2, 0.8))

    def say(self, actor: int, text: str) -> tuple[float, float]:
        start = self.now
        end = start + len(text.split()) / _WORDS_PER_SECOND
        self.script.lines.append(Utterance(start, end, text, self.names[actor]))
        self.script.gestures.append(Gesture(start, end, actor, "speech"))
        self.now = end
        return start, end

    def show(self, start: float, end: float, shot: str, *accepted: str) -> None:
        self.script.reference.append(Span(start, end, shot, accepted))

    def single(self, actor: int) -> str:
        return f"MS:{self.names[actor]}"

    def pair(self, one: int, other: int) -> str:
        left, right = sorted((one, other))
        return f"MS:{self.names[left]}+{self.names[right]}"

    def two(self) -> tuple[int, int]:
        """Two neighbours, in either order."""
        left = int(self.draw.integers(len(self.names) - 1))
        pair = (left, left + 1)
        return pair if self.draw.random() < 0.5 else pair[::-1]


def write_script(draw: np.random.Generator, num_actors: int, seconds: float) -> Script:
    """Draw beats until the time is over.

    Args:
        draw: Source of all that is drawn.
        num_actors: 2 to 4.
        seconds: Length of the scene.
    """
    writer = _Writer(draw, NAMES[:num_actors])
    last = ""
    while writer.now < seconds - 3.0:
        kinds = [kind for kind in _BEATS if kind != last]
        last = kinds[int(draw.integers(len(kinds)))]
        writer.script.beats.append((last, writer.now))
        _BEATS[last](writer)
        writer.gap()
    script = writer.script
    _cut_at(script, seconds)
    _move_about(script, draw, seconds)
    script.reference = _tiled(script.reference, seconds)
    return script


def _monologue(writer: _Writer) -> None:
    speaker, listener = writer.two()
    start = writer.now
    for _ in range(int(writer.draw.integers(2, 4))):
        writer.say(speaker, writer.pick(_STATEMENTS))
        writer.now += 0.25
    end, single = writer.now - 0.25, writer.single(speaker)
    insert = start + _INSERT_AFTER
    if end - insert < _INSERT + 1.2:
        writer.show(start, end, single)
        return
    writer.show(start, insert, single)
    writer.show(insert, insert + _INSERT, writer.single(listener), single)
    writer.show(insert + _INSERT, end, single, writer.single(listener))


def _question(writer: _Writer) -> None:
    asks, answers = writer.two()
    start, _ = writer.say(asks, writer.pick(_QUESTIONS))
    writer.gap()
    middle, end = writer.say(answers, writer.pick(_ANSWERS))
    writer.show(start, middle, writer.single(asks), writer.pair(asks, answers))
    writer.show(middle, end, writer.single(answers), writer.pair(asks, answers))


def _exchange(writer: _Writer) -> None:
    one, other = writer.two()
    start = writer.now
    for number in range(int(writer.draw.integers(5, 8))):
        writer.say((one, other)[number % 2], writer.pick(_SHORT))
        writer.now += 0.2
    writer.show(start, writer.now - 0.2, writer.pair(one, other))


def _address_all(writer: _Writer) -> None:
    speaker = int(writer.draw.integers(len(writer.names)))
    start, end = writer.say(speaker, writer.pick(_TO_ALL))
    writer.show(start, end, "WIDE")


def _interruption(writer: _Writer) -> None:
    one, other = writer.two()
    start, end = writer.say(one, writer.pick(_STATEMENTS))
    writer.now = end - 0.4
    middle, end = writer.say(other, writer.pick(_STRONG))
    writer.show(start, middle, writer.single(one))
    writer.show(middle, end, writer.single(other), writer.pair(one, other))


def _silent_one(writer: _Writer) -> None:
    actor = int(writer.draw.integers(len(writer.names)))
    start, end = writer.now, writer.now + float(writer.draw.uniform(5.0, 6.5))
    writer.script.gestures.append(Gesture(start, end, actor, "gesture"))
    writer.show(start, end, writer.single(actor))
    writer.now = end


def _silent_all(writer: _Writer) -> None:
    start, end = writer.now, writer.now + float(writer.draw.uniform(5.0, 6.5))
    for actor in range(len(writer.names)):
        writer.script.gestures.append(Gesture(start, end, actor, "gesture"))
    writer.show(start, end, "WIDE")
    writer.now = end


_BEATS: dict[str, Callable[[_Writer], None]] = {
    "monologue": _monologue,
    "question": _question,
    "exchange": _exchange,
    "address_all": _address_all,
    "interruption": _interruption,
    "silent_one": _silent_one,
    "silent_all": _silent_all,
}


def _cut_at(script: Script, seconds: float) -> None:
    """Drop and shorten what runs past the end."""
    kept = [line for line in script.lines if line.start < seconds - 0.4]
    script.lines = [
        Utterance(one.start, min(one.end, seconds), one.text, one.speaker) for one in kept
    ]
    script.gestures = [
        Gesture(one.start, min(one.end, seconds), one.actor, one.kind)
        for one in script.gestures
        if one.start < seconds - 0.4
    ]
    script.lines.sort(key=lambda one: one.start)


def _move_about(script: Script, draw: np.random.Generator, seconds: float) -> None:
    """Two gestures of people who steal the scene, and a few steps."""
    spoken = [one for one in script.gestures if one.kind == "speech" and one.end - one.start > 2]
    count = min(2, len(spoken))
    for place in sorted(draw.choice(len(spoken), count, replace=False)) if count else ():
        line = spoken[int(place)]
        others = [a for a in range(len(script.names)) if a != line.actor]
        actor = others[int(draw.integers(len(others)))]
        script.gestures.append(Gesture(line.start + 0.3, line.end, actor, "gesture"))
    for _ in range(max(1, round(seconds / 15))):
        start = float(draw.uniform(0.1, 0.85)) * seconds
        distance = float(draw.uniform(20, 60)) * float(draw.choice([-1, 1]))
        # A smooth step is half as fast again as its mean; at most 120 px/s.
        end = start + max(1.0, abs(distance) * 1.5 / 110)
        actor = int(draw.integers(len(script.names)))
        script.gestures.append(Gesture(start, end, actor, "walk", distance))


def _tiled(spans: list[Span], seconds: float) -> list[Span]:
    """The reference without holes: each shot until the next, none shorter than 1.2 s."""
    opening = Span(0.0, _OPENING, "WIDE")
    found = [opening]
    for span in sorted(spans, key=lambda one: one.start):
        start, end = max(span.start, found[-1].start), min(span.end, seconds)
        if end <= found[-1].end and found[-1] is opening:
            continue
        start = max(start, opening.end)
        if end - start < 1.2:
            continue
        if found[-1].shot == span.shot:
            accepted = tuple(dict.fromkeys((*found[-1].accepted, *span.accepted)))
            found[-1] = Span(found[-1].start, end, span.shot, accepted)
            continue
        found[-1] = Span(found[-1].start, start, found[-1].shot, found[-1].accepted)
        found.append(Span(start, end, span.shot, span.accepted))
    last = found[-1]
    found[-1] = Span(last.start, seconds, last.shot, last.accepted)
    return found
