"""The trainings of the study of SDL-Seg: each is made and measured once, and kept."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from benchmarks.experiments import run_once
from salhub.metrics.segmentation import segmentation_scores
from salhub.models.sdl_seg.cases import Case, phantom_case
from salhub.models.sdl_seg.configuration_sdl_seg import SDLSegConfig
from salhub.models.sdl_seg.evaluation_sdl_seg import marker_changes, predicted, test_phantoms
from salhub.models.sdl_seg.marker_detection import detect_markers, doubtful_markers
from salhub.models.sdl_seg.modeling_sdl_seg import SDLSegForVolumeSegmentation
from salhub.models.sdl_seg.phantom import make_breast_phantom
from salhub.models.sdl_seg.processing_sdl_seg import SDLSegImageProcessor
from salhub.models.sdl_seg.recipe_sdl_seg import SDLSegRecipe

SCRIPT = "sdl_seg_study"
ARMS = {"none": "CT only", "points": "points", "edt_gauss": "EDT-Gauss", "hull": "hull"}
STEPS, LONG, TEST_PATIENTS, CHANGED_PATIENTS = 100, 400, 12, 6
# Coarser than the grid of the shipped models, for so many trainings; masks are measured on the grid
# of the phantoms.
_GRID, _PHANTOMS = [3.0, 3.0, 3.0], [3.0, 1.5, 1.5]
SEEDS = 3
CURVES = {"patients": (5, 10, 20), "decoys": (0, 4, 8), "steps": (STEPS, LONG)}
CURVE_ARMS = ("none", "edt_gauss")
SETTINGS = {True: "clips visible", False: "clips painted out"}
SCORES = ("dice", "hd95", "assd")


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
    steps: int = STEPS

    @property
    def name(self) -> str:
        """Of its folder."""
        seen = "visible" if self.visible else "painted"
        steps = "" if self.steps == STEPS else f"-{self.steps}s"
        return f"{self.arm}-{seen}-{self.patients}p-{self.decoys}d{steps}-{self.seed}"


def all_cells() -> list[Cell]:
    """The cells in the order in which they are worth most."""
    both = (False, True)
    cells = [
        Cell(arm, visible, seed)
        for seed in range(SEEDS)
        for visible in both
        for arm in reversed(ARMS)
    ]
    pair = ("edt_gauss", "none")
    cells += [
        Cell(arm, v, seed, decoys=n)
        for seed in range(SEEDS)
        for n in (0, 8)
        for v in both
        for arm in pair
    ]
    cells += [
        Cell(arm, v, seed, patients=n)
        for seed in range(SEEDS)
        for n in (5, 10)
        for v in both
        for arm in pair
    ]
    cells += [Cell(arm, v, seed, steps=LONG) for seed in range(SEEDS) for v in both for arm in pair]
    return cells


def cells_of_curve(field: str) -> list[Cell]:
    """The cells that one of the `CURVES` is drawn from."""
    return [
        cell
        for cell in all_cells()
        if cell.arm in CURVE_ARMS
        and getattr(cell, field) in CURVES[field]
        and dataclasses.replace(cell, **{field: getattr(Cell, field)})
        == Cell(cell.arm, cell.visible, cell.seed)
    ]


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
        "validation_steps": cell.steps // 2 if cell.steps == STEPS else STEPS,
        "checkpointing_steps": cell.steps // 2,
        "cpu": True,
    }
    run_once(SDLSegRecipe, folder / cell.name, options, f"{SCRIPT} {cell.name}")
    model = SDLSegForVolumeSegmentation.from_pretrained(folder / cell.name)
    cases = test_phantoms(TEST_PATIENTS, num_decoys=cell.decoys, clips_visible=cell.visible)
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
    return cases[:CHANGED_PATIENTS]


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
                **{name: scores[name] for name in SCORES},
                **{f"near {name}": near_scores[name] for name in SCORES},
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
    for case in test_phantoms(TEST_PATIENTS):
        inside = SDLSegImageProcessor(hull).saliency_map(
            case.markers, case.volume.shape, case.spacing
        )
        decoys = make_breast_phantom(int(case.patient.rpartition("-")[2])).decoys
        masks = (map_of(case) > level, inside.numpy() > 0.25, case.mask | decoys)
        for title, mask in zip(rows, masks, strict=True):
            scores = segmentation_scores(mask, case.mask, case.spacing)
            one = {name: scores[name] for name in SCORES}
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


def finished(folder: Path) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """The cells that were measured."""
    for cell in all_cells():
        path = folder / cell.name / "scores.json"
        if path.is_file():
            yield cell, json.loads(path.read_text(encoding="utf-8"))
