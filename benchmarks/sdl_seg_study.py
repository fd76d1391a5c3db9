"""Where the saliency map helps: phantoms by patient, with clips in the CT and painted out of it.

    python -m benchmarks.sdl_seg_study --runs runs/sdl_seg_study

Every cell (arm, setting, seed, training patients, decoys) is trained and measured once and kept in
a folder of its own; the tables are written anew after each. An hour or two on one core.
"""

import argparse
import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import wilcoxon

from benchmarks.experiments import add_to_results, results_file, run_once
from benchmarks.report import RESULTS, save_results
from salhub.metrics.segmentation import segmentation_scores, summarize
from salhub.models.sdl_seg.cases import Case, phantom_case
from salhub.models.sdl_seg.configuration_sdl_seg import SDLSegConfig
from salhub.models.sdl_seg.evaluation_sdl_seg import marker_changes, predicted, test_phantoms
from salhub.models.sdl_seg.marker_detection import detect_markers, doubtful_markers
from salhub.models.sdl_seg.modeling_sdl_seg import SDLSegForVolumeSegmentation
from salhub.models.sdl_seg.phantom import make_breast_phantom
from salhub.models.sdl_seg.processing_sdl_seg import SDLSegImageProcessor
from salhub.models.sdl_seg.recipe_sdl_seg import SDLSegRecipe
from salhub.results import Results, Table, measured

