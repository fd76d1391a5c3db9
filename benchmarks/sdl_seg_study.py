"""Where the saliency map helps: phantoms by patient, with clips in the CT and painted out of it.

    python -m benchmarks.sdl_seg_study --runs runs/sdl_seg_study

Every cell (arm, setting, seed, training patients, decoys) is trained and measured once and kept in
a folder of its own; the tables are written anew after each. An hour or two on one core.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import wilcoxon

from benchmarks.experiments import add_to_results, results_file
from benchmarks.report import RESULTS, save_results
from benchmarks.sdl_seg_cells import (
    ARMS,
    CHANGED_PATIENTS,
    CURVE_ARMS,
    CURVES,
    SCORES,
    SCRIPT,
    SEEDS,
    SETTINGS,
    STEPS,
    TEST_PATIENTS,
    Cell,
    all_cells,
    cells_of_curve,
    detection,
    finished,
    run_cell,
    some,
    training_free,
)
from salhub.metrics.segmentation import summarize
from salhub.results import Results, Table, measured

_TITLE = "Where the saliency map helps SDL-Seg"


def report(done: dict[Cell, dict[str, Any]], folder: Path) -> Results:
    """Everything that is known by now."""
    results = Results(SCRIPT, f"python -m benchmarks.{SCRIPT}", 0)
    with measured(results):
        results.data = {
            "name": "breast phantoms",
            "test_patients": TEST_PATIENTS,
            "steps": STEPS,
            "cells": f"{len(done)} of {len(all_cells())}",
        }
        for visible in (True, False):
            _add_arms(results, done, visible, folder)
        _add_gaps(results, done)
        _add_changes(results, done)
        for field in CURVES:
            _add_curve(results, done, field)
        _add_detection(results, folder)
    return results


def curve_report(
    done: dict[Cell, dict[str, Any]], field: str, former: Results | None = None
) -> Results:
    """One curve alone, to be put into a results file in place of the one that is there.

    Args:
        done: What was measured now.
        field: Which of `CURVES`.
        former: Results that know other seeds, which are kept.
    """
    results = Results(SCRIPT, f"python -m benchmarks.{SCRIPT} --curve {field}", 0)
    with measured(results):
        _add_curve(results, done, field, former)
    return results


def _of(done: dict[Cell, dict], arm: str, visible: bool, **fixed: int) -> list[dict[str, Any]]:
    """Cells of an arm, a seed each."""
    wanted = {"patients": 20, "decoys": 4, "steps": STEPS, **fixed}
    return [
        found
        for cell, found in done.items()
        if (cell.arm, cell.visible) == (arm, visible)
        and all(getattr(cell, name) == value for name, value in wanted.items())
    ]


def _summary(cells: list[dict[str, Any]], prefix: str = "") -> dict[str, Any]:
    rows = [row for cell in cells for row in cell["rows"]]
    scores = [{name: row[f"{prefix}{name}"] for name in SCORES} for row in rows]
    return summarize(scores, [row["patient"] for row in rows])


def _interval(one: Any, digits: int = 3) -> str:
    return f"{one.mean:.{digits}f} [{one.low:.{digits}f}, {one.high:.{digits}f}]"


def _spread(one: Any, digits: int) -> str:
    return f"{one.mean:.{digits}f} ({one.standard_deviation:.{digits}f})" if one.n else "—"


def _add_arms(results: Results, done: dict[Cell, dict], visible: bool, folder: Path) -> None:
    rows = []
    for arm, title in ARMS.items():
        cells = _of(done, arm, visible)
        if not cells:
            continue
        found, near = _summary(cells), _summary(cells, "near ")
        key = f"{SETTINGS[visible]}/{arm}"
        for name in SCORES:
            one = found[name].estimate
            results.add_metric(f"{key}/{name}", one.mean, interval=(one.low, one.high), n=one.n)
        by_seed = [float(np.mean([row["dice"] for row in cell["rows"]])) for cell in cells]
        seeds = " ".join(f"{value:.3f}" for value in by_seed)
        missed = found["hd95"].failures
        rows.append(
            [
                title,
                seeds,
                _spread(found["dice"].estimate, 3),
                _interval(found["dice"].estimate),
                _spread(found["hd95"].estimate, 1),
                _spread(found["assd"].estimate, 2),
                f"{missed} of {missed + found['hd95'].estimate.n}",
                _spread(near["dice"].estimate, 3),
                _spread(near["hd95"].estimate, 1),
            ]
        )
    for title, free in training_free(folder).items() if visible else ():
        found = summarize([{name: row[name] for name in SCORES} for row in free])
        cells_of = [
            _spread(found[name].estimate, d) for name, d in zip(SCORES, (3, 1, 2), strict=True)
        ]
        interval = _interval(found["dice"].estimate)
        missed = f"{found['hd95'].failures} of {len(free)}"
        rows.append(
            [f"{title}, no training", "", cells_of[0], interval, *cells_of[1:], missed, "", ""]
        )
    note = (
        f"{TEST_PATIENTS} test patients, the same for all; {STEPS} steps of two volumes from 20 "
        "patients, on a grid of 3 mm. Mean (standard deviation) over patients and seeds; the "
        "interval draws whole patients. Masks are the plain threshold, so that the arms differ in "
        "one channel only; the last two columns keep the parts near the clips, for the plain U-Net "
        "as well. Masks left empty count as missed and are not in the means of HD95 and ASD; one "
        "that lies elsewhere counts with its distance."
    )
    columns = ["arm", "DSC by seed", "DSC", "95 %", "HD95 mm", "ASD mm", "missed"]
    columns += ["DSC, parts near clips", "HD95, parts near clips"]
    results.tables.append(Table(f"Arms, {SETTINGS[visible]}", note, columns, rows))


def _add_gaps(results: Results, done: dict[Cell, dict]) -> None:
    rows = []
    for visible in (True, False):
        plain = {cell["cell"]["seed"]: cell["rows"] for cell in _of(done, "none", visible)}
        for arm, title in list(ARMS.items())[1:]:
            pairs = [
                (cell["rows"], plain[cell["cell"]["seed"]])
                for cell in _of(done, arm, visible)
                if cell["cell"]["seed"] in plain
            ]
            if not pairs:
                continue
            gaps = [_means(ours)["dice"] - _means(theirs)["dice"] for ours, theirs in pairs]
            lower = [_medians(ours) < _medians(theirs) for ours, theirs in pairs]
            ours, theirs = (
                np.mean([[row["dice"] for row in rows] for rows in side], axis=0)
                for side in zip(*pairs, strict=True)
            )
            chance = wilcoxon(ours, theirs).pvalue if (ours != theirs).any() else 1.0
            results.add_metric(f"gap/{SETTINGS[visible]}/{arm}", float(np.mean(gaps)), n=len(gaps))
            rows.append(
                [
                    SETTINGS[visible],
                    title,
                    " ".join(f"{gap:+.3f}" for gap in gaps),
                    f"{sum(lower)} of {len(lower)}",
                    float(f"{chance:.2g}"),
                ]
            )
    note = (
        "DSC with the map less DSC of CT only, for each seed; for how many seeds the median HD95, "
        "in which masks left empty are infinite, is lower; Wilcoxon's signed rank test over "
        "patients."
    )
    columns = ["setting", "map", "DSC gained by seed", "HD95 lower", "p"]
    results.tables.append(Table("What the map adds to the CT", note, columns, rows))


def _means(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in SCORES}


def _medians(rows: list[dict[str, Any]]) -> float:
    return float(np.median([row["hd95"] for row in rows]))


def _add_changes(results: Results, done: dict[Cell, dict]) -> None:
    rows = []
    for visible in (True, False):
        cells = [cell for cell in _of(done, "edt_gauss", visible) if "changed" in cell]
        if not cells:
            continue
        whole = [row["near dice"] for cell in cells for row in some(cell["rows"])]
        rows.append([SETTINGS[visible], "as they are", round(float(np.mean(whole)), 3), 0.0])
        for title in cells[0]["changed"]:
            values = [value for cell in cells for value in cell["changed"][title]]
            left = float(np.mean(values))
            results.add_metric(f"changed/{SETTINGS[visible]}/{title}", left, n=len(values))
            lost = round(left - float(np.mean(whole)), 3)
            rows.append([SETTINGS[visible], title, round(left, 3), lost])
    note = (
        f"EDT-Gauss, trained with markers jittered, dropped, added and hidden; {CHANGED_PATIENTS} "
        "test patients and all seeds. The clips are changed in the map only."
    )
    columns = ["setting", "clips", "DSC that remains", "change"]
    results.tables.append(Table("When clips are lost or moved", note, columns, rows))


def _add_curve(
    results: Results, done: dict[Cell, dict], field: str, former: Results | None = None
) -> None:
    rows, values = [], CURVES[field]
    known = {metric.name: metric.value for metric in former.metrics} if former else {}
    for visible in (True, False):
        for arm in CURVE_ARMS:
            cells: list[Any] = [SETTINGS[visible], ARMS[arm]]
            for value in values:
                seeds = _of(done, arm, visible, **{field: value})
                key = f"{field}/{SETTINGS[visible]}/{arm}/{value}"
                places = {f"{key}/seed {seed}": seed for seed in range(SEEDS)}
                by_seed = {places[name]: known[name] for name in places if name in known}
                for one in seeds:
                    by_seed[one["cell"]["seed"]] = _means(one["rows"])["dice"]
                means = [by_seed[seed] for seed in sorted(by_seed)]
                for seed in sorted(by_seed):
                    results.add_metric(f"{key}/seed {seed}", by_seed[seed])
                if means:
                    results.add_metric(key, float(np.mean(means)), n=len(means))
                spread = f" ({np.std(means, ddof=1):.3f}, {len(means)} seeds)" if means[1:] else ""
                cells.append(f"{np.mean(means):.3f}{spread}" if means else None)
            rows.append(cells)
    title, note = {
        "patients": (
            "More patients to learn from",
            f"DSC on the test patients after {STEPS} steps, whatever the number of patients; mean "
            "(standard deviation over seeds).",
        ),
        "decoys": (
            "More decoys",
            "DSC on the test patients, which have as many decoys as those learned from; mean "
            "(standard deviation over seeds). Decoys look like the bed and have no clips.",
        ),
        "steps": (
            "More steps",
            "DSC on the test patients after more steps; mean (standard deviation over seeds).",
        ),
    }[field]
    columns = ["setting", "arm", *(f"{value} {field}" for value in values)]
    results.tables.append(Table(title, note, columns, rows))


def _add_detection(results: Results, folder: Path) -> None:
    found = detection(folder)
    for title, numbers in found.items():
        for name, value in numbers.items():
            results.add_metric(f"detection/{title}/{name}", value)
    note = "A clip is found where a marker lies within 5 mm of it, one marker a clip."
    rows: list[list[Any]] = [
        [title, *(float(f"{value:.4g}") for value in numbers.values())]
        for title, numbers in found.items()
    ]
    columns = ["phantoms", *next(iter(found.values()))]
    columns[1] = "how many"
    results.tables.append(Table("Finding the clips", note, columns, rows))


def _merge_curve(done: dict[Cell, dict], options: argparse.Namespace) -> None:
    """Put a curve into the results that are there, their page, and those of a card."""
    former = Results.load(options.output)
    found = curve_report(done, options.curve, former)
    for path in filter(None, (options.output, options.results)):
        add_to_results(found, path)
    save_results(Results.load(options.output), options.output, _TITLE)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, and write the tables after each cell."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{SCRIPT}", description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs") / SCRIPT, help="for the runs")
    parser.add_argument("--output", type=Path, default=RESULTS / f"{SCRIPT}.json")
    parser.add_argument("--part", default="0/1", help="I/N: every N-th cell from the I-th on")
    parser.add_argument("--report", action="store_true", help="tables of what is there only")
    parser.add_argument("--results", type=results_file, help="of a card, to add the tables to")
    parser.add_argument(
        "--curve",
        choices=tuple(CURVES),
        help="this curve alone, put into the results that are there",
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options.runs.mkdir(parents=True, exist_ok=True)
    index, count = map(int, options.part.split("/"))
    if not options.report:
        cells = all_cells() if options.curve is None else cells_of_curve(options.curve)
        for cell in cells[index::count]:
            run_cell(cell, options.runs)
            print(f"{cell.name} is done", flush=True)
    done = dict(finished(options.runs))
    if options.curve is not None:
        _merge_curve(done, options)
        return
    results = report(done, options.runs)
    for path in save_results(results, options.output, _TITLE):
        print(f"Wrote {path}")
    if options.results is not None:
        add_to_results(results, options.results)


if __name__ == "__main__":
    main()
