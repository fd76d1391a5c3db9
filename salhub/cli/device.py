"""The option --device, checked before anything is loaded."""

from typing import Annotated

import typer


def check_device(device: str | None) -> str | None:
    """Return a device that works here.

    Args:
        device: What the user wrote, such as "cuda:0", or None.

    Raises:
        typer.BadParameter: There is no such device; the message says which there are.
    """
    if device is None:
        return None
    import torch

    try:
        # Only reading a number back shows that it can compute; "meta" keeps shapes alone.
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError, NotImplementedError):
        raise typer.BadParameter(
            f"There is no device '{device}' here; use {' or '.join(_devices())}."
        ) from None
    return device


def _devices() -> list[str]:
    import torch

    if not torch.accelerator.is_available():
        return ["cpu"]
    kind = torch.accelerator.current_accelerator().type
    return ["cpu", *(f"{kind}:{number}" for number in range(torch.accelerator.device_count()))]


DeviceOption = Annotated[
    str | None, typer.Option(help="Device to use, such as cpu or cuda:0.", callback=check_device)
]
