"""Evaluation of an edit beside references: controls, parts switched off, and worse tracks."""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from salhub.evaluation.shared_rows import shared_rows
from salhub.models.editiq.actor_tracks import ActorTracks
from salhub.models.editiq.configuration_editiq import EditIQConfig
from salhub.models.editiq.edit import Edit
from salhub.models.editiq.edit_controls import (
    VARIANTS,
    greedy_edit,
    random_edit,
    speaker_edit,
    wide_edit,
)
from salhub.models.editiq.edit_examples import (
    MEASURING_SEED,
    STAGE,
    EditExample,
    film_of,
    read_examples,
    stage_examples,
)
from salhub.models.editiq.edit_metrics import measure_edit, reaction_recall, saliency_kept
from salhub.models.editiq.editing import decide, with_new_rushes
from salhub.models.editiq.modeling_editiq import EditIQModel
from salhub.models.editiq.rushes import Rushes
from salhub.results import Results, Table, measured

logger = logging.getLogger(__name__)

FULL, GAZED = "full", "gazed"
CONTROLS = ("wide", "random", "speaker", "greedy")
# Numbers of the table, and their headings.
_COLUMNS = {
    "accuracy/soft": "soft accuracy",
    "accuracy/strict": "strict accuracy",
    "cut f1": "cut F1",
    "speaker visible": "speaker visible",
    "reaction recall": "reactions shown",
    "cuts a minute": "cuts a minute",
    "shortest shot": "shortest shot, s",
    "short shots": "short shots",
    "jump cuts": "jump cuts",
    "misframed": "frames that cut people",
    "saliency kept": "saliency kept",
}
NAMED_DATA = (STAGE,)
SHARES_ROWS = True
# Of tracks that are made worse: deviation in pixels of a frame of 360 lines, and boxes that miss.
_JITTER, _DROPPED = 4.0, 0.05


def evaluate(
    model: EditIQModel,
    data_path: Any,
    *,
    num_scenes: int = 10,
    seconds: float = 40.0,
    ablations: bool = True,
    tracker: bool = True,
    seed: int = 0,
    progress: bool = True,
) -> Results:
    """Measure the edits of a model beside references and controls.

    Args:
        model: The model.
        data_path: "stage", scenes that are drawn, none of which was learned from; or a folder of
            edits, see `read_examples`.
        num_scenes: Scenes that are drawn.
        seconds: Length of each.
        ablations: Whether parts of the model are switched off one by one.
        tracker: Whether people are also found by the tracker, without tracks.
        seed: Of the scenes and of the random edit.
        progress: Whether to show a bar.

    Returns:
        `Results` with "NAME/METRIC", means over the scenes, and the tables of the card.

    Raises:
        FileNotFoundError, ValueError: As of `read_examples`.

    Example:
        >>> results = evaluate(EditIQModel(EditIQConfig()), "stage")  # doctest: +SKIP
    """
    if str(data_path) == STAGE:
        first = MEASURING_SEED + 10 * seed
        examples = stage_examples(first, num_scenes, seconds)
    else:
        examples = read_examples(data_path)
    results = Results.of_model(model, str(data_path) if str(data_path) == STAGE else "edits", seed)
    results.data = {"name": STAGE, "scenes": len(examples), "seconds": seconds, "seed": seed}
    if str(data_path) != STAGE:
        results.data = {"name": "edits", "scenes": len(examples)}
    found: dict[str, list[dict[str, float]]] = {}
    with measured(results):

        def of_scene(number: int) -> dict[str, dict[str, float]]:
            draw = np.random.default_rng((seed, number))
            rows = _of_scene(model, examples[number], draw, ablations, tracker)
            return {
                name: {metric: float(value) for metric, value in row.items()}
                for name, row in rows.items()
            }

        for rows in shared_rows("scenes", range(len(examples)), of_scene, progress=progress):
            for name, row in rows.items():
                found.setdefault(name, []).append(row)
        for name, rows in found.items():
            for metric in rows[0]:
                results.add_mean(f"{name}/{metric}", [row[metric] for row in rows])
        _add_tables(results, found)
    return results


