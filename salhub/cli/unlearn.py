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
        typer.Argument(metavar="METHOD", help="How to unlearn.", autocompletion=complete_recipe),
    ],
    words: WordsArgument = None,
    config: ConfigOption = None,
    nproc: ProcessesOption = 1,
    tried: Annotated[
        list[str] | None,
        typer.Option(
            "--try", metavar="OPTION=A,B", help="Values to choose among without a retrained model."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a trained model forget, and report how well it has.

    The output folder holds the model, as it was loaded and with its image processor, the mask of
    the weights that could move, and unlearning.json: accuracies on what was forgotten, retained
    and never seen, membership attacks, and a digest of the weights that did not move.

    With --try the run is made with each of some values, and the best is kept: that whose confidence
    on the forgotten pictures is nearest to that on pictures never seen, among those that still know
    the rest.

    \b
    salhub unlearn salun model=salun-resnet8-cifar10-original data=cifar10.npz forget=class:cat
    salhub unlearn salun model=mine data=mine.npz forget=random:0.1 --try learning_rate=0.01,0.03
    """  # noqa: D301
    call = RecipeCall.read("unlearn", recipe, words or [], config, nproc, tried or [])
    if tried:
        carry_out_trials(call, tried, as_json=as_json)
    else:
        call.run(as_json=as_json)
