"""Simple edits that EditIQ is compared with, and EditIQ with parts of it switched off."""

from typing import Any

import numpy as np

from salhub.models.editiq.edit import Edit
from salhub.models.editiq.rushes import Rushes
from salhub.models.editiq.utterances import Transcript

# What EditIQ's own edit is changed by: name -> settings.
VARIANTS: dict[str, dict[str, Any]] = {
    "saliency only": {
        "dialogue_weight": 0.0, "quiet_dialogue_weight": 0.0, "saliency_weight": 1.0,
        "quiet_saliency_weight": 1.0,
    },
    "dialogue only": {
        "saliency_weight": 0.0, "quiet_saliency_weight": 0.0, "dialogue_weight": 1.0,
        "quiet_dialogue_weight": 1.0,
    },
    "first-order programme": {"solver": "greedy_tau"},
    "no misframing": {"misframing_weight": 0.0},
    "no transition": {"transition_weight": 0.0},
    "no overlap": {"overlap_weight": 0.0},
    "no rhythm": {"rhythm": "off"},
    "no minimum": {"minimum_shot": 0.0},
    "no named shots": {"show_weight": 0.0},
    "no establishing": {"establishing": "off"},
    "lognormal rhythm": {"rhythm": "lognormal", "cut_weight": 1.0},
}  # fmt: skip
_RANDOM_SECONDS = (3.0, 6.0)
_SPEAKER_SECONDS = 1.0


def wide_edit(rushes: Rushes) -> np.ndarray:
    """The wide shot throughout, (T,)."""
    return np.zeros(rushes.crops.shape[1], np.int64)


def random_edit(rushes: Rushes, draw: np.random.Generator) -> np.ndarray:
    """Another shot that is offered every 3 to 6 s, drawn at random, (T,)."""
    found, now, last = wide_edit(rushes), 0, -1
    while now < len(found):
        can = np.flatnonzero(rushes.offered[:, now])
        can = can[can != last] if len(can) > 1 else can
        last = int(draw.choice(can))
        length = round(float(draw.uniform(*_RANDOM_SECONDS)) * float(rushes.frame_rate))
        found[now : now + length] = last
        now += max(1, length)
    return found


def speaker_edit(rushes: Rushes, transcript: Transcript) -> np.ndarray:
    """The medium shot of who speaks, held for a second or more; wide until somebody does, (T,)."""
    rate = float(rushes.frame_rate)
    place = {
        shot.actors[0]: row
        for row, shot in enumerate(rushes.shots)
        if shot.size == "MS" and len(shot.actors) == 1
    }
    wanted = np.full(rushes.crops.shape[1], -1)
    for line in transcript.utterances:
        if line.speaker in place:
            wanted[round(line.start * rate) : round(line.end * rate)] = place[line.speaker]
    found, since = wide_edit(rushes), 0
    shown = 0
    for frame, row in enumerate(wanted):
        lasted = (frame - since) / rate
        if row >= 0 and row != shown and lasted >= _SPEAKER_SECONDS and rushes.offered[row, frame]:
            shown, since = int(row), frame
        found[frame] = shown
    return found


def greedy_edit(edit: Edit) -> np.ndarray:
    """The shot of the largest potential at every decision, whatever a cut costs, (D,)."""
    potentials = edit.scene_energy.potentials
    return np.where(edit.scene_energy.scene.offered, potentials, -np.inf).argmax(0)
