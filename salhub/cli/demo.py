"""`salhub demo`: a model as a web page on this computer."""

from typing import Annotated

import typer

from salhub.cli.completion import complete_model


def demo_command(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="A model, a method, or your own classifier; by default, pages of all methods.",
            autocompletion=complete_model,
        ),
    ] = None,
    classifier: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Your own network for the method to explain."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port to use; a free one by default.")
    ] = None,
    open_browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")
    ] = True,
) -> None:
    """Open a model as a web page on this computer; stop it with Ctrl-C.

    A classifier by itself, such as the output folder of a training run, is explained with the first
    method for its kind; to use another method, give the method as NAME and the classifier with
    --classifier. The demo needs an extra: pip install 'salhub[demo]'.

    \b
    salhub demo trained
    salhub demo salient-relevance --classifier trained
    """  # noqa: D301
    from salhub.cli.choice import check_known, quiet_transformers

    if name is not None:
        check_known(name)
    elif classifier is not None:
        raise typer.BadParameter("--classifier needs the name of a method to explain it.")
    from salhub.ui import build_gallery, build_page, launch

    quiet_transformers()
    page = build_gallery() if name is None else build_page(name, classifier)
    launch(page, server_name=host, server_port=port, inbrowser=open_browser)
