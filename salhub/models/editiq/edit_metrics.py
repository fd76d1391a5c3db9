"""How good an edit is: beside a reference, and by the craft of cutting alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from salhub.models.editiq.energy import overlap_of
from salhub.models.editiq.rushes import Rushes
from salhub.models.editiq.shots import Shot
from salhub.models.editiq.utterances import Transcript

# Overlap of two crops from which on a cut is a jump cut.
JUMP = 0.6
# Shares of a person inside the crop between which the frame cuts through somebody.
_CUT_LOW, _CUT_HIGH = 0.1, 0.9
# Seconds by which a cut may be off.
_NEAR = 0.5
# Pixels a frame below which a camera stands still.
_STILL = 0.05
# Where a head is, from the top of the box, as a share of its height.
_HEAD = 0.08


@dataclass(frozen=True)
class Reference:
    """How a person would cut a film.

    Args:
        shots: T names of shots.
        accepted: T sets of names that are as good.
    """

    shots: Sequence[str]
    accepted: Sequence[frozenset[str]]

    @property
    def cuts(self) -> np.ndarray:
        """Frames at which shots begin, but the first."""
        names = list(self.shots)
        return np.array([t for t in range(1, len(names)) if names[t] != names[t - 1]], int)


def measure_edit(
    shots: np.ndarray,
    rushes: Rushes,
    crops: np.ndarray,
    transcript: Transcript,
    reference: Reference | None,
    minimum_shot: float,
) -> dict[str, float]:
    """Measure an edit.

    Args:
        shots: (T,) place of each frame's shot.
        rushes: The shots.
        crops: (T, 4) what is on screen, in pixels.
        transcript: Who speaks when.
        reference: What it is compared with; None for craft alone.
        minimum_shot: Seconds; shorter shots are counted.

    Returns:
        Name -> number. "accuracy/soft": share of frames whose shot is accepted, or whose people
        are half or more of those in both shots together, the wide shot counting for itself alone.
        NaN where there is nothing to measure, such as reactions in a film without any.
    """
    rate, minutes = float(rushes.frame_rate), len(shots) / float(rushes.frame_rate) / 60
    cuts = np.flatnonzero(np.diff(shots)) + 1
    lengths = np.diff([0, *cuts.tolist(), len(shots)]) / rate
    found = {
        "cuts a minute": len(cuts) / minutes,
        "shortest shot": float(lengths.min()),
        "median shot": float(np.median(lengths)),
        "short shots": float((lengths < minimum_shot - 0.5 / rate).sum()),
        "jump cuts": _jump_cuts(shots, cuts, rushes),
        "misframed": _misframed(shots, rushes, crops),
        "heads out": _heads_out(shots, rushes, crops),
        "speaker visible": _speaker_visible(transcript, rushes, crops),
    }
    found |= _camera(cuts, crops)
    if reference is not None:
        names = [one.name for one in rushes.shots]
        shown = [names[place] for place in shots]
        alike = {pair: _alike(*pair) for pair in set(zip(shown, reference.shots, strict=True))}
        right = [
            name in good or alike[name, wanted]
            for name, wanted, good in zip(shown, reference.shots, reference.accepted, strict=True)
        ]
        found["accuracy/soft"] = float(np.mean(right))
        strict = [n in g for n, g in zip(shown, reference.accepted, strict=True)]
        found["accuracy/strict"] = float(np.mean(strict))
        found["cut f1"] = _cut_f1(cuts, reference.cuts, rate)
    return found


def _alike(name: str, wanted: str) -> bool:
    one, other = Shot.parse(name), Shot.parse(wanted)
    if "WIDE" in (one.size, other.size):
        return one.size == other.size
    people, theirs = set(one.actors), set(other.actors)
    return len(people & theirs) / len(people | theirs) >= 0.5


def _jump_cuts(shots: np.ndarray, cuts: np.ndarray, rushes: Rushes) -> float:
    count = 0
    for t in cuts:
        pair = rushes.crops[[shots[t - 1], shots[t]], t][:, None]
        count += float(overlap_of(pair, "iou")[0, 0, 1]) > JUMP
    return float(count)


def _visible(boxes: np.ndarray, crops: np.ndarray) -> np.ndarray:
    """Share of each box inside the crop, (A, T); 0 where somebody is away."""
    boxes = boxes.astype(np.float64)
    low, high = np.maximum(boxes[..., :2], crops[:, :2]), np.minimum(boxes[..., 2:], crops[:, 2:])
    area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    return np.nan_to_num(np.maximum(high - low, 0).prod(-1) / area)


def _members(shots: np.ndarray, rushes: Rushes) -> np.ndarray:
    """Who belongs to the shot on screen, (A, T)."""
    table = np.array([[n in shot.actors for n in rushes.names] for shot in rushes.shots])
    return table[shots].T


def _misframed(shots: np.ndarray, rushes: Rushes, crops: np.ndarray) -> float:
    visible = _visible(rushes.boxes, crops)
    is_cut = (visible > _CUT_LOW) & (visible < _CUT_HIGH) & ~_members(shots, rushes)
    is_wide = np.array([shot.size == "WIDE" for shot in rushes.shots])[shots]
    return float((is_cut.any(0) & ~is_wide).mean())


def _heads(boxes: np.ndarray, crops: np.ndarray) -> np.ndarray:
    """Whether the head of each person is inside the crop, (A, T)."""
    x = boxes[..., ::2].mean(-1)
    y = boxes[..., 1] + _HEAD * (boxes[..., 3] - boxes[..., 1])
    return (x >= crops[:, 0]) & (x <= crops[:, 2]) & (y >= crops[:, 1]) & (y <= crops[:, 3])


def _heads_out(shots: np.ndarray, rushes: Rushes, crops: np.ndarray) -> float:
    wanted = _members(shots, rushes) & np.isfinite(rushes.boxes).all(2)
    lost = (wanted & ~_heads(rushes.boxes, crops)).any(0)
    return float(lost.mean())


def _speaker_visible(transcript: Transcript, rushes: Rushes, crops: np.ndarray) -> float:
    inside, rate = _heads(rushes.boxes, crops), float(rushes.frame_rate)
    seen: list[np.ndarray] = []
    for line in transcript.utterances:
        if line.speaker in rushes.names:
            span = slice(round(line.start * rate), round(line.end * rate))
            seen.append(inside[rushes.names.index(line.speaker), span])
    return float(np.concatenate(seen).mean()) if seen else math.nan


def _camera(cuts: np.ndarray, crops: np.ndarray) -> dict[str, float]:
    """How the camera moves within shots: its largest acceleration, and how often it stands."""
    middle = crops.astype(np.float64).reshape(-1, 2, 2).mean(1)
    speed = np.abs(np.diff(middle, axis=0)).max(1)
    turn = np.abs(np.diff(middle, 2, axis=0)).max(1)
    across = np.zeros(len(crops) + 1, bool)
    across[cuts] = True
    # Differences over a cut are no motion.
    steady = ~across[1 : len(crops)]
    smooth = steady[:-1] & steady[1:]
    return {
        "largest acceleration": float(turn[smooth].max(initial=0.0)),
        "still frames": float((speed[steady] < _STILL).mean()) if steady.any() else 1.0,
    }


def _cut_f1(cuts: np.ndarray, wanted: np.ndarray, rate: float) -> float:
    """F1 of cuts that are near one of the reference, each of which counts once."""
    if not len(cuts) and not len(wanted):
        return 1.0
    free, hits = list(wanted), 0
    for cut in cuts:
        near = [one for one in free if abs(one - cut) <= _NEAR * rate]
        if near:
            free.remove(min(near, key=lambda one: abs(one - cut)))
            hits += 1
    return 2 * hits / (len(cuts) + len(wanted))


def reaction_recall(
    shots: np.ndarray, rushes: Rushes, inserts: Sequence[tuple[float, float, str]]
) -> float:
    """Share of reactions of a reference that are on screen for half a second or more.

    Args:
        shots: (T,) place of each frame's shot.
        rushes: The shots.
        inserts: (from, until, name of the shot of who reacts).

    Returns:
        NaN without any.
    """
    rate, found = float(rushes.frame_rate), []
    for start, end, name in inserts:
        span = shots[round(start * rate) : round(end * rate)]
        actors = set(Shot.parse(name).actors)
        right = [set(rushes.shots[place].actors) == actors for place in span]
        found.append(sum(right) >= 0.5 * rate)
    return float(np.mean(found)) if found else math.nan


def saliency_kept(kept: np.ndarray, times: np.ndarray, rushes: Rushes, crops: np.ndarray) -> float:
    """Share of the saliency of people that is inside the crop, on average.

    Args:
        kept: (A, S) mass in each box, see `ActorSaliency`.
        times: (S,) seconds.
        rushes: Where the boxes are.
        crops: (T, 4).
    """
    frames = np.clip(np.round(times * float(rushes.frame_rate)).astype(int), 0, len(crops) - 1)
    visible = _visible(rushes.boxes[:, frames], crops[frames])
    total = np.maximum(kept.sum(0), 1e-12)
    return float(((visible * kept).sum(0) / total).mean())
