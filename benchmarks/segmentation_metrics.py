"""Scores of masks beside MONAI's: the same numbers, the milliseconds, and what a miss does to each.

python -m benchmarks.segmentation_metrics
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import ndimage

from benchmarks.interleaved import Contender, peak_array_memory, race, use_one_thread
from benchmarks.peers import Peer, find_peers, peers_table
from benchmarks.report import RESULTS, Requirement, add_race, add_requirements, finish
from salhub.metrics.segmentation import dice, segmentation_scores, summarize, surface_distances
from salhub.results import Results, Table, measured

TOLERANCE = 1e-5
LEAST_SPEEDUP = 10.0
_SURFACE_TOLERANCE = 2.0
# What is compared -> how far a score may be from MONAI's where both define it alike.
ALIKE = ("dice", "hd95", "assd", "surface_dice")
OURS = "salhub, four scores"
THEIRS = "MONAI, four scores"


@dataclass(frozen=True)
class Pair:
    """Two masks and their spacing in millimetres."""

    name: str
    predicted: np.ndarray
    truth: np.ndarray
    spacing: tuple[float, ...]


def pairs() -> list[Pair]:
    """Pairs of the sizes that are met: a crop, a small scan, a whole scan and a picture."""
    sizes = (
        ("crop 20 x 48 x 48", (20, 48, 48), (3.0, 1.5, 1.5), 14),
        ("scan 24 x 96 x 96", (24, 96, 96), (3.0, 1.5, 1.5), 14),
        ("scan 96 x 256 x 256", (96, 256, 256), (2.0, 1.0, 1.0), 25),
        ("picture 512 x 512", (512, 512), (1.0, 1.0), 120),
    )
    return [Pair(name, *rough_pair(shape, step, r), step) for name, shape, step, r in sizes]


def rough_pair(
    shape: Sequence[int], spacing: Sequence[float], radius: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Two rough blobs of a radius in millimetres, a little apart; one has a splinter far away."""
    random = np.random.default_rng(seed)
    grid = np.indices(shape).T * np.asarray(spacing)
    centre = (np.asarray(shape) - 1) * spacing / 2
    found = []
    for shift in (0.0, 0.15 * radius):
        rough = ndimage.gaussian_filter(random.normal(size=shape), 2)
        distance = np.sqrt(((grid - centre - shift) ** 2).sum(axis=-1)).T
        found.append(distance < radius * (1 + 0.15 * rough / rough.std()))
    found[0][(1,) * len(shape)] = True
    return found[0], found[1]


def monai_scores(pair: Pair) -> dict[str, float]:
    """The four scores by MONAI's functions, as its documentation calls them."""
    import torch
    from monai.metrics import (
        compute_average_surface_distance,
        compute_dice,
        compute_hausdorff_distance,
        compute_surface_dice,
    )

    one_hot = [torch.from_numpy(mask)[None, None].float() for mask in (pair.predicted, pair.truth)]
    steps = {"spacing": list(pair.spacing)}
    surface = compute_surface_dice(
        *one_hot, class_thresholds=[_SURFACE_TOLERANCE], include_background=True, **steps
    )
    return {
        "dice": float(compute_dice(*one_hot)),
        "hd95": float(compute_hausdorff_distance(*one_hot, include_background=True, percentile=95,
                                                 **steps)),
        "assd": float(compute_average_surface_distance(*one_hot, include_background=True,
                                                       symmetric=True, **steps)),
        "surface_dice": float(surface),
    }  # fmt: skip


def our_scores(pair: Pair) -> dict[str, float]:
    """The same four scores of ours."""
    distances = surface_distances(pair.predicted, pair.truth, pair.spacing)
    return {
        "dice": dice(pair.predicted, pair.truth),
        "hd95": distances.hd95,
        "assd": distances.assd,
        "surface_dice": distances.surface_dice(_SURFACE_TOLERANCE),
    }


def all_scores(pair: Pair) -> dict[str, float]:
    """All nine scores of ours."""
    return segmentation_scores(
        pair.predicted, pair.truth, pair.spacing, tolerance=_SURFACE_TOLERANCE
    )


def differences(pair: Pair) -> dict[str, float]:
    """Score -> how far ours is from MONAI's."""
    ours, theirs = our_scores(pair), monai_scores(pair)
    return {name: abs(ours[name] - theirs[name]) for name in ALIKE}


