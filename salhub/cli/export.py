"""`salhub export`: a quantized model for programs other than salhub."""

from pathlib import Path
from typing import Annotated

import typer

from salhub.cli.completion import complete_model


def export_command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A quantized model: a folder or a name.",
            autocompletion=complete_model,
        ),
    ],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to create.")],
    format: Annotated[
        str | None,
        typer.Option("--format", help="compressed-tensors, gptq, peft or dense.  [required]"),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, float16 or bfloat16; the data type of the model by default."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a quantized model in a format that other programs load.

    compressed-tensors is for transformers and vLLM, gptq for gptqmodel; both need one bit
    width per layer, as bits_granularity=module gives it. peft separates the adapters of
    apiq-saliency, so that you can train them further. dense is a plain, unquantized model for any
    program.

    \b
    salhub export small served --format compressed-tensors
    """  # noqa: D301
    if format is None:
        raise typer.BadParameter("Give --format compressed-tensors, gptq, peft or dense.")
    from salhub.cli.choice import quiet_transformers
    from salhub.cli.files import echo_json
    from salhub.quantization.export import export_model

    quiet_transformers()
    path = export_model(model, folder, format, dtype)
    if as_json:
        echo_json(str(path))
    else:
        typer.echo(f"Wrote {path.resolve()}")
