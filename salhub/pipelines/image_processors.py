"""Finding the image processor that belongs to a model."""

from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoImageProcessor
from transformers.image_processing_utils import BaseImageProcessor

from salhub.errors import NoImageProcessorError
from salhub.hub import load, resolve

_FILES = ("preprocessor_config.json", "processor_config.json")


def load_image_processor(source: Any, **hub_arguments: Any) -> BaseImageProcessor:
    """Load the image processor that was saved with a model.

    Args:
        source: The name of the model: a folder, a shipped name, or a Hub repository.
        **hub_arguments: As in `from_pretrained`.

    Raises:
        NoImageProcessorError: The model is there, and no image processor with it.
        ModelNotFoundError: Nothing of that name was found.
        ValueError: It has no name, such as a module.
    """
    if not source or isinstance(source, nn.Module):
        raise ValueError(
            "The pictures must be prepared as the classifier wants them; give its image_processor."
        )
    resolved = resolve(source, **hub_arguments)
    folder = Path(resolved.name, hub_arguments.get("subfolder") or "")
    if resolved.source == "folder" and not any((folder / name).is_file() for name in _FILES):
        raise NoImageProcessorError(
            f"{folder} has no preprocessor_config.json, which says how pictures are prepared; "
            f"save it there with image_processor.save_pretrained('{folder}')."
        )
    return load(AutoImageProcessor, source, backend="pil", **hub_arguments)
