"""Evaluation of the active contour: quality beside its parts, and how far first contours matter."""

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from salhub.evaluation.shared_rows import shared_rows
from salhub.metrics.segmentation import dice, surface_distances
from salhub.models.active_contour.configuration_active_contour import (
    SaliencyActiveContourConfig,
)
from salhub.models.active_contour.contour_suite import DEGRADATIONS, KINDS
from salhub.models.active_contour.image_processing_active_contour import (
    SaliencyActiveContourImageProcessor,
)
from salhub.models.active_contour.initial_contours import initial_level_set
from salhub.models.active_contour.masked_pictures import (
    SUITE,
    MaskedPicture,
    draw_suite,
    read_masked_folder,
)
from salhub.models.active_contour.modeling_active_contour import (
    SaliencyActiveContourForSegmentation,
)
from salhub.results import Results, Table, measured

# What `salhub evaluate` may be given in place of a folder.
NAMED_DATA = (SUITE,)
SHARES_ROWS = True
TUNED, THRESHOLD, OTSU = "this model", "its start, no evolution", "Otsu of the saliency"
_BATCH = 32
_FIXED_STARTS = ("box", "disk", "full", "checkerboard", "corner_box")
# Smooth noise of so many pixels of 128, parted at 0.
_GRAINS = (2.0, 4.0, 8.0, 16.0, 24.0)

# They part a picture, but do not say which side is the object.
SIDELESS = ("LIF", "RSF", "Chan-Vese, level set")

# Pictures (B, C, H, W) and their masks, bool (B, H, W).
Segmenter = Callable[[Tensor], np.ndarray]

# The model with parts taken away, and those that it is built on.
ABLATIONS: dict[str, dict[str, Any]] = {
    "without the local energy (beta=0)": {"beta": 0.0},
    "without the saliency (alpha=0)": {"alpha": 0.0},
    "saliency at full weight to the end": {"alpha": 1.0},
    "no restoration": {"restoration": []},
    "spikes left in": {"restoration": ["noise", "blur"]},
    "noise left in": {"restoration": ["spikes", "blur"]},
    "blur left in": {"restoration": ["spikes", "noise"]},
    "one smoothing for all (zeta_clear=None)": {"zeta_clear": None},
    "saliency ft": {"saliency": "ft"},
    "saliency sr": {"saliency": "sr"},
}
_LOCAL = {"saliency_scope": "local"}
PRESET_ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "LIF": ("lif", {"max_iterations": 100}),
    "RSF": ("rsf", {"max_iterations": 100}),
    "Chan-Vese, level set": ("chan_vese", {"max_iterations": 100}),
    "as worded, ft (plain)": ("plain", {"max_iterations": 100}),
    "as worded, border, constant": ("paper_constant", {"max_iterations": 100}),
    "as worded, local scope": (
        "paper_constant",
        {"saliency_scope": "local", "max_iterations": 100},
    ),
    "as worded, variational": ("variational", {"max_iterations": 100}),
}


def evaluate(
    model: SaliencyActiveContourForSegmentation,
    image_processor: SaliencyActiveContourImageProcessor,
    data_path: str | os.PathLike[str],
    *,
    seed: int = 5,
    num_seeds: int = 3,
    num_starts: int = 20,
    ablations: bool = True,
    progress: bool = True,
) -> Results:
    """Measure a contour on pictures with exact masks.

    Args:
        model: The model.
        image_processor: Reads the pictures of a folder.
        data_path: "suite", the drawn pictures; or a folder, see `read_masked_folder`.
        seed: First seed of the suite; settings were chosen on 0 to 4.
        num_seeds: Seeds of the suite.
        num_starts: Random first contours whose results are compared.
        ablations: Whether to measure the model without its parts, and those it is built on.
        progress: Whether to show bars.

    Returns:
        `Results` with the tables of the card.

    Raises:
        FileNotFoundError, ValueError: As `read_masked_folder`.
    """
    is_suite = str(data_path) == SUITE
    if is_suite:
        pictures = draw_suite(range(seed, seed + num_seeds))
    else:
        pictures = read_masked_folder(data_path, image_processor)
    name = SUITE if is_suite else Path(data_path).name
    results = Results.of_model(model, name, seed)
    results.data = {"name": name, "pictures": len(pictures)}
    with measured(results):
        rows = {TUNED: segmenter_of(model), **own_baselines(model)}
        scores = score_all(rows, pictures, progress)
        add_quality(results, "Quality", scores, pictures, _QUALITY_NOTE)
        if ablations:
            rows = {title: segmenter_of(model.with_settings(**one)) for title, one in
                    ABLATIONS.items()}  # fmt: skip
            rows |= preset_segmenters()
            scores = {TUNED: scores[TUNED], **score_all(rows, pictures, progress)}
            add_quality(results, "Without its parts", scores, pictures, _PARTS_NOTE)
        add_starts(
            results,
            model,
            _some(pictures),
            num_starts,
            seed,
            others=ablations,
            progress=progress,
        )
    return results


