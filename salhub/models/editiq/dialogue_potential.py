"""How much each shot is worth at each time by what is said."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy.ndimage import uniform_filter1d

from salhub.models.editiq.configuration_editiq import EditIQConfig
from salhub.models.editiq.line_readings import ALL, LineReading
from salhub.models.editiq.reading_rules import turns_of
from salhub.models.editiq.shots import Shot
from salhub.models.editiq.utterances import Transcript

# What the second and further shots of a list are worth, each of the one before.
_NEXT_SHOT = 0.6
# Seconds of the wide shot that comes after a long time without one, and the least pause for it.
_WIDE_SECONDS, _LEAST_PAUSE = 2.5, 0.3
# Seconds after a question in which its addressee counts while nobody answers.
_WAIT = 2.0
# Seconds of overlap from which on two people speak at once.
_OVERLAP = 0.2


@dataclass(frozen=True)
class Cue:
    """A stretch of time in which something is said of whom to show.

    Args:
        start: From when, in seconds.
        end: Until when.
        why: In a word, for whoever asks.
        importance: Actor -> 0 to 1.
        show: Names of shots, the best one first.
        wide: Worth of the wide shot; None for what it is otherwise.
        replaces: Whether it takes the place of earlier cues rather than adding to them.
    """

    start: float
    end: float
    why: str
    importance: Mapping[str, float] = field(default_factory=dict)
    show: tuple[str, ...] = ()
    wide: float | None = None
    replaces: bool = False


class DialoguePotential(NamedTuple):
    """What is said, as numbers on a clock.

    Args:
        composed: (R, T) worth of each shot by the importance of its actors, in [0, 1].
        shown: (R, T) worth by the shots that were named, in [0, 1].
        importance: (A, T) of the actors.
        quiet: (T,) bool: no line for long.
        cues: What it was made of.
    """

    composed: np.ndarray
    shown: np.ndarray
    importance: np.ndarray
    quiet: np.ndarray
    cues: tuple[Cue, ...]

    def joint(self, show_weight: float) -> np.ndarray:
        """(R, T) of both, the second one with this share."""
        return (1 - show_weight) * self.composed + show_weight * self.shown


def cues_of(
    transcript: Transcript,
    readings: Sequence[LineReading],
    config: EditIQConfig,
    duration: float,
    cast: Sequence[str],
) -> list[Cue]:
    """Return all cues of a transcript, later ones replacing earlier ones.

    Args:
        transcript: The lines.
        readings: One a line.
        config: Importances and times.
        duration: Of the film in seconds.
        cast: Names of the actors.
    """
    lines = transcript.utterances
    times = _held(lines, config.pause_seconds)
    cues = [
        _of_line(line, edges, one, config, cast)
        for line, edges, one in zip(lines, times, readings, strict=True)
    ]
    cues += _waiting(lines, readings, config)
    cues += _reactions(transcript, readings, config)
    cues += _exchanges(transcript, config)
    cues += _overlaps(lines)
    cues += _wide_ones(lines, readings, config, duration)
    return cues


def make_potential(
    cues: Sequence[Cue],
    transcript: Transcript,
    shots: Sequence[Shot],
    names: Sequence[str],
    config: EditIQConfig,
    rate: float,
    num_frames: int,
) -> DialoguePotential:
    """Turn cues into the worth of every shot at every frame.

    Args:
        cues: In order.
        transcript: The lines, for where nobody speaks.
        shots: R shots.
        names: Of the A actors.
        config: Composition, smoothing and silence.
        rate: Frames a second.
        num_frames: T.
    """
    importance = np.full((len(names), num_frames), float(config.other_importance))
    named = np.zeros((len(shots), num_frames))
    wide = np.full(num_frames, float(config.wide_prior))
    place = {_key(shot): row for row, shot in enumerate(shots)}
    rows = {name: row for row, name in enumerate(names)}
    ahead = config.dialogue_advance
    for cue in cues:
        first, last = (round((edge - ahead) * rate) for edge in (cue.start, cue.end))
        span = slice(max(0, first), max(0, last))
        if cue.replaces and cue.show:
            named[:, span] = 0
        for name, value in cue.importance.items():
            row = importance[rows[name], span]
            importance[rows[name], span] = value if cue.replaces else np.maximum(row, value)
        if cue.wide is not None:
            wide[span] = np.maximum(wide[span], cue.wide)
        for rank, show in enumerate(cue.show):
            row = place.get(_key(Shot.parse(show)))
            if row is not None:
                named[row, span] = np.maximum(named[row, span], _NEXT_SHOT**rank)
    width = 2 * round(config.dialogue_smoothing * rate / 2) + 1
    if width > 1:
        importance, named = (
            uniform_filter1d(one, width, axis=1, mode="nearest") for one in (importance, named)
        )
        wide = uniform_filter1d(wide, width, mode="nearest")
    composed = compose(importance, wide, shots, names, config.composition)
    quiet = _quiet(transcript, config.silence_seconds, rate, num_frames)
    return DialoguePotential(composed, named, importance, quiet, tuple(cues))


def compose(
    importance: np.ndarray,
    wide: np.ndarray,
    shots: Sequence[Shot],
    names: Sequence[str],
    composition: str,
) -> np.ndarray:
    """The worth of every shot by that of its actors, (R, T).

    Args:
        importance: (A, T).
        wide: (T,) worth of the wide shot.
        shots: R shots, their actors in order from left to right.
        names: Of the actors.
        composition: "least", or "recursive", where a group of n is worth L1 + L2 - |L1 - L2| by
            its n - 1 left and its n - 1 right actors.

    Source: GAZED (arXiv 2010.11886), as coded; "least" is the same divided by 2^(n - 1).
    """
    rows = {name: row for row, name in enumerate(names)}
    found = np.empty((len(shots), importance.shape[1]))
    for place, shot in enumerate(shots):
        members = importance[[rows[name] for name in shot.actors]]
        found[place] = wide if shot.size == "WIDE" else members.min(0)
        if shot.size != "WIDE" and composition == "recursive":
            # L1 + L2 - |L1 - L2| is twice the lesser one.
            found[place] *= 2 ** (len(members) - 1)
    return found


def _held(lines, longest: float) -> list[tuple[float, float]]:
    """Begin and end of each line with its half of the pauses beside it."""
    found = [(line.start, line.end) for line in lines]
    for number in range(1, len(lines)):
        end = max(line.end for line in lines[max(0, number - 3) : number])
        pause = lines[number].start - end
        if 0 < pause <= longest:
            middle = end + pause / 2
            if found[number - 1][1] == end:
                found[number - 1] = found[number - 1][0], middle
            found[number] = middle, found[number][1]
    return found


def _of_line(
    line,
    edges: tuple[float, float],
    reading: LineReading,
    config: EditIQConfig,
    cast: Sequence[str],
) -> Cue:
    importance = {}
    if reading.addressee == ALL:
        importance = dict.fromkeys(cast, float(config.addressee_importance))
    elif reading.addressee is not None:
        importance[reading.addressee] = float(config.addressee_importance)
    if line.speaker is not None:
        importance[line.speaker] = 1.0
    is_for_all = reading.kind == "address_all"
    wide = float(config.wide_value) if is_for_all else None
    return Cue(*edges, reading.kind, importance, reading.show, wide)


def _waiting(lines, readings: Sequence[LineReading], config: EditIQConfig) -> list[Cue]:
    """After a question the camera waits for its addressee."""
    found = []
    for number, (line, reading) in enumerate(zip(lines, readings, strict=True)):
        who = reading.addressee
        if reading.kind != "question" or who in (None, ALL, line.speaker):
            continue
        after = lines[number + 1].start if number + 1 < len(lines) else line.end + _WAIT
        end = min(after, line.end + _WAIT)
        if end > line.end:
            importance = {who: 1.0}
            if line.speaker is not None:
                importance[line.speaker] = float(config.addressee_importance)
            found.append(Cue(line.end, end, "answer awaited", importance, (f"MS:{who}",)))
    return found


def _reactions(
    transcript: Transcript, readings: Sequence[LineReading], config: EditIQConfig
) -> list[Cue]:
    """In the middle of a long speech, the face of who listens."""
    found = []
    for turn in turns_of(transcript):
        own = readings[turn.first : turn.last + 1]
        reactors = [one.reaction_of for one in own if one.reaction_of not in (None, turn.speaker)]
        length = turn.end - turn.start
        if not reactors or length < config.reaction_seconds + 2 * config.minimum_shot:
            continue
        start = (turn.start + turn.end - config.reaction_seconds) / 2
        importance = {reactors[0]: float(config.reactor_importance)}
        if turn.speaker is not None:
            importance[turn.speaker] = float(config.reacting_speaker_importance)
        end, show = start + config.reaction_seconds, (f"MS:{reactors[0]}",)
        found.append(Cue(start, end, "reaction", importance, show, replaces=True))
    return found


def _exchanges(transcript: Transcript, config: EditIQConfig) -> list[Cue]:
    """Two people who alternate fast are shown in one shot."""
    found: list[Cue] = []
    turns = turns_of(transcript)
    first = 0
    while first < len(turns):
        last = first
        pair = {turns[first].speaker}
        while last + 1 < len(turns):
            after = turns[last + 1]
            joined = pair | {after.speaker}
            is_fast = all(
                one.end - one.start <= config.exchange_seconds for one in (turns[last], after)
            )
            if not is_fast or len(joined) > 2 or after.speaker == turns[last].speaker:
                break
            pair, last = joined, last + 1
        if last - first >= 2 and None not in pair:
            names = sorted(pair)
            found.append(
                Cue(
                    turns[first].start, turns[last].end, "fast exchange",
                    dict.fromkeys(names, 1.0), (f"MS:{'+'.join(names)}",), replaces=True,
                )
            )  # fmt: skip
        first = max(last, first + 1)
    return found


def _overlaps(lines) -> list[Cue]:
    """People who speak at once are shown in the smallest shot of all of them."""
    found = []
    for number, line in enumerate(lines):
        for other in lines[number + 1 :]:
            if other.start >= line.end:
                break
            end = min(line.end, other.end)
            pair = {line.speaker, other.speaker}
            if end - other.start >= _OVERLAP and len(pair) == 2 and None not in pair:
                names = sorted(pair)
                show = (f"MS:{'+'.join(names)}",)
                importance = dict.fromkeys(names, 1.0)
                found.append(Cue(other.start, end, "at once", importance, show, replaces=True))
    return found


def _wide_ones(
    lines, readings: Sequence[LineReading], config: EditIQConfig, duration: float
) -> list[Cue]:
    """The wide shot at the beginning, and in a pause after a long time without it."""
    found, value = [], float(config.wide_value)
    since = 0.0
    if config.establishing == "first" and config.establishing_seconds > 0:
        end = min(float(config.establishing_seconds), duration)
        # Lines come a little early, and the beginning must not.
        end += config.dialogue_advance
        found.append(Cue(0.0, end, "establishing", {}, ("WIDE",), value, replaces=True))
    if config.reestablish_after <= 0:
        return found
    for number, (line, reading) in enumerate(zip(lines, readings, strict=True)):
        if reading.kind == "address_all":
            since = line.end
        after = lines[number + 1].start if number + 1 < len(lines) else duration
        if after - line.end >= _LEAST_PAUSE and line.end - since > config.reestablish_after:
            end = line.end + _WIDE_SECONDS
            found.append(Cue(line.end, end, "re-establishing", {}, ("WIDE",), value, replaces=True))
            since = end
    return found


def _quiet(transcript: Transcript, seconds: float, rate: float, num_frames: int) -> np.ndarray:
    quiet = np.ones(num_frames, bool)
    for line in transcript.utterances:
        first, last = round((line.start - seconds) * rate), round((line.end + seconds) * rate)
        quiet[max(0, first) : max(0, last)] = False
    return quiet


def _key(shot: Shot) -> tuple[str, frozenset[str]]:
    return shot.size, frozenset(shot.actors)
