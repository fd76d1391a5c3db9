"""`salhub cache`: shipped models in the cache that plain transformers reads."""

from typing import Annotated

import typer

from salhub.cli.completion import complete_model

cache_app = typer.Typer(
    help="Copy shipped models into the Hugging Face cache, for plain transformers.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@cache_app.command("seed")
def seed_command(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME", help="Models to copy; all by default.", autocompletion=complete_model
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Copy shipped models into the Hugging Face cache.

    Afterwards `transformers.AutoModel.from_pretrained("salhub/NAME")` works without a network,
    once salhub is imported.
    """
    from salhub.cli.files import echo_json
    from salhub.hub import seed_cache

    folders = [str(folder) for folder in seed_cache(names or None)]
    if as_json:
        echo_json(folders)
        return
    for folder in folders:
        typer.echo(folder)


@cache_app.command("where")
def where_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the cache and where the shipped models are."""
    from huggingface_hub.constants import HF_HUB_CACHE

    from salhub.cli.files import echo_json
    from salhub.manifest import WEIGHTS_ROOT

    if as_json:
        echo_json({"cache": str(HF_HUB_CACHE), "shipped": str(WEIGHTS_ROOT)})
        return
    typer.echo(f"cache    {HF_HUB_CACHE}")
    typer.echo(f"shipped  {WEIGHTS_ROOT}")
