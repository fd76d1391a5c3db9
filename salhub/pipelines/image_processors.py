"""Finding the image processor that belongs to a model."""

from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoImageProcessor
from transformers.image_processing_utils import BaseImageProcessor

from salhub.errors import NoImageProcessorError
from salhub.hub import resolve

_HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "revision", "token")
_FILES = ("preprocessor_config.json", "processor_config.json")


def hub_arguments(settings: dict[str, Any]) -> dict[str, Any]:
    """Return those keywords of loading a model that say where on the Hub it is."""
    return {key: settings[key] for key in _HUB_ARGUMENTS if key in settings}


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
    if resolved.source == "folder" and not _has_processor(Path(resolved.name)):
        raise NoImageProcessorError(
            f"{resolved.name} has no preprocessor_config.json, which says how pictures are "
            f"prepared; save it there with image_processor.save_pretrained('{resolved.name}')."
        )
    if resolved.is_bundled:
        hub_arguments = {}
    with resolved.explain_missing(**hub_arguments):
        return AutoImageProcessor.from_pretrained(
            resolved.config_folder, backend="pil", **hub_arguments
        )


def _has_processor(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _FILES)
