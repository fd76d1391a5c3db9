"""`salhub train`: carry out a recipe that trains a model."""

import json
import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Self

import typer

from salhub.cli.completion import complete_recipe
from salhub.cli.failures import sentence_of
from salhub.cli.settings import try_without_place, typed_settings, without_place
from salhub.entries import recipe_named

WordsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="OPTION=VALUE", help="Options of the recipe and of the run."),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        help="YAML or JSON file with options, such as options.yaml of a run; options on the "
        "command line take precedence."
    ),
]
ProcessesOption = Annotated[int, typer.Option(min=1, help="Number of processes, on CPUs or GPUs.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def train_command(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE", help="Recipe to train with.", autocompletion=complete_recipe
        ),
    ],
    words: WordsArgument = None,
    config: ConfigOption = None,
    nproc: ProcessesOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Train a model with a recipe, and save checkpoints, a log and measured results.

    Resume an interrupted run with --resume_from_checkpoint latest; it ends with the same weights as
    without interruption. --dry_run shows steps, batches and memory. The same options work with
    python -m salhub.runner under torchrun and accelerate launch.

    \b
    salhub train cifar-resnet data=cifar10.npz output_dir=resnet8 num_train_epochs=25
    """  # noqa: D301
    RecipeCall.read("train", recipe, words or [], config, nproc).run(as_json=as_json)


@dataclass(frozen=True)
class RecipeCall:
    """A recipe with options, as it was asked for.

    Args:
        verb: "train", "unlearn" or "compress".
        name: The recipe.
        words: Options of the command line, `name=value`.
        config: File of options, or None.
        nproc: How many processes.
        settings: Options of both.
        command: The command as it was typed, without the folders of this machine.
    """

    verb: str
    name: str
    words: tuple[str, ...]
    config: Path | None
    nproc: int
    settings: Mapping[str, Any]
    command: str

    @classmethod
    def read(
        cls,
        verb: str,
        name: str,
        words: Iterable[str],
        config: Path | None,
        nproc: int,
        tried: Iterable[str] = (),
    ) -> Self:
        """Read the options of a file and of the command line, which win.

        Args:
            verb, name, words, config, nproc: As of the class.
            tried: `name=a,b` words of values to try.
        """
        from salhub.runner.arguments import read_settings_file, text_options
        from salhub.runner.settings_file import beside_file

        recipe_named(name, verb)  # an unknown one is refused first
        words = tuple(words)
        recipe_class = recipe_named(name, verb).recipe_class
        kind, settings = recipe_class.arguments_class, {}
        if config is not None:
            settings = read_settings_file(config, text_options(kind))
            settings = beside_file(settings, config, recipe_class.sources)
        settings |= typed_settings(words, kind)
        settings.setdefault("output_dir", f"{name}-{verb}")
        parts = [verb, name, *(["--config", config.name] if config else [])]
        command = _command([*parts, *map(without_place, words)], nproc, tried)
        return cls(verb, name, words, config, nproc, settings, command)

    @property
    def recipe_class(self) -> Any:
        """The class of the recipe."""
        return recipe_named(self.name, self.verb).recipe_class

    def arguments(self) -> Any:
        """The options, checked."""
        owner = f"The recipe '{self.name}'"
        return self.recipe_class.arguments_class.from_settings(self.settings, owner=owner)

    def changed(self, settings: Mapping[str, Any]) -> Self:
        """The same call with some options set anew."""
        pairs = (word.partition("=") for word in self.words)
        kept = ["".join(pair) for pair in pairs if pair[0].replace("-", "_") not in settings]
        words = (*kept, *(f"{name}={json.dumps(value)}" for name, value in settings.items()))
        return replace(self, words=words, settings={**self.settings, **settings})

    def run(self, *, as_json: bool = False, quiet: bool = False) -> None:
        """Carry it out, and report unless `quiet`.

        Raises:
            typer.Exit: Processes that work together have failed, and it was said why.
        """
        arguments = self.arguments()
        if self.nproc > 1:
            self._start_together(arguments, as_json=as_json, quiet=quiet)
            return
        from salhub.runner.launch import record_error

        try:
            results = self._carry_out(arguments)
        except Exception as error:
            if not record_error(sentence_of(error)):
                raise
            raise typer.Exit(1) from error
        if results is not None and not quiet:
            self._report(results, arguments, as_json=as_json)

    def _carry_out(self, arguments: Any) -> Any:
        from salhub.cli.choice import quiet_transformers
        from salhub.runner.run import run

        quiet_transformers()
        return run(self.recipe_class(arguments), command=self.command)

    def _start_together(self, arguments: Any, *, as_json: bool, quiet: bool) -> None:
        from salhub.runner.launch import launch

        words = [self.verb, self.name, *self.words]
        words += ["--config", str(self.config)] if self.config is not None else []
        words += ["--json"] if as_json else []
        quiet = quiet and not arguments.dry_run
        if launch(words, self.nproc, cpu=arguments.cpu, quiet=quiet, command=self.command):
            raise typer.Exit(1)

    def _report(self, results: Any, arguments: Any, *, as_json: bool) -> None:
        from accelerate import PartialState

        if not PartialState().is_main_process:
            return
        if as_json:
            from salhub.cli.files import echo_json

            metrics = {metric.name: metric.value for metric in results.metrics}
            echo_json({"output": arguments.output_dir, "metrics": metrics})
            return
        from salhub.runner.summary import summary

        example = recipe_named(self.name, self.verb).example
        for line in summary(self.recipe_class, results, arguments.output_dir, example):
            typer.echo(line)


def _command(words: Iterable[str], nproc: int, tried: Iterable[str]) -> str:
    from salhub.runner.launch import COMMAND

    # Started by a launcher of others, this process knows of the number by its environment.
    count = max(nproc, int(os.environ.get("WORLD_SIZE", "1")))
    together = ["--nproc", str(count)] if count > 1 else []
    tries = [part for word in tried for part in ("--try", try_without_place(word))]
    return os.environ.get(COMMAND) or shlex.join(["salhub", *words, *tries, *together])