SCRIPT = "sdl_seg_study"
ARMS = {"none": "CT only", "points": "points", "edt_gauss": "EDT-Gauss", "hull": "hull"}
_STEPS, _LONG, _TEST_PATIENTS, _CHANGED_PATIENTS = 100, 400, 12, 6
# Coarser than the grid of the shipped models, for so many trainings; masks are measured on the grid
# of the phantoms.
_GRID, _PHANTOMS = [3.0, 3.0, 3.0], [3.0, 1.5, 1.5]
_SETTINGS = {True: "clips visible", False: "clips painted out"}
_SCORES = ("dice", "hd95", "assd")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training.

    Args:
        arm: Kind of map.
        visible: Whether the clips are seen on the CT.
        seed: Of the weights, the batches and the training patients.
        patients: To learn from.
        decoys: In every phantom, of the test as well.
        steps: Of the training.
    """

    arm: str
    visible: bool
    seed: int
    patients: int = 20
    decoys: int = 4
    steps: int = _STEPS

    @property
    def name(self) -> str:
        """Of its folder."""
        seen = "visible" if self.visible else "painted"
        steps = "" if self.steps == _STEPS else f"-{self.steps}s"
        return f"{self.arm}-{seen}-{self.patients}p-{self.decoys}d{steps}-{self.seed}"


def all_cells() -> list[Cell]:
    """The cells in the order in which they are worth most."""
    both = (False, True)
    cells = [
        Cell(arm, visible, seed) for seed in range(3) for visible in both for arm in reversed(ARMS)
    ]
    pair = ("edt_gauss", "none")
    cells += [Cell(arm, v, 0, decoys=n) for n in (0, 8) for v in both for arm in pair]
    cells += [
        Cell(arm, v, seed, patients=n)
        for seed in range(3)
        for n in (5, 10)
        for v in both
        for arm in pair
    ]
    cells += [Cell(arm, v, seed, steps=_LONG) for seed in range(3) for v in both for arm in pair]
    return cells


# --- one cell -------------------------------------------------------------------------------------


def run_cell(cell: Cell, folder: Path) -> dict[str, Any]:
    """Train and measure a cell, unless that was done."""
    path = folder / cell.name / "scores.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    options = {
        "saliency_kind": cell.arm,
        "clips_visible": cell.visible,
        "seed": cell.seed,
        "num_patients": cell.patients,
        "num_decoys": cell.decoys,
        "num_test_patients": 1,
        "target_spacing": _GRID,
        "phantom_spacing": _PHANTOMS,
        # The same steps for all, however many patients they come from.
        "num_train_epochs": math.ceil(2 * cell.steps / cell.patients),
        "max_train_steps": cell.steps,
        "validation_steps": cell.steps // 2 if cell.steps == _STEPS else _STEPS,
        "checkpointing_steps": cell.steps // 2,
        "cpu": True,
    }
    run_once(SDLSegRecipe, folder / cell.name, options, f"{SCRIPT} {cell.name}")
    model = SDLSegForVolumeSegmentation.from_pretrained(folder / cell.name)
    cases = test_phantoms(_TEST_PATIENTS, num_decoys=cell.decoys, clips_visible=cell.visible)
    found: dict[str, Any] = {"cell": dataclasses.asdict(cell), "rows": measure(model, cases)}
    if cell == Cell("edt_gauss", cell.visible, cell.seed):
        found["changed"] = {
            title: [changed_dice(model, case, change, n) for n, case in enumerate(some(cases))]
            for title, change in marker_changes(0).items()
        }
    path.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


def some(cases: Sequence[Case]) -> Sequence[Case]:
    """Those on which the clips are changed."""
    return cases[:_CHANGED_PATIENTS]


def measure(model: SDLSegForVolumeSegmentation, cases: Iterable[Case]) -> list[dict[str, Any]]:
    """Scores of the plain threshold, and the overlap once parts away from the clips are dropped."""
    grid = {"target_spacing": _GRID, "anisotropic_levels": 0}
    near = SDLSegImageProcessor(SDLSegConfig(**grid))  # the same for every arm, the plain one too
    rows = []
    for case in cases:
        batch = near(case.volume, case.spacing, markers=case.markers)
        pixels = batch["pixel_values"]
        if model.config.image_channels == 1:
            pixels = pixels[:, :1]
        else:
            ours = SDLSegImageProcessor(model.config)
            pixels = ours(case.volume, case.spacing, markers=case.markers)["pixel_values"]
        logits = model.predict(pixels).logits
        chance = logits[0, 0].sigmoid().numpy()
        mask = batch["meta"][0].grid.resample_back(chance) > 0.5
        kept = near.post_process_segmentation(logits, batch["meta"])[0]["mask"]
        scores = segmentation_scores(mask, case.mask, case.spacing)
        near_scores = segmentation_scores(kept, case.mask, case.spacing)
        rows.append(
            {
                "patient": case.patient,
                **{name: scores[name] for name in _SCORES},
                **{f"near {name}": near_scores[name] for name in _SCORES},
            }
        )
    return rows


def changed_dice(
    model: SDLSegForVolumeSegmentation, case: Case, change: Callable, number: int
) -> float:
    """Overlap after something was done to the clips of the map."""
    assert case.markers is not None
    markers = change(case.markers, case, np.random.default_rng([0, number]))
    mask = predicted(model.with_settings(allow_no_markers=True), case, markers)["mask"]
    return segmentation_scores(mask, case.mask, case.spacing)["dice"]


# --- without training -----------------------------------------------------------------------------


def training_free(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Masks that need no network: a threshold of the map, the hull of the clips, bed and decoys."""
    path = folder / "training_free.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    learning = [phantom_case(patient) for patient in range(20)]
    levels = np.arange(0.1, 0.95, 0.05)
    ours = SDLSegImageProcessor(SDLSegConfig())

    def map_of(case: Case) -> np.ndarray:
        return ours.saliency_map(case.markers, case.volume.shape, case.spacing).numpy()

    maps = [(map_of(case), case.mask) for case in learning]
    overlap = [
        np.mean([2 * (s[m] > t).sum() / ((s > t).sum() + m.sum()) for s, m in maps]) for t in levels
    ]
    level = float(levels[int(np.argmax(overlap))])
    hull = SDLSegConfig(saliency_kind="hull", hull_scale_mm=0.01)
    rows: dict[str, list] = {f"map above {level:.2f}": [], "hull of the clips": []}
    rows["bed and all decoys"] = []
    for case in test_phantoms(_TEST_PATIENTS):
        inside = SDLSegImageProcessor(hull).saliency_map(
            case.markers, case.volume.shape, case.spacing
        )
        decoys = make_breast_phantom(int(case.patient.rpartition("-")[2])).decoys
        masks = (map_of(case) > level, inside.numpy() > 0.25, case.mask | decoys)
        for title, mask in zip(rows, masks, strict=True):
            scores = segmentation_scores(mask, case.mask, case.spacing)
            one = {name: scores[name] for name in _SCORES}
            rows[title].append({"patient": case.patient, **one})
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return rows


def detection(folder: Path, count: int = 100) -> dict[str, dict[str, float]]:
    """Clips found on phantoms of several kinds, and what was taken for one."""
    path = folder / "detection.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    kinds: dict[str, dict[str, Any]] = {
        "as they are": {},
        "slices of 5 mm": {"shape": (15, 96, 96), "spacing": (5.0, 1.5, 1.5)},
        "with 3 calcifications": {"num_calcifications": 3},
    }
    numbers = {title: _detection_of(options, count) for title, options in kinds.items()}
    path.write_text(json.dumps(numbers, indent=1), encoding="utf-8")
    return numbers


