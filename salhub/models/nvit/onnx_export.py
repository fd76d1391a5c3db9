"""Pruned networks as ONNX files, for runtimes that know nothing of salhub."""

import logging
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from salhub.errors import require_extra
from salhub.files import draft
from salhub.modeling import attribution_scope
from salhub.models.nvit.modeling_nvit import NViTForImageClassification

logger = logging.getLogger(__name__)


class _Logits(nn.Module):
    def __init__(self, model: NViTForImageClassification) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.model(pixel_values).logits


def export_onnx(
    model: NViTForImageClassification, path: str | os.PathLike[str], *, opset: int = 18
) -> Path:
    """Write a network as one ONNX file with the input "pixel_values" and the output "logits".

    Args:
        model: Of any shape, on any device.
        path: The file; it is there whole or not at all.
        opset: Version of ONNX's operators.

    Returns:
        The path. Batches may have any size; pictures have that of the configuration.

    Raises:
        MissingExtraError: `onnx` or `onnxscript` is not installed.
        ValueError: The file would be larger than the 2 GiB that ONNX holds.

    Example:
        >>> export_onnx(model, "model.onnx")  # doctest: +SKIP
    """
    onnx: Any = require_extra("onnx", "export")
    require_extra("onnxscript", "export")
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    if size > 2**31 - 2**20:
        raise ValueError(f"The network has {size / 2**30:.1f} GiB, and an ONNX file at most 2 GiB.")
    target, config = Path(path), model.config
    pixels = torch.zeros(
        2, config.num_channels, config.image_size, config.image_size,
        device=model.device, dtype=model.dtype,
    )  # fmt: skip
    with attribution_scope(model), torch.no_grad():
        program = torch.onnx.export(
            _Logits(model).eval(), (pixels,), dynamo=True, opset_version=opset, verbose=False,
            input_names=["pixel_values"], output_names=["logits"],
            dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch")}},
        )  # fmt: skip
    assert program is not None
    proto = program.model_proto
    onnx.checker.check_model(proto)
    with draft(target) as scratch:
        scratch.write_bytes(proto.SerializeToString())
    return target
