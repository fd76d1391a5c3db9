"""The cheapest sequence of shots, exact with the time that each has been on screen."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

# Cost of what must not be: above any sum of other terms, and small enough to leave digits to them.
HARD = 1e5
# Costs of transitions are made for so many frames at once, so that memory does not grow.
_CHUNK = 512

# Takes the first and one past the last frame, and gives (n, R, R): from each shot to each other.
TransitionCosts = Callable[[int, int], np.ndarray]


@dataclass(frozen=True)
class Rhythm:
    """What the time on screen costs, by frames since the shot began, 1 to M.

    Args:
        cut: (M,) cost of leaving a shot that has been on screen for so long.
        stay: (M,) cost of keeping it for one more frame; the last one counts for all longer times.
        enter: Cost of the first frame of a shot.
        end: (M,) cost of the film ending then.
    """

    cut: np.ndarray
    stay: np.ndarray
    enter: float
    end: np.ndarray

    def __post_init__(self) -> None:
        if not len(self.cut) == len(self.stay) == len(self.end) >= 2:
            raise ValueError(
                "A rhythm needs costs for two or more durations, the same number of each kind."
            )


class Path(NamedTuple):
    """A sequence of shots.

    Args:
        shots: (T,) int64.
        energy: What it costs.
    """

    shots: np.ndarray
    energy: float


def solve_exactly(
    unary: np.ndarray, transitions: TransitionCosts, rhythm: Rhythm, cut_cost: np.ndarray
) -> Path:
    """Find the cheapest sequence of shots by dynamic programming over shot and time on screen.

    Args:
        unary: (R, T) cost of showing each shot; infinite where it must not be shown.
        transitions: Of frames a to b, the cost of a cut that is made there from each shot to each
            other, (b - a, R, R).
        rhythm: M durations.
        cut_cost: (T,) further cost of a cut at each frame.

    Returns:
        The path. O(T R (M + R)) time, O(T R) memory.

    Raises:
        ValueError: No sequence is finite.

    Example:
        >>> rhythm = Rhythm(np.zeros(2), np.zeros(2), 0.0, np.zeros(2))
        >>> unary = np.array([[0.0, 3.0], [1.0, 0.0]])
        >>> solve_exactly(unary, lambda a, b: np.ones((b - a, 2, 2)), rhythm, np.zeros(2))
        Path(shots=array([0, 1]), energy=1.0)
    """
    num_shots, num_frames = unary.shape
    states = len(rhythm.cut)
    values = np.full((num_shots, states), np.inf)
    values[:, 0] = unary[:, 0] + rhythm.enter
    nxt, leaving = np.empty_like(values), np.empty_like(values)
    came_from = np.zeros((num_frames, num_shots), np.int16)
    stayed_for = np.zeros((num_frames, num_shots), np.int32)
    is_capped = np.zeros((num_frames, num_shots), bool)
    rows, columns = np.arange(num_shots), np.ascontiguousarray(unary.T)
    for t, changes in _each_change(transitions, num_frames, num_shots):
        np.add(values, rhythm.cut, out=leaving)
        durations = leaving.argmin(1)
        arriving = leaving[rows, durations][:, None] + changes
        previous = arriving.argmin(0)
        came_from[t], stayed_for[t] = previous, durations
        np.add(values[:, :-1], rhythm.stay[:-1], out=nxt[:, 1:])
        capped = values[:, -1] + rhythm.stay[-1]
        is_capped[t] = capped <= nxt[:, -1]
        np.minimum(nxt[:, -1], capped, out=nxt[:, -1])
        nxt[:, 0] = arriving[previous, rows] + (cut_cost[t] + rhythm.enter)
        nxt += columns[t][:, None]
        values, nxt = nxt, values
    values = values + rhythm.end
    shot, state = np.unravel_index(int(values.argmin()), values.shape)
    energy = float(values[shot, state])
    if not np.isfinite(energy):
        raise ValueError(
            "No sequence of shots is allowed throughout the film; remove locks that contradict "
            "each other."
        )
    shots = np.empty(num_frames, np.int64)
    for t in range(num_frames - 1, -1, -1):
        shots[t] = shot
        if t == 0:
            break
        if state == 0:
            shot = came_from[t, shot]
            state = stayed_for[t, shot]
        elif state < states - 1 or not is_capped[t, shot]:
            state -= 1
    return Path(shots, energy)


def solve_greedy_tau(
    unary: np.ndarray, transitions: TransitionCosts, rhythm: Rhythm, cut_cost: np.ndarray
) -> Path:
    """The first-order programme, which carries the time on screen along the best path so far.

    It forgets shots that are dearer now and would be cheaper to leave, so that it is not exact.

    Args:
        unary, transitions, rhythm, cut_cost: As of `solve_exactly`.
    """
    num_shots, num_frames = unary.shape
    states = len(rhythm.cut)
    values = unary[:, 0] + rhythm.enter
    durations = np.zeros(num_shots, np.int64)
    came_from = np.zeros((num_frames, num_shots), np.int16)
    rows = np.arange(num_shots)
    for t, changes in _each_change(transitions, num_frames, num_shots):
        leaving = values + rhythm.cut[durations]
        arriving = leaving[:, None] + changes + (cut_cost[t] + rhythm.enter)
        arriving[rows, rows] = values + rhythm.stay[durations]
        previous = arriving.argmin(0)
        came_from[t] = previous
        is_same = previous == rows
        values = arriving[previous, rows] + unary[:, t]
        durations = np.where(is_same, np.minimum(durations + 1, states - 1), 0)
    shot = int((values + rhythm.end[durations]).argmin())
    shots = np.empty(num_frames, np.int64)
    for t in range(num_frames - 1, -1, -1):
        shots[t] = shot
        shot = came_from[t, shot] if t else shot
    return Path(shots, energy_of(shots, unary, transitions, rhythm, cut_cost))


def energy_of(
    shots: np.ndarray,
    unary: np.ndarray,
    transitions: TransitionCosts,
    rhythm: Rhythm,
    cut_cost: np.ndarray,
) -> float:
    """What a sequence of shots costs.

    Args:
        shots: (T,).
        unary, transitions, rhythm, cut_cost: As of `solve_exactly`.
    """
    frames = np.arange(len(shots))
    total = float(unary[shots, frames].sum())
    durations = time_on_screen(shots, len(rhythm.cut)) - 1
    is_cut = np.append(True, shots[1:] != shots[:-1])
    total += rhythm.enter * int(is_cut.sum()) + float(rhythm.end[durations[-1]])
    total += float(rhythm.stay[durations[:-1]][~is_cut[1:]].sum())
    for t in np.flatnonzero(is_cut[1:]) + 1:
        change = transitions(int(t), int(t) + 1)[0, shots[t - 1], shots[t]]
        total += float(change + cut_cost[t] + rhythm.cut[durations[t - 1]])
    return total


def time_on_screen(shots: np.ndarray, most: int) -> np.ndarray:
    """Frames since each frame's shot began, counted from 1 and not above `most`, (T,)."""
    frames = np.arange(len(shots))
    is_cut = np.append(True, shots[1:] != shots[:-1])
    began = np.maximum.accumulate(np.where(is_cut, frames, 0))
    return np.minimum(frames - began + 1, most)


def _each_change(transitions: TransitionCosts, num_frames: int, num_shots: int):
    """Yield frames from 1 on with the costs of a cut there; from a shot to itself there is none."""
    rows = np.arange(num_shots)
    for start in range(1, num_frames, _CHUNK):
        stop = min(start + _CHUNK, num_frames)
        costs = transitions(start, stop).astype(np.float64)
        costs[:, rows, rows] = np.inf
        for t in range(start, stop):
            yield t, costs[t - start]