def _detection_of(options: dict[str, Any], count: int) -> dict[str, float]:
    there = found = false = complete = doubted = doubted_clips = 0
    errors: list[float] = []
    for patient in range(800_000, 800_000 + count):
        phantom = make_breast_phantom(patient, **options)
        markers = detect_markers(phantom.volume, phantom.spacing)
        gaps = np.linalg.norm((phantom.markers[:, None] - markers) * phantom.spacing, axis=2)
        pairs = linear_sum_assignment(gaps)
        near = gaps[pairs][gaps[pairs] < 5]
        errors += near.tolist()
        there, found = there + len(phantom.markers), found + len(near)
        false += len(markers) - len(near)
        doubts = doubtful_markers(phantom.volume, phantom.spacing, markers)
        is_clip = gaps.min(axis=0) < 5
        doubted, doubted_clips = (
            doubted + (doubts & ~is_clip).sum(),
            doubted_clips + (doubts & is_clip).sum(),
        )
        complete += len(near) == len(phantom.markers) == len(markers)
    return {
        "phantoms": count,
        "clips": there,
        "recall": found / there,
        "false positives": false,
        "of them doubted in a warning": int(doubted),
        "clips doubted": int(doubted_clips),
        "phantoms with exactly their clips": complete,
        "mean error in mm": float(np.mean(errors)),
        "largest error in mm": float(np.max(errors)),
    }


# --- tables ---------------------------------------------------------------------------------------


def report(done: dict[Cell, dict[str, Any]], folder: Path) -> Results:
    """Everything that is known by now."""
    results = Results(SCRIPT, f"python -m benchmarks.{SCRIPT}", 0)
    with measured(results):
        results.data = {
            "name": "breast phantoms",
            "test_patients": _TEST_PATIENTS,
            "steps": _STEPS,
            "cells": f"{len(done)} of {len(all_cells())}",
        }
        for visible in (True, False):
            _add_arms(results, done, visible, folder)
        _add_gaps(results, done)
        _add_changes(results, done)
        curves = {"patients": (5, 10, 20), "decoys": (0, 4, 8), "steps": (_STEPS, _LONG)}
        for field, values in curves.items():
            _add_curve(results, done, field, values)
        _add_detection(results, folder)
    return results


def _of(done: dict[Cell, dict], arm: str, visible: bool, **fixed: int) -> list[dict[str, Any]]:
    """Cells of an arm, a seed each."""
    wanted = {"patients": 20, "decoys": 4, "steps": _STEPS, **fixed}
    return [
        found
        for cell, found in done.items()
        if (cell.arm, cell.visible) == (arm, visible)
        and all(getattr(cell, name) == value for name, value in wanted.items())
    ]


def _summary(cells: list[dict[str, Any]], prefix: str = "") -> dict[str, Any]:
    rows = [row for cell in cells for row in cell["rows"]]
    scores = [{name: row[f"{prefix}{name}"] for name in _SCORES} for row in rows]
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
        key = f"{_SETTINGS[visible]}/{arm}"
        for name in _SCORES:
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
        found = summarize([{name: row[name] for name in _SCORES} for row in free])
        cells_of = [
            _spread(found[name].estimate, d) for name, d in zip(_SCORES, (3, 1, 2), strict=True)
        ]
        interval = _interval(found["dice"].estimate)
        missed = f"{found['hd95'].failures} of {len(free)}"
        rows.append(
            [f"{title}, no training", "", cells_of[0], interval, *cells_of[1:], missed, "", ""]
        )
    note = (
        f"{_TEST_PATIENTS} test patients, the same for all; {_STEPS} steps of two volumes from 20 "
        "patients, on a grid of 3 mm. Mean (standard deviation) over patients and seeds; the "
        "interval draws whole patients. Masks are the plain threshold, so that the arms differ in "
        "one channel only; the last two columns keep the parts near the clips, for the plain U-Net "
        "as well. Missed targets are failures of HD95 and ASD and not in their means."
    )
    columns = ["arm", "DSC by seed", "DSC", "95 %", "HD95 mm", "ASD mm", "missed"]
    columns += ["DSC, parts near clips", "HD95, parts near clips"]
    results.tables.append(Table(f"Arms, {_SETTINGS[visible]}", note, columns, rows))


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
            results.add_metric(f"gap/{_SETTINGS[visible]}/{arm}", float(np.mean(gaps)), n=len(gaps))
            rows.append(
                [
                    _SETTINGS[visible],
                    title,
                    " ".join(f"{gap:+.3f}" for gap in gaps),
                    f"{sum(lower)} of {len(lower)}",
                    float(f"{chance:.2g}"),
                ]
            )
    note = (
        "DSC with the map less DSC of CT only, for each seed; for how many seeds the median HD95, "
        "in which missed targets are infinite, is lower; Wilcoxon's signed rank test over patients."
    )
    columns = ["setting", "map", "DSC gained by seed", "HD95 lower", "p"]
    results.tables.append(Table("What the map adds to the CT", note, columns, rows))


