"""Rushes: what every virtual camera would have filmed, cut out of the wide shot."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from typing import Any, NamedTuple, Self

import numpy as np

from salhub.models.editiq.actor_tracks import ActorTracks
from salhub.models.editiq.configuration_editiq import (
    MOST_ACTORS,
    REFERENCE_HEIGHT,
    REFERENCE_RATE,
    EditIQConfig,
)
from salhub.models.editiq.shots import Lock, Shot
from salhub.models.editiq.steady_tracks import SteadyTracks, steady
from salhub.models.editiq.trajectories import Term, solve_trajectories

# Pull of a place where nobody is: only so strong that the camera knows where to wait.
_AWAY = 1e-3
# Least room between the bounds of a path, in pixels of a film of 1080 lines.
_ROOM = 1.0


@dataclass(frozen=True)
class Rushes:
    """The shots of a film and their crops.

    Args:
        shots: R shots, the wide one first.
        crops: (R, T, 4) float32, x1, y1, x2, y2 in pixels of the film.
        offered: (R, T) bool: where all actors of a shot are there, side by side, and fit into it.
        boxes: (A, T, 4) float32 of the people, steady; NaN where they are away.
        names: Of the people.
        frame_rate: Of the T frames.
        frame_size: (width, height) of the film.
        warnings: What could not be held.
    """

    shots: tuple[Shot, ...]
    crops: np.ndarray
    offered: np.ndarray
    boxes: np.ndarray
    names: tuple[str, ...]
    frame_rate: Fraction
    frame_size: tuple[int, int]
    warnings: tuple[str, ...] = ()

    def to_arrays(self) -> dict[str, Any]:
        """All of it as arrays and values that JSON holds."""
        return {
            "crops": self.crops,
            "offered": self.offered,
            "boxes": self.boxes,
            "shots": [shot.name for shot in self.shots],
            "names": list(self.names),
            "frame_rate": str(self.frame_rate),
            "frame_size": list(self.frame_size),
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_arrays(cls, content: dict[str, Any]) -> Self:
        """Read what `to_arrays` gave."""
        width, height = content["frame_size"]
        return cls(
            tuple(Shot.parse(name) for name in content["shots"]),
            content["crops"],
            content["offered"],
            content["boxes"],
            tuple(content["names"]),
            Fraction(content["frame_rate"]),
            (int(width), int(height)),
            tuple(content["warnings"]),
        )


def make_rushes(
    tracks: ActorTracks,
    config: EditIQConfig,
    progress: Callable[[int, int], None] | None = None,
) -> Rushes:
    """Aim a virtual camera at every actor and every group, and keep the wide shot.

    Args:
        tracks: Where people are.
        config: Which shots there are, and how cameras move.
        progress: Called with how many of the three axes are done, and 3.

    Returns:
        The rushes. Every crop but the wide one has the aspect of `config` and lies in the frame.

    Source: Gandhi, Ronfard and Gleicher 2014 (CVMP); the terms, not the weights.
    """
    known = steady(tracks, config.longest_gap, config.smooth_tracks)
    shots, notes = shots_of(tracks.names, known.order, config)
    if known.filled:
        notes.append(f"{known.filled} boxes were missing for a short time and were interpolated.")
    size = tracks.frame_size
    aims = [_Aim(shot, tracks.names, known, config) for shot in shots[1:]]
    cameras = _Cameras(aims, known, config, size, float(tracks.frame_rate))
    crops = cameras.crops(progress)
    offered = np.stack([aim.offered for aim in aims]) & cameras.fits
    notes += _never_offered(shots[1:], cameras.fits.any(1), offered.any(1), size, config)
    length = tracks.num_frames
    whole = np.broadcast_to(np.array([0, 0, *size], np.float32), (1, length, 4))
    away = ~known.present[..., None]
    return Rushes(
        tuple(shots),
        np.concatenate([whole, crops.astype(np.float32)]),
        np.concatenate([np.ones((1, length), bool), offered]),
        np.where(away, np.nan, known.boxes).astype(np.float32),
        tracks.names,
        tracks.frame_rate,
        size,
        tuple(notes),
    )


def _never_offered(
    shots: Sequence[Shot],
    fits: np.ndarray,
    offered: np.ndarray,
    size: tuple[int, int],
    config: EditIQConfig,
) -> list[str]:
    """Sentences on the shots that a film never has."""
    notes = []
    apart = [one.name for one, f, o in zip(shots, fits, offered, strict=True) if f and not o]
    if apart:
        notes.append(
            "Some shots are not offered, because their people are never on screen next to "
            f"each other: {_some(apart)}."
        )
    large = [one.name for one, f in zip(shots, fits, strict=True) if not f]
    if large:
        note = (
            "Some shots are not offered, because they are larger than a crop can be: "
            f"{_some(large)}."
        )
        if size[0] < size[1] and config.aspect > 1:
            note += (
                f" The film is upright and its crops are {config.aspect_ratio}; set aspect_ratio."
            )
        notes.append(note)
    return notes


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 5 else ""
    return ", ".join(names[:4] if more else names) + more


def shots_of(
    names: tuple[str, ...], order: np.ndarray, config: EditIQConfig
) -> tuple[list[Shot], list[str]]:
    """Return all shots of a cast, the wide one first, and what is to be said of them.

    Args:
        names: Of A actors.
        order: (T, A) places of the actors from left to right.
        config: Which there are.
    """
    notes = []
    is_all = config.subset_policy == "all"
    if len(names) > MOST_ACTORS and is_all:
        is_all = False
        notes.append(
            f"There are {len(names)} actors, too many for a shot of every group; only "
            "neighbours have a shot together."
        )
    groups: dict[frozenset[int], tuple[int, ...]] = {}
    for row in np.unique(order, axis=0):
        people = tuple(int(a) for a in row)
        for count in range(2, len(people) + 1):
            runs = (people[i : i + count] for i in range(len(people) - count + 1))
            for group in combinations(people, count) if is_all else runs:
                groups.setdefault(frozenset(group), group)
    first = [int(a) for a in order[0]]
    shots = [Shot("WIDE"), *(Shot("MS", (names[a],)) for a in first)]
    if config.full_shots or len(names) == 1:
        shots += [Shot("FS", (names[a],)) for a in first]
    for group in sorted(groups.values(), key=lambda one: (len(one), [first.index(a) for a in one])):
        members = tuple(names[a] for a in sorted(group, key=first.index))
        shots.append(Shot(config.group_size, members))
    return shots, notes


def check_sizes(locks: Sequence[Lock], cast: Sequence[str] | None, config: EditIQConfig) -> None:
    """Refuse locks of shots of a size that no actor or group has.

    Args:
        locks: What a person demands.
        cast: Names of the actors, where they are known.
        config: Which shots there are.

    Raises:
        ValueError: The sentence says which setting has such shots.
    """
    for lock in locks:
        shot = Shot.parse(lock.shot)
        if len(shot.actors) > 1 and shot.size != config.group_size:
            raise ValueError(
                f"The lock of {lock.shot} requires a shot that does not exist; groups have "
                f"{config.group_size}, see group_size."
            )
        is_alone = cast is None or len(cast) == 1
        if len(shot.actors) == 1 and shot.size == "FS" and not (config.full_shots or is_alone):
            raise ValueError(
                f"The lock of {lock.shot} requires a shot that does not exist; set "
                f"full_shots=True, or lock MS:{shot.actors[0]}."
            )


class _Aim:
    """What one camera should show at each frame, in pixels of the film."""

    def __init__(
        self, shot: Shot, names: tuple[str, ...], known: SteadyTracks, config: EditIQConfig
    ) -> None:
        self.shot = shot
        self.members = [names.index(name) for name in shot.actors]
        boxes, there = known.boxes[self.members], known.present[self.members]
        body = boxes[..., 3] - boxes[..., 1]
        is_medium = shot.size == "MS"
        factor = config.medium_factor if is_medium else config.full_factor
        room = config.medium_head_room if is_medium else config.full_head_room
        self.left, self.right = boxes[..., 0].min(0), boxes[..., 2].max(0)
        self.top = (boxes[..., 1] - room * body).min(0)
        self.bottom = (boxes[..., 1] + factor * body).max(0)
        self.middle = boxes[..., ::2].mean(2).mean(0)
        self.is_there = there.all(0)
        self.offered = self.is_there & self._side_by_side(known.order, config)
        self.side = np.zeros(len(self.middle))
        if len(self.members) == 1 and len(names) > 1:
            self.side -= known.order[:, 0] == self.members[0]
            self.side += known.order[:, -1] == self.members[0]

    def _side_by_side(self, order: np.ndarray, config: EditIQConfig) -> np.ndarray:
        if config.subset_policy == "all" and order.shape[1] <= MOST_ACTORS:
            return np.ones(len(order), bool)
        places = np.sort(np.argsort(order, axis=1)[:, self.members], axis=1)
        return places[:, -1] - places[:, 0] == len(self.members) - 1


class _Axis(NamedTuple):
    targets: np.ndarray
    low: np.ndarray
    high: np.ndarray


class _Cameras:
    """All cameras of a film; their sizes are found first, then where they stand."""

    def __init__(
        self,
        aims: list[_Aim],
        known: SteadyTracks,
        config: EditIQConfig,
        size: tuple[int, int],
        rate: float,
    ) -> None:
        self.aims, self.known, self.config = aims, known, config
        self.aspect = float(config.aspect)
        self.scale = REFERENCE_HEIGHT / size[1]
        self.width, self.height = size[0] * self.scale, float(REFERENCE_HEIGHT)
        self.rate = rate / REFERENCE_RATE
        names = ("left", "right", "top", "bottom", "middle")
        self.region = {n: self.scale * np.stack([getattr(a, n) for a in aims]) for n in names}
        self.largest = min(self.height / 2, self.width / (2 * self.aspect))
        needed = np.maximum(
            (self.region["bottom"] - self.region["top"]) / 2,
            (self.region["right"] - self.region["left"]) / (2 * self.aspect),
        )
        self.needed = np.maximum(needed, config.smallest_crop * self.height)
        self.fits = self.needed <= self.largest
        there = np.stack([aim.is_there for aim in aims])
        counts = np.array([len(aim.members) for aim in aims])[:, None]
        self.weights = np.where(there, counts, _AWAY).astype(np.float64)

    def crops(self, progress: Callable[[int, int], None] | None) -> np.ndarray:
        half = self._solve(self._sizes(), ())
        _tell(progress, 1)
        across = self._columns(half)
        middle = self._solve(across, self._others(half), follows="middle")
        middle = np.clip(middle, self.aspect * half, self.width - self.aspect * half)
        _tell(progress, 2)
        down = self._solve(self._rows(half), ())
        down = np.clip(down, half, self.height - half)
        _tell(progress, 3)
        wide = self.aspect * half
        sides = (middle - wide, down - half, middle + wide, down + half)
        return np.stack(sides, axis=-1) / self.scale

    def _sizes(self) -> _Axis:
        low = np.full_like(self.needed, self.config.smallest_crop * self.height)
        if self.config.containment:
            low = self.needed
        low = np.minimum(low, self.largest - _ROOM)
        targets = np.clip(self.needed, low, self.largest)
        return _Axis(targets, low, np.full_like(low, self.largest))

    def _columns(self, half: np.ndarray) -> _Axis:
        wide = self.aspect * half
        side = np.stack([aim.side for aim in self.aims])
        targets = self.region["middle"] - self.config.look_room * wide * side
        return self._bounded(targets, wide, self.region["left"], self.region["right"], self.width)

    def _rows(self, half: np.ndarray) -> _Axis:
        top, bottom = self.region["top"], self.region["bottom"]
        # Head room that is outside of the frame cannot be shown.
        inside = np.maximum(top, 0), np.minimum(bottom, self.height)
        return self._bounded((top + bottom) / 2, half, *inside, self.height)

    def _bounded(
        self, targets: np.ndarray, half: np.ndarray, low: np.ndarray, high: np.ndarray, end: float
    ) -> _Axis:
        """Bounds that keep a region from `low` to `high` in a crop, and the crop in the frame."""
        least, most = half, end - half
        if self.config.containment:
            holds_low = np.where(self.fits, np.maximum(least, high - half), least)
            holds_high = np.where(self.fits, np.minimum(most, low + half), most)
            # Of people at the edge of the frame the frame decides.
            least, most = np.minimum(holds_low, most), np.maximum(holds_high, least)
        middle, room = (least + most) / 2, np.maximum((most - least) / 2, _ROOM)
        return _Axis(targets, middle - room, middle + room)

    def _solve(self, axis: _Axis, terms: tuple[Term, ...], follows: str | None = None):
        every = (*self._motion(), *self._manners(follows), *terms)
        kept = [term for term in every if np.any(term.low) or np.any(term.high)]
        return solve_trajectories(axis.targets, self.weights, kept, axis.low, axis.high).paths

    def _motion(self) -> list[Term]:
        config, length = self.config, self.weights.shape[1]
        groups = np.array([len(aim.members) > 1 for aim in self.aims])[:, None]
        firsts, thirds = config.camera_first_groups, config.camera_third_groups
        given = {
            1: (config.camera_first, firsts),
            2: (config.camera_second, None),
            3: (config.camera_third, thirds),
        }
        terms = []
        for order, (single, group) in given.items():
            weight = np.where(groups, single if group is None else group, single)
            weight = weight * self.rate**order * np.ones((1, max(length - order, 0)))
            terms.append(Term(order, -weight, weight))
        return terms

    def _manners(self, follows: str | None) -> list[Term]:
        """No motion while the actors are still; and none that is faster than theirs."""
        config = self.config
        middles = self.scale * self.known.boxes[..., ::2].mean(2)
        speeds = np.diff(middles, axis=1)
        slow = np.abs(speeds) * self.rate < config.still_speed
        is_still = np.stack([slow[aim.members].all(0) for aim in self.aims])
        weight = config.camera_still * self.rate * is_still
        terms = [Term(1, -weight, weight)]
        if follows is not None and config.camera_overtake:
            own = np.diff(self.region[follows], axis=1)
            weight = config.camera_overtake * self.rate**2 * np.abs(own)
            terms.append(Term(1, np.where(own < 0, -weight, 0), np.where(own > 0, weight, 0), own))
        return terms

    def _others(self, half: np.ndarray) -> tuple[Term, ...]:
        """People beside a region are kept out; those who touch it are pulled in."""
        wide, shape = self.aspect * half, half.shape
        clear = self.config.clear_distance
        offsets = {name: np.full(shape, np.nan) for name in ("out+", "out-", "in+", "in-")}
        boxes = self.scale * self.known.boxes
        for row, aim in enumerate(self.aims):
            left, right = self.region["left"][row], self.region["right"][row]
            for other in set(range(len(boxes))) - set(aim.members):
                there = self.known.present[other]
                x1, x2 = boxes[other, :, 0], boxes[other, :, 2]
                is_right, is_left = there & (x1 > right + clear), there & (x2 < left - clear)
                touches = there & (x1 < right) & (x2 > left)
                places = (
                    ("out+", is_right, x1 - wide[row], np.fmin),
                    ("out-", is_left, x2 + wide[row], np.fmax),
                    ("in+", touches & (x2 > right), x2 - wide[row], np.fmax),
                    ("in-", touches & (x1 < left), x1 + wide[row], np.fmin),
                )
                for name, where, offset, nearest in places:
                    known = offsets[name][row]
                    offsets[name][row] = np.where(where, nearest(known, offset), known)
        terms = []
        for name, offset in offsets.items():
            weight = np.where(np.isnan(offset), 0.0, self.config.camera_outside)
            # A path above "out+" shows a stranger on its right; below "in+" it cuts one.
            high = weight if name in ("out+", "in-") else np.zeros(shape)
            low = -weight if name in ("out-", "in+") else np.zeros(shape)
            terms.append(Term(0, low, high, np.nan_to_num(offset)))
        return tuple(terms)


def _tell(progress: Callable[[int, int], None] | None, done: int) -> None:
    if progress is not None:
        progress(done, 3)
