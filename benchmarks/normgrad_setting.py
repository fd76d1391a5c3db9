"""Which setting of NormGrad is shipped: chosen on half of the pictures, measured on the others.

    python -m benchmarks.normgrad_setting --data imagenet_sample

A map should say where the class is (grid pointing game) and be another one for another class (rank
correlation of the maps of the most and the least likely class). All settings of NormGrad's own
family are tried on the development half; the held-out half is seen by the former and the chosen
one alone. What the search found is kept in a file, so that it is made once. It writes
benchmarks/results/normgrad_setting.json, and its tables beside it as .md.
"""

import argparse
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

import salhub
from benchmarks.classifier import EXPLAINER
from benchmarks.interleaved import Contender, race, use_one_thread
from benchmarks.report import RESULTS, add_race, print_tables, save_results
from salhub.data.image_folder import LabelledImageFolder
from salhub.data.mosaic import Mosaic, confident_pictures, draw_mosaics
from salhub.evaluation.image_saliency.classified_sample import ClassifiedSample
from salhub.evaluation.image_saliency.evaluation import Evaluation, classifier_of
from salhub.evaluation.image_saliency.scores import (
    measure_class_sensitivity,
    measure_grid_game,
    mosaic_pixels,
    record_table,
)
from salhub.files import write_text
from salhub.metrics.class_sensitivity import class_sensitivity
from salhub.metrics.grid_pointing_game import grid_pointing_game
from salhub.modeling import attribution_scope
from salhub.models.normgrad.evaluation_maps import choose_depths, without_postprocessing
from salhub.models.normgrad.modeling_normgrad import NormGradForImageSaliency
from salhub.ops.maps import combine_layers, layer_weights
from salhub.results import Results, Table, measured

METHODS = ("norm_grad", "norm_grad_selective")
JOINS = (("product", "uniform"), ("product", "linear"), ("sum", "uniform"), ("sum", "linear"))
# 2.5e-3 is that of the published class sensitivity; others stand in the card's table.
STEPS = (0.0, 2.5e-3)
# Maps of these sides are finer than any layer that is tried, and quick to rank.
SIDE, MOSAIC_SIDE = 56, 112
CHANCE, MIN_PROBABILITY = 0.25, 0.85
RULE = (
    "Score: the sum of standardised values, z(mass) - z(|rho|), over all that were tried. Left out "
    "are settings with an empty map or an undefined rho, and a meta step that lowers the mass of "
    "the map it is taken for: it would win by wrecking the network. The best setting without a "
    "meta step is chosen. A step takes a pass over all weights, and a map of its own, for every "
    "class: the last table says how much longer that is."
)


