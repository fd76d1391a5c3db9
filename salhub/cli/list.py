"""`salhub list`: the models that come with salhub."""

from typing import Annotated

import typer

from salhub.cli.completion import complete_method, complete_task


def list_command(
    task: Annotated[
        str | None,
        typer.Option(
            metavar="TASK", help="Show only models of this task.", autocompletion=complete_task
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD",
            help="Show only models of this method.",
            autocompletion=complete_method,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the models that come with salhub.

    \b
    salhub list --task image-saliency
    salhub list --method salun
    """  # noqa: D301
    from salhub.cli.files import echo_json
    from salhub.listing import list_models

    models = list_models(task=task, method=method)
    if not as_json:
        typer.echo(str(models))
        typer.echo("\nsalhub info NAME shows what a model is for and how to run it.")
        return
    echo_json(
        [
            {
                "name": model.full_name,
                "task": model.task,
                "method": model.method,
                "model_type": model.model_type,
                "bytes": model.bytes,
                "trained_on": model.trained_on,
                "source": model.source,
                "license": model.license,
                "revision": model.revision,
            }
            for model in models
        ]
    )
