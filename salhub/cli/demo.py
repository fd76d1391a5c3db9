"""`salhub demo`: a model as a web page on this computer."""

from typing import Annotated

import typer

from salhub.cli.completion import complete_model


def demo_command(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="A model, a method, or a classifier of your own; a page for each method by "
            "default.",
            autocompletion=complete_model,
        ),
    ] = None,
    classifier: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Your own network, which the method explains."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port; a free one by default.")
    ] = None,
    open_browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")
    ] = True,
) -> None:
    """Open a model as a web page on this computer; Ctrl-C ends it.

    A classifier by itself, such as the folder of a run of training, is explained by the first
    method for its kind; --classifier shows it by another. It needs one more package:
    pip install 'salhub[demo]'.

    \b
    salhub demo trained
    salhub demo salient-relevance --classifier trained
    """  # noqa: D301
    from salhub.cli.choice import check_known, quiet_transformers

    if name is not None:
        check_known(name)
    elif classifier is not None:
        raise typer.BadParameter("--classifier needs the name of the method that explains it.")
    from salhub.ui import build_gallery, build_page, launch

    quiet_transformers()
    page = build_gallery() if name is None else build_page(name, classifier)
    launch(page, server_name=host, server_port=port, inbrowser=open_browser)
