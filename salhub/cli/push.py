"""`salhub push`: a model to the Hub, in one commit."""

from pathlib import Path
from typing import Annotated

import typer

from salhub.cli.completion import complete_model


def push_command(
    name_or_folder: Annotated[
        str,
        typer.Argument(
            metavar="NAME_OR_FOLDER",
            help="A shipped model, or the folder of a saved model.",
            autocompletion=complete_model,
        ),
    ],
    repository: Annotated[
        str, typer.Argument(metavar="REPO", help="Repository to push to: owner/name.")
    ],
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository private if it is new.")
    ] = False,
    token: Annotated[
        str | None, typer.Option(help="Access token; the saved login by default.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch; main by default.")] = None,
    message: Annotated[
        str | None, typer.Option("-m", "--message", help="First line of the commit.")
    ] = None,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="Open a pull request instead of committing.")
    ] = False,
    card: Annotated[
        Path | None, typer.Option(help="Your own card instead of the generated one.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Push a model to the Hub in one commit: weights, settings, card and licence.

    Log in first with hf auth login, or give --token.

    \b
    salhub push my-model me/my-model --private
    salhub push lexrank-news-en me/lexrank-news-en
    """  # noqa: D301
    from salhub.cli.files import echo_json
    from salhub.publishing import push

    commit = push(
        name_or_folder,
        repository,
        private=private,
        token=token,
        revision=revision,
        commit_message=message,
        create_pr=create_pr,
        card=card,
    )
    if as_json:
        echo_json({"url": str(commit), "revision": commit.oid, "pull_request": commit.pr_url})
    else:
        typer.echo(commit.pr_url or str(commit))
