"""`--try option=a,b`: the same run with several settings, of which the best is kept."""

import itertools
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from salhub.cli.settings import is_pair, typed_settings
from salhub.cli.train import RecipeCall

if TYPE_CHECKING:
    from salhub.results import Results

FOLDER = "tried"
Setting = dict[str, Any]


def carry_out_trials(call: RecipeCall, tried: list[str], *, as_json: bool) -> None:
    """Run a recipe with every combination of some settings, and keep the best.

    The runs lie in `output_dir`/tried; the chosen one is copied to `output_dir`. One whose loss
    diverges is reported and not chosen. With resume_from_checkpoint=latest those that are finished
    are not run again.

    Args:
        call: The recipe and its options.
        tried: `option=a,b` words.
        as_json: Print one JSON document.
    """
    from salhub.runner.claim import claimed

    grid = parse_grid(tried, call.recipe_class.arguments_class)
    _check(call, grid)
    arguments = call.arguments()
    folder = Path(arguments.output_dir)
    kept = {"card_name": arguments.card_name or folder.resolve().name}
    calls = {
        name: call.changed({**setting, **kept, "output_dir": str(folder / FOLDER / name)})
        for name, setting in _combinations(grid).items()
    }
    for one in calls.values():
        one.arguments()  # bad values are refused before the first run
    # They are begun one after the other: nobody else may come between them.
    with nullcontext() if arguments.dry_run else claimed(folder):
        _make_room(call, folder)
        outcomes = {name: _outcome(name, one, as_json=as_json) for name, one in calls.items()}
        if not arguments.dry_run:
            _keep_best(calls, outcomes, folder, as_json=as_json)


def parse_grid(words: Sequence[str], *owners: Any) -> dict[str, list[Any]]:
    """Read `option=a,b` words, for those who take them as of `typed_settings`.

    Raises:
        typer.BadParameter: A word is no pair, or has fewer than two values.

    Example:
        >>> parse_grid(["learning_rate=1e-3,0.01"])
        {'learning_rate': [0.001, 0.01]}
    """
    for word in words:
        if not is_pair(word):
            raise typer.BadParameter(
                f"--try {word} has no values; give several, separated by commas, such as "
                "--try learning_rate=0.01,0.03."
            )
    pairs = [word.partition("=") for word in words]
    grid = typed_settings((f"{name}=[{values}]" for name, _, values in pairs), *owners)
    for name, values in grid.items():
        if len(values) < 2:
            raise typer.BadParameter(
                f"--try {name} needs at least two values, separated by commas, "
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
            f"The recipe '{kind.name}' has no measurement for choosing settings; run it once per "
            "setting, without --try."
        )
    for name in grid.keys() & call.settings.keys():
        raise typer.BadParameter(f"'{name}' is both set and tried; leave one out.")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise typer.BadParameter("--try starts its runs itself; use --nproc instead of a launcher.")
    if call.arguments().push_to_hub:
        raise typer.BadParameter(
            "--try does not push; leave out push_to_hub, and push the best run afterwards."
        )


def _make_room(call: RecipeCall, folder: Path) -> None:
    from salhub.runner.run_folder import check_output, check_unused

    arguments = call.arguments()
    check_output(arguments, call.recipe_class.sources)
    if arguments.dry_run or arguments.resume_from_checkpoint is not None:
        return
    check_unused(folder, overwrite=arguments.overwrite)
    tried = folder / FOLDER
    if tried.is_dir() and not arguments.overwrite:
        raise FileExistsError(
            f"{tried} already has runs of --try; resume them with "
            "resume_from_checkpoint=latest, replace them with overwrite=true, or choose another "
            "output_dir."
        )
    shutil.rmtree(tried, ignore_errors=True)


def _outcome(name: str, call: RecipeCall, *, as_json: bool) -> "Results | str | None":
    """What a setting led to, by a run of it unless there was one.

    Returns:
        Its results, the sentence that it failed with, or None after a dry run.
    """
    known = _known_outcome(call) if call.arguments().resume_from_checkpoint is not None else None
    if known is not None and not call.arguments().dry_run:
        return known
    if not as_json:
        typer.echo(f"Trying {name}", err=True)
    _run(call)
    found = None if call.arguments().dry_run else _known_outcome(call)
    if found is not None and not isinstance(found, str):
        call.recipe_class.choose([found])  # one that cannot be compared ends the trials at once
    return found


def _run(call: RecipeCall) -> None:
    """Carry out one run; that it diverged stands in its folder."""
    from salhub.runner.run import DivergedError

    try:
        call.run(quiet=True)
    except DivergedError:
        return
    except typer.Exit:
        if not isinstance(_known_outcome(call), str):
            raise


def _known_outcome(call: RecipeCall) -> "Results | str | None":
    from salhub.results import Results
    from salhub.runner.run_folder import RESULTS_NAME, failure_of, is_finished

    arguments = call.arguments()
    folder = Path(arguments.output_dir)
    recipe = call.recipe_class(arguments)
    options, defaults = recipe.recorded_options(), recipe.default_options()
    if is_finished(folder, options, defaults):
        return Results.load(folder / RESULTS_NAME)
    return failure_of(folder, options, defaults)


def _keep_best(
    calls: Mapping[str, RecipeCall],
    outcomes: "Mapping[str, Results | str]",
    folder: Path,
    *,
    as_json: bool,
) -> None:
    from salhub.runner.run_folder import clear_folder, fill_from
    from salhub.runner.settings_file import SETTINGS_NAME, settings_text

    recipe_class = next(iter(calls.values())).recipe_class
    runs = {name: found for name, found in outcomes.items() if not isinstance(found, str)}
    if not runs:
        raise ValueError(
            f"The loss diverged with all {len(outcomes)} settings, so none can be kept; "
            "try smaller learning rates, or set max_grad_norm."
        )
    best = list(runs)[recipe_class.choose(list(runs.values()))]
    kept = recipe_class(calls[best].changed({"output_dir": str(folder)}).arguments())

    def copy(scratch: Path) -> None:
        ignore = shutil.ignore_patterns("checkpoint-*", ".*")
        shutil.copytree(folder / FOLDER / best, scratch, ignore=ignore, dirs_exist_ok=True)
        # Its paths are seen from where it lies.
        (scratch / SETTINGS_NAME).write_text(settings_text(kept), encoding="utf-8")

    clear_folder(folder)
    fill_from(folder, copy, recipe_class.optional_files)
    _report(outcomes, best, folder, as_json=as_json)


def _report(
    outcomes: "Mapping[str, Results | str]", best: str, folder: Path, *, as_json: bool
) -> None:
    found = {
        name: {metric.name: metric.value for metric in run.metrics if "/" not in metric.name}
        for name, run in outcomes.items()
        if not isinstance(run, str)
    }
    failed = {name: run for name, run in outcomes.items() if isinstance(run, str)}
    if as_json:
        from salhub.cli.files import echo_json

        document = {"output": str(folder), "chosen": best, "tried": found, "failed": failed}
        echo_json(document)
        return
    width = max(map(len, outcomes))
    for name in outcomes:
        numbers = "  ".join(f"{key} {value:.4g}" for key, value in found.get(name, {}).items())
        text = numbers if name in found else f"failed: {failed[name]}"
        typer.echo(f"{'*' if name == best else ' '} {name.ljust(width)}  {text}")
    typer.echo(f"Kept {best} in {folder}")
