"""`--try option=a,b`: the same run with several settings, of which the best is kept."""

import itertools
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from salhub.cli.settings import is_pair, parse_settings
from salhub.cli.train import RecipeCall

FOLDER = "tried"
Setting = dict[str, Any]


def carry_out_trials(call: RecipeCall, tried: list[str], *, as_json: bool) -> None:
    """Run a recipe with every combination of some settings, and keep the best.

    The runs lie in `output_dir`/tried; the chosen one is copied to `output_dir`. With
    resume_from_checkpoint=latest those that are finished are not run again.

    Args:
        call: The recipe and its options.
        tried: `option=a,b` words.
        as_json: Print one JSON document.
    """
    grid = parse_grid(tried)
    _check(call, grid)
    arguments = call.arguments()
    folder = Path(arguments.output_dir)
    calls = {
        name: call.changed({**setting, "output_dir": str(folder / FOLDER / name)})
        for name, setting in _combinations(grid).items()
    }
    for one in calls.values():
        one.arguments()  # bad values are refused before the first run
    _make_room(folder, arguments)
    for name, one in calls.items():
        if _is_finished(one):
            continue
        if not as_json:
            typer.echo(f"Trying {name}", err=True)
        one.run(quiet=True)
    if not arguments.dry_run:
        _keep_best(call, calls, folder, as_json=as_json)


def parse_grid(words: Sequence[str]) -> dict[str, list[Any]]:
    """Read `option=a,b` words.

    Raises:
        typer.BadParameter: A word is no pair, or has fewer than two values.

    Example:
        >>> parse_grid(["learning_rate=1e-3,0.01"])
        {'learning_rate': [0.001, 0.01]}
    """
    for word in words:
        if not is_pair(word):
            raise typer.BadParameter(
                f"--try {word} names no values; write them with commas, such as "
                "--try learning_rate=0.01,0.03."
            )
    pairs = [word.partition("=") for word in words]
    grid = parse_settings(f"{name}=[{values}]" for name, _, values in pairs)
    for name, values in grid.items():
        if len(values) < 2:
            raise typer.BadParameter(
                f"--try {name} has {len(values)} value to choose from; write several with commas, "
                f"such as --try {name}=0.01,0.03."
            )
    return grid


def _combinations(grid: Mapping[str, list[Any]]) -> dict[str, Setting]:
    """Name of a folder -> setting."""
    combined = [
        dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())
    ]
    return {",".join(f"{k}={v}" for k, v in one.items()).replace("/", "_"): one for one in combined}


def _check(call: RecipeCall, grid: Mapping[str, list[Any]]) -> None:
    kind = call.recipe_class
    if not kind.chooses_settings:
        raise typer.BadParameter(
            f"The recipe '{kind.name}' measures nothing that settings can be chosen by; run it "
            "once for each of them, without --try."
        )
    for name in grid.keys() & call.settings.keys():
        raise typer.BadParameter(f"'{name}' is both given and to be tried; leave one out.")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise typer.BadParameter("--try starts its runs itself; use --nproc instead of a launcher.")
    if call.arguments().push_to_hub:
        raise typer.BadParameter("--try pushes nothing; leave out push_to_hub, and push the best.")


def _make_room(folder: Path, arguments: Any) -> None:
    from salhub.runner.run_folder import check_unused

    if arguments.dry_run:
        return
    if arguments.resume_from_checkpoint is None:
        check_unused(folder, overwrite=arguments.overwrite)
        shutil.rmtree(folder / FOLDER, ignore_errors=True)


def _is_finished(call: RecipeCall) -> bool:
    from salhub.runner.run_folder import is_finished

    arguments = call.arguments()
    if arguments.resume_from_checkpoint is None:
        return False
    options = call.recipe_class(arguments).learned_options()
    return is_finished(Path(arguments.output_dir), options)


def _keep_best(
    call: RecipeCall, calls: Mapping[str, RecipeCall], folder: Path, *, as_json: bool
) -> None:
    from salhub.results import Results
    from salhub.runner.run_card import CARD_NAME
    from salhub.runner.run_folder import RESULTS_NAME, fill_from

    runs = [Results.load(folder / FOLDER / name / RESULTS_NAME) for name in calls]
    best = list(calls)[call.recipe_class.choose(runs)]

    def copy(scratch: Path) -> None:
        ignore = shutil.ignore_patterns("checkpoint-*", ".*")
        shutil.copytree(folder / FOLDER / best, scratch, ignore=ignore, dirs_exist_ok=True)
        card = scratch / CARD_NAME
        # The card names the model by its folder, which is another one now.
        text = card.read_text(encoding="utf-8").replace(best, folder.resolve().name)
        card.write_text(text, encoding="utf-8")

    fill_from(folder, copy)
    _report(dict(zip(calls, runs, strict=True)), best, folder, as_json=as_json)


def _report(runs: Mapping[str, Any], best: str, folder: Path, *, as_json: bool) -> None:
    found = {
        name: {metric.name: metric.value for metric in run.metrics if "/" not in metric.name}
        for name, run in runs.items()
    }
    if as_json:
        from salhub.cli.files import echo_json

        echo_json({"output": str(folder), "chosen": best, "tried": found})
        return
    width = max(map(len, found))
    for name, values in found.items():
        numbers = "  ".join(f"{key} {value:.4g}" for key, value in values.items())
        typer.echo(f"{'*' if name == best else ' '} {name.ljust(width)}  {numbers}")
    typer.echo(f"Kept {best} in {folder}")