_QUALITY_NOTE = (
    "Mean Dice of the mask as returned; median HD95 in pixels. 'Better side' is the Dice of "
    "the mask or of its complement, whichever is better, and 'inverted' how often it is the "
    "complement."
)
_PARTS_NOTE = (
    "Dice. LIF, RSF, Chan-Vese and the functional as worded in the abstract run 100 "
    "iterations from their usual starts. LIF, RSF and Chan-Vese do not say which side is "
    "the object: their better side is counted."
)


def segmenter_of(model: SaliencyActiveContourForSegmentation) -> Segmenter:
    """What the model finds, a batch at once."""

    def segment(pictures: Tensor) -> np.ndarray:
        with torch.inference_mode():
            return model(pictures.to(model.device)).masks.cpu().numpy()

    return segment


def own_baselines(model: SaliencyActiveContourForSegmentation) -> dict[str, Segmenter]:
    """Its starting map parted at once: at minimum error, and half-way between the classes."""
    return {
        THRESHOLD: lambda pictures: model.salient(pictures).cpu().numpy(),
        OTSU: lambda pictures: model.salient(pictures, "otsu").cpu().numpy(),
    }


def preset_segmenters() -> dict[str, Segmenter]:
    """The models that this one is built on, and the functional as the abstract words it."""
    found = {}
    for title, (preset, settings) in PRESET_ROWS.items():
        config = SaliencyActiveContourConfig.from_preset(preset, **settings)
        found[title] = segmenter_of(SaliencyActiveContourForSegmentation(config).eval())
    return found


class Scores:
    """What one segmenter reached on each picture.

    Args:
        masks: What it gave, bool (H, W) each.
        pictures: The pictures, with the truth.
        has_sides: Whether it says which side is the object. Where it does not, as LIF, the better
            side is scored.

    Attributes:
        dice: (N,), of the mask as it was given; of the better side without `has_sides`.
        inverted: (N,), whether the other side is better than the one that was given.
        best: (N,), Dice of the better side.
        hd95: (N,) pixels, of the same side as `dice`; infinite where it is empty.
    """

    def __init__(
        self,
        masks: Sequence[np.ndarray],
        pictures: Sequence[MaskedPicture],
        has_sides: bool = True,
    ) -> None:
        given = np.array([dice(m, p.mask) for m, p in zip(masks, pictures, strict=True)])
        other = np.array([dice(~m, p.mask) for m, p in zip(masks, pictures, strict=True)])
        self.inverted, self.best = other > given, np.maximum(given, other)
        self.dice = given if has_sides else self.best
        turned = self.inverted & (not has_sides)
        scored = [~m if turns else m for m, turns in zip(masks, turned, strict=True)]
        pairs = zip(scored, pictures, strict=True)
        self.hd95 = np.array([surface_distances(m, p.mask, (1.0, 1.0)).hd95 for m, p in pairs])


def score_all(
    segmenters: dict[str, Segmenter],
    pictures: Sequence[MaskedPicture],
    progress: bool = False,
    sideless: Collection[str] = SIDELESS,
) -> dict[str, Scores]:
    """Run segmenters on all pictures, those of one shape together.

    Those that are `sideless` are scored by their better side, see `Scores`.
    """

    def of_batch(unit: tuple[str, list[int]]) -> list[Tensor]:
        title, places = unit
        made = segmenters[title](torch.stack([pictures[place].pixels for place in places]))
        return [torch.from_numpy(np.array(mask, dtype=bool)) for mask in made]

    def fit(_: list[Tensor], unit: tuple[str, list[int]]) -> list[Tensor]:
        return [torch.zeros(pictures[place].mask.shape, dtype=torch.bool) for place in unit[1]]

    units = [(title, places) for title in segmenters for places in _alike(pictures)]
    masks: dict[str, dict[int, np.ndarray]] = {title: {} for title in segmenters}
    rows = shared_rows("masks", units, of_batch, fit=fit, progress=progress)
    for (title, places), row in zip(units, rows, strict=True):
        masks[title] |= {place: mask.numpy() for place, mask in zip(places, row, strict=True)}
    return {
        title: Scores([own[p] for p in range(len(pictures))], pictures, title not in sideless)
        for title, own in masks.items()
    }


def _alike(pictures: Sequence[MaskedPicture]) -> Iterable[list[int]]:
    shapes: dict[tuple, list[int]] = {}
    for place, picture in enumerate(pictures):
        shapes.setdefault(tuple(picture.pixels.shape), []).append(place)
    for places in shapes.values():
        for first in range(0, len(places), _BATCH):
            yield places[first : first + _BATCH]


