"""Pruned networks as ONNX files, for runtimes that know nothing of salhub."""

import os
from pathlib import Path

from salhub.models.nvit.modeling_nvit import NViTForImageClassification
from salhub.onnx_export import export_logits


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
    size, channels = model.config.image_size, model.config.num_channels
    return export_logits(model, path, image_size=size, num_channels=channels, opset=opset)