def _means(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in _SCORES}


def _medians(rows: list[dict[str, Any]]) -> float:
    return float(np.median([row["hd95"] for row in rows]))


def _add_changes(results: Results, done: dict[Cell, dict]) -> None:
    rows = []
    for visible in (True, False):
        cells = [cell for cell in _of(done, "edt_gauss", visible) if "changed" in cell]
        if not cells:
            continue
        whole = [row["near dice"] for cell in cells for row in some(cell["rows"])]
        rows.append([_SETTINGS[visible], "as they are", round(float(np.mean(whole)), 3), 0.0])
        for title in cells[0]["changed"]:
            values = [value for cell in cells for value in cell["changed"][title]]
            left = float(np.mean(values))
            results.add_metric(f"changed/{_SETTINGS[visible]}/{title}", left, n=len(values))
            lost = round(left - float(np.mean(whole)), 3)
            rows.append([_SETTINGS[visible], title, round(left, 3), lost])
    note = (
        f"EDT-Gauss, trained with markers jittered, dropped, added and hidden; {_CHANGED_PATIENTS} "
        "test patients and all seeds. The clips are changed in the map only."
    )
    columns = ["setting", "clips", "DSC that remains", "change"]
    results.tables.append(Table("When clips are lost or moved", note, columns, rows))


def _add_curve(
    results: Results, done: dict[Cell, dict], field: str, values: tuple[int, ...]
) -> None:
    rows = []
    for visible in (True, False):
        for arm in ("none", "edt_gauss"):
            cells: list[Any] = [_SETTINGS[visible], ARMS[arm]]
            for value in values:
                seeds = _of(done, arm, visible, **{field: value})
                if field == "decoys":
                    seeds = [one for one in seeds if one["cell"]["seed"] == 0]
                means = [_means(one["rows"])["dice"] for one in seeds]
                if means:
                    key = f"{field}/{_SETTINGS[visible]}/{arm}/{value}"
                    results.add_metric(key, float(np.mean(means)), n=len(means))
                spread = f" ({np.std(means, ddof=1):.3f}, {len(means)} seeds)" if means[1:] else ""
                cells.append(f"{np.mean(means):.3f}{spread}" if means else None)
            rows.append(cells)
    title, note = {
        "patients": (
            "More patients to learn from",
            f"DSC on the test patients after {_STEPS} steps, whatever the number of patients; mean "
            "(standard deviation over seeds).",
        ),
        "decoys": (
            "More decoys",
            "DSC on the test patients, seed 0. Decoys look like the bed and have no clips.",
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


def finished(folder: Path) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """The cells that were measured."""
    for cell in all_cells():
        path = folder / cell.name / "scores.json"
        if path.is_file():
            yield cell, json.loads(path.read_text(encoding="utf-8"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, and write the tables after each cell."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{SCRIPT}", description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs") / SCRIPT, help="for the runs")
    parser.add_argument("--output", type=Path, default=RESULTS / f"{SCRIPT}.json")
    parser.add_argument("--part", default="0/1", help="I/N: every N-th cell from the I-th on")
    parser.add_argument("--report", action="store_true", help="tables of what is there only")
    parser.add_argument("--results", type=results_file, help="of a card, to add the tables to")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options.runs.mkdir(parents=True, exist_ok=True)
    index, count = map(int, options.part.split("/"))
    if not options.report:
        for cell in all_cells()[index::count]:
            run_cell(cell, options.runs)
            print(f"{cell.name} is done", flush=True)
    results = report(dict(finished(options.runs)), options.runs)
    for path in save_results(results, options.output, "Where the saliency map helps SDL-Seg"):
        print(f"Wrote {path}")
    if options.results is not None:
        add_to_results(results, options.results)


if __name__ == "__main__":
    main()
