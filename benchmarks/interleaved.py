"""Timing contenders against each other: in turns, in one process, on one thread.

Absolute times say more about the machine than about the code. So every round runs every contender
once, in rotating order, and what is reported is the median over rounds of the ratio within a round:
whatever slows the machine down for a second slows both sides of it.
"""

import gc
import json
import os
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from tqdm.auto import tqdm

# Read by the numeric libraries when they are loaded, so a running process is too late.
_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "KINETO_LOG_LEVEL": "99",
}
_RESAMPLES = 2000


@dataclass(frozen=True)
class Contender:
    """Something that is timed.

    Args:
        name: Row in the table, unique in a race.
        run: Does the work once, from the pixels to the map.
        package: Who wrote it.
        measure_memory: Takes `run` and returns its peak in bytes; `peak_tensor_memory` when None.
    """

    name: str
    run: Callable[[], Any]
    package: str = "salhub"
    measure_memory: Callable[[Callable[[], Any]], int] | None = None


class Ratio(NamedTuple):
    """Median over rounds of a time divided by another of the same round, with a 95 % interval."""

    value: float
    low: float
    high: float


@dataclass
class Race:
    """Times of all contenders.

    Args:
        contenders: In the order of the table.
        cpu: Process seconds of each round, by name.
        wall: Seconds on the clock of each round, by name.
    """

    contenders: list[Contender]
    cpu: dict[str, list[float]] = field(default_factory=dict)
    wall: dict[str, list[float]] = field(default_factory=dict)

    @property
    def rounds(self) -> int:
        """Number of rounds."""
        return min(len(times) for times in self.cpu.values())

    def seconds(self, name: str, clock: str = "cpu") -> float:
        """Median seconds of a contender on the "cpu" or "wall" clock."""
        return float(np.median(getattr(self, clock)[name]))

    def ratio(self, name: str, base: str, clock: str = "cpu") -> Ratio:
        """How many times longer a contender takes than another."""
        times = getattr(self, clock)
        return median_ratio(times[name], times[base])


def median_ratio(times: Sequence[float], base: Sequence[float], seed: int = 0) -> Ratio:
    """Median of the ratios of paired times, with a bootstrap interval over the rounds.

    Args:
        times: Seconds, one a round.
        base: Seconds of the other contender in the same rounds.
        seed: Seed of the resampling.

    Raises:
        ValueError: No rounds, or not as many of both.

    Example:
        >>> median_ratio([2.0, 4.0, 6.0], [1.0, 2.0, 3.0]).value
        2.0
    """
    if not times or len(times) != len(base):
        raise ValueError(f"times and base must be of one length above 0, got {len(times)} and "
                         f"{len(base)}.")  # fmt: skip
    ratios = np.asarray(times, dtype=float) / np.asarray(base, dtype=float)
    draws = np.random.default_rng(seed).integers(len(ratios), size=(_RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(ratios[draws], axis=1), [0.025, 0.975])
    return Ratio(float(np.median(ratios)), float(low), float(high))


def race(contenders: Sequence[Contender], *, rounds: int, warmup: int = 2, title: str = "") -> Race:
    """Run all contenders in turns.

    Args:
        contenders: Each with a name of its own.
        rounds: Rounds that count.
        warmup: Rounds before them that do not.
        title: Shown beside the progress bar.

    Raises:
        ValueError: Two contenders of one name, or fewer than one round.
    """
    names = [contender.name for contender in contenders]
    if len(set(names)) != len(names):
        raise ValueError(f"contenders need names of their own, got {names}.")
    if rounds < 1:
        raise ValueError(f"rounds must be 1 or more, got {rounds}.")
    found = Race(list(contenders), {name: [] for name in names}, {name: [] for name in names})
    with _settled_garbage():
        for number in tqdm(range(warmup + rounds), desc=title, unit="round", disable=None):
            first = number % len(names)
            # Rotated, so that nobody always follows the one who leaves the cache cold.
            for contender in [*contenders[first:], *contenders[:first]]:
                cpu, wall = _time(contender.run)
                if number >= warmup:
                    found.cpu[contender.name].append(cpu)
                    found.wall[contender.name].append(wall)
    return found


@contextmanager
def _settled_garbage() -> Iterator[None]:
    """Collect between runs only, and only what the runs left: all else takes a second each time."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def _time(run: Callable[[], Any]) -> tuple[float, float]:
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    times = time.process_time() - cpu, time.perf_counter() - wall
    del result
    return times


def peak_tensor_memory(run: Callable[[], Any]) -> int:
    """Most bytes of tensors, scratch space included, alive at one time above those before.

    Args:
        run: Does the work once.

    Returns:
        Bytes; the same on every run, unlike the resident memory of a process.

    Example:
        >>> peak_tensor_memory(lambda: torch.zeros(1024)) >= 4096
        True
    """
    run()  # what is kept from the first call is not part of the work
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        result = run()
    del result
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(path))
        trace = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    changes = [event for event in trace if event.get("name") == "[memory]"]
    changes.sort(key=lambda event: event["ts"])
    levels = np.cumsum([event["args"]["Bytes"] for event in changes])
    return int(max(levels.max(), 0)) if len(levels) else 0


def peak_array_memory(run: Callable[[], Any]) -> int:
    """Most bytes of NumPy arrays and Python objects alive at one time above those before.

    Args:
        run: Does the work once.
    """
    gc.collect()
    tracemalloc.start()
    try:
        result = run()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    del result
    return peak


def use_one_thread() -> None:
    """Start the running command again with one thread, unless it has one already."""
    if any(os.environ.get(name) != value for name, value in _ONE_THREAD.items()):
        os.environ.update(_ONE_THREAD)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    torch.set_num_threads(1)
