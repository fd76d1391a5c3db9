"""`salhub evaluate`: measure a model on data of your own, for its card."""

import inspect
import json
import logging
import shlex
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from salhub.cli.choice import Choice, NetworkChoice, choose_to_measure
from salhub.cli.completion import complete_model
from salhub.cli.device import DeviceOption
from salhub.cli.files import echo_json, refuse_existing
from salhub.cli.settings import (
    parse_settings,
    refuse_unknown,
    to_record,
    typed_settings,
    without_place,
)
from salhub.cli.shares import ShardOption, Share, refuse_many, sharing

_DATA = "data_path"
# In the order in which tables are looked at, see `read_tables`.
_COLUMNS = ("image_column", "text_column", "label_column")
# Evaluations with this setting take names of data sets on the Hub as well.
_DATA_NAMED = "dataset_config_name"


def evaluate_command(
    *,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]",
            help="A model, a method, a folder or a Hub repository. With --all: a method.",
            autocompletion=complete_model,
        ),
    ] = None,
    data: Annotated[
        Path, typer.Option(help="Data; `salhub evaluate --help` describes the layout.")
    ],
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="SETTING=VALUE", help="Settings of the evaluation or the model."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="File to write; NAME.results.json by default. With --all, a folder.",
        ),
    ] = None,
    every: Annotated[
        bool,
        typer.Option("--all", help="Measure every shipped model as it was measured for its card."),
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="With --all: use less data, and finish in minutes.")
    ] = False,
    jobs: Annotated[
        int, typer.Option(min=1, help="With --all: number of models to measure at once.")
    ] = 1,
    device: DeviceOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the output if it exists.")
    ] = False,
    shard: ShardOption = None,
) -> None:
    """Measure a model by the protocol of its method, and write a results file.

    Arrange pictures in one of two ways: one sub-folder per class, named after the class as the
    classifier knows it ("tiger cat" or tiger_cat) or after its index (282), where classes may be
    missing; or an index.json, a list of {"file", "index", "name"}, with the files next to it or in
    images. Sub-folders with other names, such as ImageNet's WordNet ids, are assigned to the
    classes in sorted order if there is one for every class.

    A classifier by itself, such as the output folder of a training run, takes the same data and
    column settings (image_column, text_column, label_column) as `salhub train
    image-classification` and `text-classification`, by default the columns of its own run. Data it
    was trained on, as its split.json records, is left out.

    A language model takes any text file, which is read as it is, a table (text_column) or a file of
    tokens (.npy, .safetensors). context, stride and max_tokens set how its perplexity is measured.

    A model that segments volumes takes a folder in nnU-Net's layout, or the word phantoms.

    The numbers of a card come from such a results file. --classifier is your own network to
    explain. Run a stopped evaluation again to continue where it stopped. The processes of torchrun
    and accelerate launch split the rows of the data, and so do jobs with --shard; the last job to
    finish writes the file.

    --all measures every shipped model again and reports which numbers differ from those of its
    card; --data is then the folder with the data of all cards. Results that exist are kept and not
    measured again, so you can stop it and start it again.

    \b
    salhub evaluate normgrad-efficientnet-lite0 --data pictures num_mosaics=20
    salhub evaluate trained --data reviews.csv text_column=review label_column=stars
    salhub evaluate my-llama --data wiki.test.raw context=512 max_tokens=20480
    salhub evaluate --all --quick --data data --jobs 2 -o results
    """  # noqa: D301
    if every:
        from salhub.cli.evaluate_all import evaluate_all

        if words or device or overwrite:
            raise typer.BadParameter("--all takes no settings, --device or --overwrite.")
        refuse_many(shard)
        folder = output or Path("results")
        evaluate_all(data, folder, method=name, quick=quick, jobs=jobs, as_json=as_json)
        return
    if name is None:
        raise typer.BadParameter("Give a model to measure, or --all.")
    if quick or jobs > 1:
        raise typer.BadParameter("--quick and --jobs need --all.")
    with sharing(shard) as share:
        settings = parse_settings(words or [])
        choice = choose_to_measure(name, settings)
        evaluate = _evaluation(choice)
        words = [*(words or []), *_words_of_run(choice, evaluate, settings, data, share)]
        settings = typed_settings(words, choice.entry.config_class, evaluate)
        measure, load = _split(choice, evaluate, settings)
        target = output or Path(f"{choice.short_name}.results.json")
        is_named = _DATA_NAMED in _keywords(evaluate) or str(data) in _made_data(evaluate)
        if not data.exists() and not is_named:
            raise FileNotFoundError(f"{data} does not exist; give a file or folder of data.")
        if target.exists() and not overwrite:
            _check_data(evaluate, data, measure)
        refuse_existing(target, overwrite)
        alone = _does_all(choice, evaluate, share)
        if alone is None:
            return
        # A network by itself stays on the CPU, unless it is told otherwise.
        place = device if isinstance(choice, NetworkChoice) else share.device(device)
        pipeline = choice.load(load, device=place)
        call = _Call(evaluate, _inputs(evaluate, pipeline, data), measure, load, alone, target)
        results = call.carry_out()
        if results is None:
            _report_missing(call, as_json)
        elif share.is_speaker:
            results.command = _command(name, data, words)
            results.save(target)
            _report(results, target, as_json)
    if results is not None:
        call.store.clear()


