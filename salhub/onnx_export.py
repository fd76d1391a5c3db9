"""Networks that score pictures as ONNX files, for runtimes that know nothing of salhub."""

import logging
import os
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from salhub.errors import require_extra
from salhub.files import draft
from salhub.modeling import attribution_scope

# What a file of ONNX holds, less room for what is not weights.
_MOST_BYTES = 2**31 - 2**20


@contextmanager
def _without_notes_on_torch() -> Generator[None]:
    """Hold back what the exporter says of torch's own code, which a user cannot change."""
    registry = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registry.level
    registry.setLevel(logging.ERROR)  # of operators of a torchvision that is not needed
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)
            yield
    finally:
        registry.setLevel(level)


class _Logits(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        found = self.model(pixel_values)
        return found if isinstance(found, Tensor) else found.logits


def export_logits(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    image_size: int,
    num_channels: int = 3,
    opset: int = 18,
) -> Path:
    """Write a network as one ONNX file with the input "pixel_values" and the output "logits".

    Args:
        model: Maps (B, C, H, W) to logits, or to an output that has them; on any device.
        path: The file; it is there whole or not at all.
        image_size: Side of the pictures in pixels.
        num_channels: Their channels C.
        opset: Version of ONNX's operators.

    Returns:
        The path. Batches may have any size; pictures have the one that was given.

    Raises:
        MissingExtraError: `onnx` or `onnxscript` is not installed.
        ValueError: The file would be larger than the 2 GiB that ONNX holds.

    Example:
        >>> export_logits(model, "model.onnx", image_size=224)  # doctest: +SKIP
    """
    onnx: Any = require_extra("onnx", "export")
    require_extra("onnxscript", "export")
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    if size > _MOST_BYTES:
        raise ValueError(
            f"The network has {size / 2**30:.1f} GiB, but an ONNX file can have at most 2 GiB."
        )
    like = next(model.parameters())
    shape = (2, num_channels, image_size, image_size)
    pixels = torch.zeros(shape, device=like.device, dtype=like.dtype)
    with attribution_scope(model), torch.no_grad(), _without_notes_on_torch():
        program = torch.onnx.export(
            _Logits(model).eval(), (pixels,), dynamo=True, opset_version=opset, verbose=False,
            input_names=["pixel_values"], output_names=["logits"],
            dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch")}},
        )  # fmt: skip
    assert program is not None
    proto = program.model_proto
    onnx.checker.check_model(proto)
    with draft(Path(path)) as scratch:
        scratch.write_bytes(proto.SerializeToString())
    return Path(path)