def add_agreement(results: Results, masks: Sequence[Pair]) -> Requirement:
    """Record both packages' scores; return what is required of the largest difference."""
    rows, largest = [], 0.0
    for pair in masks:
        ours, theirs = our_scores(pair), monai_scores(pair)
        for name in ALIKE:
            difference = abs(ours[name] - theirs[name])
            largest = max(largest, difference)
            results.add_metric(f"agreement/{pair.name}/{name}", difference)
            rows.append([pair.name, name, ours[name], theirs[name], f"{difference:.1e}"])
    columns = ["masks", "score", "salhub", "MONAI", "difference"]
    note = "Defined alike: voxel surfaces, distances in mm, percentiles by linear interpolation."
    results.tables.append(Table("The same numbers", note, columns, rows))
    return Requirement("largest difference from MONAI", largest, TOLERANCE)


def add_misses(results: Results) -> None:
    """Record what each package makes of five masks when more and more of them are missed."""
    import torch
    from monai.metrics import HausdorffDistanceMetric

    shape, spacing = (12, 24, 24), (3.0, 1.5, 1.5)
    pairs = [rough_pair(shape, spacing, 12, seed) for seed in range(5)]
    # The worst first: without them the mean of what is left looks better.
    pairs.sort(key=lambda two: -surface_distances(*two, spacing).hd95)
    rows = []
    for num_missed in range(4):
        metric = HausdorffDistanceMetric(include_background=True, percentile=95)
        scores = []
        for place, (predicted, truth) in enumerate(pairs):
            given = predicted & (place >= num_missed)
            scores.append({"hd95": surface_distances(given, truth, spacing).hd95})
            one_hot = [torch.from_numpy(mask)[None, None].float() for mask in (given, truth)]
            metric(*one_hot, spacing=list(spacing))
        found = summarize(scores)["hd95"]
        theirs = float(metric.aggregate())
        results.add_metric(f"missed/{num_missed}/MONAI", theirs, unit="mm")
        results.add_metric(f"missed/{num_missed}/failures", found.failures, n=5, unit="count")
        rows.append([num_missed, f"{theirs:.2f}", f"{found:.2f}"])
    note = "HD95 in mm of 5 masks, of which the worst are missed one after the other."
    columns = ["missed", "MONAI's mean", "salhub: mean (sd), median, failures"]
    results.tables.append(Table("Masks that are missed", note, columns, rows))


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, time and write the results file."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.segmentation_metrics",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=15, help="rounds of each race")
    options = parser.parse_args(arguments)
    use_one_thread()
    peers = find_peers("monai")
    results = Results("segmentation_metrics", "python -m benchmarks.segmentation_metrics", 0)
    results.command += f" --rounds {options.rounds}"
    with measured(results):
        required = measure(results, peers["monai"], pairs(), options.rounds)
    add_requirements(results, required)
    results.tables.append(peers_table(peers))
    finish(results, peers, RESULTS / "segmentation_metrics.json")


def measure(results: Results, monai: Peer, masks: Sequence[Pair], rounds: int) -> list[Requirement]:
    """Fill the results; without MONAI there is nothing to compare with.

    Returns:
        What is required of the agreement and of the ratios.
    """
    required = []
    if monai.reason is None:
        required.append(add_agreement(results, masks))
    for pair in masks:
        runs: list[tuple[str, str, Callable]] = [
            (OURS, "salhub", our_scores),
            ("salhub, all nine", "salhub", all_scores),
        ]
        if monai.reason is None:
            runs.append((THEIRS, monai.label, monai_scores))
        contenders = [
            Contender(name, partial(run, pair), package, peak_array_memory)
            for name, package, run in runs
        ]
        timed = race(contenders, rounds=rounds, title=pair.name)
        add_race(results, pair.name, "", timed, {"x salhub": OURS})
        if monai.reason is None:
            ratio = timed.ratio(THEIRS, OURS)
            required.append(
                Requirement.of_ratio(
                    f"times as fast as MONAI, {pair.name}", ratio, LEAST_SPEEDUP, is_least=True
                )
            )
    if monai.reason is None:
        add_misses(results)
    return required


if __name__ == "__main__":
    main()