@dataclass
class _Call:
    """An evaluation, its rows shared and kept until all of them are there.

    Args:
        evaluate: Measures.
        inputs: What it measures.
        measure: Its settings.
        load: Settings that the model was loaded with.
        share: The part that this process measures.
        target: File of the results; the rows are kept in a folder beside it.
    """

    evaluate: Callable[..., Any]
    inputs: dict[str, Any]
    measure: dict[str, Any]
    load: dict[str, Any]
    share: Share
    target: Path
    stopped_at: str | None = field(default=None, init=False)
    num_rows: int = field(default=0, init=False)
    num_missing: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        from salhub.evaluation.row_store import RowStore, fingerprint_of

        settings = {k: v for k, v in (self.load | self.measure).items() if k != "progress"}
        settings = {**to_record(settings), "evaluation": self.evaluate.__module__}
        known = None
        if self.share.is_speaker:
            known = fingerprint_of(self.inputs, settings, self.target)
        # The first process has read the data for all.
        known = self.share.gather(known)[0]
        self.store = RowStore(self.target.with_name(f"{self.target.name}.rows"), known)

    def carry_out(self) -> Any:
        """Return the results; None where other jobs have rows to measure yet."""
        from salhub.evaluation.shared_rows import RowSharing, RowsMissingError, rows_shared
        from salhub.results import noted_as_it_comes

        share, measure = self.share, dict(self.measure)
        if not share.is_speaker:
            # The first process says the same of the same data.
            logging.getLogger("salhub").setLevel(logging.ERROR)
            measure |= {"progress": False} if "progress" in _keywords(self.evaluate) else {}
        is_whole = share.count == 1 or (share.is_together and share.is_speaker)
        gather = share.gather if share.is_together else None
        while True:
            rows = RowSharing(share.index, share.count, gather, self.store)
            self.stopped_at, results = None, None
            # Numbers of a shard alone are none.
            with noted_as_it_comes(self.target) if is_whole else nullcontext(), rows_shared(rows):
                try:
                    results = self.evaluate(**self.inputs, **measure)
                except RowsMissingError as error:
                    self.stopped_at = str(error)
            self.num_rows, self.num_missing = rows.num_rows, len(rows.missing)
            if not rows.missing:
                return results
            # Those that were missing at their step may have come meanwhile; somebody is last.
            self.store.refresh()
            if not all(self.store.has(step, row) for step, row in rows.missing):
                return None


def _does_all(
    choice: Choice | NetworkChoice, evaluate: Callable[..., Any], share: Share
) -> Share | None:
    """Return the share of this process; the whole, or None, where rows cannot be shared."""
    if share.count == 1 or getattr(inspect.getmodule(evaluate), "SHARES_ROWS", False):
        return share
    who = "shard 1 measures" if share.is_shard else "one process measures"
    if share.is_speaker:
        typer.echo(
            f"The evaluation of {choice.short_name} cannot be shared, so {who} all of it.", err=True
        )
    return replace(share, index=0, count=1, is_shard=False) if share.index == 0 else None


def _report_missing(call: _Call, as_json: bool) -> None:
    share, missing = call.share, call.num_missing
    if call.store.is_cleared and call.target.exists():
        # The last shard has finished since this one looked.
        said = {"output": str(call.target), "shard": share.name, "missing": 0}
        text = f"Measured shard {share.name}; another shard has written {call.target}."
        echo_json(said) if as_json else typer.echo(text)
        return
    if as_json:
        echo_json({"output": None, "shard": share.name, "missing": missing})
        return
    if call.stopped_at is not None:
        typer.echo(
            f"Measured shard {share.name} of '{call.stopped_at}', which decides what is measured "
            f"next; {missing} rows are missing. Run every shard once, and then every shard again."
        )
        return
    typer.echo(
        f"Measured shard {share.name}; {missing} of {call.num_rows} rows are missing. The shard "
        f"that finishes last writes {call.target}."
    )


