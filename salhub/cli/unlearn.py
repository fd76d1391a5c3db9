"""`salhub unlearn`: make a trained model forget a part of what it was trained on."""

from typing import Annotated

import typer

from salhub.cli.train import (
    ConfigOption,
    JsonOption,
    ProcessesOption,
    WordsArgument,
    carry_out,
)


def unlearn_command(
    recipe: Annotated[str, typer.Argument(metavar="METHOD", help="How to unlearn.")],
    words: WordsArgument = None,
    config: ConfigOption = None,
    nproc: ProcessesOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Make a trained model forget, and report how well it has.

    The output folder holds the model, as it was loaded and with its image processor, the mask of
    the weights that could move, and unlearning.json: accuracies on what was forgotten, retained
    and never seen, membership attacks, and a digest of the weights that did not move.

    \b
    salhub unlearn salun model=salun-resnet8-cifar10-original data=cifar10.npz forget=class:cat
    """  # noqa: D301
    carry_out("unlearn", recipe, words or [], config, nproc, as_json)
