"""`salhub unlearn`: make a trained model forget a part of what it was trained on."""

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
from salhub.cli.trials import carry_out_trials


def unlearn_command(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="METHOD", help="Recipe to unlearn with.", autocompletion=complete_recipe
        ),
    ],
    words: WordsArgument = None,
    config: ConfigOption = None,
    nproc: ProcessesOption = 1,
    tried: Annotated[
        list[str] | None,
        typer.Option(
            "--try",
            metavar="OPTION=A,B",
            help="Values to try; the best is chosen without a retrained model.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a trained model forget data, and report how well it worked.

    The output folder has the model, in the form it was loaded in and with its image processor, the
    mask of the weights that were allowed to change, and unlearning.json: accuracies on forgotten,
    retained and unseen data, membership attacks, and a digest of the weights that did not change.

    With --try, the recipe runs with each combination of values, and the best run is kept: among the
    models that still know the rest, the one whose confidence on the forgotten pictures is closest
    to its confidence on unseen pictures.

    \b
    salhub unlearn salun model=salun-resnet8-cifar10-original data=cifar10.npz forget=class:cat
    salhub unlearn salun model=mine data=mine.npz forget=random:0.1 --try learning_rate=0.01,0.03
    """  # noqa: D301
    call = RecipeCall.read("unlearn", recipe, words or [], config, nproc, tried or [])
    if tried:
        carry_out_trials(call, tried, as_json=as_json)
    else:
        call.run(as_json=as_json)
