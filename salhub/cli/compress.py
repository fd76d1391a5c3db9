"""`salhub compress`: make a model smaller by a recipe, block by block where it has many."""

from typing import Annotated

import typer

from salhub.cli.completion import complete_recipe
from salhub.cli.train import (
    ConfigOption,
    JsonOption,
    ProcessesOption,
    RecipeCall,
    WordsArgument,
)


def compress_command(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE", help="Recipe to compress with.", autocompletion=complete_recipe
        ),
    ],
    words: WordsArgument = None,
    config: ConfigOption = None,
    nproc: ProcessesOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Compress a model with a recipe, for example by quantizing it.

    Each block is saved as soon as it is compressed. Resume an interrupted run after the last saved
    block with --resume_from_checkpoint latest; it ends with the same model as without interruption.

    \b
    salhub compress RECIPE model=mine output_dir=small
    """  # noqa: D301
    RecipeCall.read("compress", recipe, words or [], config, nproc).run(as_json=as_json)
