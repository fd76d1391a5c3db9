"""What the shell offers when a name is half written."""

from typing import Annotated

import typer

from salhub.entries import METHODS, TASKS, recipes_to
from salhub.manifest import NAMESPACE, read_manifest


def complete_model(incomplete: str) -> list[str]:
    """The shipped models and the methods that begin so; with the prefix where it is written."""
    models = list(read_manifest())
    full = [NAMESPACE + name for name in models]
    names = full if incomplete.startswith(NAMESPACE) else models
    methods = [name.replace("_", "-") for name in METHODS]
    return sorted({name for name in (*names, *methods) if name.startswith(incomplete)})


def complete_method(incomplete: str) -> list[str]:
    """The methods that begin so."""
    return [name for name in METHODS if name.startswith(incomplete)]


def complete_task(incomplete: str) -> list[str]:
    """The tasks that begin so."""
    return [name for name in TASKS if name.startswith(incomplete)]


def complete_recipe(ctx: typer.Context, incomplete: str) -> list[str]:
    """The recipes of the command that begin so."""
    return [name for name in recipes_to(str(ctx.info_name)) if name.startswith(incomplete)]


NameArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="A model, a method, a folder or a Hub repository.",
        autocompletion=complete_model,
    ),
]
