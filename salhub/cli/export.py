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
            help="A quantized model: its folder, or a name.",
            autocompletion=complete_model,
        ),
    ],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder.")],
    format: Annotated[
        str,
        typer.Option("--format", help="compressed-tensors, gptq, peft or dense."),
    ],
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, float16 or bfloat16; as the model by default."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Write a quantized model so that other programs load it.

    compressed-tensors is for transformers and vLLM, gptq for gptqmodel; both take one width a
    layer, as bits_granularity=module gives it. peft takes the adapters of apiq-saliency apart, to
    be trained on. dense is a plain model again, for everything.

    \b
    salhub export small served --format compressed-tensors
    """  # noqa: D301
    from salhub.cli.choice import quiet_transformers
    from salhub.cli.files import echo_json
    from salhub.quantization.export import export_model

    quiet_transformers()
    path = export_model(model, folder, format, dtype)
    if as_json:
        echo_json(str(path))
    else:
        typer.echo(f"Wrote {path.resolve()}")