def _evaluation(choice: Choice | NetworkChoice) -> Callable[..., Any]:
    from salhub.data.split_beside import find_split

    shared = _shared_evaluation(choice)
    if shared is not None and find_split(choice.name) is not None:
        return shared
    try:
        return choice.entry.module("evaluation").evaluate
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith(choice.entry.home):
            raise
    if shared is None:
        raise ValueError(f"The method {choice.entry.name} has no evaluation.")
    return shared


def _shared_evaluation(choice: Choice | NetworkChoice) -> Callable[..., Any] | None:
    """How any network of a task is measured; None for models of our own, and other tasks."""
    module = f"salhub.evaluation.{choice.entry.task.replace('-', '_')}"
    is_ours = isinstance(choice, Choice) and choice.entry.is_ours
    if is_ours or find_spec(module) is None:
        return None
    return import_module(module).evaluate


def _split(
    choice: Choice | NetworkChoice, evaluate: Callable[..., Any], settings: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sort settings into those of the evaluation and those of loading the model."""
    keywords = _keywords(evaluate)
    loading, _ = choice.setting_names()
    refuse_unknown(settings, keywords | loading, f"The evaluation of {choice.short_name}")
    measure = {name: value for name, value in settings.items() if name in keywords}
    if "progress" in keywords:
        measure.setdefault("progress", sys.stderr.isatty())
    return measure, {name: value for name, value in settings.items() if name not in keywords}


def _keywords(evaluate: Callable[..., Any]) -> set[str]:
    parameters = inspect.signature(evaluate).parameters.values()
    return {p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def _words_of_run(
    choice: Choice | NetworkChoice,
    evaluate: Callable[..., Any],
    settings: dict[str, Any],
    data: Path,
    share: Share,
) -> list[str]:
    """How the run that made a model reads its data, where nobody says it of data like them."""
    from salhub.data.tables import read_tables
    from salhub.runner.arguments import read_settings_file
    from salhub.runner.settings_file import SETTINGS_NAME

    path, asked = Path(choice.name or "") / SETTINGS_NAME, _keywords(evaluate) & {*_COLUMNS}
    if not asked or asked & settings.keys() or not path.is_file() or not data.exists():
        return []
    found = read_settings_file(path, _COLUMNS)
    columns = {name: found[name] for name in sorted(asked) if found.get(name)}
    wanted = [(columns.get(name), ()) for name in _COLUMNS if name in asked]
    try:
        tables = read_tables(str(data), None, wanted).values() if columns else []
    except (ImportError, OSError, ValueError):  # which the evaluation reports
        return []
    if not columns or not all({*columns.values()} <= {*table.columns} for table in tables):
        return []
    taken = [f"{name}={json.dumps(value)}" for name, value in columns.items()]
    if share.is_speaker:
        typer.echo(f"From {path}: {' '.join(taken)}", err=True)
    return taken


def _check_data(evaluate: Callable[..., Any], data: Path, measure: dict[str, Any]) -> None:
    """Refuse data that cannot be read, where that is seen without the model."""
    check = getattr(inspect.getmodule(evaluate), "check_data", None)
    if check is not None and data.exists():
        check(data, **measure)


def _made_data(evaluate: Callable[..., Any]) -> tuple[str, ...]:
    """Names of data that the evaluation makes by itself."""
    return getattr(inspect.getmodule(evaluate), "NAMED_DATA", ())


def _inputs(evaluate: Callable[..., Any], pipeline: Any, data: Path) -> dict[str, Any]:
    """What is measured: each argument is the part of the pipeline that is called like it."""
    names = inspect.signature(evaluate).parameters.keys() - _keywords(evaluate)
    return {name: data if name == _DATA else getattr(pipeline, name) for name in sorted(names)}


def _command(name: str, data: Path, words: list[str]) -> str:
    # The folder's name is enough to repeat it; a path would be one of this machine.
    kept = [without_place(word) for word in words if to_record(parse_settings([word]))]
    place = data.resolve().name if data.exists() else str(data)
    return shlex.join(["salhub", "evaluate", name, "--data", place, *kept])


def _report(results: Any, target: Path, as_json: bool) -> None:
    if as_json:
        echo_json({"output": str(target), "metrics": len(results.metrics)})
        return
    for table in results.tables[:1]:
        typer.echo(f"{table.title}. {table.note}")
        _echo_aligned([table.columns, *table.rows])
    typer.echo(f"Wrote {target.resolve()}")


def _echo_aligned(rows: list[list[Any]]) -> None:
    from salhub.results_markdown import cell_text

    cells = [["" if cell is None else cell_text(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo(f"  {line}".rstrip())