@dataclass(frozen=True)
class Setting:
    """One way to make a map.

    Args:
        method: "norm_grad" or "norm_grad_selective".
        layers: Names, shallow to deep.
        combine: How several are joined.
        layer_weighting: What they weigh.
        meta_step: Size of the step, 0 for none.
    """

    method: str
    layers: tuple[str, ...]
    combine: str = "product"
    layer_weighting: str = "uniform"
    meta_step: float = 0.0

    def __str__(self) -> str:
        joined = f", {self.combine}, {self.layer_weighting}" if len(self.layers) > 1 else ""
        step = f", meta step {self.meta_step:g}" if self.meta_step else ""
        return f"{self.method} at {' '.join(self.layers)}{joined}{step}"

    def model(self, model: NormGradForImageSaliency) -> NormGradForImageSaliency:
        """The same network with this setting."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return without_postprocessing(model, **fields)

    def joined(self, singles: Mapping[tuple[str, str], Tensor]) -> Tensor:
        """The map, of those of its layers."""
        maps = [singles[self.method, layer] for layer in self.layers]
        if len(maps) == 1:
            return maps[0]
        weights = layer_weights(self.layer_weighting, len(maps))
        return combine_layers(maps, weights, self.combine)


FORMER = Setting("norm_grad", ("blocks.4", "blocks.10", "blocks.15"))


@dataclass
class Found:
    """What a setting reached on the development half, a value a cell or picture."""

    mass: list[float] = field(default_factory=list)
    hit: list[float] = field(default_factory=list)
    absolute_rho: list[float] = field(default_factory=list)
    num_empty: int = 0

    @property
    def mean_rho(self) -> float:
        """Over the pictures where it exists; NaN where it exists for none."""
        known = [value for value in self.absolute_rho if np.isfinite(value)]
        return float(np.mean(known)) if known else float("nan")

    @property
    def is_defined(self) -> bool:
        """No map was empty, and every correlation exists."""
        return self.num_empty == 0 and bool(np.isfinite(self.absolute_rho).all())


def main(arguments: Sequence[str] | None = None) -> None:
    """Search, choose and measure."""
    options = _options(arguments)
    if not options.data.is_dir():
        raise SystemExit(f"There is no folder {options.data}; --data names labelled pictures.")
    pipeline = salhub.pipeline(EXPLAINER, device="cpu")
    results = Results(
        "normgrad_setting",
        f"python -m benchmarks.normgrad_setting --data {options.data.name}",
        seed=0,
    )
    with measured(results), attribution_scope(pipeline.model):
        run = drawn_pictures(pipeline, results, options)
        development, held_out = torch.arange(len(run.sample)).tensor_split(2)
        layers = candidate_layers(pipeline.model)
        if not options.search.is_file():
            found = search(
                run,
                pipeline.model,
                layers,
                mosaics_of(run, development, options.mosaics),
                development[: options.images].tolist(),
            )
            kept = {str(setting): vars(values) for setting, values in found.items()}
            write_text(options.search, json.dumps(kept))
        kept = json.loads(options.search.read_text(encoding="utf-8"))
        found = {setting: Found(**kept[str(setting)]) for setting in settings(layers)}
        scores = scores_of(found)
        best = max(scores, key=scores.__getitem__)
        chosen = max((one for one in scores if not one.meta_step), key=scores.__getitem__)
        add_search(results, found, scores, chosen)
        measure_held_out(
            run,
            pipeline.model,
            {"former": FORMER, "chosen": chosen},
            mosaics_of(run, held_out, options.held_out_mosaics),
            held_out[: options.held_out_images].tolist(),
        )
        results.save(options.output)  # as far as it is
        shown = {"former": FORMER, "chosen": chosen, "best of all that was tried": best}
        add_times(results, pipeline, shown, options.rounds)
    print_tables(results)
    for written in save_results(results, options.output, title="The setting that is shipped"):
        print(f"Wrote {written}")


def drawn_pictures(pipeline: Any, results: Results, options: argparse.Namespace) -> Evaluation:
    """Pictures of the folder in an order drawn by the seed, and what the network says of them."""
    folder = LabelledImageFolder(options.data, id2label=pipeline.model.id2label)
    order = torch.randperm(len(folder), generator=torch.Generator().manual_seed(results.seed))
    drawn = [folder[place] for place in order[: 2 * options.half].tolist()]
    classify = classifier_of(pipeline.model)
    sample = ClassifiedSample(drawn, pipeline.image_processor, classify)
    confident = confident_pictures(sample.probabilities, sample.class_labels, MIN_PROBABILITY)
    results.data = folder.describe() | {"num_drawn": len(drawn), "num_confident": len(confident)}
    return Evaluation(results, sample, confident, [], [])


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.normgrad_setting",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled pictures")
    parser.add_argument("--half", type=int, default=160, help="pictures drawn for each half")
    parser.add_argument("--mosaics", type=int, default=10, help="of the development half")
    parser.add_argument("--images", type=int, default=40, help="of the development half")
    parser.add_argument("--held-out-mosaics", type=int, default=20)
    parser.add_argument("--held-out-images", type=int, default=60)
    parser.add_argument(
        "--search",
        type=Path,
        default=Path("runs") / "normgrad_setting.json",
        help="what the search found; where the file is there, it is not made again",
    )
    parser.add_argument("--rounds", type=int, default=10, help="rounds of the race")
    parser.add_argument("--output", type=Path, default=RESULTS / "normgrad_setting.json")
    return parser.parse_args(arguments)


def candidate_layers(model: NormGradForImageSaliency) -> list[str]:
    """The last block of each of three resolutions, and the maps averaged for the linear head."""
    pooled = [one for one in model.saliency_layers(blocks_only=False) if one.feeds_linear_head]
    return [*choose_depths(model.saliency_layers()), pooled[-1].name]


def settings(layers: Sequence[str]) -> Iterator[Setting]:
    """All that are tried, at every set of the layers."""
    # A plain product ranks places as the uniform one does; what it adds is sharpness alone.
    for method, step, count in itertools.product(METHODS, STEPS, range(1, len(layers) + 1)):
        for chosen in itertools.combinations(layers, count):
            for combine, weighting in JOINS if count > 1 else JOINS[:1]:
                yield Setting(method, chosen, combine, weighting, step)


def mosaics_of(run: Evaluation, half: Tensor, count: int) -> list[Mosaic]:
    """Mosaics of pictures of one half only."""
    candidates = run.confident[torch.isin(run.confident, half)]
    return draw_mosaics(candidates, run.sample.class_labels, count, seed=run.results.seed)


def search(
    run: Evaluation,
    model: NormGradForImageSaliency,
    layers: Sequence[str],
    mosaics: Sequence[Mosaic],
    positions: Sequence[int],
) -> dict[Setting, Found]:
    """Every setting on some mosaics and pictures; one pass a step serves all of that step."""
    found = {setting: Found() for setting in settings(layers)}
    for mosaic in tqdm(mosaics, desc="development mosaics"):
        labels, cells = torch.tensor([mosaic.class_labels]), torch.arange(len(mosaic.members))
        pixels = mosaic_pixels(run.sample, mosaic, run.mosaic_size)
        for setting, maps in all_maps(model, layers, pixels, labels, MOSAIC_SIDE, found):
            game = grid_pointing_game(maps[0], cells)
            found[setting].mass += game.mass.tolist()
            found[setting].hit += game.hit.double().tolist()
            found[setting].num_empty += int(game.empty.sum())
    for position in tqdm(positions, desc="development pictures"):
        labels = run.sample.extreme_classes([position])
        pixels = run.sample.pixel_values([position])
        for setting, maps in all_maps(model, layers, pixels, labels, SIDE, found):
            rho = class_sensitivity(maps[:, 0], maps[:, 1]).rho
            found[setting].absolute_rho += rho.abs().tolist()
    return found


def all_maps(
    model: NormGradForImageSaliency,
    layers: Sequence[str],
    pixels: Tensor,
    labels: Tensor,
    side: int,
    wanted: Mapping[Setting, Any],
) -> Iterator[tuple[Setting, Tensor]]:
    """The maps of every setting, (1, T, side, side)."""
    for step in STEPS:
        stepped = without_postprocessing(model, meta_step=step, output_size=[side, side])
        outputs = stepped.forward_grid(pixels, labels, methods=METHODS, layers=layers)
        singles = {place: output.saliency for place, output in outputs.items()}
        for setting in wanted:
            if setting.meta_step == step:
                yield setting, setting.joined(singles)


def scores_of(found: Mapping[Setting, Found]) -> dict[Setting, float]:
    """The score of every setting that may be chosen, see `RULE`."""
    mass = {one: float(np.mean(values.mass)) for one, values in found.items()}
    rho = {one: values.mean_rho for one, values in found.items()}
    sums = _standardised(mass) - _standardised(rho)
    return {
        one: float(total)
        for one, total in zip(found, sums, strict=True)
        if found[one].is_defined and mass[one] >= mass[_without_step(one)]
    }


def _standardised(values: Mapping[Setting, float]) -> np.ndarray:
    numbers = np.array(list(values.values()))
    return (numbers - np.nanmean(numbers)) / np.nanstd(numbers)


def _without_step(setting: Setting) -> Setting:
    return Setting(setting.method, setting.layers, setting.combine, setting.layer_weighting)


def add_search(
    results: Results, found: Mapping[Setting, Found], scores: Mapping[Setting, float], chosen
) -> None:
    """The table of all that was tried, best first."""
    counts = (len(next(iter(found.values())).mass), len(found[chosen].absolute_rho))
    rows = []
    for setting in sorted(found, key=lambda one: -scores.get(one, -np.inf)):
        values = found[setting]
        numbers = [np.mean(values.mass), np.mean(values.hit), values.mean_rho]
        score = round(scores[setting], 3) if setting in scores else "left out"
        mark = {chosen: "chosen", FORMER: "former"}.get(setting)
        rows.append([str(setting), *(round(float(number), 4) for number in numbers), score, mark])
    note = (
        f"{RULE} {len(found)} settings, {counts[0]} cells of mosaics and {counts[1]} pictures; "
        f"chance of mass and arg-max {CHANCE:.2f}. A plain product is not tried: it ranks "
        "places as the uniform product does."
    )
    columns = ["setting", "grid mass", "arg-max", "|rho|", "score", ""]
    results.tables.append(Table("Development half: all that was tried", note, columns, rows))


def measure_held_out(
    run: Evaluation,
    model: NormGradForImageSaliency,
    shown: Mapping[str, Setting],
    mosaics: Sequence[Mosaic],
    positions: Sequence[int],
) -> None:
    """The settings on pictures that played no part in the choice, as any model is measured."""
    explainers = {}
    for name, setting in shown.items():
        measured = setting.model(model)
        explainers[name] = lambda pixels, labels, measured=measured: (
            measured(pixels, labels).saliency
        )
    grid = measure_grid_game(explainers, run.sample, mosaics, picture_size=run.mosaic_size)
    rho = measure_class_sensitivity(explainers, run.sample, positions)
    masses = record_table(run.results, "held_out", grid, ["mass", "hit"], unit="fraction")
    alike = record_table(run.results, "held_out", rho, ["absolute_rho"], unit="rho")
    rows = [
        [
            f"{name}: {setting}",
            *(f"{masses[name][metric]:.3f}" for metric in ("mass", "hit")),
            f"{alike[name]['absolute_rho']:.3f}",
        ]
        for name, setting in shown.items()
    ]
    gains = []
    for table, metric in ((grid, "mass"), (grid, "hit"), (rho, "absolute_rho")):
        pairs = [table[name][metric] for name in ("chosen", "former")]
        change = np.subtract(pairs[0].values, pairs[1].values)
        name = f"held_out/change/{metric}"
        gains.append(f"{run.results.add_mean(name, change, groups=pairs[0].groups):.3f}")
    rows.append(["chosen - former", *gains])
    note = (
        f"{len(mosaics)} mosaics (chance {CHANCE:.2f}) and {len(positions)} pictures of the "
        "half that was not searched; mean and 95 % bootstrap interval, mosaics drawn whole."
    )
    columns = ["setting", "grid mass", "arg-max", "|rho|"]
    run.results.tables.insert(0, Table("Held-out half", note, columns, rows))


def add_times(results: Results, pipeline: Any, shown: Mapping[str, Setting], rounds: int) -> None:
    """What a map costs."""
    photo = salhub.load_image("sample:cat")
    pixels = pipeline.image_processor(images=[photo], return_tensors="pt")["pixel_values"]
    contenders = []
    for name, setting in shown.items():
        model = setting.model(pipeline.model)
        contenders.append(Contender(name, lambda model=model: model(pixels)))
    title = "Time of one map"
    found = race(contenders, rounds=rounds, title=title)
    add_race(results, title, "The sample photo of a cat.", found, {"to the former": "former"})


if __name__ == "__main__":
    use_one_thread()
    main()
