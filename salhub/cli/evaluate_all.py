"""`salhub evaluate --all`: measure every shipped model again, and compare with its card."""

import math
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import typer
from tqdm import tqdm

from salhub import __version__
from salhub.cli.files import echo_json
from salhub.errors import CardError
from salhub.listing import list_models
from salhub.manifest import NAMESPACE
from salhub.model_card import Facts
from salhub.model_facts import fact_files, shipped_model
from salhub.results import Metric, Results, read_results

_START = ["salhub", "evaluate"]
# Times differ from machine to machine, whatever the model.
_TIMES = ("s", "ms", "s/image", "tokens/s", "MiB", "bytes")
_SHOWN_OUTSIDE = 5
# Suffixes of values that can only be files.
_FILES = {".npz", ".jsonl", ".csv", ".tsv", ".txt", ".parquet"}


@dataclass(frozen=True)
class Plan:
    """How one model is measured.

    Args:
        name: The model, without "salhub/".
        words: Command line after `salhub evaluate`, with the places of the data on this machine.
        command: What the results file says of it.
        missing: Name of data that the folder lacks; None where all is there.
    """

    name: str
    words: Sequence[str]
    command: str
    missing: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of one model.

    Args:
        name: The model.
        state: "measured", "kept" from an earlier run, "skipped" or "failed".
        reason: Why it was skipped or failed.
        compared: How many numbers were compared: those for which the card has an interval.
        outside: Names of those whose interval does not meet the card's.
        seconds: That the evaluation took.
    """

    name: str
    state: str
    reason: str | None = None
    compared: int = 0
    outside: Sequence[str] = ()
    seconds: float | None = None


def evaluate_all(
    data: Path, output: Path, *, method: str | None, quick: bool, jobs: int, as_json: bool
) -> None:
    """Measure all shipped models, each in a process of its own.

    Args:
        data: Folder with the data that the cards name, at any depth.
        output: Folder of the results files. What is there is not measured again.
        method: Only models of this method.
        quick: On as much of the data as the card.yaml of a model calls enough.
        jobs: How many models are measured at once.
        as_json: Print one JSON document instead of a table.

    Raises:
        NotADirectoryError: `data` is no folder.
        typer.Exit: With code 1 if a model was skipped or failed.
    """
    if not data.is_dir():
        raise NotADirectoryError(
            f"{data} is not a folder; with --all, --data names the folder that holds the data of "
            "every card."
        )
    places = _places(data)
    names = [model.name for model in list_models(method=method)]
    plans = [plan for name in names if (plan := plan_of(name, places, quick=quick)) is not None]
    output.mkdir(parents=True, exist_ok=True)
    with (
        ThreadPoolExecutor(jobs) as pool,
        tqdm(total=len(plans), desc="models", disable=not sys.stderr.isatty()) as bar,
    ):
        outcomes = []
        for outcome in pool.map(lambda plan: _measured(plan, output, jobs), plans):
            outcomes.append(outcome)
            bar.update()
            if not as_json:
                bar.write(_line(outcome))
    if as_json:
        echo_json([asdict(outcome) for outcome in outcomes])
    else:
        typer.echo(_summary(outcomes, output))
    if any(outcome.state in ("skipped", "failed") for outcome in outcomes):
        raise typer.Exit(1)


def plan_of(name: str, places: dict[str, Path], *, quick: bool) -> Plan | None:
    """Read how a model was measured for its card.

    Args:
        name: A shipped model.
        places: Files and folders of data by name.
        quick: Whether less of the data will do.

    Returns:
        None for a model that was never measured.

    Example:
        >>> plan_of("rep-mtl-rooms", {}, quick=False).words
        ['rep-mtl-rooms', '--data', 'rooms']
    """
    try:
        command = read_results(name).command
    except CardError:
        return None
    # What follows was measured by programs that are no part of the package.
    words = shlex.split(command.partition("&&")[0])
    if words[:2] != _START or words[3:4] != ["--data"]:
        raise CardError(f"The card of {name} was not made by salhub evaluate: {command}")
    short, source = words[2].removeprefix(NAMESPACE), words[4]
    settings = _pairs(words[5:])
    if quick:
        facts = Facts.read(*fact_files(shipped_model(name)))
        settings |= _pairs(shlex.split(facts.quick_evaluation or ""))
    recorded = [f"{key}={value}" for key, value in settings.items()]
    placed = [f"{key}={places.get(value, value)}" for key, value in settings.items()]
    missing = [
        one
        for one in (source, *settings.values())
        if one not in places and Path(one).suffix in _FILES
    ]
    return Plan(
        short,
        [short, "--data", str(places.get(source, source)), *placed],
        shlex.join([*_START, short, "--data", source, *recorded]),
        missing[0] if missing else None,
    )


def _pairs(words: Sequence[str]) -> dict[str, str]:
    return dict(word.split("=", 1) for word in words)


def _places(data: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder, folders, files in os.walk(data):
        folders.sort()
        for name in (*folders, *sorted(files)):
            found.setdefault(name, Path(folder, name).resolve())
    return found


def _measured(plan: Plan, output: Path, jobs: int) -> Outcome:
    target = output / f"{plan.name}.results.json"
    if plan.missing is not None:
        return Outcome(plan.name, "skipped", f"the data folder does not contain {plan.missing}")
    state = "kept"
    if not _is_there(target, plan):
        threads = str(max(1, (os.cpu_count() or 1) // jobs))
        options = ["-o", str(target), "--overwrite"]
        child = subprocess.run(
            [sys.executable, "-m", "salhub.cli", "evaluate", *plan.words, *options],
            env={**os.environ, "OMP_NUM_THREADS": threads},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if child.returncode:
            lines = child.stderr.strip().splitlines()
            said = lines[-1].removeprefix("Error: ") if lines else "it was stopped"
            return Outcome(plan.name, "failed", said)
        state = "measured"
    results = Results.load(target)
    compared, outside = compare_with_card(results, read_results(plan.name))
    return Outcome(plan.name, state, None, compared, outside, results.wall_seconds)


def _is_there(target: Path, plan: Plan) -> bool:
    """Whether a results file is of the same command, and by the same version."""
    if not target.is_file():
        return False
    found = Results.load(target)
    return found.command == plan.command and found.versions.get("salhub") == __version__


def compare_with_card(found: Results, card: Results) -> tuple[int, list[str]]:
    """Compare numbers with those of a card that have an interval; times are left out.

    Args:
        found: Measured now, perhaps on less data.
        card: What the card says.

    Returns:
        How many numbers both have, and the names of those whose intervals do not meet.
    """
    own = {metric.name: metric for metric in found.metrics}
    compared, outside = 0, []
    for metric in card.metrics:
        other = own.get(metric.name)
        if other is None or metric.interval is None or metric.unit in _TIMES:
            continue
        if not math.isfinite(metric.value) or not math.isfinite(other.value):
            continue
        compared += 1
        low, high = _interval_of(other, metric)
        if high < metric.interval[0] or low > metric.interval[1]:
            outside.append(metric.name)
    return compared, outside


def _interval_of(found: Metric, card: Metric) -> tuple[float, float]:
    """The interval of a number; of fewer examples than the card's, as wide as theirs must be.

    A bootstrap of a few examples is too sure, so the spread is that of the card's examples.
    """
    low, high = found.interval or (found.value, found.value)
    if card.interval is not None and found.n and card.n and found.n < card.n:
        margin = (card.interval[1] - card.interval[0]) / 2 * math.sqrt(card.n / found.n)
        low, high = min(low, found.value - margin), max(high, found.value + margin)
    return low, high


def _line(outcome: Outcome) -> str:
    if outcome.reason is not None:
        return f"{outcome.name}: {outcome.state}: {outcome.reason}"
    kept = " (kept from an earlier run)" if outcome.state == "kept" else ""
    inside = outcome.compared - len(outcome.outside)
    said = f"{outcome.name}: {inside} of {outcome.compared} numbers within the card's intervals"
    if not outcome.compared:
        said = f"{outcome.name}: measured; its card has no intervals to compare with"
    return said + kept + "".join(_outside(outcome))


def _outside(outcome: Outcome) -> Iterator[str]:
    shown = outcome.outside[:_SHOWN_OUTSIDE]
    if shown:
        yield f"; outside: {', '.join(shown)}"
    if more := len(outcome.outside) - len(shown):
        yield f" and {more} more"


def _summary(outcomes: Sequence[Outcome], output: Path) -> str:
    states = [outcome.state for outcome in outcomes]
    counts = [
        f"{states.count(state)} {state}"
        for state in ("measured", "kept", "skipped", "failed")
        if state in states
    ]
    compared = sum(outcome.compared for outcome in outcomes)
    outside = sum(len(outcome.outside) for outcome in outcomes)
    return (
        f"\n{len(outcomes)} models: {', '.join(counts)}. {compared - outside} of {compared} "
        f"numbers lie within the intervals of the cards. The results files are in "
        f"{output.resolve()}; run this again to measure what is missing."
    )
