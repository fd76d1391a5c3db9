"""`salhub list`: the models that come with salhub."""

from typing import Annotated

import typer


def list_command(
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """List the models that come with salhub."""
    from salhub.cli.files import echo_json
    from salhub.hub import list_models

    models = list_models()
    if not as_json:
        typer.echo(str(models))
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
