"""What an edit costs: potentials, cut people, transitions, overlaps and rhythm."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from salhub.models.editiq.configuration_editiq import REFERENCE_RATE, EditIQConfig
from salhub.models.editiq.programme import (
    HARD,
    Path,
    Rhythm,
    energy_of,
    solve_exactly,
    solve_greedy_tau,
    time_on_screen,
)
from salhub.models.editiq.shots import Lock, Shot, find_shot

TERMS = ("potential", "misframing", "transition", "overlap", "rhythm: cut", "rhythm: stay", "rules")
# Seconds in which two people who change sides make a cut between shots of both dearer.
_SWAP_SECONDS = 1.0
# As its first author coded it: steps of the costs of GAZED, in units of the largest unary cost.
_GAZED_LOW, _GAZED_HIGH = 0.01, 100.0


@dataclass(frozen=True)
class Scene:
    """What the energy looks at, on the clock of its decisions.

    Args:
        shots: R shots.
        dialogue: (R, T) dialogue potential.
        saliency: (R, T) saliency potential.
        crops: (R, T, 4) in pixels.
        boxes: (A, T, 4) of people, NaN where absent.
        names: Of the people.
        rate: Decisions a second.
        offered: (R, T) bool: shots that may be shown.
        quiet: (T,) bool: nobody speaks for long.
        starts: Seconds at which lines begin.
        locks: What a person demands.
    """

    shots: tuple[Shot, ...]
    dialogue: np.ndarray
    saliency: np.ndarray
    crops: np.ndarray
    boxes: np.ndarray
    names: tuple[str, ...]
    rate: float
    offered: np.ndarray
    quiet: np.ndarray
    starts: Sequence[float] = ()
    locks: Sequence[Lock] = ()

    @property
    def num_frames(self) -> int:
        """T."""
        return self.dialogue.shape[1]


@dataclass
class Energy:
    """The energy of edits of a scene.

    Args:
        scene: The scene.
        config: Forms of the terms.
        weights: Name of each learned weight -> its value.
    """

    scene: Scene
    config: EditIQConfig
    weights: Mapping[str, float]
    _swaps: dict[int, np.ndarray] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._swaps = _swaps(self.scene)

    # --- what a shot costs at a frame -------------------------------------------------------------

    @cached_property
    def potentials(self) -> np.ndarray:
        """(R, T) of dialogue and saliency together."""
        return joint_potential(
            self.scene,
            self.config,
            self.weights["dialogue_weight"],
            self.weights["saliency_weight"],
        )

    @cached_property
    def potential_cost(self) -> np.ndarray:
        """(R, T) cost of a potential, without its scale."""
        if self.config.unary == "logarithmic":
            return -np.log(self.config.epsilon + self.potentials)
        return self.potentials.max() - self.potentials

    @cached_property
    def per_frame(self) -> float:
        """Factor of what is summed over frames."""
        return REFERENCE_RATE / self.scene.rate if self.config.unary_unit == "second" else 1.0

    @cached_property
    def unit(self) -> float:
        """Factor of all terms but the potentials."""
        if self.config.cost_unit == "absolute":
            return 1.0
        return float(self.potential_cost[self.scene.offered].max(initial=0.0)) or 1.0

    @cached_property
    def misframing(self) -> np.ndarray:
        """(R, T) how much people are cut who do not belong to a shot, see `misframing_of`."""
        return misframing_of(self.scene)

    @cached_property
    def rules(self) -> np.ndarray:
        """(R, T) 0, or infinite where a shot must not be; the first frame has a soft rule."""
        scene = self.scene
        blocked = ~scene.offered
        for lock in scene.locks:
            places = lock.places(scene.rate, scene.num_frames)
            blocked[:, places] = True
            blocked[find_shot(lock.shot, scene.shots), places] = False
        costs = np.where(blocked, np.inf, 0.0)
        if self.config.establishing == "first":
            costs[[shot.size != "WIDE" for shot in scene.shots], 0] += HARD
        return costs

    @cached_property
    def unary(self) -> np.ndarray:
        """(R, T) all that a shot costs at a frame."""
        people = self.weights["misframing_weight"] * self.unit * self.misframing
        return self.per_frame * (self.potential_cost + people) + self.rules

    # --- what a cut costs -------------------------------------------------------------------------

    def transition(self, start: int, stop: int) -> np.ndarray:
        """(n, R, R) cost of a cut from each shot to each other, whatever they show."""
        factor = np.broadcast_to(self._kinship, (stop - start, *self._kinship.shape)).copy()
        for frame in range(start, stop):
            if frame in self._swaps:
                swapped = self._swaps[frame]
                most = np.maximum(factor[frame - start], self.config.same_actors_factor)
                factor[frame - start] = np.where(swapped, most, factor[frame - start])
        return self.weights["transition_weight"] * self.unit * factor

    def overlap(self, start: int, stop: int) -> np.ndarray:
        """(n, R, R) cost of how alike both crops are."""
        shares = overlap_of(self.scene.crops[:, start:stop], self.config.overlap)
        low, high = self.config.overlap_low, self.config.overlap_high
        rising = (shares - low) / (high - low)
        if self.config.overlap == "target":
            steep = np.where(shares > high, _GAZED_HIGH, np.maximum(rising, _GAZED_LOW))
        else:
            steep = np.clip(rising, 0, 1)
        return self.weights["overlap_weight"] * self.unit * steep

    def transitions(self, start: int, stop: int) -> np.ndarray:
        """(n, R, R) all that a cut costs by its two shots."""
        return self.transition(start, stop) + self.overlap(start, stop)

    @cached_property
    def _kinship(self) -> np.ndarray:
        actors = [frozenset(shot.actors) for shot in self.scene.shots]
        same = np.array([[one == other for other in actors] for one in actors])
        return np.where(same, float(self.config.same_actors_factor), 1.0)

    @cached_property
    def cut_cost(self) -> np.ndarray:
        """(T,) cost of a cut just after the beginning of a line."""
        scene, costs = self.scene, np.zeros(self.scene.num_frames)
        for start in scene.starts:
            first = math.floor(start * scene.rate) + 1
            last = math.floor((start + self.config.snap) * scene.rate) + 1
            costs[max(0, first) : max(0, last)] = HARD
        for lock in scene.locks:
            places = lock.places(scene.rate, scene.num_frames)
            for edge in (places.start, places.stop):
                costs[edge : edge + 1] = 0.0
        return costs

    @cached_property
    def soft_rhythm(self) -> Rhythm:
        """The rhythm without its rules, by decisions since the shot began."""
        config, rate = self.config, self.scene.rate
        states = max(2, min(math.ceil(2 * config.longest_shot * rate), self.scene.num_frames))
        cut_weight = self.weights["cut_weight"] * self.unit
        stay_weight = self.weights["stay_weight"] * self.unit
        return make_rhythm(config, rate, states, cut_weight, stay_weight * self.per_frame)

    @cached_property
    def shortest(self) -> int:
        """Decisions that a shot must have."""
        frames = math.ceil(self.config.minimum_shot * self.scene.rate - 1e-9)
        return max(1, min(frames, self.scene.num_frames))

    @cached_property
    def rhythm(self) -> Rhythm:
        """The rhythm with the least length of a shot."""
        soft = self.soft_rhythm
        early = np.where(np.arange(1, len(soft.cut) + 1) < self.shortest, HARD, 0.0)
        return Rhythm(soft.cut + early, soft.stay, soft.enter, soft.end + early)

    # --- edits ------------------------------------------------------------------------------------

    def solve(self, solver: str | None = None, unary: np.ndarray | None = None) -> Path:
        """Find an edit.

        Args:
            solver: "exact" or "greedy_tau"; that of the configuration by default.
            unary: (R, T) in place of its own.
        """
        solver = solver or self.config.solver
        find = solve_exactly if solver == "exact" else solve_greedy_tau
        given = self.unary if unary is None else unary
        return find(given, self.transitions, self.rhythm, self.cut_cost)

    def of(self, shots: np.ndarray) -> float:
        """What an edit costs, (T,) places of shots."""
        return energy_of(shots, self.unary, self.transitions, self.rhythm, self.cut_cost)

    def terms(self, shots: np.ndarray) -> dict[str, np.ndarray]:
        """What an edit costs by frame and term, each (T,); their sum is `of`."""
        frames = np.arange(len(shots))
        soft, found = self.soft_rhythm, {name: np.zeros(len(shots)) for name in TERMS}
        found["potential"] = self.per_frame * self.potential_cost[shots, frames]
        people = self.misframing[shots, frames]
        found["misframing"] = self.per_frame * self.weights["misframing_weight"] * people
        found["misframing"] = found["misframing"] * self.unit
        found["rules"] += self.rules[shots, frames]
        lasted = time_on_screen(shots, len(soft.cut)) - 1
        is_cut = np.append(True, shots[1:] != shots[:-1])
        # The first frame of a shot, then each further one.
        found["rhythm: stay"] += np.where(is_cut, soft.enter, 0.0)
        found["rhythm: stay"][1:] += np.where(is_cut[1:], 0.0, soft.stay[lasted[:-1]])
        found["rhythm: stay"][-1] += soft.end[lasted[-1]]
        early = self.rhythm.cut - soft.cut
        found["rules"][-1] += (self.rhythm.end - soft.end)[lasted[-1]]
        for t in np.flatnonzero(is_cut[1:]) + 1:
            pair = (0, shots[t - 1], shots[t])
            found["transition"][t] = self.transition(int(t), int(t) + 1)[pair]
            found["overlap"][t] = self.overlap(int(t), int(t) + 1)[pair]
            found["rhythm: cut"][t] = soft.cut[lasted[t - 1]]
            found["rules"][t] += self.cut_cost[t] + early[lasted[t - 1]]
        return found


def joint_potential(
    scene: Scene, config: EditIQConfig, dialogue_weight: float, saliency_weight: float
) -> np.ndarray:
    """Dialogue and saliency potential together, (R, T), weighed otherwise where nobody speaks."""
    spoken = np.where(scene.quiet, config.quiet_dialogue_weight, dialogue_weight)
    seen = np.where(scene.quiet, config.quiet_saliency_weight, saliency_weight)
    return spoken * scene.dialogue + seen * scene.saliency


def misframing_of(scene: Scene) -> np.ndarray:
    """Sum over people who do not belong to a shot of 4 u (1 - u), (R, T).

    u is the share of a person's box inside the crop, so that people who are half in cost most.
    """
    boxes = scene.boxes.astype(np.float64)
    sizes = boxes[..., 2:] - boxes[..., :2]
    area = sizes.prod(-1)
    found = np.zeros(scene.dialogue.shape)
    for place, shot in enumerate(scene.shots):
        others = [a for a, name in enumerate(scene.names) if name not in shot.actors]
        if shot.size == "WIDE" or not others:
            continue
        crop = scene.crops[place].astype(np.float64)
        low = np.maximum(boxes[others, :, :2], crop[None, :, :2])
        high = np.minimum(boxes[others, :, 2:], crop[None, :, 2:])
        inside = np.maximum(high - low, 0).prod(-1)
        visible = np.nan_to_num(inside / area[others])
        found[place] = (4 * visible * (1 - visible)).sum(0)
    return found


def overlap_of(crops: np.ndarray, kind: str) -> np.ndarray:
    """How alike the crops of two shots are, (R, n, 4) -> (n, R, R) from each to each.

    Args:
        crops: The crops.
        kind: "iou", intersection over union, or "target", the share of the second crop.
    """
    crops = crops.astype(np.float64)
    low = np.maximum(crops[:, None, :, :2], crops[None, :, :, :2])
    high = np.minimum(crops[:, None, :, 2:], crops[None, :, :, 2:])
    shared = np.maximum(high - low, 0).prod(-1)
    area = (crops[..., 2:] - crops[..., :2]).prod(-1)
    whole = area[None] if kind == "target" else area[:, None] + area[None] - shared
    return np.moveaxis(shared / np.maximum(whole, 1e-9), 2, 0)


def make_rhythm(
    config: EditIQConfig, rate: float, states: int, cut_weight: float, stay_weight: float
) -> Rhythm:
    """Costs of durations from 1 decision to `states`.

    Args:
        config: Their form.
        rate: Decisions a second.
        states: M.
        cut_weight: Of cuts.
        stay_weight: Of every decision that a shot stays.
    """
    frames = np.arange(1, states + 1)
    seconds, none = frames / rate, np.zeros(states)
    if config.rhythm == "off":
        return Rhythm(none, none, 0.0, none)
    if config.rhythm == "sigmoid":
        cut = cut_weight * (1 - _logistic(seconds - config.shortest_shot))
        stay = stay_weight * (1 - _logistic(config.longest_shot - seconds))
        return Rhythm(cut, stay, 0.0, none)
    if config.rhythm == "gazed":
        short = _GAZED_LOW + _GAZED_HIGH * (1 - _logistic(frames - config.shortest_shot * rate))
        long = _GAZED_LOW + _GAZED_HIGH * (1 - _logistic(config.longest_shot * rate - frames))
        held = cut_weight * short + stay_weight * long
        # Charged at every frame of a shot, its first one too.
        return Rhythm(none, np.append(held[1:], held[-1]), float(held[0]), none)
    hazard = _lognormal_hazard(config, rate, states)
    # The sum over a shot is the negative log density of its length, by 1/25 s whatever the rate.
    cut = -cut_weight * np.log(hazard * rate / REFERENCE_RATE)
    return Rhythm(cut, -cut_weight * np.log1p(-hazard), 0.0, none)


def _lognormal_hazard(config: EditIQConfig, rate: float, states: int) -> np.ndarray:
    """Probability that a shot ends after each number of decisions, given that it has lasted."""
    middle = math.log(config.mode_seconds) + config.spread**2
    edges = (np.arange(states + 1) + 0.5) / rate
    below = np.array(
        [0.5 * math.erfc(-(math.log(e) - middle) / config.spread / math.sqrt(2)) for e in edges]
    )
    survives = np.maximum(1 - below, 1e-12)
    return np.clip((below[1:] - below[:-1]) / survives[:-1], 1e-9, 1 - 1e-9)


def _logistic(values: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(values / 2))


def _swaps(scene: Scene) -> dict[int, np.ndarray]:
    """Frame -> (R, R) bool: shots that show two people who have changed sides in the last second.

    Frames without any are left out.
    """
    middles = scene.boxes[..., ::2].mean(2)
    lag = max(1, round(_SWAP_SECONDS * scene.rate))
    member = np.array([[name in shot.actors for name in scene.names] for shot in scene.shots])
    found: dict[int, np.ndarray] = {}
    for a in range(len(scene.names)):
        for b in range(a):
            side = np.sign(middles[a] - middles[b])
            for frame in np.flatnonzero(side[lag:] * side[:-lag] < 0) + lag:
                both = member[:, a] & member[:, b]
                pairs = both[:, None] & both[None]
                found[int(frame)] = found.get(int(frame), False) | pairs
    return found
