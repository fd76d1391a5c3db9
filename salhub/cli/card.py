"""`salhub card`: the model card, made from facts and a results file."""

from pathlib import Path
from typing import Annotated

import typer

from salhub.cli.completion import complete_model


def card_command(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A model that comes with salhub, or a folder that save_pretrained wrote.",
            autocompletion=complete_model,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="File to write; NAME.md here, or README.md in the given folder, by default.",
        ),
    ] = None,
    picture: Annotated[bool, typer.Option(help="Also make the picture of the card.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that exist.")
    ] = False,
) -> None:
    """Write the card of a model from its facts and its measured numbers.

    \b
    salhub card my-model --overwrite
    """  # noqa: D301
    from salhub.cards import build_card, card_picture_name, cards_folder, save_picture
    from salhub.cli.choice import quiet_transformers
    from salhub.cli.files import echo_json, refuse_existing
    from salhub.files import draft, write_text
    from salhub.manifest import NAMESPACE
    from salhub.publishing import card_of_folder

    if Path(name).is_dir():
        text, picture_name = card_of_folder(Path(name)), None
        target, is_ours = output or Path(name, "README.md"), False
    else:
        text, picture_name = build_card(name), card_picture_name(name) if picture else None
        # In the repository itself, the cards are there to be made anew.
        is_ours = output is None and cards_folder().parent.resolve() == Path.cwd()
        folder = cards_folder() if is_ours else Path()
        target = output or folder / f"{name.removeprefix(NAMESPACE)}.md"
    if target.is_dir():
        raise IsADirectoryError(f"{target} is a folder; give a file in it.")
    written = [target, *([target.parent / picture_name] if picture_name else [])]
    if not is_ours:
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