def _of_scene(
    model: EditIQModel,
    one: EditExample,
    draw: np.random.Generator,
    ablations: bool,
    tracker: bool,
) -> dict[str, dict[str, float]]:
    reference = one.reference()
    film = film_of(one)
    saliency = None if one.film is not None else "none"
    edit = model.edit(film, one.transcript, tracks=one.tracks, saliency=saliency)

    def measure(shots: np.ndarray, rushes: Rushes, config: EditIQConfig) -> dict[str, float]:
        crops = rushes.crops[shots, np.arange(len(shots))]
        found = measure_edit(shots, rushes, crops, edit.transcript, reference, config.minimum_shot)
        found["reaction recall"] = reaction_recall(shots, rushes, one.inserts)
        looked = edit.material.measured
        found["saliency kept"] = saliency_kept(looked.kept, looked.times, rushes, crops)
        return found

    config, rushes = model.config, edit.rushes
    found = {FULL: measure(_shots_of(edit), rushes, config)}
    found["wide"] = measure(wide_edit(rushes), rushes, config)
    found["random"] = measure(random_edit(rushes, draw), rushes, config)
    found["speaker"] = measure(speaker_edit(rushes, edit.transcript), rushes, config)
    greedy = np.repeat(greedy_edit(edit), edit.frames_per_decision)[: rushes.crops.shape[1]]
    found["greedy"] = measure(greedy, rushes, config)
    gazed = EditIQConfig.from_preset(GAZED)
    by_gaze = EditIQModel(gazed)
    material = with_new_rushes(edit.material, gazed)
    theirs = decide(material, gazed, by_gaze.term_weights(), ())
    found[GAZED] = measure(_shots_of(theirs), theirs.rushes, config)
    for name, settings in VARIANTS.items():
        if ablations or name in ("saliency only", "dialogue only", "first-order programme"):
            other = model.re_edit(edit, **settings)
            found[name] = measure(_shots_of(other), other.rushes, config)
            if name == "first-order programme":
                found[name]["energy gap"] = other.energy - edit.energy
    worse = worsened(one.tracks, draw)
    shaken = model.edit(film, one.transcript, tracks=worse, saliency=saliency)
    found["jittered and dropped tracks"] = measure(_shots_of(shaken), rushes, config)
    if tracker and one.film is not None:
        found["people found by the tracker"] = _by_tracker(model, one, edit, measure)
    for row in found.values():
        row.setdefault("energy gap", math.nan)
    return found


def _by_tracker(
    model: EditIQModel, one: EditExample, edit: Edit, measure: Callable
) -> dict[str, float]:
    """The edit of people whom nobody has named, measured by the true boxes."""
    empty = dict.fromkeys(measure(wide_edit(edit.rushes), edit.rushes, model.config), math.nan)
    try:
        other = model.edit(one.film, one.transcript)
    except ValueError as error:
        logger.warning("The tracker cannot be used for %s: %s", one.name, error)
        return empty | {"accuracy/soft": 0.0, "accuracy/strict": 0.0}
    names = [shot.name for shot in edit.rushes.shots]
    wide = edit.rushes.shots[0].name
    shown = np.array(
        [names.index(s.name) if s.name in names else names.index(wide) for s in other.rushes.shots]
    )
    found = measure(shown[_shots_of(other)], edit.rushes, model.config)
    crops = other.decision.crops
    true = measure_edit(shown[_shots_of(other)], edit.rushes, crops, edit.transcript, None, 0.0)
    kept = ("speaker visible", "misframed", "heads out")
    return {**found, **{name: true[name] for name in kept}}


def worsened(tracks: ActorTracks, draw: np.random.Generator) -> ActorTracks:
    """Tracks whose boxes shake, and of which some are missing.

    Args:
        tracks: Good ones.
        draw: Source of what is drawn.
    """
    shake = _JITTER * tracks.frame_size[1] / 360
    boxes = tracks.boxes + draw.normal(0, shake, tracks.boxes.shape).astype(np.float32)
    boxes[draw.random(boxes.shape[:2]) < _DROPPED] = np.nan
    return replace(tracks, boxes=boxes)


def _shots_of(edit: Edit) -> np.ndarray:
    """Place of the shot of each frame, (T,)."""
    place = {shot.name: row for row, shot in enumerate(edit.rushes.shots)}
    spans = edit.decision.spans
    return np.concatenate(
        [np.full(span.stop - span.start, place[span.shot.name]) for span in spans]
    )


def _add_tables(results: Results, found: Mapping[str, list[dict[str, float]]]) -> None:
    order = [*CONTROLS, GAZED, "saliency only", "dialogue only", "first-order programme", FULL]
    count = len(found[FULL])
    note = (
        f"Means over {count} films. Soft accuracy: frames whose shot is accepted by the "
        "reference, or shows at least half of the same people; the wide shot only matches "
        "itself. Greedy takes the shot with the largest potential at each frame."
    )
    rows = [_row(name, found[name]) for name in order if name in found]
    results.tables.append(Table("Edits", note, ["edit", *_COLUMNS.values()], rows))
    rest = [name for name in found if name not in order]
    if rest:
        rows = [_row(name, found[name]) for name in (FULL, *rest)]
        note = "The full model with one part switched off or changed, and with worse tracks."
        results.tables.append(Table("Parts", note, ["edit", *_COLUMNS.values()], rows))


def _row(name: str, rows: list[dict[str, float]]) -> list[str | float | int | None]:
    cells: list[str | float | int | None] = [name]
    for metric in _COLUMNS:
        values = [row[metric] for row in rows if math.isfinite(row[metric])]
        if metric in ("jump cuts", "short shots"):
            cells.append(int(sum(values)))
        else:
            cells.append(f"{np.mean(values):.3f}" if values else None)
    return cells
