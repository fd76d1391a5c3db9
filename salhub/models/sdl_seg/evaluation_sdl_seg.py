"""Evaluation of SDL-Seg: overlap and surface distances by patient, failures counted."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from salhub.evaluation.shared_rows import shared_rows
from salhub.metrics.segmentation import segmentation_scores, summarize
from salhub.models.sdl_seg.calibration import calibration_error, near_target
from salhub.models.sdl_seg.cases import PHANTOMS, Case, CaseFolder, phantom_case
from salhub.models.sdl_seg.modeling_sdl_seg import SDLSegForVolumeSegmentation
from salhub.models.sdl_seg.processing_sdl_seg import SDLSegImageProcessor
from salhub.results import Results, Table, measured

# What `--data` may be beside a folder.
NAMED_DATA = (PHANTOMS,)
SHARES_ROWS = True
# Patients of the tests, whom no training ever draws.
FIRST_TEST_PATIENT = 900_000
_COLUMNS = {
    "dice": ("DSC", "fraction"),
    "hd95": ("HD95 mm", "mm"),
    "assd": ("ASD mm", "mm"),
    "surface_dice": ("surface Dice 2 mm", "fraction"),
    "volume_ratio": ("volume ratio", "ratio"),
    "centroid_shift": ("centroid shift mm", "mm"),
    "calibration_error": ("calibration error", "fraction"),
}


def evaluate(
    model: SDLSegForVolumeSegmentation,
    data_path: Any,
    *,
    num_patients: int = 12,
    fractions: int = 1,
    num_decoys: int = 4,
    patient_pattern: str | None = None,
    variants: bool = True,
    seed: int = 0,
    progress: bool = True,
) -> Results:
    """Measure masks against the truth.

    Args:
        model: To be measured.
        data_path: "phantoms", or a folder in nnU-Net's layout.
        num_patients: Phantoms.
        fractions: Scans of each.
        num_decoys: Lesions without clips in each.
        patient_pattern: Of a folder, see `CaseFolder`.
        variants: Whether to measure what happens when clips are lost, moved, painted out or hidden.
        seed: Of the bootstrap, and of what is done to the clips.
        progress: Whether to show bars.

    Returns:
        `Results`: mean (standard deviation) with an interval that draws whole patients.

    Raises:
        FileNotFoundError: No such folder.
        ValueError: A folder of another kind, or of cases without masks.
    """
    is_phantoms = str(data_path) == PHANTOMS
    name = PHANTOMS if is_phantoms else Path(data_path).resolve().name
    results = Results.of_model(model, name, seed)
    results.data = {"name": name}
    keywords: dict[str, Any] = {"num_decoys": num_decoys, "spacing": model.config.target_spacing}
    if is_phantoms:
        results.data |= {"patients": num_patients, "fractions": fractions, "decoys": num_decoys}
        cases = test_phantoms(num_patients, fractions, **keywords)
    else:
        folder = CaseFolder(data_path, patient_pattern)
        cases = [folder.read(one.name) for one in folder.names()]
    if not cases:
        raise ValueError(f"{name} has no case with a mask; give a folder with labels.")
    with measured(results):
        rows = {"as it is": scored(model, cases, progress=progress)}
        if variants and model.config.image_channels == 2:
            for title, change in marker_changes(seed).items():
                rows[title] = scored(model, cases, change=change, progress=progress)
        if variants and is_phantoms:
            painted = test_phantoms(num_patients, fractions, clips_visible=False, **keywords)
            rows["clips painted out of the CT"] = scored(model, painted, progress=progress)
        add_scores(results, rows, [one.patient for one in cases])
    return results


def test_phantoms(num_patients: int, fractions: int = 1, **keywords: Any) -> list[Case]:
    """Phantoms that no training draws; keywords as of `phantom_case`."""
    return [
        phantom_case(FIRST_TEST_PATIENT + patient, fraction, **keywords)
        for patient in range(num_patients)
        for fraction in range(fractions)
    ]


def predicted(
    model: SDLSegForVolumeSegmentation, case: Case, markers: np.ndarray | None = None
) -> dict[str, Any]:
    """What the model says of a case, see `SDLSegImageProcessor.post_process_segmentation`."""
    processor = SDLSegImageProcessor(model.config)
    is_used = model.config.image_channels == 2
    places = case.markers if markers is None else markers
    batch = processor(case.volume, case.spacing, markers=places if is_used else None)
    outputs = model.predict(batch["pixel_values"])
    return processor.post_process_segmentation(outputs, batch["meta"])[0]


Change = Callable[[np.ndarray, Case, np.random.Generator], np.ndarray]


def marker_changes(seed: int) -> dict[str, Change]:
    """What may go wrong with the clips, by a title."""
    return {
        "one clip lost": lambda markers, case, draws: _without(markers, 1, draws),
        "two clips lost": lambda markers, case, draws: _without(markers, 2, draws),
        "half of the clips lost": lambda markers, case, draws: _without(
            markers, len(markers) // 2, draws
        ),
        "clips moved by 3 mm": lambda markers, case, draws: _moved(markers, 3.0, case, draws),
        "clips moved by 6 mm": lambda markers, case, draws: _moved(markers, 6.0, case, draws),
        "all clips moved alike by 10 mm": lambda markers, case, draws: _shifted(
            markers, 10.0, case, draws
        ),
        "a false clip 35 mm away": lambda markers, case, draws: _with_false(
            markers, 35.0, case, draws
        ),
        "map hidden": lambda markers, case, draws: markers[:0],
    }


def _without(markers: np.ndarray, count: int, draws: np.random.Generator) -> np.ndarray:
    count = min(count, len(markers) - 1)
    return markers[np.sort(draws.permutation(len(markers))[count:])]


def _directions(count: int, draws: np.random.Generator) -> np.ndarray:
    found = draws.normal(size=(count, 3))
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def _inside(markers: np.ndarray, case: Case) -> np.ndarray:
    return np.clip(markers, 0, np.array(case.volume.shape) - 1)


def _moved(markers: np.ndarray, mm: float, case: Case, draws: np.random.Generator) -> np.ndarray:
    return _inside(markers + mm * _directions(len(markers), draws) / case.spacing, case)


def _shifted(markers: np.ndarray, mm: float, case: Case, draws: np.random.Generator) -> np.ndarray:
    return _inside(markers + mm * _directions(1, draws) / case.spacing, case)


def _with_false(
    markers: np.ndarray, mm: float, case: Case, draws: np.random.Generator
) -> np.ndarray:
    false = markers.mean(axis=0) + mm * _directions(1, draws)[0] / case.spacing
    return _inside(np.concatenate([markers, [false]]), case)


def scored(
    model: SDLSegForVolumeSegmentation,
    cases: Iterable[Case],
    *,
    change: Change | None = None,
    progress: bool = False,
    seed: int = 0,
) -> list[dict[str, float]]:
    """Scores of each case, its seconds among them.

    Args:
        model: To be measured.
        cases: With markers, where `change` is given.
        change: Takes markers, case and random numbers, gives other markers.
        progress: Whether to show a bar.
        seed: Of the changes.
    """
    cases = list(cases)
    allowed = model.with_settings(allow_no_markers=True) if change else model

    def of_case(index: int) -> dict[str, float]:
        case, markers = cases[index], None
        if change is not None and case.markers is not None:
            markers = change(case.markers, case, np.random.default_rng([seed, index]))
        began = time.perf_counter()
        found = predicted(allowed, case, markers)
        seconds = time.perf_counter() - began
        scores = segmentation_scores(found["mask"], case.mask, case.spacing)
        near = near_target(case.mask, case.spacing)
        chances = found["probability"][near].astype(np.float64)
        scores["calibration_error"] = calibration_error(chances, case.mask[near])
        return {name: float(value) for name, value in {**scores, "seconds": seconds}.items()}

    return shared_rows("volumes", range(len(cases)), of_case, progress=progress)


def add_scores(
    results: Results, rows: Mapping[str, list[dict[str, float]]], patients: list[str]
) -> None:
    """Put scores into results, the first ones as those of the model."""
    table: list[list[Any]] = []
    for title, scores in rows.items():
        found = summarize(scores, patients, seed=results.seed)
        for name, (_, unit) in _COLUMNS.items():
            one = found[name].estimate
            results.add_metric(
                f"{title}/{name}", one.mean, interval=(one.low, one.high), n=one.n, unit=unit
            )
            if name == "dice":
                results.add_metric(f"{title}/dice sd", one.standard_deviation, n=one.n)
            if name == "hd95":
                results.add_metric(f"{title}/hd95 median", found[name].median, unit="mm")
                results.add_metric(f"{title}/missed", found[name].failures, n=len(scores))
        dice = found["dice"].estimate
        interval = f"{dice.low:.3f} to {dice.high:.3f}"
        mean, *others = _cells(found)
        table.append([title, mean, interval, *others])
    seconds = [row["seconds"] for row in next(iter(rows.values()))]
    results.add_metric("seconds a volume", float(np.mean(seconds)), n=len(seconds), unit="s")
    note = (
        f"{len(patients)} volumes of {len(set(patients))} patients: mean (standard "
        "deviation); the interval resamples whole patients. DSC is overlap (best: 1). HD95 "
        "and ASD are distances between the surfaces (best: 0); empty masks count as missed "
        "and are not in the mean, and masks in the wrong place count with their distance. "
        "The calibration error is the difference between probabilities and frequencies "
        "around the target."
    )
    first, *others = (heading for heading, _ in _COLUMNS.values())
    columns = ["clips", first, "DSC, 95 % interval", *others, "missed"]
    results.tables.append(Table("Masks compared with the true masks", note, columns, table))


def _cells(found: Mapping[str, Any]) -> Iterator[str]:
    for name in _COLUMNS:
        one = found[name].estimate
        digits = 3 if name in ("dice", "surface_dice", "volume_ratio", "calibration_error") else 2
        yield f"{one.mean:.{digits}f} ({one.standard_deviation:.{digits}f})" if one.n else "—"
    yield f"{found['hd95'].failures} of {found['hd95'].estimate.n + found['hd95'].failures}"
