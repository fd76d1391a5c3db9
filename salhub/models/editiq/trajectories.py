"""Paths of virtual cameras: convex programmes with absolute values, all solved as one system."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_solve_banded, cholesky_banded

# Rows of finite differences: order -> coefficients of f[t], f[t+1], ...
DIFFERENCES: dict[int, tuple[float, ...]] = {
    0: (1.0,),
    1: (-1.0, 1.0),
    2: (1.0, -2.0, 1.0),
    3: (-1.0, 3.0, -3.0, 1.0),
}
_BANDS = 4
_MOST_STEPS = 80
# Rooms are kept above it, so that nothing is divided by 0.
_LEAST = 1e-12
# The same of what its inverse multiplies in the system, which otherwise loses all digits.
_SOFTEST = 1e-9
# Cost a frame below which the gap is one to this cost and not a share.
_SMALL = 1e-2
# Unknowns of one system; longer batches are solved one after another.
_MOST_UNKNOWNS = 600_000


@dataclass(frozen=True)
class Term:
    """A convex term that is piecewise linear in the differences of a path.

    It is the sum over t of high * max(0, y - offset) + low * min(0, y - offset), y being the
    difference of this order: low = -w and high = w give w |y - offset|.

    Args:
        order: 0 for the path itself, or 1, 2 or 3.
        low: (B, T - order) slopes below the offset, 0 or less.
        high: (B, T - order) slopes above it, 0 or more.
        offset: (B, T - order) where it is 0.
    """

    order: int
    low: np.ndarray
    high: np.ndarray
    offset: np.ndarray | float = 0.0

    def value(self, paths: np.ndarray) -> np.ndarray:
        """What it costs, (B,)."""
        over = difference(paths, self.order) - self.offset
        return (self.high * np.maximum(over, 0) + self.low * np.minimum(over, 0)).sum(1)


class Trajectories(NamedTuple):
    """Paths that were found.

    Args:
        paths: (B, T).
        objective: (B,) what each costs.
        gap: (B,) the most that it is above the optimum, as a share of its cost, or of 0.01 a frame
            where that is more.
        steps: Steps of the solver.
    """

    paths: np.ndarray
    objective: np.ndarray
    gap: np.ndarray
    steps: int


def difference(paths: np.ndarray, order: int) -> np.ndarray:
    """Finite differences along the last axis, (B, T) -> (B, T - order)."""
    stop = paths.shape[1] - order
    terms = enumerate(DIFFERENCES[order])
    return sum(weight * paths[:, place : place + stop] for place, weight in terms)


def objective_of(
    paths: np.ndarray, targets: np.ndarray, weights: np.ndarray, terms: Sequence[Term]
) -> np.ndarray:
    """What paths cost, (B,): half the weighted squared distance to the targets, and the terms."""
    squared = 0.5 * (weights * (paths - targets) ** 2).sum(1)
    return squared + sum(term.value(paths) for term in terms)


def solve_trajectories(
    targets: np.ndarray,
    weights: np.ndarray,
    terms: Sequence[Term],
    low: np.ndarray,
    high: np.ndarray,
    *,
    tolerance: float = 1e-4,
) -> Trajectories:
    """Find the paths of least cost between two bounds.

    A primal-dual interior point method with Mehrotra's corrector. Absolute values enter by their
    dual variables, so that each step is one banded Cholesky factorisation of all paths together:
    the time grows with B T, and no window of it has to be cut out.

    Args:
        targets: (B, T) where the path is drawn to.
        weights: (B, T) how strongly, 0 or more.
        terms: What else it costs.
        low: (B, T) the least it may be.
        high: (B, T) the most, above `low`.
        tolerance: The gap to the optimum at which to stop, as a share of the cost.

    Returns:
        The paths; `gap` says how near each is.

    Raises:
        ValueError: Bounds that leave no room.

    Example:
        >>> targets, ones = np.array([[0.0, 0.0, 9.0, 9.0]]), np.ones((1, 4))
        >>> still = Term(1, -100 * np.ones((1, 3)), 100 * np.ones((1, 3)))
        >>> solve_trajectories(targets, ones, [still], 0 * ones, 9 * ones).paths.round(2)
        array([[4.5, 4.5, 4.5, 4.5]])

    Source: after the interior point methods of Kim et al. 2009 (l1 trend filtering) and Mehrotra
    1992.
    """
    if not (high > low).all():
        row, frame = np.argwhere(~(high > low))[0]
        raise ValueError(
            f"Path {row} has no valid position at frame {frame}: its bounds are "
            f"{low[row, frame]:g} and {high[row, frame]:g}."
        )
    batch, length = targets.shape
    most = max(1, _MOST_UNKNOWNS // length)
    if batch > most:
        parts = []
        for begin in range(0, batch, most):
            rows = slice(begin, begin + most)
            own = [
                Term(term.order, term.low[rows], term.high[rows], _rows(term.offset, rows))
                for term in terms
            ]
            parts.append(
                solve_trajectories(
                    targets[rows], weights[rows], own, low[rows], high[rows], tolerance=tolerance
                )
            )
        joined = [np.concatenate([part[place] for part in parts]) for place in range(3)]
        return Trajectories(*joined, max(part.steps for part in parts))
    kept = [term for term in terms if length > term.order]
    return _InteriorPoint(targets, weights, kept, low, high).solve(tolerance)


def _rows(values: np.ndarray | float, rows: slice | np.ndarray) -> np.ndarray | float:
    return values[rows] if isinstance(values, np.ndarray) else values


class _Dual:
    """The dual variables of one term: z between its slopes, and the multipliers of those bounds."""

    def __init__(self, term: Term, scale: float, paths: np.ndarray) -> None:
        shape = (len(paths), paths.shape[1] - term.order)
        self.order = term.order
        self.low = np.broadcast_to(term.low, shape) / scale
        self.high = np.broadcast_to(term.high, shape) / scale
        self.offset = np.broadcast_to(term.offset, shape)
        # Where both slopes are equal z is known, and the row has no part in the system.
        self.is_live = self.high - self.low > 1e-12
        self.z = (self.low + self.high) / 2
        over = difference(paths, self.order) - self.offset
        self.plus = np.maximum(over, 0) + 1.0
        self.minus = np.maximum(-over, 0) + 1.0

    def rooms(self) -> tuple[np.ndarray, np.ndarray]:
        up, down = np.maximum(self.high - self.z, _LEAST), np.maximum(self.z - self.low, _LEAST)
        return np.where(self.is_live, up, 1.0), np.where(self.is_live, down, 1.0)

    def stiffness(self, up: np.ndarray, down: np.ndarray) -> np.ndarray:
        return np.maximum(self.plus / up + self.minus / down, _SOFTEST)


class _InteriorPoint:
    def __init__(self, targets, weights, terms, low, high) -> None:
        self.targets, self.weights, self.terms = targets, weights, terms
        self.low, self.high = low, high
        # All costs are divided by one number, so that steps are of the same size for any weights.
        self.scale = max([1.0] + [float(np.abs(t.high).max()) for t in terms if np.size(t.high)])
        room = high - low
        margin = np.minimum(0.1 * room, 1.0)
        self.paths = np.clip(targets, low + margin, high - margin)
        self.duals = [_Dual(term, self.scale, self.paths) for term in terms]
        self.alpha, self.beta = np.ones_like(targets), np.ones_like(targets)
        self.pull = weights / self.scale
        rows = sum(int(dual.is_live.sum(1).max()) for dual in self.duals) * 2
        self.count = rows + 2 * targets.shape[1]

    def solve(self, tolerance: float) -> Trajectories:
        targets, weights, terms = self.targets, self.weights, self.terms
        paths, gaps = self.paths.copy(), np.full(len(targets), np.inf)
        going, steps = np.arange(len(targets)), 0
        while steps < _MOST_STEPS:
            steps += 1
            gap = self.gap()
            better = gap < gaps[going]
            paths[going[better]], gaps[going[better]] = self.paths[better], gap[better]
            # Those that are done are taken out; going on would only lose digits.
            open_ones = ~(gaps[going] < tolerance)
            if not open_ones.any():
                break
            if not open_ones.all():
                going = going[open_ones]
                self._keep(open_ones)
            try:
                self.step()
            except np.linalg.LinAlgError:  # no digits are left; `gap` says how far it came
                break
        cost = objective_of(paths, targets, weights, terms)
        return Trajectories(paths, cost, gaps, steps)

    def _keep(self, rows: np.ndarray) -> None:
        for name in ("targets", "weights", "low", "high", "paths", "alpha", "beta", "pull"):
            setattr(self, name, getattr(self, name)[rows])
        self.terms = [
            Term(term.order, *(_rows(one, rows) for one in (term.low, term.high, term.offset)))
            for term in self.terms
        ]
        for dual in self.duals:
            for name in ("low", "high", "offset", "is_live", "z", "plus", "minus"):
                setattr(dual, name, getattr(dual, name)[rows])

    def gap(self) -> np.ndarray:
        """Cost less the dual bound, as a share of the cost, (B,)."""
        cost = objective_of(self.paths, self.targets, self.weights, self.terms) / self.scale
        # By the dual variables alone: the least of the Lagrangian over paths within the bounds.
        slope = np.zeros_like(self.paths)
        constant = np.zeros(len(self.paths))
        for dual in self.duals:
            slope += _transposed(dual.z, dual.order, self.paths.shape[1])
            constant -= (dual.z * dual.offset).sum(1)
        pull = np.maximum(self.pull, 1e-300)
        nearest = np.clip(self.targets - slope / pull, self.low, self.high)
        bound = 0.5 * self.pull * (nearest - self.targets) ** 2 + slope * nearest
        small = _SMALL * self.paths.shape[1] / self.scale
        return (cost - bound.sum(1) - constant) / np.maximum(np.abs(cost), small)

    def step(self) -> None:
        below = np.maximum(self.paths - self.low, _LEAST)
        above = np.maximum(self.high - self.paths, _LEAST)
        bands = self._bands(below, above)
        factor = cholesky_banded(bands, overwrite_ab=True, lower=True, check_finite=False)
        mean = self._complementarity(below, above)
        zero = np.zeros((len(self.paths), 1))
        guess = self._direction(factor, below, above, zero, None)
        primal, dual = self._longest(guess, below, above, 1.0)
        reached = self._complementarity(below, above, guess, primal, dual)
        # Mehrotra: how well the predictor did says how far to aim at the centre.
        aim = (mean * np.clip(reached / mean, 0, 1) ** 3)[:, None]
        final = self._direction(factor, below, above, aim, guess)
        primal, dual = self._longest(final, below, above, 0.995)
        move, alpha, beta, rows = final
        self.paths = self.paths + primal * move
        self.alpha, self.beta = self.alpha + dual * alpha, self.beta + dual * beta
        for one, (z, plus, minus) in zip(self.duals, rows, strict=True):
            one.z = one.z + dual * z
            one.plus, one.minus = one.plus + dual * plus, one.minus + dual * minus

    def _bands(self, below: np.ndarray, above: np.ndarray) -> np.ndarray:
        batch, length = self.paths.shape
        bands = np.zeros((_BANDS, batch, length))
        bands[0] = self.pull + self.alpha / below + self.beta / above
        for dual in self.duals:
            up, down = dual.rooms()
            weight = np.where(dual.is_live, 1 / dual.stiffness(up, down), 0.0)
            row, stop = DIFFERENCES[dual.order], length - dual.order
            for i, left in enumerate(row):
                for j in range(i, len(row)):
                    bands[j - i, :, i : i + stop] += left * row[j] * weight
        return bands.reshape(_BANDS, batch * length)

    def _direction(self, factor, below, above, aim, guess):
        """Newton's direction towards products of `aim`, corrected by those of a guess."""
        length = self.paths.shape[1]
        second = (0.0, 0.0) if guess is None else (guess[0] * guess[1], -guess[0] * guess[2])
        to_alpha = (aim - second[0]) / below - self.alpha
        to_beta = (aim - second[1]) / above - self.beta
        right = -self.pull * (self.paths - self.targets) + to_alpha + self.alpha
        right -= to_beta + self.beta
        held = []
        for place, one in enumerate(self.duals):
            up, down = one.rooms()
            mixed = (0.0, 0.0)
            if guess is not None:
                z, plus, minus = guess[3][place]
                mixed = (-z * plus, z * minus)
            to_plus, to_minus = (aim - mixed[0]) / up, (aim - mixed[1]) / down
            over = difference(self.paths, one.order) - one.offset
            stiff = one.stiffness(up, down)
            wanted = np.where(one.is_live, (over - to_plus + to_minus) / stiff, 0.0)
            right -= _transposed(one.z + wanted, one.order, length)
            held.append((up, down, to_plus, to_minus, stiff, wanted))
        move = cho_solve_banded((factor, True), right.ravel(), check_finite=False)
        move = move.reshape(right.shape)
        rows = []
        for one, (up, down, to_plus, to_minus, stiff, wanted) in zip(self.duals, held, strict=True):
            change = difference(move, one.order) / stiff
            z = np.where(one.is_live, wanted + change, 0.0)
            plus = to_plus - one.plus + one.plus / up * z
            minus = to_minus - one.minus - one.minus / down * z
            rows.append((z, np.where(one.is_live, plus, 0), np.where(one.is_live, minus, 0)))
        alpha = to_alpha - self.alpha / below * move
        beta = to_beta + self.beta / above * move
        return move, alpha, beta, rows

    def _longest(self, direction, below, above, share: float) -> tuple[np.ndarray, np.ndarray]:
        """The longest steps that keep paths and dual variables inside, (B, 1) each, at most 1."""
        move, alpha, beta, rows = direction
        primal = np.maximum(_worst(-move, below), _worst(move, above))
        dual = np.maximum(_worst(-alpha, self.alpha), _worst(-beta, self.beta))
        for one, (z, plus, minus) in zip(self.duals, rows, strict=True):
            up, down = one.rooms()
            for pair in ((z, up), (-z, down), (-plus, one.plus), (-minus, one.minus)):
                dual = np.maximum(dual, _worst(*pair))
        longest = [np.minimum(1.0, share / np.maximum(one, 1e-12)) for one in (primal, dual)]
        # The multipliers stand for both sides of absolute values, so that one length serves all.
        both = np.minimum(*longest)[:, None]
        return both, both

    def _complementarity(self, below, above, direction=None, primal=0.0, dual=0.0) -> np.ndarray:
        """Mean product of variables and their multipliers, (B,)."""
        move, alpha, beta, rows = direction or (0.0, 0.0, 0.0, [(0.0, 0.0, 0.0)] * len(self.duals))
        total = ((below + primal * move) * (self.alpha + dual * alpha)).sum(1)
        total += ((above - primal * move) * (self.beta + dual * beta)).sum(1)
        for one, (z, plus, minus) in zip(self.duals, rows, strict=True):
            up, down = one.rooms()
            products = (up - dual * z) * (one.plus + dual * plus)
            products += (down + dual * z) * (one.minus + dual * minus)
            total += np.where(one.is_live, products, 0).sum(1)
        return total / self.count


def _worst(change: np.ndarray, room: np.ndarray) -> np.ndarray:
    return (change / room).max(1)


def _transposed(rows: np.ndarray, order: int, length: int) -> np.ndarray:
    """The transposed differences, (B, T - order) -> (B, T)."""
    found = np.zeros((len(rows), length))
    stop = length - order
    for place, weight in enumerate(DIFFERENCES[order]):
        found[:, place : place + stop] += weight * rows
    return found
