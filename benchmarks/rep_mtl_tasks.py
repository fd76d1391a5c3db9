"""Rep-MTL beside loss weighting and gradient surgery, trained on several tasks over several seeds.

    python -m benchmarks.rep_mtl_tasks rooms
    python -m benchmarks.rep_mtl_tasks camvid --data camvid_120x90.npz
    python -m benchmarks.rep_mtl_tasks office --data office_caltech10_64.npz

About a quarter of an hour of one idle core each; what is finished is not run again. It writes
benchmarks/results/rep_mtl_SET.json, and its tables beside it as .md.
"""

import argparse
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.experiments import run_once
from benchmarks.peers import find_peers
from benchmarks.report import RESULTS, existing_file, finish
from salhub.errors import MissingExtraError
from salhub.files import draft
from salhub.models.rep_mtl.gradient_surgery import aggregator_of
from salhub.models.rep_mtl.recipe_rep_mtl import RepMTLRecipe
from salhub.models.rep_mtl.rooms import render_rooms
from salhub.models.rep_mtl.task_metrics import HIGHER_IS_BETTER, relative_improvement
from salhub.results import Results, Table, measured, noted_as_it_comes

_PLAIN = {"lambda_tsr": 0.0, "lambda_csa": 0.0, "log_transform": False}
_NO_TERMS = {"lambda_tsr": 0.0, "lambda_csa": 0.0}
EW, SINGLE = "EW", "single tasks"
METHODS: dict[str, dict[str, Any]] = {
    EW: _PLAIN,
    "EW + log": _NO_TERMS,
    "UW": {**_PLAIN, "weighting": "uw"},
    "DWA": {**_PLAIN, "weighting": "dwa"},
    "PCGrad": {**_PLAIN, "gradient_surgery": "pcgrad"},
    "CAGrad": {**_PLAIN, "gradient_surgery": "cagrad"},
    "Nash-MTL": {**_PLAIN, "gradient_surgery": "nash_mtl"},
    "TSR only": {"lambda_csa": 0.0},
    "CSA only": {"lambda_tsr": 0.0},
    "Rep-MTL": {},
    "Rep-MTL without log": {"log_transform": False},
    "Rep-MTL in float32": {"mixed_precision": "no"},
}
# A sweep that belongs to the table: factors of both terms, and temperatures.
SWEEP = {
    **{f"Rep-MTL, factors {one:g}": {"lambda_tsr": one, "lambda_csa": one} for one in (0.1, 0.3)},
    **{f"Rep-MTL, temperature {one:g}": {"csa_temperature": one} for one in (0.1, 0.2, 1.0)},
}
# Small pictures and few steps, so that a set takes about ten minutes of one core.
SETS: dict[str, dict[str, Any]] = {
    "rooms": {
        "tasks": ["segmentation:segmentation:6", "depth:depth", "normals:normals"],
        "num_train_epochs": 10,
    },
    "camvid": {
        "tasks": ["seg:segmentation:11:11"], "derive_boundaries": True, "image_size": 32,
        "num_validation_images": 0, "num_train_epochs": 10,
    },
    "office": {
        "backbone": "salhub/efficientnet-lite0", "image_size": 64, "head": "linear",
        "num_validation_images": 0, "num_train_epochs": 2, "learning_rate": 3e-4,
    },
}  # fmt: skip
# Rendered once, as every run reads them.
_ROOMS = {"train": 400, "test": 200}
_ROOM_SIZE = 32


