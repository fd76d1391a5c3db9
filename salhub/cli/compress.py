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
        typer.Argument(metavar="RECIPE", help="How to compress.", autocompletion=complete_recipe),
    ],
    words: WordsArgument = None,
    config: ConfigOption = None,
    nproc: ProcessesOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Compress a model by a recipe, such as one that quantizes it.

    Every block is saved as soon as it is compressed. A run that was interrupted goes on behind the
    last one with --resume_from_checkpoint latest, and ends with the model that it would have made.

    \b
    salhub compress RECIPE model=mine output_dir=small
    """  # noqa: D301
    RecipeCall.read("compress", recipe, words or [], config, nproc).run(as_json=as_json)