def add_quality(
    results: Results,
    title: str,
    scores: dict[str, Scores],
    pictures: Sequence[MaskedPicture],
    note: str,
) -> None:
    """A row each: Dice by degradation of the suite, its mean, HD95, and the better side's Dice."""
    parts = [picture.name.split("/") for picture in pictures]
    is_suite = all(len(part) == 3 for part in parts)
    groups = {}
    if is_suite:
        for place, names in ((1, DEGRADATIONS), (0, KINDS)):
            groups |= {name: np.array([part[place] == name for part in parts]) for name in names}
    groups = {name: at for name, at in groups.items() if at.any()}
    columns = ["model", *groups, "mean", "HD95", "better side", "inverted"]
    rows = []
    for name, one in scores.items():
        estimate = results.add_mean(f"{title}/dice/{name}", one.dice, unit="fraction")
        results.add_metric(f"{title}/better side/{name}", one.best.mean(), n=len(pictures))
        for group, at in groups.items():
            results.add_metric(f"{title}/dice/{name}/{group}", one.dice[at].mean(), n=int(at.sum()))
        results.add_metric(f"{title}/inverted/{name}", int(one.inverted.sum()), n=len(pictures))
        distance = float(np.median(one.hd95))
        results.add_metric(f"{title}/hd95/{name}", distance, n=len(pictures), unit="px")
        cells = [f"{one.dice[at].mean():.3f}" for at in groups.values()]
        rows.append([name, *cells, f"{estimate.mean:.4f}", f"{distance:.2f}",
                     f"{one.best.mean():.4f}", int(one.inverted.sum())])  # fmt: skip
    results.tables.append(Table(title, f"{note} {len(pictures)} pictures.", columns, rows))


def random_starts(number: int, size: tuple[int, int], seed: int) -> Tensor:
    """Masks of first contours: the five usual ones, and blobs of all sizes; bool (N, H, W)."""
    rng, scale, starts = np.random.default_rng(seed), max(size) / 128, []
    for index in range(number):
        if index < len(_FIXED_STARTS):
            starts.append(initial_level_set(_FIXED_STARTS[index], size) < 0)
            continue
        grain = _GRAINS[index % len(_GRAINS)] * scale
        blobs = gaussian_filter(rng.standard_normal(size), grain)
        starts.append(torch.from_numpy(blobs > np.median(blobs)))
    return torch.stack(starts)


def add_starts(
    results: Results,
    model: SaliencyActiveContourForSegmentation,
    pictures: Sequence[MaskedPicture],
    number: int,
    seed: int,
    *,
    others: bool = True,
    progress: bool = False,
) -> None:
    """How far results from many first contours are apart.

    Args:
        results: Filled in place.
        model: The model.
        pictures: Each is begun from all starts.
        number: Of starts.
        seed: Of the random ones.
        others: Whether those that it is built on are measured too.
        progress: Whether to show a bar.
    """
    if number < 2:
        return
    models = {TUNED: model}
    for title in ("LIF", "as worded, border, constant") if others else ():
        preset, settings = PRESET_ROWS[title]
        config = SaliencyActiveContourConfig.from_preset(preset, **settings)
        models[title] = SaliencyActiveContourForSegmentation(config).eval()

    def of_picture(unit: tuple[str, int]) -> list[float]:
        title, picture = unit[0], pictures[unit[1]]
        one = models[title]
        starts = random_starts(number, picture.mask.shape, seed).to(one.device)
        batch = picture.pixels.expand(number, *picture.pixels.shape).to(one.device)
        with torch.inference_mode():
            masks = one(batch, init_level_set=starts).masks.cpu().numpy()
        scores = Scores(list(masks), [picture] * number, title not in SIDELESS)
        values = (scores.dice.std(), np.ptp(scores.dice), scores.dice.mean(), scores.inverted.sum())
        return [float(value) for value in values]

    units = [(title, place) for title in models for place in range(len(pictures))]
    found = shared_rows("first contours", units, of_picture, progress=progress)
    rows = []
    for title in models:
        own = [row for unit, row in zip(units, found, strict=True) if unit[0] == title]
        spreads, ranges, means, inverted = map(list, zip(*own, strict=True))
        turned = round(sum(inverted))
        results.add_mean(f"starts/sd/{title}", spreads)
        results.add_metric(f"starts/largest sd/{title}", max(spreads), n=len(pictures))
        results.add_metric(f"starts/inverted/{title}", turned, n=number * len(pictures))
        cells = [np.mean(means), np.mean(spreads), max(spreads), max(ranges)]
        rows.append([title, *(f"{cell:.4f}" for cell in cells), f"{turned} of "
                     f"{number * len(pictures)}"])  # fmt: skip
    results.tables.append(
        Table(
            "First contours",
            f"{len(pictures)} pictures, each started from {number} contours: a box, a disk, "
            "a frame, a checkerboard, a corner and random blobs. Dice of the better side if "
            "a model does not say which side is the object, and how often it returned the "
            "other side. In this model the saliency force does not depend on the contour, "
            "so a small spread is by construction.",
            ["model", "mean Dice", "mean sd", "largest sd", "largest range", "inverted"],
            rows,
        )
    )


def _some(pictures: Sequence[MaskedPicture], most: int = 21) -> list[MaskedPicture]:
    """Some of them, spread evenly."""
    places = np.linspace(0, len(pictures) - 1, min(most, len(pictures))).round().astype(int)
    return [pictures[place] for place in dict.fromkeys(places.tolist())]