@dataclass(frozen=True)
class Trained:
    """What a method reached with each seed.

    Args:
        numbers: Task -> metric -> values, one a seed.
        improvements: Delta p over tasks and over metrics, one pair a seed.
    """

    numbers: Mapping[str, Mapping[str, Sequence[float]]]
    improvements: Sequence[tuple[float, float]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run everything that is missing, print the table and write the results file."""
    options = _options(arguments)
    results = Results(model=f"rep_mtl_{options.set}", command=_command(options), seed=0)
    settings = {"mixed_precision": "bf16", **SETS[options.set]}
    if options.data is None and options.set != "rooms":
        raise SystemExit(f"{options.set} needs --data, the archive of its pictures.")
    settings["data"] = str(options.data or rendered_rooms(options.runs))
    peers = find_peers("torchjd", "cvxpy")
    methods = {**METHODS, **(SWEEP if options.sweep else {})}
    with noted_as_it_comes(options.output), measured(results):
        compare(results, settings, options.runs / options.set, options.seeds, methods)
    finish(results, peers, options.output)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rep_mtl_tasks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("set", choices=list(SETS))
    parser.add_argument("--data", type=existing_file, help="archive of camvid or office")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sweep", action="store_true", help="other factors and temperatures too")
    parser.add_argument("--runs", type=Path, default=Path("runs") / "rep_mtl_tasks")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    options.output = options.output or RESULTS / f"rep_mtl_{options.set}.json"
    return options


def rendered_rooms(folder: Path) -> Path:
    """The archive of the rooms, which is made where it is missing."""
    path = folder / "rooms.npz"
    if not path.is_file():
        content: dict[str, Any] = {}
        for place, (part, count) in enumerate(_ROOMS.items()):
            images, labels = render_rooms(count, 0, size=_ROOM_SIZE, start=place * 10**6)
            content |= {f"{part}_images": images}
            content |= {f"{part}_{name}": values for name, values in labels.items()}
        folder.mkdir(parents=True, exist_ok=True)
        with draft(path) as scratch:
            np.savez(scratch, **content)
    return path


def _command(options: argparse.Namespace) -> str:
    data = f" --data {options.data.name}" if options.data else ""
    sweep = " --sweep" if options.sweep else ""
    return f"python -m benchmarks.rep_mtl_tasks {options.set}{data} --seeds {options.seeds}{sweep}"


def compare(
    results: Results,
    settings: Mapping[str, Any],
    folder: Path,
    num_seeds: int,
    methods: Mapping[str, Mapping[str, Any]] = METHODS,
) -> None:
    """Train single-task networks and every method with the seeds 0 to `num_seeds` - 1.

    Args:
        results: To be filled.
        settings: Options of the recipe that all share.
        folder: Where the runs go.
        num_seeds: How many; of one there is no standard deviation.
        methods: Name -> options of its own.
    """
    recipe = RepMTLRecipe(_arguments({**settings, **_PLAIN}, folder))
    recipe.build_model()
    results.data = recipe.task_data.describe()
    tasks = [task["name"] for task in recipe.task_data.tasks]
    methods, left_out = _possible(methods, len(tasks))
    single = _single_tasks(settings, folder, num_seeds, tasks)
    # Of 0 there is no share.
    zero = {(task, m) for task, own in single.items() for m, values in own.items() if 0 in values}
    found = {}
    for name, own in methods.items():
        runs = [
            run_once(
                RepMTLRecipe, folder / _slug(name) / f"seed-{seed}",
                {**settings, **own, "seed": seed}, f"{name}, seed {seed}",
            )
            for seed in range(num_seeds)
        ]  # fmt: skip
        numbers = {task: _metrics(runs, task) for task in tasks}
        improvements = [
            relative_improvement(_of_seed(numbers, seed, zero), _of_seed(single, seed, zero))
            for seed in range(num_seeds)
        ]
        found[name] = Trained(numbers, improvements)
        for metric, place in (("tasks", 0), ("metrics", 1)):
            values = [pair[place] for pair in improvements]
            results.add_metric(f"delta_p/{metric}/{name}", statistics.mean(values), n=num_seeds)
            results.add_metric(f"delta_p/{metric}/{name}/sd", _deviation(values), n=num_seeds)
    notes = list(recipe.task_data.notes)
    if left_out:
        notes.append(f"Left out, as their packages are not installed: {', '.join(left_out)}.")
    if zero:
        words = ", ".join(sorted(f"{task} {metric}" for task, metric in zero))
        notes.append(f"Not in Δp, as a single-task network has 0 of it: {words}.")
    _add_table(results, single, found, num_seeds, notes)


def _arguments(settings: Mapping[str, Any], folder: Path) -> Any:
    return RepMTLRecipe.arguments_class.from_settings({"output_dir": str(folder), **settings})


def _possible(
    methods: Mapping[str, Mapping[str, Any]], num_tasks: int
) -> tuple[dict[str, Mapping[str, Any]], list[str]]:
    """The methods whose packages are here, and the names of the others."""
    possible, left_out = {}, []
    for name, own in methods.items():
        try:
            if "gradient_surgery" in own:
                aggregator_of(own["gradient_surgery"], num_tasks)
            possible[name] = own
        except MissingExtraError:
            left_out.append(name)
    return possible, left_out


def _single_tasks(
    settings: Mapping[str, Any], folder: Path, num_seeds: int, tasks: Sequence[str]
) -> dict[str, dict[str, list[float]]]:
    found = {}
    for task in tasks:
        runs = [
            run_once(
                RepMTLRecipe, folder / "single" / task / f"seed-{seed}",
                {**settings, **_PLAIN, "only": [task], "seed": seed},
                f"{task} alone, seed {seed}",
            )
            for seed in range(num_seeds)
        ]  # fmt: skip
        found[task] = _metrics(runs, task)
    return found


def _metrics(runs: Sequence[Results], task: str) -> dict[str, list[float]]:
    names = [
        one.name.removeprefix(f"{task}/")
        for one in runs[0].metrics
        if one.name.startswith(f"{task}/") and one.name.split("/")[1] in HIGHER_IS_BETTER
    ]
    return {name: [one.metric(f"{task}/{name}").value for one in runs] for name in names}


def _of_seed(
    numbers: Mapping[str, Mapping[str, Sequence[float]]], seed: int, zero: set[tuple[str, str]]
) -> dict[str, dict[str, float]]:
    kept = {
        task: {m: values[seed] for m, values in own.items() if (task, m) not in zero}
        for task, own in numbers.items()
    }
    return {task: own for task, own in kept.items() if own}


def _add_table(
    results: Results,
    single: Mapping[str, Mapping[str, Sequence[float]]],
    found: Mapping[str, Trained],
    num_seeds: int,
    notes: Sequence[str],
) -> None:
    columns = [f"{task} {metric}" for task, own in single.items() for metric in own]
    rows = [[SINGLE, *_cells(single), "0", "0"]]
    for name, one in found.items():
        by_task, by_metric = ([pair[place] for pair in one.improvements] for place in (0, 1))
        rows.append([name, *_cells(one.numbers), _cell(by_task), _cell(by_metric)])
    note = (
        f"Mean and standard deviation of {num_seeds} seed{'s' * (num_seeds > 1)} on the test "
        "part; each seed is compared with its own single-task networks. Δp is in percent; higher "
        "is better."
    )
    results.tables.append(
        Table(
            "Several tasks", " ".join([note, *notes]),
            ["method", *columns, "Δp tasks", "Δp metrics"], rows,
        )
    )  # fmt: skip


def _cells(numbers: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
    return [_cell(values) for own in numbers.values() for values in own.values()]


def _cell(values: Sequence[float]) -> str:
    mean = f"{statistics.mean(values):.4g}"
    return mean if len(values) < 2 else f"{mean} ± {_deviation(values):.2g}"


def _deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else math.nan


def _slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() or c == "." else " " for c in name.lower()).split())


if __name__ == "__main__":
    main()
