"""`salhub card`: the model card, made from facts and a results file."""

from pathlib import Path
from typing import Annotated

import typer

from salhub.cli.completion import complete_model


def card_command(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="A model that comes with salhub.", autocompletion=complete_model
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="File; NAME.md beside the results by default."),
    ] = None,
    picture: Annotated[bool, typer.Option(help="Make the picture on the card anew.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that exist.")
    ] = False,
) -> None:
    """Write the card of a model from its facts and its measured numbers."""
    from salhub.cards import build_card, card_picture_name, is_installed, save_picture
    from salhub.cli.choice import quiet_transformers
    from salhub.cli.files import echo_json, refuse_existing
    from salhub.files import draft, write_text

    text = build_card(name)
    target = output or _default_target(name)
    if target.is_dir():
        raise IsADirectoryError(f"{target} is a folder; name a file in it.")
    picture_name = card_picture_name(name) if picture else None
    written = [target, *([target.parent / picture_name] if picture_name else [])]
    # In a checkout, the cards are there to be made anew.
    if output is not None or is_installed():
        for path in written:
            refuse_existing(path, overwrite)
    if picture_name is not None:
        quiet_transformers()
        with draft(written[-1]) as path:
            save_picture(name, path)
    write_text(target, text)
    if as_json:
        echo_json([str(path) for path in written])
        return
    for path in written:
        typer.echo(f"Wrote {path.resolve()}")


def _default_target(name: str) -> Path:
    from salhub import cards
    from salhub.manifest import NAMESPACE

    file_name = f"{name.removeprefix(NAMESPACE)}.md"
    # An installed package is not a place to write to; its cards are for reading.
    folder = Path() if cards.is_installed() else cards.cards_folder()
    return folder / file_name
