"""The frame rates that films have, and those that editing programs know."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

# Rates that editing programs know; there is no other spelling of 23.976.
SMPTE_RATES = (
    Fraction(24000, 1001),
    Fraction(24),
    Fraction(25),
    Fraction(30000, 1001),
    Fraction(30),
    Fraction(48000, 1001),
    Fraction(48),
    Fraction(50),
    Fraction(60000, 1001),
    Fraction(60),
)
_OTHER_RATES = tuple(map(Fraction, ("5", "8", "10", "12", "12.5", "15", "20", "90", "100", "120")))
_OTHER_RATES += (Fraction(15000, 1001), Fraction(120000, 1001))
_LARGEST_TERM = 1001
# Of the shortest times between pictures, which glitches of a recorder undercut.
_SHORTEST_QUANTILE = 0.01
# Frames by which recorders put a picture beside its time, without the rate being another one.
_JITTER = 0.2
_SLACK = 1e-6


def smpte_rate(frame_rate: Fraction) -> Fraction:
    """Return the rate of editing programs that a film is conformed to.

    The smallest one that is a whole multiple, so that no time changes, or else the nearest.

    Example:
        >>> smpte_rate(Fraction(25, 2)), smpte_rate(Fraction(30000, 1001)), smpte_rate(Fraction(26))
        (Fraction(25, 1), Fraction(30000, 1001), Fraction(25, 1))
    """
    for rate in SMPTE_RATES:
        if (rate / frame_rate).denominator == 1:
            return rate
    return min(SMPTE_RATES, key=lambda rate: abs(rate - frame_rate))


def constant_rate(
    stamps: np.ndarray, time_base: Fraction, declared: Sequence[Fraction]
) -> Fraction | None:
    """Return the rate at which every picture is near its time.

    Args:
        stamps: (N,) times of the pictures in ticks, ascending.
        time_base: Seconds of a tick.
        declared: Rates that the file claims, which some files do of what has none.

    Returns:
        The rate, or None where there is none.
    """
    if len(stamps) == 1:
        return declared[0] if declared and declared[0] < 1000 else Fraction(25)
    span = (int(stamps[-1]) - int(stamps[0])) * time_base
    mean = (len(stamps) - 1) / span
    usual = SMPTE_RATES + _OTHER_RATES
    # A clock of whole milliseconds tells 24000/1001 from 24 only over seconds: what the file
    # declares comes first, and then what is nearest to the mean.
    known = [one for one in declared if one in usual]
    known += sorted(usual, key=lambda rate: abs(rate - mean))[:3]
    exact = [*known, *declared, mean.limit_denominator(_LARGEST_TERM)]
    away = {rate: _largest_distance(stamps, time_base * rate) for rate in [*exact, *known]}
    fitting = [one for one in exact if away[one] <= float(time_base * one) * (1 + _SLACK)]
    fitting += [one for one in known if away[one] <= _JITTER]
    return next(iter(fitting), None)


def _largest_distance(stamps: np.ndarray, frames_a_tick: Fraction) -> float:
    """Return by how many frames a picture is away from its place in a row of equal frames."""
    along = (stamps - stamps[0]) * float(frames_a_tick)
    return float(np.abs(along - np.arange(len(stamps))).max())


def grid_rate(stamps: np.ndarray, time_base: Fraction) -> Fraction:
    """Return the rate of editing programs that is nearest to the shortest pictures.

    Args:
        stamps: (N,) times of the pictures in ticks, ascending, at least two.
        time_base: Seconds of a tick.
    """
    shortest = float(np.quantile(np.diff(stamps), _SHORTEST_QUANTILE)) * float(time_base)
    return min(SMPTE_RATES, key=lambda rate: abs(float(rate) - 1 / shortest))
