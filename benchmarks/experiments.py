"""What scripts that train many models share: runs made once, and results files they add to."""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import existing_file, print_tables
from salhub.results import Results
from salhub.runner.recipe import Recipe
from salhub.runner.run import run
from salhub.runner.run_folder import RESULTS_NAME

CARDS = Path(__file__).parent.parent / "model_cards"
# A run that was stopped goes on; recipes without steps have no such options.
_RESUMABLE = {
    "checkpointing_steps": 400,
    "checkpoints_total_limit": 1,
    "resume_from_checkpoint": "latest",
}


def read_options(
    script: str, purpose: str | None, model: str, arguments: Sequence[str] | None
) -> argparse.Namespace:
    """What an experiment is told: the data, where its runs go, and the results file to add to.

    Args:
        script: Name of the module.
        purpose: Its docstring.
        model: The shipped model whose card shows the numbers.
        arguments: Words of the command line; None for those of the process.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{script}",
        description=purpose,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=existing_file, required=True, help="archive of pictures")
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("runs") / script,
        help="folder for the runs; what is finished there is not run again",
    )
    parser.add_argument(
        "--results",
        type=results_file,
        default=str(CARDS / f"{model}.results.json"),
        help="results file that `salhub evaluate` has written, to which the numbers are added",
    )
    return parser.parse_args(arguments)


def results_file(text: str) -> Path:
    """A results file to add to, for `argparse`: one that cannot be read is said before any work.

    Raises:
        argparse.ArgumentTypeError: There is none, or it is no results file.
    """
    path = existing_file(text)
    try:
        Results.load(path)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return path


def new_results(script: str, options: argparse.Namespace) -> Results:
    """Results with the command that repeats them; folders of this machine stay out of it."""
    command = f"python -m benchmarks.{script} --data {options.data.name}"
    return Results(model=script, command=command, seed=0)


def add_to_results(added: Results, path: Path) -> None:
    """Print the tables, and put them and the numbers into a results file, in place of older ones.

    Args:
        added: What an experiment has found.
        path: Of the results file; its command is followed by that of the experiment.

    Raises:
        FileNotFoundError: There is none.
    """
    print_tables(added)
    found = Results.load(path)
    names = {metric.name for metric in added.metrics}
    found.metrics = [m for m in found.metrics if m.name not in names] + added.metrics
    tables = {table.title: table for table in [*found.tables, *added.tables]}
    found.tables = list(tables.values())
    if added.command not in found.command:
        found.command += f" && {added.command}"
    found.save(path)
    print(f"\nWrote {path}")


def run_once(
    recipe: type[Recipe], folder: Path, options: Mapping[str, Any], command: str
) -> Results:
    """The results of a run, which is made or finished now unless it is there.

    Args:
        recipe: What to do.
        folder: Where the run goes.
        options: Its options; how many steps there are is left out where there are none.
        command: What the run's results say it is of.
    """
    if (folder / RESULTS_NAME).is_file():
        return Results.load(folder / RESULTS_NAME)
    known = {field.name for field in dataclasses.fields(recipe.arguments_class)}
    resumable = {name: value for name, value in _RESUMABLE.items() if name in known}
    arguments = recipe.arguments_class.from_settings(
        {"output_dir": str(folder), **resumable, **options}
    )
    found = run(recipe(arguments), command=command)
    assert found is not None  # only a dry run gives nothing
    return found
