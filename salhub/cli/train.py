"""`salhub train`: carry out a recipe that trains a model."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from salhub.auto import recipe_named
from salhub.cli.settings import parse_settings

WordsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="OPTION=VALUE", help="Options of the recipe and of the run."),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(help="YAML or JSON file of options; those on the command line win."),
]
ProcessesOption = Annotated[
    int, typer.Option(min=1, help="Processes that share the work, on CPUs or GPUs.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable.")]


def train_command(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="What to train.")],
    words: WordsArgument = None,
    config: ConfigOption = None,
    nproc: ProcessesOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Train a model by a recipe, with checkpoints, a log and measured results.

    A run that was interrupted goes on with --resume_from_checkpoint latest, to the weights that it
    would have had. --dry_run true shows steps, batches and memory. The same options work with
    python -m salhub.runner under torchrun and accelerate launch.

    \b
    salhub train cifar-resnet data=cifar10.npz output_dir=resnet8 num_train_epochs=25
    """  # noqa: D301
    carry_out("train", recipe, words or [], config, nproc, as_json)


def carry_out(
    verb: str, name: str, words: list[str], config: Path | None, nproc: int, as_json: bool
) -> None:
    """Run a recipe in this process, or start the processes that run it together.

    Args:
        verb: "train", "unlearn" or "compress".
        name: The recipe.
        words: Options, `name=value`.
        config: File of options, or None.
        nproc: How many processes.
        as_json: Print one JSON document.
    """
    from salhub.runner.arguments import read_settings_file

    entry = recipe_named(name, verb)
    settings: dict[str, Any] = read_settings_file(config) if config is not None else {}
    settings |= parse_settings(words)
    settings.setdefault("output_dir", f"{name}-{verb}")
    kind = entry.recipe_class
    arguments = kind.arguments_class.from_settings(settings, owner=f"The recipe '{name}'")
    if nproc > 1:
        _start_together([verb, name, *words], config, nproc, as_json, cpu=arguments.cpu)
        return
    from salhub.cli.choice import quiet_transformers
    from salhub.runner.loop import run

    quiet_transformers()
    results = run(kind(arguments), command=_command(verb, name, words, config))
    if results is not None:
        _report(results, arguments, as_json)


def _start_together(
    words: list[str], config: Path | None, nproc: int, as_json: bool, *, cpu: bool
) -> None:
    from salhub.runner.launch import launch

    words = words + (["--config", str(config)] if config is not None else [])
    code = launch(words + (["--json"] if as_json else []), nproc, cpu=cpu)
    if code:
        raise typer.Exit(1)


def _command(verb: str, name: str, words: list[str], config: Path | None) -> str:
    # A path would be one of this machine; the name of a file says which one is meant.
    kept = []
    for word in words:
        option, _, value = word.partition("=")
        kept.append(f"{option}={Path(value).name}" if Path(value).exists() else word)
    parts = ["salhub", verb, name, *(["--config", config.name] if config else []), *kept]
    return shlex.join(parts)


def _report(results: Any, arguments: Any, as_json: bool) -> None:
    from accelerate import PartialState

    if not PartialState().is_main_process:
        return
    if as_json:
        from salhub.cli.files import echo_json

        metrics = {metric.name: metric.value for metric in results.metrics}
        echo_json({"output": arguments.output_dir, "metrics": metrics})
        return
    typer.echo(f"Wrote the model, log.jsonl and results.json to {arguments.output_dir}")
    for metric in results.metrics:
        typer.echo(f"  {metric.name}  {metric.value:.4g}")
