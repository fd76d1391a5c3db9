"""An edited film: what was decided, what it was decided by, and why."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from salhub.models.editiq.actor_tracks import ActorTracks
from salhub.models.editiq.configuration_editiq import EditIQConfig
from salhub.models.editiq.dialogue_potential import Cue
from salhub.models.editiq.edit_decision import EditDecision
from salhub.models.editiq.energy import Energy
from salhub.models.editiq.film_saliency import ActorSaliency
from salhub.models.editiq.line_readings import LineReading
from salhub.models.editiq.programme import HARD
from salhub.models.editiq.rushes import Rushes
from salhub.models.editiq.shots import Lock
from salhub.models.editiq.utterances import Transcript


@dataclass(frozen=True)
class Material:
    """All that is known of a film before it is edited; no picture is among it.

    Args:
        tracks: Where people are.
        measured: What they draw of the eye.
        transcript: The lines, their speakers called as in the tracks.
        readings: One a line.
        rushes: The shots and their crops.
        rushes_key: Digest of the settings that they were made with.
        warnings: What was guessed, filled or dropped.
    """

    tracks: ActorTracks
    measured: ActorSaliency
    transcript: Transcript
    readings: tuple[LineReading, ...]
    rushes: Rushes
    rushes_key: str
    warnings: tuple[str, ...]


class Explanation(NamedTuple):
    """Why a shot is on screen: what the edit costs, beside the best one without it.

    Args:
        time: In seconds.
        shot: Name of the shot on screen then.
        runner_up: Name of the shot that the best other edit has there; None where there is no
            other, as in a locked time.
        rows: (term, cost of the edit, cost of the other one), over the whole film, where they
            differ.
        margin: How much dearer the other edit is; below 0 where the first-order programme missed
            it.
        start: From when the two differ, in seconds.
        end: Until when.
        text: The same in a sentence or two.
    """

    time: float
    shot: str
    runner_up: str | None
    rows: tuple[tuple[str, float, float], ...]
    margin: float
    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Edit:
    """An edit and everything that it was made of.

    Args:
        decision: The list of shots.
        material: What is known of the film.
        config: The settings.
        dialogue_potential: (R, T) worth of the shots by what is said, on the clock of the film.
        saliency_potential: (R, T) by where the picture draws the eye.
        cues: What the dialogue potential was made of.
        scene_energy: The energy, on the clock of its decisions.
        path: (D,) place of the shot of each decision.
        frames_per_decision: Frames of the film for each of them.
        first_decision: Frame of the first one; before it stands a wide shot of fixed length.
        energy: What the edit costs.
        energy_terms: Term -> (D,) cost of each decision; their sum is `energy`.
        locks: What was demanded.
        warnings: All that was guessed, dropped, or could not be held.
    """

    decision: EditDecision
    material: Material
    config: EditIQConfig
    dialogue_potential: np.ndarray
    saliency_potential: np.ndarray
    cues: tuple[Cue, ...]
    scene_energy: Energy
    path: np.ndarray
    frames_per_decision: int
    first_decision: int
    energy: float
    energy_terms: dict[str, np.ndarray]
    locks: tuple[Lock, ...]
    warnings: tuple[str, ...]

    @property
    def rushes(self) -> Rushes:
        """The shots and their crops."""
        return self.material.rushes

    @property
    def tracks(self) -> ActorTracks:
        """Where people are."""
        return self.material.tracks

    @property
    def readings(self) -> tuple[LineReading, ...]:
        """What was read in each line."""
        return self.material.readings

    @property
    def transcript(self) -> Transcript:
        """The lines."""
        return self.material.transcript

    def explain(self, time: float) -> Explanation:
        """Say why a shot is on screen.

        The best edit that has another shot at this time is found anew, exactly, and compared.

        Args:
            time: In seconds of the film.

        Raises:
            ValueError: The film does not last so long.
        """
        decision, rate = self.decision, float(self.decision.frame_rate)
        duration = decision.num_frames / rate
        if not 0 <= time < duration:
            raise ValueError(f"{time:g} s is outside the film, which lasts {duration:.2f} s.")
        frame = min(decision.num_frames - 1, int(time * rate))
        shown = decision.span_at(frame).shot.name
        place = (frame - self.first_decision) // self.frames_per_decision
        if frame < self.first_decision:
            text = f"{shown}, because every film begins with a wide shot of fixed length."
            return Explanation(time, shown, None, (), 0.0, 0.0, self.first_decision / rate, text)
        place = min(place, len(self.path) - 1)
        energy = self.scene_energy
        unary = energy.unary.copy()
        unary[self.path[place], place] = np.inf
        if not np.isfinite(unary[:, place]).any():
            text = f"{shown}, because no other shot is allowed at {time:g} s."
            return Explanation(time, shown, None, (), 0.0, time, time, text)
        other = energy.solve("exact", unary)
        differs = np.flatnonzero(other.shots != self.path)
        first, last = int(differs[0]), int(differs[-1]) + 1
        theirs = energy.terms(other.shots)
        rows = []
        for name, own in self.energy_terms.items():
            pair = float(own.sum()), float(theirs[name].sum())
            if abs(pair[0] - pair[1]) > 1e-9:
                rows.append((name, *pair))
        rows.sort(key=lambda row: row[1] - row[2])
        runner_up = energy.scene.shots[int(other.shots[place])].name
        margin = other.energy - self.energy
        start, end = (
            (self.first_decision + at * self.frames_per_decision) / rate for at in (first, last)
        )
        text = _sentence(shown, runner_up, rows, margin, self._reasons(time))
        if margin < 0:
            text += " First-order optimization did not find it."
        return Explanation(time, shown, runner_up, tuple(rows), margin, start, end, text)

    def _reasons(self, time: float) -> list[str]:
        ahead = self.config.dialogue_advance
        return [cue.why for cue in self.cues if cue.start - ahead <= time < cue.end - ahead]

    def to_dict(self) -> dict[str, Any]:
        """The edit as JSON holds it: decision, readings, energy by term, locks and warnings."""
        return {
            "decision": self.decision.to_dict(),
            "readings": [one.to_dict() for one in self.readings],
            "energy": self.energy,
            "energy_terms": {name: float(one.sum()) for name, one in self.energy_terms.items()},
            "locks": [[one.start, one.end, one.shot] for one in self.locks],
            "warnings": list(self.warnings),
        }


def _sentence(
    shown: str,
    runner_up: str,
    rows: Sequence[tuple[str, float, float]],
    margin: float,
    reasons: Sequence[str],
) -> str:
    gains = [f"{name} ({own:.1f} against {other:.1f})" for name, own, other in rows if own < other]
    price = [f"{name} ({own:.1f} against {other:.1f})" for name, own, other in rows if own > other]
    how = f"{margin:.2f} more" if margin >= 0 else f"{-margin:.2f} less"
    text = f"{shown} rather than {runner_up}, which would cost {how} in total."
    if margin >= HARD:
        text = f"{shown} rather than {runner_up}, which would break a rule."
    if gains:
        text += f" It is better by {', '.join(gains[:2])}"
        text += f", and worse by {', '.join(price[:2])}." if price else "."
    if reasons:
        text += f" Dialogue at that time: {', '.join(dict.fromkeys(reasons))}."
    return text
